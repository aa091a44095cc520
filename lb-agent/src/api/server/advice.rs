//! What to do about a packet or a call that is not served: named are the ports, backends and networks
//! that it is about. Pure.

use std::{collections::BTreeSet, net::SocketAddr};

use lb_common::abi::DropReason;

use crate::{
    api::{
        explain::{Outcome, Step},
        types::{BackendView, View},
    },
    model::{BackendState, Protocol, ServiceName},
    provider::file,
};

/// Things that are named; who wants all asks for them.
const NAMED_MAX: usize = 5;

/// Notes on a decision. `from`: who calls, in a command; nobody, if it is a packet.
pub(super) fn notes(
    view: &View,
    (at, protocol): (SocketAddr, Protocol),
    service: Option<&str>,
    from: Option<&str>,
    (steps, outcome): (&[Step], &Outcome),
) -> Vec<String> {
    let Some(reason) = outcome.reason.as_deref() else {
        return not_ours(view, at, outcome).into_iter().collect();
    };
    let is = |known: DropReason| known.name() == reason;
    let note = if is(DropReason::NoFrontend) {
        no_frontend(view, at, protocol)
    } else if is(DropReason::NoBackend) {
        service.map(|service| no_backend(view, service))
    } else if is(DropReason::NotVisible) {
        not_visible(steps)
    } else if is(DropReason::OtherNetwork) {
        Some(other_network(steps, from))
    } else {
        None
    };
    note.into_iter().collect()
}

fn some(names: impl IntoIterator<Item = String>) -> String {
    let names: Vec<String> = names.into_iter().collect();
    let shown = names[..names.len().min(NAMED_MAX)].join(", ");
    match names.len().saturating_sub(NAMED_MAX) {
        0 => shown,
        more => format!("{shown} and {more} more"),
    }
}

fn not_ours(view: &View, at: SocketAddr, outcome: &Outcome) -> Option<String> {
    let is_vip = view.vips.iter().any(|vip| vip.vip == at.ip());
    if is_vip || outcome.to.is_some() || outcome.from.is_some() || view.vips.is_empty() {
        return None;
    }
    let known = some(view.vips.iter().map(|vip| vip.vip.to_string()));
    Some(format!("virtual addresses are {known}: `lbctl vip list`"))
}

fn no_frontend(view: &View, at: SocketAddr, protocol: Protocol) -> Option<String> {
    let vip = view.vips.iter().find(|vip| vip.vip == at.ip())?;
    if vip.frontends.is_empty() {
        return Some(format!(
            "no service is at {}: `lbctl status` says whether one was refused",
            vip.vip
        ));
    }
    let other = vip.frontends.iter().find(|frontend| {
        frontend.protocol != protocol
            && (frontend.ports.first()..=frontend.ports.last()).contains(&at.port())
    });
    let hint = other.map_or_else(String::new, |other| {
        format!("; at this port it is {} that is served", other.protocol)
    });
    let frontends = vip.frontends.iter().map(|it| format!("{}/{}", it.protocol, it.ports));
    Some(format!(
        "{} is served at {}{hint}; call that, or give a service a frontend at {protocol}/{}",
        vip.vip,
        some(frontends),
        at.port()
    ))
}

fn no_backend(view: &View, service: &str) -> String {
    let name = ServiceName(service.into());
    let members: Vec<&BackendView> =
        view.backends.iter().filter(|backend| backend.service == name).collect();
    if members.is_empty() {
        return format!("{service} has no backend: start its containers");
    }
    let states = members.iter().map(|backend| {
        let reason =
            backend.state_reason.as_ref().map_or_else(String::new, |it| format!(" ({it})"));
        format!("{} {}{reason}", backend.display_name, backend.state)
    });
    let first = |state| members.iter().find(|backend| backend.state == state);
    let drains = |backend: &BackendView| backend.state == BackendState::Draining;
    let has_left = |backend: &BackendView| {
        backend.state_reason.as_ref().is_some_and(|it| it.starts_with(file::LEFT))
    };
    let todo = if let Some(backend) = first(BackendState::Disabled) {
        format!("`lbctl backend enable {}`", backend.display_name)
    } else if let Some(backend) = members.iter().find(|it| drains(it) && !has_left(it)) {
        format!("`lbctl backend undrain {}`", backend.display_name)
    } else if let Some(backend) = members.iter().find(|it| drains(it)) {
        format!("write {} into the file again", backend.display_name)
    } else if first(BackendState::Unhealthy).or(first(BackendState::Starting)).is_some() {
        format!("`lbctl service show {service}` says what its probes found")
    } else {
        "start its containers".to_owned()
    };
    format!("of {service} none takes new connections: {}; {todo}", some(states))
}

fn not_visible(steps: &[Step]) -> Option<String> {
    let visible = steps.iter().find_map(|step| match step {
        Step::Scope { visible, .. } => Some(visible.join(", ")),
        _ => None,
    })?;
    Some(format!(
        "the service is there for {visible} only: widen its `lb.visible`, if the caller is meant to \
         see it"
    ))
}

fn other_network(steps: &[Step], from: Option<&str>) -> String {
    let networks: BTreeSet<&str> = steps
        .iter()
        .filter_map(|step| match step {
            Step::Network { network: Some(network), is_reached: false, .. } => Some(&**network),
            _ => None,
        })
        .collect();
    let networks: Vec<&str> = networks.into_iter().collect();
    let connect = networks.first().zip(from).map_or_else(String::new, |(network, from)| {
        format!("`docker network connect {network} {from}`, or ")
    });
    format!(
        "its backends are on {}, where the caller is not: {connect}`routes_across` in [cgroup], where \
         the host's firewall lets containers through to other networks",
        some(networks.into_iter().map(str::to_owned))
    )
}
