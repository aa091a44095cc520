//! Sockets that listen for questions: where, and of which kind.

use std::{
    fmt, io,
    net::SocketAddr,
    os::fd::{AsRawFd as _, OwnedFd},
};

use nix::sys::socket::{
    AddressFamily, Backlog, SockFlag, SockType, SockaddrStorage, bind, listen, setsockopt, socket,
    sockopt,
};

/// Connections that wait to be taken.
const BACKLOG: i32 = 128;

/// Where one socket listens.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(super) struct Place {
    pub(super) address: SocketAddr,
    pub(super) kind: Kind,
    /// Of all addresses, only those of IPv6.
    pub(super) is_v6_only: bool,
}

/// How questions come.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(super) enum Kind {
    /// By UDP.
    Datagrams,
    /// By TCP.
    Connections,
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let kind = match self.kind {
            Kind::Datagrams => "udp",
            Kind::Connections => "tcp",
        };
        write!(f, "{kind}://{}", self.address)
    }
}

/// The two of each address: for datagrams, and for connections.
pub(super) fn places(addresses: &[SocketAddr]) -> Vec<[Place; 2]> {
    let places = addresses.iter().map(|&address| {
        // Where somebody else has the other family.
        let is_v6_only =
            address.is_ipv6() && addresses.iter().any(|other| share_port(address, *other));
        [Kind::Datagrams, Kind::Connections].map(|kind| Place { address, kind, is_v6_only })
    });
    places.collect()
}

/// Whether both mean all addresses at one port, one of each family: `[::]` means both families unless
/// it is told otherwise.
fn share_port(one: SocketAddr, other: SocketAddr) -> bool {
    one.is_ipv6() != other.is_ipv6()
        && one.port() == other.port()
        && (one.ip().is_unspecified() || other.ip().is_unspecified())
}

/// A socket that listens there.
pub(super) fn bound(place: Place) -> io::Result<OwnedFd> {
    let Place { address, kind, is_v6_only } = place;
    let family = if address.is_ipv4() { AddressFamily::Inet } else { AddressFamily::Inet6 };
    let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
    let kind = match kind {
        Kind::Datagrams => SockType::Datagram,
        Kind::Connections => SockType::Stream,
    };
    let socket = socket(family, kind, flags, None)?;
    if kind == SockType::Stream {
        // A restarted agent does not wait for connections of its predecessor to be forgotten.
        setsockopt(&socket, sockopt::ReuseAddr, &true)?;
    }
    if address.is_ipv6() {
        // Said in either case: the default is the node's (`net.ipv6.bindv6only`), and who is handed the
        // socket compares.
        setsockopt(&socket, sockopt::Ipv6V6Only, &is_v6_only)?;
    }
    bind(socket.as_raw_fd(), &SockaddrStorage::from(address))?;
    if kind == SockType::Stream {
        listen(&socket, Backlog::new(BACKLOG)?)?;
    }
    Ok(socket)
}
