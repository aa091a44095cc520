//! One question, one answer, over a blocking `NETLINK_ROUTE` socket.
//!
//! Messages that the parser does not understand (a newer kernel, an exotic device) are skipped: who
//! asks finds what it looks for or says that it did not.

use std::{io, os::fd::AsRawFd as _};

use netlink_packet_core::{
    NLM_F_ACK, NLM_F_DUMP, NLM_F_DUMP_INTR, NLM_F_REQUEST, NetlinkBuffer, NetlinkHeader,
    NetlinkMessage, NetlinkPayload,
};
use netlink_packet_route::RouteNetlinkMessage;
use netlink_sys::{Socket, SocketAddr, protocols::NETLINK_ROUTE};
use nix::{
    errno::Errno,
    sys::{
        socket::{MsgFlags, recv, setsockopt, sockopt},
        time::TimeVal,
    },
};

use super::namespace::Namespace;

/// Longest wait for the kernel, which answers in microseconds unless a lock is held.
const TIMEOUT_SECONDS: i64 = 5;
/// The kernel never sends more than 32 KiB in one datagram of a dump.
const BUFFER_BYTES: usize = 64 * 1024;
/// Most messages that one answer may have: far more than links or addresses of any node, and the
/// routes of a node that carries several full tables.
const MESSAGES_MAX: usize = 4_000_000;
/// How often a dump is asked for again when something changed while it was made.
const DUMP_ATTEMPTS: u32 = 4;
/// Smallest message: its header.
const HEADER_BYTES: usize = 16;

/// A socket in one network namespace.
pub(super) struct RouteSocket {
    socket: Socket,
    sequence: u32,
    buffer: Vec<u8>,
}

impl RouteSocket {
    /// Opens a socket in the namespace of the calling thread.
    pub(super) fn open() -> io::Result<Self> {
        let mut socket = Socket::new(NETLINK_ROUTE)?;
        socket.bind_auto()?;
        socket.connect(&SocketAddr::new(0, 0))?;
        setsockopt(&socket, sockopt::ReceiveTimeout, &TimeVal::new(TIMEOUT_SECONDS, 0))?;
        Ok(Self { socket, sequence: 0, buffer: vec![0; BUFFER_BYTES] })
    }

    /// Opens a socket in another namespace.
    pub(super) fn open_in(namespace: &Namespace) -> io::Result<Self> {
        namespace.run(Self::open)
    }

    /// Asks for one object. The kernel's refusals keep their error number.
    pub(super) fn get(
        &mut self,
        question: RouteNetlinkMessage,
    ) -> io::Result<Option<RouteNetlinkMessage>> {
        let mut answer = None;
        self.exchange(question, NLM_F_REQUEST | NLM_F_ACK, &mut |message| answer = Some(message))?;
        Ok(answer)
    }

    /// Asks for all objects of a kind and keeps what `select` makes of them.
    pub(super) fn dump<T>(
        &mut self,
        question: &RouteNetlinkMessage,
        select: impl Fn(RouteNetlinkMessage) -> Option<T>,
    ) -> io::Result<Vec<T>> {
        for _ in 0..DUMP_ATTEMPTS {
            let mut found = Vec::new();
            let consistent =
                self.exchange(question.clone(), NLM_F_REQUEST | NLM_F_DUMP, &mut |message| {
                    found.extend(select(message));
                })?;
            if consistent {
                return Ok(found);
            }
        }
        Err(io::Error::new(
            io::ErrorKind::Interrupted,
            "the tables change faster than they are read",
        ))
    }

    /// Sends a question and hands every message of the answer to `visit`. False: the answer mixes
    /// the state before a change with that after it.
    fn exchange(
        &mut self,
        question: RouteNetlinkMessage,
        flags: u16,
        visit: &mut dyn FnMut(RouteNetlinkMessage),
    ) -> io::Result<bool> {
        self.sequence = self.sequence.wrapping_add(1);
        let mut header = NetlinkHeader::default();
        header.flags = flags;
        header.sequence_number = self.sequence;
        let mut message = NetlinkMessage::new(header, NetlinkPayload::from(question));
        message.finalize();
        let mut bytes = vec![0; message.buffer_len()];
        message.serialize(&mut bytes);
        self.socket.send(&bytes, 0)?;

        let mut answer = Answer { sequence: self.sequence, is_consistent: true, messages: 0 };
        loop {
            let received = self.receive()?;
            if let Some(is_consistent) = answer.read(&self.buffer[..received], visit)? {
                return Ok(is_consistent);
            }
        }
    }

    /// Waits for the next datagram.
    fn receive(&mut self) -> io::Result<usize> {
        loop {
            match recv(self.socket.as_raw_fd(), &mut self.buffer, MsgFlags::MSG_TRUNC) {
                Err(Errno::EINTR) => {}
                Err(Errno::EAGAIN) => {
                    let message = format!("the kernel did not answer within {TIMEOUT_SECONDS} s");
                    return Err(io::Error::new(io::ErrorKind::TimedOut, message));
                }
                Err(errno) => return Err(errno.into()),
                Ok(length) if length > self.buffer.len() => {
                    return Err(io::Error::other("the kernel's answer is too long"));
                }
                Ok(length) => return Ok(length),
            }
        }
    }
}

/// An answer that comes in several datagrams.
struct Answer {
    /// Number of the question.
    sequence: u32,
    is_consistent: bool,
    messages: usize,
}

impl Answer {
    /// Reads one datagram. `None`: more are to come; false: the answer mixes two states.
    fn read(
        &mut self,
        datagram: &[u8],
        visit: &mut dyn FnMut(RouteNetlinkMessage),
    ) -> io::Result<Option<bool>> {
        let mut rest = datagram;
        self.count()?;
        while rest.len() >= HEADER_BYTES {
            let frame = NetlinkBuffer::new_checked(rest).map_err(malformed)?;
            let length = usize::try_from(frame.length()).map_err(malformed)?;
            let is_own = frame.sequence_number() == self.sequence;
            let message = rest.get(..length).ok_or_else(|| malformed("a message is cut off"))?;
            // Messages are aligned to four bytes; the last one need not be padded.
            rest = rest.get(length.next_multiple_of(4)..).unwrap_or_default();
            self.count()?;
            if !is_own {
                continue;
            }
            self.is_consistent &= frame.flags() & NLM_F_DUMP_INTR == 0;
            let parsed = NetlinkMessage::<RouteNetlinkMessage>::deserialize(message);
            match parsed.map(|message| message.payload) {
                Ok(NetlinkPayload::InnerMessage(message)) => visit(message),
                Ok(NetlinkPayload::Done(done)) => {
                    return ended(done.code, self.is_consistent).map(Some);
                }
                Ok(NetlinkPayload::Error(error)) => {
                    return ended(error.raw_code(), self.is_consistent).map(Some);
                }
                Ok(NetlinkPayload::Overrun(_)) => return Err(Errno::ENOBUFS.into()),
                Ok(_) => {}
                Err(error) => tracing::debug!(%error, "netlink message skipped"),
            }
        }
        Ok(None)
    }

    fn count(&mut self) -> io::Result<()> {
        self.messages += 1;
        if self.messages > MESSAGES_MAX {
            return Err(io::Error::other("the kernel's answer does not end"));
        }
        Ok(())
    }
}

/// The end of an answer: 0 or a negated error number.
fn ended(code: i32, consistent: bool) -> io::Result<bool> {
    if code == 0 {
        Ok(consistent)
    } else {
        Err(io::Error::from_raw_os_error(code.saturating_neg()))
    }
}

fn malformed(error: impl std::fmt::Display) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, format!("malformed netlink answer: {error}"))
}

#[cfg(test)]
mod tests {
    use netlink_packet_route::{
        address::{AddressAttribute, AddressMessage},
        link::{InfoKind, LinkAttribute, LinkInfo, LinkMessage},
        nsid::{NsidAttribute, NsidMessage},
        route::{RouteAddress, RouteAttribute, RouteMessage},
    };
    use proptest::prelude::*;

    use super::*;
    use crate::{mangle::mangled, netlink::link};

    /// Messages of all kinds that are asked for, as the kernel sends them.
    fn messages() -> Vec<Vec<u8>> {
        let mut link = LinkMessage::default();
        link.header.index = 7;
        link.attributes = vec![
            LinkAttribute::IfName("veth0".to_owned()),
            LinkAttribute::Link(8),
            LinkAttribute::LinkNetNsId(3),
            LinkAttribute::Controller(9),
            LinkAttribute::LinkInfo(vec![LinkInfo::Kind(InfoKind::Veth)]),
        ];
        let mut address = AddressMessage::default();
        address.header.prefix_len = 16;
        address.attributes = vec![AddressAttribute::Local([10, 0, 0, 7].into())];
        let mut route = RouteMessage::default();
        route.attributes = vec![
            RouteAttribute::Priority(100),
            RouteAttribute::Oif(7),
            RouteAttribute::PrefSource(RouteAddress::Inet([10, 0, 0, 7].into())),
        ];
        let mut number = NsidMessage::default();
        number.attributes.push(NsidAttribute::Id(4));
        let inner = [
            RouteNetlinkMessage::NewLink(link),
            RouteNetlinkMessage::NewAddress(address),
            RouteNetlinkMessage::NewRoute(route),
            RouteNetlinkMessage::NewNsId(number),
        ];
        let bytes = inner.map(|inner| {
            let mut header = NetlinkHeader::default();
            header.sequence_number = 1;
            let mut message = NetlinkMessage::new(header, NetlinkPayload::from(inner));
            message.finalize();
            let mut bytes = vec![0; message.buffer_len()];
            message.serialize(&mut bytes);
            bytes
        });
        bytes.into()
    }

    /// What the agent makes of a datagram, and how many messages were in it.
    fn read(datagram: &[u8]) -> (io::Result<Option<bool>>, usize) {
        let mut visited = 0;
        let mut answer = Answer { sequence: 1, is_consistent: true, messages: 0 };
        let result = answer.read(datagram, &mut |message| {
            visited += 1;
            link::look_at(message);
        });
        (result, visited)
    }

    #[test]
    fn whole_messages_are_understood() {
        let (result, visited) = read(&messages().concat());
        assert_eq!((result.expect("in order"), visited), (None, 4));
    }

    proptest! {
        #[test]
        fn any_datagram_is_read_and_ends(
            datagram in prop_oneof![
                prop::sample::subsequence(messages(), 1..=4).prop_flat_map(|it| mangled(it.concat())),
                prop::collection::vec(any::<u8>(), 0..200),
                // Headers with any length, of any kind.
                (any::<u32>(), any::<u16>(), prop::collection::vec(any::<u8>(), 0..64)).prop_map(
                    |(length, kind, rest)| {
                        let length = length % 100;
                        let head = [&length.to_ne_bytes()[..], &kind.to_ne_bytes(), &[0; 2]];
                        [&head.concat()[..], &1_u32.to_ne_bytes(), &[0; 4], &rest].concat()
                    }),
            ],
        ) {
            let (_result, visited) = read(&datagram);
            prop_assert!(visited <= datagram.len() / HEADER_BYTES);
        }
    }
}
