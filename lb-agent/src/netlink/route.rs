//! By which interface another machine is reached, asked by rtnetlink in the node's own namespace.

use std::net::IpAddr;

use futures_util::TryStreamExt as _;
use netlink_packet_route::route::RouteAttribute;
use rtnetlink::RouteMessageBuilder;

/// Index of the interface by which the routing table leads to `address`; an error says that nothing
/// does, or why the kernel does not tell.
pub async fn egress_interface(address: IpAddr) -> Result<u32, rtnetlink::Error> {
    let (connection, handle, _) =
        rtnetlink::new_connection().map_err(|_| rtnetlink::Error::RequestFailed)?;
    let connection = tokio::spawn(connection);
    let prefix_length = if address.is_ipv4() { 32 } else { 128 };
    let route = RouteMessageBuilder::<IpAddr>::new()
        .destination_prefix(address, prefix_length)
        .map_err(|_| rtnetlink::Error::RequestFailed)?
        .build();
    let found = handle.route().get(route).execute().try_next().await;
    connection.abort();
    let interface = found?.and_then(|route| {
        route.attributes.into_iter().find_map(|attribute| match attribute {
            RouteAttribute::Oif(ifindex) => Some(ifindex),
            _ => None,
        })
    });
    interface.ok_or(rtnetlink::Error::RequestFailed)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn the_node_itself_is_reached_by_its_loopback() {
        let interface = egress_interface(IpAddr::from([127, 0, 0, 1])).await;
        assert_eq!(interface.ok(), Some(1));
    }
}
