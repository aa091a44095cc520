//! Containers that Docker is to judge and does not, since they have no HEALTHCHECK. They are served, for a
//! missing check is no failure; but nobody would notice if they failed, so whoever asked is told for as
//! long as it is so.

use crate::model::{Backend, Policy, ProbeKind, Refusal, ServiceName};

/// Containers that are named.
const NAMES_MAX: usize = 5;

/// What is told of the containers of one service, in the order of their names.
pub(super) fn told<'a>(
    service: &ServiceName,
    policy: &Policy,
    backends: impl Iterator<Item = &'a Backend>,
) -> Option<Refusal> {
    if !matches!(policy.probe.value, Some(ProbeKind::Docker)) {
        return None;
    }
    // Who is no container is judged by nobody anyway.
    let is_unchecked = |it: &&Backend| !it.instance.is_empty() && it.reported.is_none();
    let mut names: Vec<String> =
        backends.filter(is_unchecked).map(|it| format!("`{}`", it.display_name)).collect();
    names.sort_unstable();
    // A container may have an address of either family.
    names.dedup();
    let (verb, they) = match names.len() {
        0 => return None,
        1 => ("has", "it counts"),
        _ => ("have", "they count"),
    };
    let more = names.len().saturating_sub(NAMES_MAX);
    names.truncate(NAMES_MAX);
    let more = if more == 0 { String::new() } else { format!(" and {more} more") };
    let names = names.join(", ");
    let written = policy.probe.origin.written();
    Some(Refusal {
        object: written.map_or_else(|| format!("service `{service}`"), |it| it.object.clone()),
        key: written.map(|it| it.key.clone()),
        message: format!(
            "the service `{service}` is to be probed by the HEALTHCHECK of its containers, but \
             {names}{more} {verb} none, so {they} as healthy whatever happens; give the image one, or \
             choose another probe"
        ),
    })
}
