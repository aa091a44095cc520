//! Socket calls of the node and its containers: whose are seen, and who reaches what.

use super::{
    super::{Finding, facts::Facts},
    count_of, some_of,
};

/// What becomes of packets that no call has announced.
const AS_PACKETS: &str = "their calls to a virtual address are not translated: they are packets, which \
                          are told that they do not arrive (`refuses_unseen` in [cgroup])";

/// Whether socket calls are to be balanced at all.
fn is_wanted(facts: &Facts) -> bool {
    let status = facts.agent.running().map(|running| &running.status.sockets);
    let is_in_use = status.is_some_and(|it| it.is_on() || it.trouble.is_some());
    facts.config.keys.cgroup.enabled || is_in_use
}

pub(super) fn cgroup(facts: &Facts) -> Vec<Finding> {
    let check = "cgroup";
    let nobody = "containers and the node itself do not reach virtual addresses by socket calls";
    let as_before = "calls below the cgroup that an earlier agent had are balanced as before; those of \
                     other processes are not";
    if !is_wanted(facts) {
        return vec![Finding::ok(check, "socket calls are left alone: `enabled` in [cgroup]")];
    }
    let cgroup = &facts.cgroup;
    let status = facts.agent.running().map(|running| &running.status.sockets);
    if let Some(trouble) = status.and_then(|status| status.trouble.as_ref()) {
        let is_left = status.is_some_and(|status| status.is_left);
        return vec![
            Finding::error(check, trouble)
                .because(if is_left { as_before } else { nobody })
                .so("set it right, which the agent sees within ten seconds; or correct `path` in [cgroup] \
                     of the config, and restart the agent"),
        ];
    }
    if let Some(path) = status.and_then(|status| status.cgroup.as_ref()) {
        return vec![Finding::ok(check, format!("attached to `{path}`"))];
    }
    if facts.agent.running().is_some() {
        return vec![Finding::ok(check, "socket calls are left alone: `enabled` in [cgroup]")];
    }
    match (&cgroup.path, &cgroup.root) {
        (Some(path), _) if cgroup.exists && cgroup.relative.is_some() => {
            vec![Finding::ok(check, format!("`{}` can be attached to", path.display()))]
        }
        (Some(path), Some(root)) => vec![
            Finding::error(
                check,
                format!(
                    "`{}` is no directory of the cgroup v2 at `{}`",
                    path.display(),
                    root.display()
                ),
            )
            .because(nobody)
            .so("correct `path` in [cgroup] of the config"),
        ],
        _ => vec![
            Finding::warning(check, "no cgroup v2 is mounted")
                .because(
                    "the agent finds its root all the same; who is outside cannot be seen here",
                )
                .so("`mount -t cgroup2 none /sys/fs/cgroup/unified`, to see it"),
        ],
    }
}

pub(super) fn ends(facts: &Facts) -> Vec<Finding> {
    let status = facts.agent.running().map(|running| &running.status.sockets);
    let unended = status.and_then(|status| status.unended.as_ref());
    let finding = unended.map(|unended| {
        Finding::warning("ends", unended)
            .because("a program that waits for a backend that is gone is not told so")
            .so("`docs/operations.md` names the options and modules of the kernel")
    });
    finding.into_iter().collect()
}

pub(super) fn outside(facts: &Facts) -> Vec<Finding> {
    let check = "outside";
    let Some(relative) = facts.cgroup.relative.as_ref().filter(|_| is_wanted(facts)) else {
        return Vec::new();
    };
    let outside = &facts.processes.outside;
    let count: usize = outside.values().sum();
    let all = facts.processes.count;
    if relative == "/" || count == 0 {
        return vec![Finding::ok(check, format!("all of {all} processes are in the cgroup"))];
    }
    let mut names: Vec<(&str, usize)> = outside.iter().map(|(it, count)| (&**it, *count)).collect();
    names.sort_by_key(|(name, count)| (std::cmp::Reverse(*count), *name));
    let names: Vec<&str> = names.into_iter().map(|(name, _)| name).collect();
    let what = format!(
        "{count} of {} {} not in the cgroup `{relative}`: {}",
        count_of(all, "process", "processes"),
        if count == 1 { "is" } else { "are" },
        some_of(&names)
    );
    vec![Finding::warning(check, what).because(AS_PACKETS).so(
        "leave `path` in [cgroup] out, which means all processes, or start them in that cgroup",
    )]
}

pub(super) fn strangers(facts: &Facts) -> Vec<Finding> {
    let check = "runtimes";
    let processes = &facts.processes;
    let mut findings = Vec::new();
    if !processes.strangers.is_empty() {
        let names = processes.strangers.iter().map(|stranger| {
            let cgroup = stranger.cgroup.rsplit('/').find(|word| !word.is_empty());
            let cgroup = cgroup.map_or_else(String::new, |word| format!(" in {word}"));
            format!("{} (pid {}{cgroup})", stranger.process, stranger.pid)
        });
        let names: Vec<_> = names.collect();
        let what = format!(
            "{} of no container that Docker tells of: {}",
            count_of(names.len(), "network namespace", "network namespaces"),
            some_of(&names)
        );
        findings.push(
            Finding::warning(check, what)
                .because(
                    "whoever calls from there counts as a container on no network: it sees services \
                     that are visible to `containers` or `all`, and may be led to backends that it \
                     cannot reach; its sockets are not ended when a backend goes",
                )
                .so("run them by this node's Docker, or narrow `lb.visible` of the services"),
        );
    }
    if processes.unreadable > 0 {
        findings.push(
            Finding::warning(
                check,
                format!(
                    "the namespaces of {} cannot be read",
                    count_of(processes.unreadable, "process", "processes")
                ),
            )
            .because("other container runtimes may not be noticed")
            .so("run `lbctl doctor` as root"),
        );
    } else if findings.is_empty() && processes.count > 0 {
        findings.push(Finding::ok(check, "every network namespace is the node's or a container's"));
    }
    findings
}

pub(super) fn raw_sockets(facts: &Facts) -> Vec<Finding> {
    let check = "raw";
    let (node, containers): (Vec<_>, Vec<_>) =
        facts.processes.raw.iter().partition(|sockets| sockets.owner.is_empty());
    let mut findings = Vec::new();
    for sockets in node {
        let what = format!(
            "the node has {} and {}, whose packets no hook on calls sees",
            count_of(sockets.raw, "raw socket", "raw sockets"),
            count_of(sockets.packet, "packet socket", "packet sockets"),
        );
        findings.push(Finding::ok(check, what));
    }
    let owners: Vec<&str> = containers.iter().map(|sockets| sockets.owner.as_str()).collect();
    if !owners.is_empty() {
        let what = format!("raw or packet sockets in {}", some_of(&owners));
        findings.push(
            Finding::warning(check, what)
                .because("what they send to a virtual address is packets, and no call")
                .so("`--cap-drop NET_RAW`, unless the container is meant to send its own packets"),
        );
    }
    findings
}

pub(super) fn callers(facts: &Facts) -> Vec<Finding> {
    let check = "callers";
    let Some(running) = facts.agent.running().filter(|_| is_wanted(facts)) else {
        return Vec::new();
    };
    if !running.status.sockets.is_on() {
        return Vec::new();
    }
    let list = &running.callers;
    let unknown: Vec<&str> =
        list.callers.iter().filter(|it| !it.is_known).map(|it| it.name.as_str()).collect();
    let mut findings = Vec::new();
    if !list.is_node_known {
        findings.push(
            Finding::warning(check, "the node's own calls cannot be told from containers'")
                .because("services that are visible to `node` only are visible to nobody here")
                .so("`journalctl -u lb-agent` says why"),
        );
    }
    if !unknown.is_empty() {
        let finding =
            Finding::warning(check, format!("cannot be told apart: {}", some_of(&unknown)));
        findings.push(
            finding
                .because("they see what every container sees, whatever networks they are on")
                .so("`journalctl -u lb-agent` says why"),
        );
    }
    if !list.is_complete {
        findings.push(
            Finding::warning(check, "Docker has not told who runs here")
                .because("containers count as on no network until it does")
                .so("see the check `docker`"),
        );
    }
    if findings.is_empty() {
        let count = count_of(list.callers.len(), "container", "containers");
        findings.push(Finding::ok(check, format!("the node and {count} are told apart")));
    }
    findings
}

pub(super) fn networks(facts: &Facts) -> Vec<Finding> {
    let check = "networks";
    let Some(running) = facts.agent.running() else { return Vec::new() };
    let mut findings = Vec::new();
    let (mut hidden, mut refused) = (Vec::new(), Vec::new());
    for unreached in &running.callers.unreached {
        let service = &unreached.service;
        if !unreached.not_visible.is_empty() {
            hidden.push(format!("{service} from {}", unreached.not_visible.join(", ")));
        }
        if !unreached.other_network.is_empty() {
            refused.push(format!("{service} from {}", unreached.other_network.join(", ")));
        }
    }
    if !refused.is_empty() {
        let what = format!("no backend is reached: {}", some_of(&refused));
        findings.push(
            Finding::warning(check, what)
                .because(
                    "they are on none of the backends' networks, or Docker lets the containers there \
                     not talk to one another (`icc=false`): their calls are refused with \
                     EHOSTUNREACH (`other_network`)",
                )
                .so("`docker network connect` them, or narrow `lb.visible` so that it is meant; \
                     `routes_across` in [cgroup] where the host's firewall lets them through"),
        );
    }
    let isolated = &running.callers.isolated;
    if !refused.is_empty() && !isolated.is_empty() {
        let what = format!("containers do not reach one another: {}", some_of(isolated));
        findings.push(
            Finding::warning(check, what)
                .because(
                    "the networks are made with `icc=false`, so Docker drops what they send to \
                          each other; their calls to backends there are refused, too",
                )
                .so("put backends and callers on another network, or `routes_across` in [cgroup] \
                     where the host's firewall lets them through"),
        );
    }
    if !hidden.is_empty() {
        let what = format!("not visible, as the services wish: {}", some_of(&hidden));
        findings.push(Finding::ok(check, what));
    }
    if findings.is_empty() && !running.callers.callers.is_empty() {
        findings.push(Finding::ok(check, "every container reaches every service"));
    }
    findings
}

pub(super) fn names(facts: &Facts) -> Vec<Finding> {
    let check = "names";
    let Some(running) = facts.agent.running() else { return Vec::new() };
    let view = &running.status.names;
    if view.servers.is_empty() {
        return vec![Finding::ok(check, "not answered: `listen` in [names] is empty")];
    }
    let mut findings = Vec::new();
    for name in &facts.names {
        let told = view.servers.iter().find(|server| server.address == name.address);
        let told = told.and_then(|server| server.trouble.as_ref());
        if let Some(trouble) = told.or(name.trouble.as_ref()) {
            findings.push(
                Finding::error(check, format!("{}: {trouble}", name.address))
                    .because("names of services do not resolve there")
                    .so("see `listen` in [names] of the config, and who else has the port: `ss -lunp`"),
            );
        }
    }
    let has_asked = |caller: &crate::api::types::CallerView| {
        caller.networks.values().flatten().any(|address| view.askers.contains(address))
    };
    let (asks, asks_not): (Vec<_>, Vec<_>) =
        running.callers.callers.iter().partition(|caller| has_asked(caller));
    let silent: Vec<&str> = asks_not.iter().map(|caller| caller.name.as_str()).collect();
    let asked = count_of(asks.len(), "container has", "containers have");
    let not_yet =
        if silent.is_empty() { String::new() } else { format!("; not yet: {}", some_of(&silent)) };
    let what = format!("{asked} asked so far{not_yet}");
    findings.push(if asks.is_empty() && !silent.is_empty() {
        Finding::warning(check, what)
            .because("names of services resolve only where the agent is asked for them")
            .so("set `dns` in Docker's daemon.json, or `--dns`, to an address of `listen`")
    } else {
        Finding::ok(check, what)
    });
    findings
}
