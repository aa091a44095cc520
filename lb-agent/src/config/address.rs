//! Frontends and addresses as they are written in the file.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use crate::model::{FrontendAddress, Ports, Protocol};

/// `127.0.0.1:9432`.
pub(super) fn parse_listen(text: &str) -> Result<SocketAddr, String> {
    let wrong = || {
        format!(
            "`{}` is no address to listen on; write one with a port, like 127.0.0.1:9432",
            text.escape_debug()
        )
    };
    let address: SocketAddr = text.parse().map_err(|_| wrong())?;
    if address.port() == 0 { Err(wrong()) } else { Ok(address) }
}

/// `tcp://192.0.2.10:80`.
pub(crate) fn parse_frontend(url: &str) -> Result<FrontendAddress, String> {
    let shown = url.escape_debug();
    let Some((scheme, rest)) = url.split_once("://") else {
        return Err(format!("`{shown}` is no frontend; write it like tcp://192.0.2.10:80"));
    };
    let protocol = match scheme {
        "tcp" => Protocol::Tcp,
        "udp" => Protocol::Udp,
        _ => {
            return Err(format!(
                "`{shown}`: unknown scheme `{}`; the schemes are: tcp, udp",
                scheme.escape_debug()
            ));
        }
    };
    let malformed = || {
        format!(
            "`{shown}`: after {protocol}:// comes an IP address and a port, a range of ports or *, \
             like {protocol}://192.0.2.10:80, {protocol}://[2001:db8::10]:8000-8999 or \
             {protocol}://192.0.2.10:*"
        )
    };
    let (host, ports) = rest.rsplit_once(':').ok_or_else(malformed)?;
    let vip = match host.strip_prefix('[').and_then(|host| host.strip_suffix(']')) {
        Some(host) => host.parse().map(IpAddr::V6),
        None => host.parse().map(IpAddr::V4),
    };
    let vip = usable_address(vip.map_err(|_| malformed())?, "VIP")?;
    let ports: Ports = ports.parse().map_err(|error| format!("`{shown}`: {error}"))?;
    Ok(FrontendAddress { vip, protocol, ports })
}

/// `10.0.0.1:8080`; without a port, or with port 0, the port that the client asked for.
pub(super) fn parse_backend(text: &str) -> Result<SocketAddr, String> {
    if let Ok(bare) = text.parse::<Ipv6Addr>() {
        // `2001:db8::1:80` may be meant with a port and is an address without.
        return Err(format!(
            "`{text}` has no brackets, which tell address and port apart; write it like \
             [{bare}]:8080, or [{bare}] for the port that the client asked for"
        ));
    }
    let with_port = text.parse::<SocketAddr>().ok();
    let without_port = || {
        let inner = text.strip_prefix('[').and_then(|text| text.strip_suffix(']'));
        let v6 = inner.and_then(|text| text.parse().ok()).map(IpAddr::V6);
        let ip = v6.or_else(|| text.parse().ok().map(IpAddr::V4))?;
        Some(SocketAddr::new(ip, 0))
    };
    let address = with_port.or_else(without_port).ok_or_else(|| {
        format!(
            "`{}` is no address and port; write it like 10.0.0.1:8080 or [fd00::1]:8080, or \
             10.0.0.1 for the port that the client asked for (names are not resolved)",
            text.escape_debug()
        )
    })?;
    usable_address(address.ip(), "backend address")?;
    Ok(address)
}

/// What is wrong with an address for one server or service.
pub(super) fn usable_address(address: IpAddr, what: &str) -> Result<IpAddr, String> {
    let kind = match address {
        IpAddr::V4(address) => unusable_v4(address),
        IpAddr::V6(address) => unusable_v6(address),
    };
    match kind {
        None => Ok(address),
        Some(kind) => Err(format!("the {what} {address} is {kind}; use the address of one host")),
    }
}

fn unusable_v4(address: Ipv4Addr) -> Option<&'static str> {
    Some(if address.octets()[0] == 0 {
        "in 0.0.0.0/8, where no host is"
    } else if address.is_loopback() {
        "a loopback address"
    } else if address.is_multicast() {
        "a multicast address"
    } else if address.octets()[0] >= 240 {
        "a reserved or broadcast address"
    } else {
        return None;
    })
}

fn unusable_v6(address: Ipv6Addr) -> Option<&'static str> {
    Some(if address.is_unspecified() {
        "the unspecified address"
    } else if address.is_loopback() {
        "a loopback address"
    } else if address.is_multicast() {
        "a multicast address"
    } else if address.is_unicast_link_local() {
        "a link-local address, which every link has of its own"
    } else if address.to_ipv4_mapped().is_some() {
        "an IPv4 address written as IPv6"
    } else {
        return None;
    })
}

#[cfg(all(test, feature = "agent"))]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::mangle::{any_text, mangled_text};

    proptest! {
        /// What is taken is taken again as it is shown.
        #[test]
        fn any_text_is_an_address_or_none(
            text in prop_oneof![
                any_text(),
                mangled_text("127.0.0.1:9432"),
                mangled_text("[2001:db8::1%3]:8080"),
                mangled_text("tcp://[2001:db8::10]:8000-8999"),
                mangled_text("udp://192.0.2.10:*"),
            ],
        ) {
            if let Ok(address) = parse_listen(&text) {
                prop_assert_eq!(parse_listen(&address.to_string()), Ok(address));
            }
            if let Ok(frontend) = parse_frontend(&text) {
                prop_assert_eq!(parse_frontend(&frontend.to_string()), Ok(frontend));
            }
            if let Ok(backend) = parse_backend(&text) {
                prop_assert_eq!(parse_backend(&backend.to_string()), Ok(backend));
            }
        }
    }
}
