//! Sockets that listen for questions.

use std::{
    io,
    net::{SocketAddr, TcpListener as StdListener, UdpSocket as StdSocket},
    os::fd::{AsRawFd as _, OwnedFd},
};

use nix::sys::socket::{
    AddressFamily, Backlog, SockFlag, SockType, SockaddrStorage, bind, listen, setsockopt, socket,
    sockopt,
};
use tokio::net::{TcpListener, UdpSocket};

/// Connections that wait to be taken.
const BACKLOG: i32 = 128;

/// Whether both mean all addresses at one port, one of each family: `[::]` means both families unless
/// it is told otherwise.
pub(super) fn share_port(one: SocketAddr, other: SocketAddr) -> bool {
    one.is_ipv6() != other.is_ipv6()
        && one.port() == other.port()
        && (one.ip().is_unspecified() || other.ip().is_unspecified())
}

/// For datagrams, and for connections. `is_alone`: nobody else listens for the other family.
pub(super) fn open(address: SocketAddr, is_alone: bool) -> io::Result<(UdpSocket, TcpListener)> {
    let datagrams = StdSocket::from(bound(address, SockType::Datagram, is_alone)?);
    let connections = bound(address, SockType::Stream, is_alone)?;
    listen(&connections, Backlog::new(BACKLOG)?)?;
    Ok((UdpSocket::from_std(datagrams)?, TcpListener::from_std(StdListener::from(connections))?))
}

fn bound(address: SocketAddr, kind: SockType, is_alone: bool) -> io::Result<OwnedFd> {
    let family = if address.is_ipv4() { AddressFamily::Inet } else { AddressFamily::Inet6 };
    let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
    let socket = socket(family, kind, flags, None)?;
    if kind == SockType::Stream {
        // A restarted agent does not wait for connections of its predecessor to be forgotten.
        setsockopt(&socket, sockopt::ReuseAddr, &true)?;
    }
    if address.is_ipv6() && !is_alone {
        setsockopt(&socket, sockopt::Ipv6V6Only, &true)?;
    }
    bind(socket.as_raw_fd(), &SockaddrStorage::from(address))?;
    Ok(socket)
}
