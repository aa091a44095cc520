//! The kernel, the front interfaces, what the node does with packets by itself.

use super::super::{
    Finding,
    facts::{AgentFacts, Facts},
};
use crate::model::BackendPath;

/// What comes with which version of Linux.
const FEATURES: [((u32, u32), &str); 3] = [
    (
        (5, 14),
        "callers are told apart by a call of the agent's own, which works only below `path` in \
         [cgroup]",
    ),
    ((6, 1), "a refused socket call is `EPERM`, whatever the reason"),
    ((6, 6), "TC programs are filters on `clsact`, which others can remove"),
];
/// Older ones lack `bpf_redirect_peer`.
const FLOOR: (u32, u32) = (5, 10);

/// Said first of all: nobody expects it.
pub(super) fn firewall(_: &Facts) -> Vec<Finding> {
    vec![Finding::ok(
        "firewall",
        "packets to virtual addresses are forwarded before netfilter: no rule in FORWARD, \
         DOCKER-USER, nftables or firewalld applies to them; filter in front of the node",
    )]
}

pub(super) fn kernel(facts: &Facts) -> Vec<Finding> {
    let check = "kernel";
    let Some(release) = &facts.kernel.release else {
        return vec![Finding::warning(check, "/proc/sys/kernel/osrelease cannot be read")];
    };
    let version = version(release);
    if version.is_some_and(|version| version < FLOOR) {
        return vec![
            Finding::error(check, format!("Linux {release} is too old"))
                .because("it cannot hand packets to containers (`bpf_redirect_peer`)")
                .so("use Linux 5.10 or newer"),
        ];
    }
    let mut findings = Vec::new();
    let missing: Vec<&str> = FEATURES
        .iter()
        .filter(|(since, _)| version.is_some_and(|version| version < *since))
        .map(|(_, what)| *what)
        .collect();
    if missing.is_empty() {
        findings.push(Finding::ok(check, format!("Linux {release}")));
    } else {
        findings.push(
            Finding::warning(check, format!("Linux {release}"))
                .because(missing.join("; "))
                .so("a newer kernel has what is missing; everything else works as it is"),
        );
    }
    if facts.kernel.has_jit == Some(false) {
        findings.push(
            Finding::warning(check, "net.core.bpf_jit_enable is 0")
                .because("every packet is interpreted, at several times the cost")
                .so("`sysctl net.core.bpf_jit_enable=1`, and restart the agent"),
        );
    }
    if facts.kernel.has_bpffs == Some(false) {
        let finding = Finding::warning(check, "no bpffs is mounted at /sys/fs/bpf");
        findings.push(
            finding
                .because("pins of the agent are what keeps the traffic flowing without it")
                .so("`mount -t bpf bpf /sys/fs/bpf`; systemd does it at boot"),
        );
    }
    findings
}

/// Major and minor number.
fn version(release: &str) -> Option<(u32, u32)> {
    let mut numbers = release.split(|character: char| !character.is_ascii_digit());
    Some((numbers.next()?.parse().ok()?, numbers.next()?.parse().ok()?))
}

pub(super) fn fronts(facts: &Facts) -> Vec<Finding> {
    let check = "front";
    let mut findings = Vec::new();
    let attached = facts.agent.running().map(|running| running.status.fronts.as_slice());
    for front in attached.unwrap_or_default() {
        let name = &front.interface;
        if let Some(trouble) = &front.trouble {
            findings.push(
                Finding::error(check, trouble)
                    .because("clients that come in by it are not served, or slower")
                    .so("see `front`, `[xdp]` and `[tc]` in the config, and `ip link`"),
            );
            continue;
        }
        let why = match (front.xdp.as_str(), facts.interfaces.get(name)) {
            ("off", Some(found)) if !found.is_physical => {
                " (a virtual link, on which TC is the faster way)"
            }
            ("off", _) => " (its driver has none, or the config says so)",
            _ => "",
        };
        let what = format!("`{name}`: TC by {}, XDP {}{why}", front.tc, front.xdp);
        findings.push(Finding::ok(check, what));
    }
    for (name, found) in &facts.interfaces {
        if !found.exists {
            let is_told = attached.is_some_and(|fronts| {
                fronts.iter().any(|front| front.interface == *name && front.trouble.is_some())
            });
            if !is_told {
                findings.push(
                    Finding::error(check, format!("there is no interface `{name}`"))
                        .because("no client comes in by it")
                        .so("correct `front` in the config; `ip link` lists what there is"),
                );
            }
        } else if found.state == "down" {
            findings.push(
                Finding::error(check, format!("`{name}` is down"))
                    .because("no client comes in by it")
                    .so(format!("`ip link set {name} up`, or see to its cable")),
            );
        }
    }
    if findings.is_empty() && !matches!(facts.agent, AgentFacts::Running(_)) {
        findings.push(
            Finding::warning(check, "no front interface is known")
                .because("the config names none, and there is no default route to find it by")
                .so("set `front` in the config"),
        );
    }
    findings
}

pub(super) fn forwarding(facts: &Facts) -> Vec<Finding> {
    let check = "forwarding";
    let routed = |is_v6: bool| {
        let backends = facts.agent.running().map(|running| running.backends.as_slice());
        backends.unwrap_or_default().iter().any(|backend| {
            backend.path == BackendPath::Routed && backend.address.is_ipv6() == is_v6
        })
    };
    let keys = ["net.ipv4.ip_forward", "net.ipv6.conf.all.forwarding"];
    let mut findings = Vec::new();
    let mut shown = Vec::new();
    for (index, key) in keys.into_iter().enumerate() {
        let Some(is_on) = facts.forwarding[index] else { continue };
        if !is_on && routed(index == 1) {
            findings.push(
                Finding::error(check, format!("{key} is 0"))
                    .because(
                        "backends on other machines are reached by this node's routing: packets \
                         for them are dropped (`forwarding_disabled`)",
                    )
                    .so(format!("`sysctl {key}=1`, and keep it in /etc/sysctl.d")),
            );
        } else {
            shown.push(format!("{key}={}", u8::from(is_on)));
        }
    }
    let strict = facts.interfaces.iter().filter(|(_, it)| it.reverse_path_filter == Some(1));
    let strict: Vec<_> = strict.map(|(name, _)| name.as_str()).collect();
    if !strict.is_empty() {
        let what = format!(
            "rp_filter is strict on {}, which packets to virtual addresses pass before",
            strict.join(", ")
        );
        shown.push(what);
    }
    if !shown.is_empty() {
        findings.push(Finding::ok(check, shown.join("; ")));
    }
    findings
}
