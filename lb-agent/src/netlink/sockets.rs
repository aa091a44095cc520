//! How many connections the sockets of a network namespace have: `NETLINK_SOCK_DIAG`.
//!
//! The messages are laid out here, by offset: the kernel has them fixed since Linux 3.3, and nothing
//! but a count is taken from them.

use std::{
    io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    os::fd::AsRawFd as _,
};

use lb_common::abi::PROTOCOL_TCP;
use netlink_packet_core::{NLM_F_DUMP, NLM_F_REQUEST};
use netlink_sys::{Socket, SocketAddr as NetlinkAddress, protocols::NETLINK_SOCK_DIAG};
use nix::{
    errno::Errno,
    sys::{
        socket::{MsgFlags, recv, setsockopt, sockopt},
        time::TimeVal,
    },
};

use super::namespace::Namespace;

/// Longest wait for the kernel, which answers in microseconds.
const TIMEOUT_SECONDS: i64 = 1;
/// The kernel never sends more than 32 KiB in one datagram of a dump.
const BUFFER_BYTES: usize = 64 * 1024;
/// Most connections of one namespace that are looked at: about a tenth of a second.
const SOCKETS_MAX: u32 = 250_000;

/// `struct nlmsghdr`.
const HEADER_BYTES: usize = 16;
/// `struct inet_diag_req_v2`.
const REQUEST_BYTES: usize = 56;
/// `struct inet_diag_msg`, without attributes.
const ANSWER_BYTES: usize = 72;
/// `SOCK_DIAG_BY_FAMILY`.
const BY_FAMILY: u16 = 20;
/// States of TCP in which both ends, or at least the server, may still send: `TCP_ESTABLISHED` and
/// `TCP_CLOSE_WAIT`.
const STATES: u32 = 1 << 1 | 1 << 8;

/// Established TCP connections of each of these local addresses in a namespace.
pub fn established(namespace: &Namespace, addresses: &[SocketAddr]) -> io::Result<Vec<u64>> {
    let socket = namespace.run(open)?;
    let mut counts = vec![0; addresses.len()];
    let mut left = SOCKETS_MAX;
    // A socket of the other family may have connections of this one.
    let families: &[i32] = if addresses.iter().all(SocketAddr::is_ipv6) {
        &[libc::AF_INET6]
    } else {
        &[libc::AF_INET, libc::AF_INET6]
    };
    for family in families {
        dump(&socket, *family, &mut |local| {
            for (address, count) in addresses.iter().zip(&mut counts) {
                *count += u64::from(*address == local);
            }
            left -= 1;
            left > 0
        })?;
    }
    Ok(counts)
}

fn open() -> io::Result<Socket> {
    let mut socket = Socket::new(NETLINK_SOCK_DIAG)?;
    socket.bind_auto()?;
    socket.connect(&NetlinkAddress::new(0, 0))?;
    setsockopt(&socket, sockopt::ReceiveTimeout, &TimeVal::new(TIMEOUT_SECONDS, 0))?;
    Ok(socket)
}

/// Hands the local address of every connection of a family to `visit`, until that says no.
fn dump(socket: &Socket, family: i32, visit: &mut dyn FnMut(SocketAddr) -> bool) -> io::Result<()> {
    socket.send(&request(family), 0)?;
    let mut buffer = vec![0; BUFFER_BYTES];
    loop {
        let length = match recv(socket.as_raw_fd(), &mut buffer, MsgFlags::MSG_TRUNC) {
            Err(Errno::EINTR) => continue,
            result => result?,
        };
        let mut rest = buffer.get(..length).ok_or_else(|| malformed("too long"))?;
        while rest.len() >= HEADER_BYTES {
            let length = word(rest, 0) as usize;
            let kind = half(rest, 4);
            if length < HEADER_BYTES || length > rest.len() {
                return Err(malformed("a message of a wrong length"));
            }
            let content = &rest[HEADER_BYTES..length];
            match i32::from(kind) {
                libc::NLMSG_DONE => return Ok(()),
                libc::NLMSG_ERROR => return ended(content),
                _ if kind != BY_FAMILY || content.len() < ANSWER_BYTES => {}
                _ if visit(local_address(content)) => {}
                _ => return Err(io::Error::other(format!("more than {SOCKETS_MAX} connections"))),
            }
            // Messages are aligned to four bytes; the last one need not be padded.
            rest = rest.get(length.next_multiple_of(4)..).unwrap_or_default();
        }
    }
}

/// All TCP sockets of a family in [`STATES`], without anything beside their addresses.
fn request(family: i32) -> [u8; HEADER_BYTES + REQUEST_BYTES] {
    let mut request = [0; HEADER_BYTES + REQUEST_BYTES];
    let length = request.len() as u32;
    let flags = NLM_F_REQUEST | NLM_F_DUMP;
    request[0..4].copy_from_slice(&length.to_ne_bytes());
    request[4..6].copy_from_slice(&BY_FAMILY.to_ne_bytes());
    request[6..8].copy_from_slice(&flags.to_ne_bytes());
    request[16] = family.to_le_bytes()[0];
    request[17] = PROTOCOL_TCP;
    request[20..24].copy_from_slice(&STATES.to_ne_bytes());
    request
}

/// `idiag_family`, `id.idiag_sport` and `id.idiag_src`.
fn local_address(answer: &[u8]) -> SocketAddr {
    let port = u16::from_be_bytes([answer[4], answer[5]]);
    let mut bytes = [0; 16];
    bytes.copy_from_slice(&answer[8..24]);
    let ip = if i32::from(answer[0]) == libc::AF_INET {
        IpAddr::V4(Ipv4Addr::new(bytes[0], bytes[1], bytes[2], bytes[3]))
    } else {
        IpAddr::V6(Ipv6Addr::from(bytes)).to_canonical()
    };
    SocketAddr::new(ip, port)
}

/// The end of an answer: 0 or a negated error number.
fn ended(content: &[u8]) -> io::Result<()> {
    if content.len() < 4 {
        return Err(malformed("an error without number"));
    }
    match word(content, 0).cast_signed() {
        0 => Ok(()),
        code => Err(io::Error::from_raw_os_error(code.saturating_neg())),
    }
}

fn word(bytes: &[u8], at: usize) -> u32 {
    u32::from_ne_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]])
}

fn half(bytes: &[u8], at: usize) -> u16 {
    u16::from_ne_bytes([bytes[at], bytes[at + 1]])
}

fn malformed(what: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, format!("malformed answer of sock_diag: {what}"))
}

#[cfg(test)]
mod tests {
    use std::net::{TcpListener, TcpStream};

    use super::*;

    /// A listener at `bound`, two connections to it by `reached`, and how many it has then.
    #[track_caller]
    fn check(bound: &str, reached: &str) {
        let listener = TcpListener::bind((bound, 0)).expect("a listener");
        let port = listener.local_addr().expect("its address").port();
        let address = SocketAddr::new(reached.parse().expect("an address"), port);
        let other = SocketAddr::new(address.ip(), port ^ 1);
        let mut kept = Vec::new();
        for _ in 0..2 {
            kept.push(TcpStream::connect(address).expect("a connection"));
            kept.push(listener.accept().expect("its other end").0);
        }
        // Opening a namespace anew takes no privileges, entering it does.
        let own = Namespace::own().expect("our own namespace");
        if !nix::unistd::geteuid().is_root() {
            return;
        }
        match established(&own, &[address, other]) {
            Ok(counts) => assert_eq!(counts, [2, 0], "{bound} by {reached}"),
            // A kernel without inet_diag.
            Err(error) => assert_eq!(error.kind(), io::ErrorKind::NotFound, "{error}"),
        }
    }

    #[test]
    fn connections_are_counted_by_local_address() {
        check("127.0.0.1", "127.0.0.1");
        check("::1", "::1");
        check("::", "127.0.0.1");
    }
}
