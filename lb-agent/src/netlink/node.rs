//! Facts about the node's own network.

use std::{fs, io};

use super::{
    link::{Family, Link, default_routes, link_at, link_named, links},
    socket::RouteSocket,
};

/// Names of the interfaces that the node's IPv4 default route leaves by: those of the default route
/// with the best metric, several if it has several ways. Empty without a default route.
pub fn default_route_interfaces() -> io::Result<Vec<String>> {
    let mut socket = RouteSocket::open()?;
    let routes = default_routes(&mut socket, Family::V4)?;
    let Some(best) = routes.first().map(|route| route.metric) else { return Ok(Vec::new()) };
    let mut names = Vec::new();
    for route in routes.iter().take_while(|route| route.metric == best) {
        // A link that is gone since takes its route with it.
        if let Some(link) = link_at(&mut socket, route.interface)?
            && !names.contains(&link.name)
        {
            names.push(link.name);
        }
    }
    Ok(names)
}

/// Index of the interface with this name; `None`: there is none.
pub fn link_index(name: &str) -> io::Result<Option<u32>> {
    if name.is_empty() || name.len() >= libc::IFNAMSIZ {
        return Ok(None);
    }
    Ok(link_named(&mut RouteSocket::open()?, name)?.map(|link| link.index))
}

/// Index of the veth that is a port of this bridge and was made last, if it has any.
pub fn newest_port(bridge: &str) -> io::Result<Option<u32>> {
    let mut socket = RouteSocket::open()?;
    let Some(bridge) = link_named(&mut socket, bridge)? else { return Ok(None) };
    let links = links(&mut socket)?;
    let is_port = |link: &&Link| {
        link.bridge_index == Some(bridge.index) && link.kind.as_deref() == Some("veth")
    };
    // Indexes are counted up.
    Ok(links.values().filter(is_port).map(|link| link.index).max())
}

/// Name of the interface with this index; `None`: there is none.
#[must_use]
pub fn link_name(ifindex: u32) -> Option<String> {
    let name = nix::net::if_::if_indextoname(ifindex).ok()?.into_string().ok()?;
    // For an index that does not exist an empty name comes back.
    (!name.is_empty()).then_some(name)
}

/// Whether the node forwards IPv4 packets that come in by this interface; `all` and `default` are
/// the kernel's own names for the node and for interfaces to come.
pub fn forwarding_enabled(interface: &str) -> io::Result<bool> {
    if interface.is_empty() || interface.starts_with('.') || interface.contains('/') {
        let message = format!("`{interface}` is no interface name");
        return Err(io::Error::new(io::ErrorKind::InvalidInput, message));
    }
    let path = format!("/proc/sys/net/ipv4/conf/{interface}/forwarding");
    match fs::read_to_string(&path) {
        Ok(text) => Ok(text.trim() != "0"),
        Err(error) => Err(io::Error::new(error.kind(), format!("{path}: {error}"))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn loopback_has_index_one_and_others_are_looked_up_by_their_whole_name() {
        assert_eq!(link_index("lo").expect("netlink answers"), Some(1));
        for name in ["", "l", "no-such-link", "a-name-that-is-longer-than-any-link-can-have"] {
            assert_eq!(link_index(name).expect("netlink answers"), None, "`{name}`");
        }
    }

    #[test]
    fn forwarding_is_asked_of_interfaces_only() {
        let _either = forwarding_enabled("lo").expect("loopback has the switch");
        for name in ["", ".", "..", "../lo", "no/such"] {
            let error = forwarding_enabled(name).expect_err("no interface name");
            assert_eq!(error.kind(), io::ErrorKind::InvalidInput, "`{name}`");
        }
        let error = forwarding_enabled("no-such-link").expect_err("no such link");
        assert_eq!(error.kind(), io::ErrorKind::NotFound);
    }
}
