//! Calls whose address is shorter than the type that it is of.

use std::{
    io,
    net::{SocketAddr, UdpSocket},
    os::fd::AsRawFd as _,
};

use nix::sys::socket::{
    AddressFamily, SockFlag, SockType, SockaddrLike as _, SockaddrStorage, socket,
};

use crate::calls::{ask, exchange, stream_of, timeout, udp_socket};

/// A length that the kernel takes for no address of either family.
const TOO_SHORT: libc::socklen_t = 4;
/// An address of IPv6 as it was before it had a scope, which the kernel takes to this day.
const OLD_V6: libc::socklen_t = 24;

/// A call with such an address.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Cut {
    Connect,
    ConnectDatagrams,
    Send,
    ConnectOld,
    ConnectDatagramsOld,
    SendOld,
}

impl Cut {
    pub(crate) fn parse(word: &str) -> Option<Self> {
        Some(match word {
            "short-tcp" => Self::Connect,
            "short-udp" => Self::ConnectDatagrams,
            "short-udp-unconnected" => Self::Send,
            "old-tcp" => Self::ConnectOld,
            "old-udp" => Self::ConnectDatagramsOld,
            "old-udp-unconnected" => Self::SendOld,
            _ => return None,
        })
    }

    pub(crate) fn call(self, target: SocketAddr) -> io::Result<String> {
        match self {
            Self::Connect => stream(target, TOO_SHORT),
            Self::ConnectOld => stream(target, OLD_V6),
            Self::ConnectDatagrams => datagrams(target, TOO_SHORT),
            Self::ConnectDatagramsOld => datagrams(target, OLD_V6),
            Self::Send => send(target, TOO_SHORT),
            Self::SendOld => send(target, OLD_V6),
        }
    }
}

fn stream(target: SocketAddr, length: libc::socklen_t) -> io::Result<String> {
    let family = if target.is_ipv4() { AddressFamily::Inet } else { AddressFamily::Inet6 };
    let socket = socket(family, SockType::Stream, SockFlag::SOCK_CLOEXEC, None)?;
    connect(socket.as_raw_fd(), target, length)?;
    ask(stream_of(socket), true)
}

fn datagrams(target: SocketAddr, length: libc::socklen_t) -> io::Result<String> {
    let socket = udp_socket(target)?;
    connect(socket.as_raw_fd(), target, length)?;
    exchange(&socket)
}

fn send(target: SocketAddr, length: libc::socklen_t) -> io::Result<String> {
    let socket: UdpSocket = udp_socket(target)?;
    let (address, request) = (SockaddrStorage::from(target), b"ask");
    // SAFETY: both live during the call, and neither is shorter than it is said to be.
    let sent = unsafe {
        libc::sendto(
            socket.as_raw_fd(),
            request.as_ptr().cast(),
            request.len(),
            0,
            address.as_ptr(),
            length.min(address.len()),
        )
    };
    if sent < 0 {
        return Err(io::Error::last_os_error());
    }
    socket.set_read_timeout(Some(timeout()))?;
    let mut buffer = [0; 2048];
    let (length, from) = socket.recv_from(&mut buffer)?;
    let answer = String::from_utf8_lossy(&buffer[..length]).into_owned();
    Ok(format!("{} peer={from} source={}", answer.trim(), socket.local_addr()?.port()))
}

fn connect(socket: i32, target: SocketAddr, length: libc::socklen_t) -> io::Result<()> {
    let address = SockaddrStorage::from(target);
    // SAFETY: the address lives during the call, and is not shorter than it is said to be.
    let result = unsafe { libc::connect(socket, address.as_ptr(), length.min(address.len())) };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}
