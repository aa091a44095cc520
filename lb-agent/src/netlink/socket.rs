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

        let mut consistent = true;
        let mut messages = 0;
        loop {
            let received = self.receive()?;
            let mut rest = &self.buffer[..received];
            while rest.len() >= HEADER_BYTES {
                let frame = NetlinkBuffer::new_checked(rest).map_err(malformed)?;
                let length = usize::try_from(frame.length()).map_err(malformed)?;
                let (own, flags) = (frame.sequence_number() == self.sequence, frame.flags());
                let parsed = NetlinkMessage::<RouteNetlinkMessage>::deserialize(&rest[..length]);
                // Messages are aligned to four bytes; the last one need not be padded.
                rest = rest.get(length.next_multiple_of(4)..).unwrap_or_default();
                messages += 1;
                if messages > MESSAGES_MAX {
                    return Err(io::Error::other("the kernel's answer does not end"));
                }
                if !own {
                    continue;
                }
                consistent &= flags & NLM_F_DUMP_INTR == 0;
                match parsed.map(|message| message.payload) {
                    Ok(NetlinkPayload::InnerMessage(message)) => visit(message),
                    Ok(NetlinkPayload::Done(done)) => return ended(done.code, consistent),
                    Ok(NetlinkPayload::Error(error)) => return ended(error.raw_code(), consistent),
                    Ok(NetlinkPayload::Overrun(_)) => return Err(Errno::ENOBUFS.into()),
                    Ok(_) => {}
                    Err(error) => tracing::debug!(%error, "netlink message skipped"),
                }
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
