//! By which interface another machine is reached, asked by rtnetlink in the node's own namespace.

use std::{io, net::IpAddr};

use futures_util::TryStreamExt as _;
use netlink_packet_route::route::RouteAttribute;
use rtnetlink::{Handle, RouteMessageBuilder};

/// For each address the index of the interface by which the routing table leads to it. An error says
/// that nothing does, or why the kernel does not tell.
pub async fn egress_interfaces(
    addresses: impl IntoIterator<Item = IpAddr>,
) -> Result<Vec<(IpAddr, Result<u32, rtnetlink::Error>)>, io::Error> {
    let (connection, handle, _) = rtnetlink::new_connection()?;
    let connection = tokio::spawn(connection);
    let mut answers = Vec::new();
    for address in addresses {
        answers.push((address, egress_interface(&handle, address).await));
    }
    connection.abort();
    Ok(answers)
}

async fn egress_interface(handle: &Handle, address: IpAddr) -> Result<u32, rtnetlink::Error> {
    let prefix_length = if address.is_ipv4() { 32 } else { 128 };
    let route = RouteMessageBuilder::<IpAddr>::new()
        .destination_prefix(address, prefix_length)
        .map_err(|_| rtnetlink::Error::RequestFailed)?
        .build();
    let found = handle.route().get(route).execute().try_next().await?;
    let interface = found.and_then(|route| {
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
        let loopback = IpAddr::from([127, 0, 0, 1]);
        let answers = egress_interfaces([loopback]).await.expect("netlink answers");
        assert_eq!(answers.len(), 1);
        assert!(matches!(answers[0], (address, Ok(1)) if address == loopback), "{answers:?}");
    }
}
