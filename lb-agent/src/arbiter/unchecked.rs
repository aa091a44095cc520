//! Containers that Docker is to judge and does not, since they have no HEALTHCHECK. They are served, for a
//! missing check is no failure; but nobody would notice if they failed, so whoever asked is told for as
//! long as it is so.

use std::collections::BTreeSet;

use crate::model::{Backend, Policy, ProbeKind, Refusal, ServiceName};

/// What is told of the containers of one service. Only the first of their names is in it: what is told is
/// to stay the same while others come and go.
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
    // A container may have an address of either family.
    let names: BTreeSet<&str> =
        backends.filter(is_unchecked).map(|it| it.display_name.as_str()).collect();
    let first = names.first()?;
    let others = if names.len() == 1 {
        "has none, so it counts"
    } else {
        "and others have none, so they count"
    };
    let written = policy.probe.origin.written();
    Some(Refusal {
        object: written.map_or_else(|| format!("service `{service}`"), |it| it.object.clone()),
        key: written.map(|it| it.key.clone()),
        message: format!(
            "the service `{service}` is to be probed by the HEALTHCHECK of its containers, but \
             `{first}` {others} as healthy whatever happens; give the image one, or choose another probe"
        ),
    })
}
