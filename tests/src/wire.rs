//! Packets by hand: what no socket of the kernel would send. Sent inside namespaces of the fixtures
//! only, in numbers that the caller bounds.

use std::{
    net::{IpAddr, SocketAddr},
    os::fd::{AsRawFd as _, OwnedFd},
    time::{Duration, Instant},
};

use anyhow::{Result, bail};
use etherparse::PacketBuilder;
use nix::sys::socket::{
    AddressFamily, MsgFlags, SockFlag, SockProtocol, SockType, SockaddrIn, SockaddrIn6, sendto,
    setsockopt, socket, sockopt,
};

use crate::namespace::Namespace;

/// Flags of a TCP header, as far as tests need them.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Segment {
    /// SYN.
    Syn,
    /// ACK.
    Ack,
    /// SYN and ACK.
    SynAck,
}

/// A TCP packet without payload, from its IP header on.
#[must_use]
pub fn tcp(from: SocketAddr, to: SocketAddr, segment: Segment, sequence: u32) -> Vec<u8> {
    const WINDOW: u16 = 1024;
    let (from_port, to_port) = (from.port(), to.port());
    let builder = ip(from, to).tcp(from_port, to_port, sequence, WINDOW);
    let builder = match segment {
        Segment::Syn => builder.syn(),
        Segment::Ack => builder.ack(sequence ^ 0x5555_5555),
        Segment::SynAck => builder.syn().ack(sequence ^ 0x5555_5555),
    };
    let mut packet = Vec::with_capacity(builder.size(0));
    // Into memory, which does not fail; lengths are those of headers.
    builder.write(&mut packet, &[]).unwrap_or_default();
    packet
}

/// A UDP packet, from its IP header on.
#[must_use]
pub fn udp(from: SocketAddr, to: SocketAddr, payload: &[u8]) -> Vec<u8> {
    let builder = ip(from, to).udp(from.port(), to.port());
    let mut packet = Vec::with_capacity(builder.size(payload.len()));
    builder.write(&mut packet, payload).unwrap_or_default();
    packet
}

fn ip(from: SocketAddr, to: SocketAddr) -> etherparse::PacketBuilderStep<etherparse::IpHeaders> {
    const HOPS: u8 = 32;
    match (from.ip(), to.ip()) {
        (IpAddr::V4(from), IpAddr::V4(to)) => PacketBuilder::ipv4(from.octets(), to.octets(), HOPS),
        (from, to) => {
            let octets = |address: IpAddr| match address {
                IpAddr::V4(address) => address.to_ipv6_mapped().octets(),
                IpAddr::V6(address) => address.octets(),
            };
            PacketBuilder::ipv6(octets(from), octets(to), HOPS)
        }
    }
}

/// Sends packets whose IP header the caller has written.
#[derive(Debug)]
pub struct RawSender {
    v4: OwnedFd,
    v6: OwnedFd,
}

impl RawSender {
    /// Opened in a namespace, of whose routes it makes use ever after.
    pub fn open(namespace: &Namespace) -> Result<Self> {
        namespace.enter(Self::here)?
    }

    /// Opened in the thread's namespace.
    pub fn here() -> Result<Self> {
        let raw = |family| socket(family, SockType::Raw, SockFlag::SOCK_CLOEXEC, SockProtocol::Raw);
        let sender = Self { v4: raw(AddressFamily::Inet)?, v6: raw(AddressFamily::Inet6)? };
        for socket in [&sender.v4, &sender.v6] {
            setsockopt(socket, sockopt::SndBuf, &(1 << 20))?;
        }
        Ok(sender)
    }

    /// Sends one to this address, which is that of its header.
    pub fn send(&self, packet: &[u8], to: IpAddr) -> Result<()> {
        let flags = MsgFlags::empty();
        // The port of a raw socket's destination is none.
        let result = match SocketAddr::new(to, 0) {
            SocketAddr::V4(to) => sendto(self.v4.as_raw_fd(), packet, &SockaddrIn::from(to), flags),
            SocketAddr::V6(to) => {
                sendto(self.v6.as_raw_fd(), packet, &SockaddrIn6::from(to), flags)
            }
        };
        match result {
            Ok(_) | Err(nix::errno::Errno::ENOBUFS) => Ok(()),
            Err(error) => bail!("cannot send {} bytes to {to}: {error}", packet.len()),
        }
    }

    /// Sends `count` packets, evenly over `time`; how many were sent, and how long it took.
    pub fn flood(
        &self,
        count: u32,
        time: Duration,
        mut packet: impl FnMut(u32) -> (Vec<u8>, IpAddr),
    ) -> Result<Duration> {
        const BATCH: u32 = 50;
        let begun = Instant::now();
        for index in 0..count {
            let (bytes, to) = packet(index);
            self.send(&bytes, to)?;
            if index % BATCH == 0 {
                let due = time.mul_f64(f64::from(index) / f64::from(count));
                std::thread::sleep(due.saturating_sub(begun.elapsed()));
            }
        }
        Ok(begun.elapsed())
    }
}
