//! `NETLINK_SOCK_DIAG`: lists the sockets of a network namespace, and ends those whose other end is gone.
//!
//! Which sockets are ended is not guessed from addresses: with each socket of TCP the kernel hands out
//! what our programs have stored in it, and with each of UDP its cookie, which they have written down.
//! So only sockets that we have led there are ended. The application gets an error from its next call,
//! as from a reset.

use std::{
    io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    os::fd::{AsRawFd as _, BorrowedFd, OwnedFd},
    time::Duration,
};

use nix::{
    errno::Errno,
    sys::{
        socket::{
            AddressFamily, MsgFlags, NetlinkAddr, SockFlag, SockProtocol, SockType, connect, recv,
            send, setsockopt, socket, sockopt,
        },
        time::{TimeVal, TimeValLike as _},
    },
};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use super::{cookie::of_socket, namespace::Namespace, process::Process};

const SOCK_DIAG_BY_FAMILY: u16 = 20;
const SOCK_DESTROY: u16 = 21;
const NLMSG_ERROR: u16 = 2;
const NLMSG_DONE: u16 = 3;
const NLM_F_REQUEST: u16 = 1;
const NLM_F_ACK: u16 = 4;
const NLM_F_DUMP: u16 = 0x300;

/// `INET_DIAG_REQ_SK_BPF_STORAGES`.
const REQUEST_STORAGES: u16 = 2;
/// `SK_DIAG_BPF_STORAGE_REQ_MAP_FD`.
const REQUEST_MAP: u16 = 1;
/// `INET_DIAG_SK_BPF_STORAGES`.
const STORAGES: u16 = 20;
/// `SK_DIAG_BPF_STORAGE_MAP_VALUE`.
const MAP_VALUE: u16 = 3;
/// An attribute that holds attributes; the kernel asks for this bit and sets it itself.
const NESTED: u16 = 0x8000;
/// All of an attribute's type but its flags.
const TYPE_MASK: u16 = 0x3fff;

/// Established, SYN sent, the two of a close that waits, close-wait: whoever has a peer. Sockets of UDP
/// that are connected count as established.
const STATES: u32 = 1 << 1 | 1 << SYN_SENT | 1 << 4 | 1 << 5 | 1 << 8;
const SYN_SENT: u8 = 2;
const ELSEWHERE: &str = "the process is in another network namespace by now";

/// Longest wait for the kernel when sockets are ended.
const TIMEOUT: Duration = Duration::from_secs(5);
/// The kernel never sends more than 32 KiB in one datagram of a dump.
const BUFFER_BYTES: usize = 64 * 1024;
/// Most sockets of one namespace, family and protocol that are looked at when some are to be ended.
const SOCKETS_MAX: usize = 4_000_000;

#[repr(C)]
#[derive(FromBytes, IntoBytes, Immutable, KnownLayout, Clone, Copy, Default)]
struct Header {
    length: u32,
    kind: u16,
    flags: u16,
    sequence: u32,
    port: u32,
}

/// `struct inet_diag_sockid`: passed back as it came.
#[repr(C)]
#[derive(FromBytes, IntoBytes, Immutable, KnownLayout, Clone, Copy, Default)]
pub(super) struct SocketId([u32; 12]);

/// `struct inet_diag_req_v2`.
#[repr(C)]
#[derive(FromBytes, IntoBytes, Immutable, KnownLayout, Clone, Copy, Default)]
pub(super) struct Request {
    family: u8,
    protocol: u8,
    extensions: u8,
    pad: u8,
    states: u32,
    id: SocketId,
}

impl Request {
    /// Sockets of a family and protocol that are in one of these states, as bits.
    pub(super) fn new(family: libc::c_int, protocol: libc::c_int, states: u32) -> Self {
        let byte = |number: libc::c_int| u8::try_from(number).unwrap_or_default();
        Self { family: byte(family), protocol: byte(protocol), states, ..Self::default() }
    }
}

/// `struct inet_diag_msg`.
#[repr(C)]
#[derive(FromBytes, IntoBytes, Immutable, KnownLayout, Clone, Copy, Default)]
pub(super) struct Answer {
    family: u8,
    state: u8,
    timer: u8,
    retransmissions: u8,
    id: SocketId,
    rest: [u32; 5],
}

impl Answer {
    /// Where the socket is: the first port and the first address of its id.
    pub(super) fn local(&self) -> SocketAddr {
        let bytes = self.id.as_bytes();
        let port = u16::from_be_bytes([bytes[0], bytes[1]]);
        let mut address = [0; 16];
        address.copy_from_slice(&bytes[4..20]);
        let ip = if libc::c_int::from(self.family) == libc::AF_INET {
            IpAddr::V4(Ipv4Addr::new(address[0], address[1], address[2], address[3]))
        } else {
            IpAddr::V6(Ipv6Addr::from(address)).to_canonical()
        };
        SocketAddr::new(ip, port)
    }

    fn cookie(&self) -> u64 {
        let [.., low, high] = self.id.0;
        u64::from(high) << 32 | u64::from(low)
    }
}

/// The head of an attribute.
#[repr(C)]
#[derive(FromBytes, IntoBytes, Immutable, KnownLayout, Clone, Copy, Default)]
struct Attribute {
    length: u16,
    kind: u16,
}

const HEADER_BYTES: usize = size_of::<Header>();
const ATTRIBUTE_BYTES: usize = size_of::<Attribute>();

/// A socket that has a peer.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Found<'a> {
    /// Its cookie.
    pub cookie: u64,
    /// What a map of socket storage holds for it; nothing for a socket of UDP.
    pub stored: Option<&'a [u8]>,
    /// Its peer has not answered yet.
    pub is_connecting: bool,
}

/// Ends the sockets of a namespace of which `over` says why; `None`: of the calling thread's own
/// namespace. Right before one is ended, `is_still` is asked whether that holds: finding all of them
/// takes a while. With a `cookie` only those of the namespace that has it are ended; a process that has
/// gone to another one is not found. Returns how many were ended.
///
/// # Minimum kernel version
///
/// Linux 5.7, with `CONFIG_INET_DIAG_DESTROY`.
pub fn end_sockets<Why>(
    process: Option<&Process>,
    cookie: Option<u64>,
    storage: BorrowedFd<'_>,
    over: &dyn Fn(Found<'_>) -> Option<Why>,
    is_still: &dyn Fn(&Why) -> bool,
) -> io::Result<usize> {
    let open = || DiagSocket::open(TIMEOUT);
    let socket = match process {
        Some(process) => Namespace::of(process)?.run(open)?,
        None => open()?,
    };
    // Before Linux 5.14 the kernel does not tell.
    if let (Some(cookie), Ok(found)) = (cookie, of_socket(&socket.0))
        && found != cookie
    {
        return Err(io::Error::new(io::ErrorKind::NotFound, ELSEWHERE));
    }
    let mut ended = 0;
    for family in [libc::AF_INET, libc::AF_INET6] {
        for protocol in [libc::IPPROTO_TCP, libc::IPPROTO_UDP] {
            ended += socket.end(family, protocol, storage, over, is_still)?;
        }
    }
    Ok(ended)
}

/// A socket that asks the kernel about those of its namespace.
pub(super) struct DiagSocket(OwnedFd);

impl DiagSocket {
    /// In the namespace of the calling thread. The kernel answers in microseconds, or in `timeout`.
    pub(super) fn open(timeout: Duration) -> io::Result<Self> {
        let descriptor = socket(
            AddressFamily::Netlink,
            SockType::Raw,
            SockFlag::SOCK_CLOEXEC,
            SockProtocol::NetlinkSockDiag,
        )?;
        let timeout = TimeVal::milliseconds(timeout.as_millis().try_into().unwrap_or(i64::MAX));
        setsockopt(&descriptor, sockopt::ReceiveTimeout, &timeout)?;
        // To the kernel, and nobody else can answer: a container may send netlink messages, too.
        connect(descriptor.as_raw_fd(), &NetlinkAddr::new(0, 0))?;
        Ok(Self(descriptor))
    }

    fn end<Why>(
        &self,
        family: libc::c_int,
        protocol: libc::c_int,
        storage: BorrowedFd<'_>,
        over: &dyn Fn(Found<'_>) -> Option<Why>,
        is_still: &dyn Fn(&Why) -> bool,
    ) -> io::Result<usize> {
        let request = Request::new(family, protocol, STATES);
        let map = attribute(REQUEST_MAP, storage.as_raw_fd().cast_unsigned().as_bytes());
        let attributes = attribute(REQUEST_STORAGES | NESTED, &map);
        let mut found = Vec::new();
        let dumped = self.dump(request, &attributes, SOCKETS_MAX, &mut |answer, attributes| {
            let is_connecting = answer.state == SYN_SENT;
            let one = Found { cookie: answer.cookie(), stored: stored(attributes), is_connecting };
            found.extend(over(one).map(|why| (answer.id, why)));
        });
        match dumped {
            Ok(_) => {}
            // A kernel without this family or protocol, see `diag_parts`.
            Err(error) if error.raw_os_error() == Some(libc::ENOENT) => return Ok(0),
            Err(error) => return Err(error),
        }
        let mut ended = 0;
        for (id, why) in found {
            if !is_still(&why) {
                continue;
            }
            match self.destroy(Request { id, ..request }) {
                Ok(()) => ended += 1,
                // It has ended by itself.
                Err(error) if error.raw_os_error() == Some(libc::ENOENT) => {}
                Err(error) => return Err(error),
            }
        }
        Ok(ended)
    }

    /// Hands every socket that is asked for to `visit`, with the attributes that came with it. Returns
    /// how many there were; more than `sockets_max` are an error.
    pub(super) fn dump(
        &self,
        request: Request,
        attributes: &[u8],
        sockets_max: usize,
        visit: &mut dyn FnMut(&Answer, &[u8]),
    ) -> io::Result<usize> {
        self.send(SOCK_DIAG_BY_FAMILY, NLM_F_REQUEST | NLM_F_DUMP, request, attributes)?;
        let mut seen = 0;
        let mut buffer = vec![0; BUFFER_BYTES];
        loop {
            let length = self.receive(&mut buffer)?;
            if read_dump(&buffer[..length], &mut seen, sockets_max, visit)? {
                return Ok(seen);
            }
        }
    }

    /// Ends one socket. `ENOENT`: there is none with this id.
    pub(super) fn destroy(&self, request: Request) -> io::Result<()> {
        self.send(SOCK_DESTROY, NLM_F_REQUEST | NLM_F_ACK, request, &[])?;
        let mut buffer = [0; 4096];
        let length = self.receive(&mut buffer)?;
        let mut rest = &buffer[..length];
        match take_message(&mut rest)? {
            Some((Header { kind: NLMSG_ERROR, .. }, body)) => outcome(body),
            _ => Err(malformed("no acknowledgement")),
        }
    }

    fn send(&self, kind: u16, flags: u16, request: Request, attributes: &[u8]) -> io::Result<()> {
        let length = HEADER_BYTES + size_of::<Request>() + attributes.len();
        let length = u32::try_from(length).map_err(io::Error::other)?;
        let header = Header { length, kind, flags, sequence: 1, port: 0 };
        let message = [header.as_bytes(), request.as_bytes(), attributes].concat();
        send(self.0.as_raw_fd(), &message, MsgFlags::empty())?;
        Ok(())
    }

    fn receive(&self, buffer: &mut [u8]) -> io::Result<usize> {
        loop {
            match recv(self.0.as_raw_fd(), buffer, MsgFlags::MSG_TRUNC) {
                Err(Errno::EINTR) => {}
                Err(errno) => return Err(errno.into()),
                Ok(length) if length > buffer.len() => return Err(malformed("too long")),
                Ok(length) => return Ok(length),
            }
        }
    }
}

/// Reads one datagram of a dump. True: it was the last.
fn read_dump(
    mut rest: &[u8],
    seen: &mut usize,
    sockets_max: usize,
    visit: &mut dyn FnMut(&Answer, &[u8]),
) -> io::Result<bool> {
    while let Some((header, body)) = take_message(&mut rest)? {
        match header.kind {
            NLMSG_DONE => return outcome(body).map(|()| true),
            NLMSG_ERROR => outcome(body)?,
            SOCK_DIAG_BY_FAMILY if *seen >= sockets_max => {
                return Err(io::Error::other(format!("more than {sockets_max} sockets")));
            }
            SOCK_DIAG_BY_FAMILY => {
                *seen += 1;
                let (answer, attributes) = Answer::read_from_prefix(body)
                    .map_err(|_| malformed("a socket that is cut off"))?;
                visit(&answer, attributes);
            }
            _ => {}
        }
    }
    Ok(false)
}

/// One attribute, padded to four bytes.
fn attribute(kind: u16, value: &[u8]) -> Vec<u8> {
    let length = u16::try_from(ATTRIBUTE_BYTES + value.len()).unwrap_or(u16::MAX);
    let mut bytes = [Attribute { length, kind }.as_bytes(), value].concat();
    bytes.resize(bytes.len().next_multiple_of(4), 0);
    bytes
}

/// Takes the next message off; `None`: there is none.
fn take_message<'a>(rest: &mut &'a [u8]) -> io::Result<Option<(Header, &'a [u8])>> {
    let Ok((header, _)) = Header::read_from_prefix(rest) else { return Ok(None) };
    let length = header.length as usize;
    let body =
        rest.get(HEADER_BYTES..length).ok_or_else(|| malformed("a message of a wrong length"))?;
    *rest = rest.get(length.next_multiple_of(4)..).unwrap_or_default();
    Ok(Some((header, body)))
}

/// The number that an error and the end of a dump begin with.
fn outcome(body: &[u8]) -> io::Result<()> {
    match i32::read_from_prefix(body) {
        Ok((0, _)) => Ok(()),
        Err(_) => Err(malformed("an error without number")),
        Ok((code, _)) => Err(io::Error::from_raw_os_error(code.saturating_neg())),
    }
}

/// The attribute of this kind.
fn find_attribute(mut bytes: &[u8], kind: u16) -> Option<&[u8]> {
    loop {
        let (head, _) = Attribute::read_from_prefix(bytes).ok()?;
        let length = usize::from(head.length);
        let value = bytes.get(ATTRIBUTE_BYTES..length)?;
        if head.kind & TYPE_MASK == kind {
            return Some(value);
        }
        bytes = bytes.get(length.next_multiple_of(4)..)?;
    }
}

/// What the one map that was asked for holds for a socket.
fn stored(attributes: &[u8]) -> Option<&[u8]> {
    let storages = find_attribute(attributes, STORAGES)?;
    let storage = find_attribute(storages, 1)?;
    find_attribute(storage, MAP_VALUE)
}

fn malformed(what: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, format!("malformed answer of sock_diag: {what}"))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::mangle::mangled;

    #[test]
    fn attributes_are_found_and_cut_off_ones_are_not() {
        let value = attribute(MAP_VALUE, b"12345678");
        let storage = attribute(1 | NESTED, &[attribute(2, &[1, 0, 0, 0]), value].concat());
        let all = [attribute(8, &[3]), attribute(STORAGES | NESTED, &storage)].concat();
        assert_eq!(stored(&all), Some(&b"12345678"[..]));
        for cut in 0..all.len() {
            assert_eq!(stored(&all[..cut]), None, "{cut}");
        }
        assert_eq!(find_attribute(&[0, 0, 0, 0], 1), None);
    }

    /// A datagram with a socket that has something stored, one that has not, and the end.
    fn dump() -> Vec<u8> {
        let storage = attribute(1 | NESTED, &attribute(MAP_VALUE, b"12345678"));
        let stored = attribute(STORAGES | NESTED, &storage);
        let socket = |attributes: &[u8]| {
            let body = [Answer::default().as_bytes(), attributes].concat();
            let length = u32::try_from(HEADER_BYTES + body.len()).expect("short");
            let header = Header { length, kind: SOCK_DIAG_BY_FAMILY, ..Header::default() };
            [header.as_bytes(), &body].concat()
        };
        let end = Header { length: 20, kind: NLMSG_DONE, ..Header::default() };
        [&socket(&stored)[..], &socket(&[]), end.as_bytes(), &[0; 4]].concat()
    }

    fn read(datagram: &[u8], sockets_max: usize) -> (io::Result<bool>, Vec<Option<Vec<u8>>>) {
        let (mut seen, mut found) = (0, Vec::new());
        let result = read_dump(datagram, &mut seen, sockets_max, &mut |answer, attributes| {
            assert!(answer.local().port() != 1 || answer.cookie() < u64::MAX);
            found.push(stored(attributes).map(<[u8]>::to_vec));
        });
        assert!(seen >= found.len() && found.len() <= sockets_max);
        (result, found)
    }

    #[test]
    fn a_dump_is_read_to_its_end_or_its_limit() {
        let (result, found) = read(&dump(), 2);
        assert!(result.expect("in order"));
        assert_eq!(found, [Some(b"12345678".to_vec()), None]);
        let (result, found) = read(&dump(), 1);
        assert_eq!(result.expect_err("one too many").to_string(), "more than 1 sockets");
        assert_eq!(found.len(), 1);
    }

    proptest! {
        #[test]
        fn any_dump_is_read_and_ends(
            datagram in prop_oneof![
                4 => mangled(dump()),
                1 => prop::collection::vec(any::<u8>(), 0..300),
            ],
        ) {
            let (_result, found) = read(&datagram, 100);
            prop_assert!(found.len() <= datagram.len() / HEADER_BYTES);
        }
    }

    #[test]
    fn messages_are_taken_one_by_one() {
        let message = |length: u32| Header { length, kind: NLMSG_DONE, ..Header::default() };
        let bytes = [message(20).as_bytes(), &[0; 4], message(16).as_bytes()].concat();
        let mut rest = &bytes[..];
        let mut lengths = Vec::new();
        while let Some((header, body)) = take_message(&mut rest).expect("whole messages") {
            lengths.push((header.length, body.len()));
        }
        assert_eq!(lengths, [(20, 4), (16, 0)]);
        let beyond = message(64);
        assert!(take_message(&mut beyond.as_bytes()).is_err());
        let short = message(3);
        assert!(take_message(&mut short.as_bytes()).is_err());
    }

    #[test]
    fn an_end_says_how_it_went() {
        assert!(outcome(&0_i32.to_ne_bytes()).is_ok());
        let error = outcome(&(-libc::ENOENT).to_ne_bytes()).expect_err("it says so");
        assert_eq!(error.raw_os_error(), Some(libc::ENOENT));
        assert_eq!(outcome(&[0; 3]).expect_err("cut off").kind(), io::ErrorKind::InvalidData);
    }

    #[test]
    fn a_socket_tells_where_it_is() {
        let mut id = [0; 12];
        id[0] = u32::from_ne_bytes([0x1f, 0x90, 0xff, 0xff]);
        id[1] = u32::from_ne_bytes([10, 0, 0, 7]);
        let family = |family: libc::c_int| u8::try_from(family).expect("a small number");
        let mut answer = Answer { family: family(libc::AF_INET), ..Answer::default() };
        answer.id = SocketId(id);
        assert_eq!(answer.local().to_string(), "10.0.0.7:8080");
        answer.family = family(libc::AF_INET6);
        assert_eq!(answer.local().to_string(), "[a00:7::]:8080");
        // One that is bound to all addresses of both families.
        (id[1], id[2], id[3], id[4]) =
            (0, 0, 0xffff_u32.to_be(), u32::from_ne_bytes([10, 0, 0, 7]));
        answer.id = SocketId(id);
        assert_eq!(answer.local().to_string(), "10.0.0.7:8080");
        id[10] = 2;
        id[11] = 1;
        answer.id = SocketId(id);
        assert_eq!(answer.cookie(), 0x1_0000_0002);
    }
}
