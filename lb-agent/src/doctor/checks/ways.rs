//! Ways of packets that are not the agent's: routes to virtual addresses, and programs of others on the
//! same interfaces.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
};

use super::{
    super::{
        Finding,
        facts::{Facts, Route},
    },
    count_of, some_of,
};
use crate::api::types::ProgramView;

/// Whose programs are known by the names that they begin with.
const OWNERS: [(&str, &str); 9] = [
    ("cil_", "Cilium"),
    ("cali_", "Calico"),
    ("calico_", "Calico"),
    ("xdp_dispatcher", "libxdp"),
    ("antrea", "Antrea"),
    ("balancer_ingress", "Katran"),
    ("netobserv", "NetObserv"),
    ("datadog", "Datadog"),
    ("tailscale", "Tailscale"),
];

pub(super) fn routes(facts: &Facts) -> Vec<Finding> {
    let check = "routes";
    let ours: BTreeSet<IpAddr> =
        facts.routes.iter().filter(|route| route.is_ours()).map(|it| it.prefix.addr()).collect();
    let Some(running) = facts.agent.running() else {
        if ours.is_empty() {
            return Vec::new();
        }
        let what = format!("{} of the agent's stay without it", shown(&ours));
        return vec![Finding::ok(check, what)];
    };
    let vips: BTreeSet<IpAddr> = running.vips.iter().map(|vip| vip.vip).collect();
    let mut findings = Vec::new();
    let left: Vec<String> = ours.difference(&vips).map(ToString::to_string).collect();
    if !left.is_empty() {
        findings.push(
            Finding::warning(
                check,
                format!("{} of the agent's to no virtual address", shown_names(&left)),
            )
            .because("whatever this node sends there is told that it does not arrive")
            .so(format!(
                "restart the agent, which looks again; or `ip route del unreachable {} proto 108`",
                left[0]
            )),
        );
    }
    for vip in &vips {
        findings.extend(elsewhere(facts, *vip));
        if !facts.addresses.contains(vip) {
            findings.extend(in_a_subnet(facts, *vip));
        }
    }
    if findings.is_empty() && !vips.is_empty() {
        let refused = ours.intersection(&vips).count();
        let what = format!(
            "nothing else on this node leads to a virtual address; {refused} of {} end here for \
             packets that no call has announced (`ip route show proto 108`)",
            vips.len()
        );
        findings.push(Finding::ok(check, what));
    }
    findings
}

fn shown(addresses: &BTreeSet<IpAddr>) -> String {
    shown_names(&addresses.iter().map(ToString::to_string).collect::<Vec<_>>())
}

fn shown_names(addresses: &[String]) -> String {
    let count = count_of(addresses.len(), "`unreachable` route", "`unreachable` routes");
    format!("{count} ({})", some_of(addresses))
}

/// Somebody else's route to the address alone, which counts before ours.
fn elsewhere(facts: &Facts, vip: IpAddr) -> Option<Finding> {
    let route = facts.routes.iter().find(|route| {
        let is_host = route.prefix.addr() == vip && route.prefix.prefix_len() == route.longest();
        is_host && !route.is_ours() && !route.is_refused && !route.is_loopback()
    })?;
    Some(
        Finding::warning("routes", format!("this node routes {vip} {}", route.way()))
            .because(
                "packets of this node that no socket call has announced go there; calls and clients \
                 that come in are served here all the same",
            )
            .so("leave it, if another machine serves the address, too; else see who made it: \
                 `ip route get` the address"),
    )
}

/// An address in a subnet that the node is in is asked for by ARP, and not sent to a router.
fn in_a_subnet(facts: &Facts, vip: IpAddr) -> Option<Finding> {
    let route = facts.routes.iter().find(|route| {
        let is_subnet = route.gateway.is_none() && route.prefix.prefix_len() > 0;
        is_subnet && !route.is_refused && !route.is_loopback() && {
            route.prefix.prefix_len() < route.longest() && route.prefix.contains(&vip)
        }
    })?;
    let name = route.interface.as_str();
    let what = format!("{vip} is in {}, the subnet of `{name}`", route.prefix);
    if facts.interfaces.contains_key(name) {
        return Some(
            Finding::warning("routes", what)
                .because(
                    "whoever is in that subnet asks who has the address, and nobody answers: it is \
                     not an address of this node",
                )
                .so(format!(
                    "`ip addr add {vip}/{} dev lo`, upon which Linux answers for it; or let the \
                     router and all machines of the subnet have a route to it by this node",
                    route.longest()
                )),
        );
    }
    Some(
        Finding::warning("routes", what)
            .because(
                "Docker, or whoever gives addresses there, may give it to somebody; packets that no \
                 socket call has announced go there",
            )
            .so("give the service an address outside of that subnet"),
    )
}

pub(super) fn programs(facts: &Facts) -> Vec<Finding> {
    let check = "programs";
    let Some(running) = facts.agent.running() else { return Vec::new() };
    let list = &running.programs;
    if let Some(trouble) = &list.trouble {
        return vec![
            Finding::warning(check, trouble)
                .because("who else handles the same packets is not known")
                .so("`bpftool net` shows it"),
        ];
    }
    let mut by_interface: BTreeMap<&str, Vec<&ProgramView>> = BTreeMap::new();
    for program in &list.programs {
        by_interface.entry(&program.interface).or_default().push(program);
    }
    // Only where ours run do others matter.
    by_interface.retain(|_, programs| programs.iter().any(|program| program.is_ours));
    let mut findings = Vec::new();
    // The same programs are mostly on all veths: said once, with some of them.
    let mut alike: BTreeMap<Vec<String>, (bool, Vec<&str>)> = BTreeMap::new();
    for (interface, programs) in &by_interface {
        let ours = programs.iter().position(|program| program.is_ours).unwrap_or(0);
        let others = programs.iter().enumerate().filter(|(_, program)| !program.is_ours);
        let is_before = others.clone().any(|(at, _)| at < ours);
        let names: Vec<String> = others
            .map(|(at, it)| {
                let place = if at < ours { "before" } else { "after" };
                format!("{} ({}, {place} ours)", owner(&it.name), it.hook)
            })
            .collect();
        if !names.is_empty() {
            let entry = alike.entry(names).or_default();
            entry.0 |= is_before;
            entry.1.push(interface);
        }
    }
    for (names, (is_before, interfaces)) in alike {
        let what = format!("on {}, too: {}", some_of(&interfaces), names.join(", "));
        findings.push(if is_before {
            Finding::warning(check, what)
                .because(
                    "what comes before ours may take, change or drop packets that are to be \
                     balanced",
                )
                .so("let each have interfaces of its own, or restart the other: what attaches last runs \
                     last, unless it asks to be first")
        } else {
            Finding::ok(check, what + ", which get what is not ours")
        });
    }
    if findings.is_empty() && !by_interface.is_empty() {
        let count = count_of(by_interface.len(), "interface", "interfaces");
        findings.push(Finding::ok(check, format!("ours alone, on {count}")));
    }
    findings
}

/// `cil_from_netdev of Cilium`.
fn owner(name: &str) -> String {
    let shown = if name.is_empty() { "a program without a name" } else { name };
    let known = OWNERS.iter().find(|(prefix, _)| name.starts_with(prefix));
    known.map_or_else(|| format!("`{shown}`"), |(_, owner)| format!("`{shown}` of {owner}"))
}

impl Route {
    /// One that the agent made.
    fn is_ours(&self) -> bool {
        self.is_refused
            && self.metric == crate::model::UNSEEN_ROUTE_METRIC
            && self.prefix.prefix_len() == self.longest()
    }

    fn is_loopback(&self) -> bool {
        self.interface == "lo"
    }

    fn longest(&self) -> u8 {
        self.prefix.max_prefix_len()
    }

    fn way(&self) -> String {
        match self.gateway {
            Some(gateway) => format!("to {gateway} by `{}`", self.interface),
            None => format!("to `{}`", self.interface),
        }
    }
}
