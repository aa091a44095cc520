//! Frontends and addresses as they are written in the file.

use std::net::{IpAddr, SocketAddr};

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
pub(super) fn parse_frontend(url: &str) -> Result<FrontendAddress, String> {
    let shown = url.escape_debug();
    let Some((scheme, rest)) = url.split_once("://") else {
        return Err(format!("`{shown}` is no frontend; write it like tcp://192.0.2.10:80"));
    };
    match scheme {
        "tcp" => {}
        "udp" => {
            return Err(format!(
                "`{shown}`: UDP is not balanced yet; remove this frontend until the data path has \
                 UDP"
            ));
        }
        _ => {
            return Err(format!(
                "`{shown}`: unknown scheme `{}`; the schemes are: tcp",
                scheme.escape_debug()
            ));
        }
    }
    let malformed = || {
        format!(
            "`{shown}`: after tcp:// comes an IP address and a port, a range of ports or *, like \
             tcp://192.0.2.10:80, tcp://192.0.2.10:8000-8999 or tcp://192.0.2.10:*"
        )
    };
    let (host, ports) = rest.rsplit_once(':').ok_or_else(malformed)?;
    let vip = match host.strip_prefix('[').and_then(|host| host.strip_suffix(']')) {
        Some(host) => host.parse().map(IpAddr::V6),
        None => host.parse().map(IpAddr::V4),
    };
    let vip = usable_address(vip.map_err(|_| malformed())?, "VIP")?;
    let ports: Ports = ports.parse().map_err(|error| format!("`{shown}`: {error}"))?;
    Ok(FrontendAddress { vip, protocol: Protocol::Tcp, ports })
}

/// `10.0.0.1:8080`; without a port, or with port 0, the port that the client asked for.
pub(super) fn parse_backend(text: &str) -> Result<SocketAddr, String> {
    let with_port = text.parse::<SocketAddr>();
    let address = with_port.or_else(|_| text.parse().map(|ip: IpAddr| SocketAddr::new(ip, 0)));
    let address = address.map_err(|_| {
        format!(
            "`{}` is no address and port; write it like 10.0.0.1:8080, or 10.0.0.1 for the port \
             that the client asked for (names are not resolved)",
            text.escape_debug()
        )
    })?;
    usable_address(address.ip(), "backend address")?;
    Ok(address)
}

/// What is wrong with an address for one server or service.
pub(super) fn usable_address(address: IpAddr, what: &str) -> Result<IpAddr, String> {
    let IpAddr::V4(v4) = address else {
        return Err(format!(
            "the {what} {address} is IPv6, which is not balanced yet; use an IPv4 address"
        ));
    };
    let kind = if v4.octets()[0] == 0 {
        "in 0.0.0.0/8, where no host is"
    } else if v4.is_loopback() {
        "a loopback address"
    } else if v4.is_multicast() {
        "a multicast address"
    } else if v4.octets()[0] >= 240 {
        "a reserved or broadcast address"
    } else {
        return Ok(address);
    };
    Err(format!("the {what} {address} is {kind}; use the address of one host"))
}
