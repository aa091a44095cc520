//! Whoever else has the same addresses or the same packets.

use std::net::SocketAddr;

use super::{
    super::{Finding, facts::Facts},
    some_of,
};

pub(super) fn addresses(facts: &Facts) -> Vec<Finding> {
    let check = "vip";
    let Some(running) = facts.agent.running() else { return Vec::new() };
    let mut findings = Vec::new();
    for address in running.vips.iter().map(|vip| vip.vip) {
        let holder = running.callers.callers.iter().find(|caller| {
            !caller.is_node
                && caller.networks.values().any(|addresses| addresses.contains(&address))
        });
        if let Some(holder) = holder {
            findings.push(
                Finding::error(
                    check,
                    format!("{address} is the address of container `{}`", holder.name),
                )
                .because(
                    "at the service's ports calls go to the service and not to the container; packets \
                     from outside to its other ports are refused",
                )
                .so("give the service another address, or the container's network another subnet"),
            );
        } else if address.is_loopback() {
            findings.push(
                Finding::warning(check, format!("{address} is a loopback address"))
                    .because(
                        "only socket calls reach it, those of containers too, which then do not \
                         reach their own programs at its ports",
                    )
                    .so("give the service an address of its own"),
            );
        } else if facts.addresses.contains(&address) {
            findings.push(
                Finding::warning(check, format!("{address} is an address of this node"))
                    .because(
                        "ports of services hide those of the node's own programs and of its own \
                         connections; what else comes from outside is the node's if it calls from \
                         this address, and is refused if the address is there for others (of \
                         keepalived, or on `lo`)",
                    )
                    .so("give the service an address of its own, unless that is meant"),
            );
        }
    }
    if findings.is_empty() && !running.vips.is_empty() {
        let what =
            format!("{} virtual addresses, none of which is somebody's own", running.vips.len());
        findings.push(Finding::ok(check, what));
    }
    findings
}

pub(super) fn ipvs(facts: &Facts) -> Vec<Finding> {
    let check = "ipvs";
    let Some(services) = &facts.ipvs else { return Vec::new() };
    let vips = facts.agent.running().map(|running| running.vips.as_slice()).unwrap_or_default();
    let both: Vec<String> = services
        .iter()
        .filter(|service| {
            vips.iter().filter(|vip| vip.vip == service.ip()).any(|vip| {
                vip.frontends.iter().any(|frontend| {
                    let ports = frontend.ports.first()..=frontend.ports.last();
                    ports.contains(&service.port())
                })
            })
        })
        .map(SocketAddr::to_string)
        .collect();
    if both.is_empty() {
        let what = format!("{} virtual services, none at a frontend of ours", services.len());
        return vec![Finding::ok(check, what)];
    }
    vec![
        Finding::warning(check, format!("also serves {}", some_of(&both)))
            .because(
                "lb comes first: new connections are ours, and those that IPVS has already break",
            )
            .so("remove them there (`ipvsadm -D`), or here"),
    ]
}

pub(super) fn software(facts: &Facts) -> Vec<Finding> {
    let mut findings = Vec::new();
    for (name, sign) in &facts.software {
        findings.push(
            Finding::warning("software", format!("{name}: {sign}"))
                .because(
                    "it handles the same packets or calls; which of the two comes first varies",
                )
                .so("let each have interfaces and addresses of its own"),
        );
    }
    if findings.is_empty() {
        findings.push(Finding::ok("software", "no other balancer was noticed"));
    }
    findings
}
