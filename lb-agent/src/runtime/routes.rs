//! Whether static backends can be reached, and can answer, by the node's routing table.
//!
//! It only reads and tells; the table is the operator's.

use std::{collections::BTreeSet, net::IpAddr};

use crate::{config::Config, model::Refusal, netlink};

/// Addresses of static backends whose routes are looked at.
const ROUTES_MAX: usize = 1024;
/// Index of `lo` in every network namespace.
const LOOPBACK_IFINDEX: u32 = 1;
/// Backends of the file whose packets or replies would get lost. They are served all the same: routes
/// may come and go, and this is looked at when the file is read. Of very many only the first are.
pub(super) async fn unreachable_backends(config: &Config, fronts: &[u32]) -> Vec<Refusal> {
    let backends = || config.services.iter().flat_map(|service| &service.backends);
    let addresses: BTreeSet<IpAddr> =
        backends().map(|backend| backend.address.ip()).take(ROUTES_MAX).collect();
    if addresses.is_empty() {
        return Vec::new();
    }
    let answers = match netlink::egress_interfaces(addresses).await {
        Ok(answers) => answers,
        Err(error) => {
            tracing::warn!("cannot ask for the routes to static backends: {error}");
            return Vec::new();
        }
    };
    let mut refusals = Vec::new();
    for (address, answer) in answers {
        let message = match answer {
            Ok(ifindex) if fronts.contains(&ifindex) => continue,
            Ok(LOOPBACK_IFINDEX) => {
                "is an address of this node, which cannot be a backend yet: its \
                                     packets are dropped (no_route)"
                    .to_owned()
            }
            Ok(ifindex) => format!(
                "is reached by interface {}, which is not in `front`: its replies come back there \
                 and are not translated; add the interface to `front`",
                netlink::link_name(ifindex).unwrap_or_else(|| ifindex.to_string()),
            ),
            Err(error) => format!(
                "the routing table has no way to it, its packets are dropped (no_route): add a \
                 route ({error})"
            ),
        };
        tracing::warn!("static backend {address}: {message}");
        refusals.push(Refusal { object: format!("static backend {address}"), key: None, message });
    }
    refusals
}
