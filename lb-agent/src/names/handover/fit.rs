//! Whether a socket that was handed over is the one that would be opened. What is asked of the kernel
//! stands in [`Facts`]; the rest is pure.

use std::{
    net::SocketAddr,
    os::fd::{AsRawFd as _, OwnedFd},
};

use nix::{
    getsockopt_impl, sockopt_impl,
    sys::socket::{SockType, SockaddrStorage, getpeername, getsockname, getsockopt, sockopt},
};

use super::super::{
    datagrams::socket_address,
    listen::{Kind, Place},
};

sockopt_impl!(
    /// The protocol of a socket: TCP is not the only one of streams.
    Protocol,
    GetOnly,
    libc::SOL_SOCKET,
    libc::SO_PROTOCOL,
    libc::c_int
);

/// What the kernel says of a descriptor; nothing of one that is no socket.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub(in super::super) struct Facts {
    /// `None`: neither TCP nor UDP.
    pub(in super::super) kind: Option<Kind>,
    pub(in super::super) address: Option<SocketAddr>,
    pub(in super::super) is_listening: bool,
    /// It takes nothing but what this one sends.
    pub(in super::super) has_peer: bool,
    pub(in super::super) is_v6_only: bool,
}

impl Facts {
    pub(super) fn of(socket: &OwnedFd) -> Self {
        let protocol = getsockopt(socket, Protocol).unwrap_or(-1);
        let kind = match getsockopt(socket, sockopt::SockType) {
            Ok(SockType::Datagram) if protocol == libc::IPPROTO_UDP => Some(Kind::Datagrams),
            Ok(SockType::Stream) if protocol == libc::IPPROTO_TCP => Some(Kind::Connections),
            _ => None,
        };
        let number = socket.as_raw_fd();
        let address = getsockname::<SockaddrStorage>(number).ok();
        Self {
            kind,
            address: address.as_ref().and_then(socket_address),
            is_listening: getsockopt(socket, sockopt::AcceptConn).unwrap_or(false),
            has_peer: getpeername::<SockaddrStorage>(number).is_ok(),
            is_v6_only: getsockopt(socket, sockopt::Ipv6V6Only).unwrap_or(false),
        }
    }

    /// Whether it is what listens there.
    fn fits(&self, place: &Place) -> bool {
        // Of one address both families cannot be meant.
        let minds_families = place.address.is_ipv6() && place.address.ip().is_unspecified();
        self.kind == Some(place.kind)
            && self.address == Some(place.address)
            && self.is_listening == (place.kind == Kind::Connections)
            && !self.has_peer
            && (!minds_families || self.is_v6_only == place.is_v6_only)
    }
}

/// For each place, which of those that were handed over listens there; each is chosen once at most.
pub(in super::super) fn choose(handed: &[Facts], wanted: &[Place]) -> Vec<Option<usize>> {
    let mut is_free = vec![true; handed.len()];
    let choice = wanted.iter().map(|place| {
        let fitting = |(index, facts): (usize, &Facts)| is_free[index] && facts.fits(place);
        let chosen = handed.iter().enumerate().position(fitting)?;
        is_free[chosen] = false;
        Some(chosen)
    });
    choice.collect()
}
