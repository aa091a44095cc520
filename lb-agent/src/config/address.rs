//! Frontends and addresses as they are written in the file.

use std::net::{IpAddr, SocketAddr};

use crate::model::{FrontendAddress, Protocol};

/// `tcp://192.0.2.10:80`.
pub(crate) fn parse_frontend(url: &str) -> Result<FrontendAddress, String> {
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
    let address: SocketAddr = rest.parse().map_err(|_| {
        format!("`{shown}`: after tcp:// comes an IP address and a port, like tcp://192.0.2.10:80")
    })?;
    let vip = usable_address(address.ip(), "VIP")?;
    Ok(FrontendAddress { vip, protocol: Protocol::Tcp, port: usable_port(address.port())? })
}

/// `10.0.0.1:8080`.
pub(super) fn parse_backend(text: &str) -> Result<SocketAddr, String> {
    let address: SocketAddr = text.parse().map_err(|_| {
        format!(
            "`{}` is no address and port; write it like 10.0.0.1:8080 (names are not resolved)",
            text.escape_debug()
        )
    })?;
    usable_address(address.ip(), "backend address")?;
    usable_port(address.port())?;
    Ok(address)
}

fn usable_port(port: u16) -> Result<u16, String> {
    if port == 0 {
        return Err("port 0 does not exist; ports are 1 to 65535".to_owned());
    }
    Ok(port)
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
