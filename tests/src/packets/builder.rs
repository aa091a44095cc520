//! Packets, built field by field with checksums computed from zero.

use std::net::{Ipv4Addr, SocketAddrV4};

use etherparse::{IpNumber, Ipv4Header, Ipv4Options, PacketBuilder, TcpHeader};

/// The client of every case.
pub const CLIENT: SocketAddrV4 = SocketAddrV4::new(Ipv4Addr::new(198, 51, 100, 7), 40_000);
/// The frontend of every case.
pub const VIP: SocketAddrV4 = SocketAddrV4::new(Ipv4Addr::new(192, 0, 2, 10), 80);
/// Address of backend 1.
pub const BACKEND_ONE: SocketAddrV4 = SocketAddrV4::new(Ipv4Addr::new(10, 9, 1, 1), 8080);
/// Address of backend 2.
pub const BACKEND_TWO: SocketAddrV4 = SocketAddrV4::new(Ipv4Addr::new(10, 9, 1, 2), 80);
/// Address of backend 3, on another machine.
pub const BACKEND_THREE: SocketAddrV4 = SocketAddrV4::new(Ipv4Addr::new(10, 9, 0, 2), 8080);

/// MAC addresses of a packet as it arrives: destination, which is that of the loopback device that test
/// runs arrive on, and source.
pub(super) const MACS: ([u8; 6], [u8; 6]) = ([0; 6], [2, 0, 0, 0, 0, 2]);

/// A TCP packet over IPv4.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct PacketSpec {
    /// Destination and source MAC address.
    pub macs: ([u8; 6], [u8; 6]),
    /// Sender.
    pub source: SocketAddrV4,
    /// Receiver.
    pub destination: SocketAddrV4,
    /// Flags, as tcpdump abbreviates them: `S`, `.` (ACK), `F`, `R`, `P`.
    pub flags: &'static str,
    /// Time to live.
    pub ttl: u8,
    /// Bytes of IPv4 options; a multiple of 4, at most 40.
    pub options: Vec<u8>,
    /// Bytes after the TCP header.
    pub payload: Vec<u8>,
}

/// A packet from one end to another.
#[must_use]
pub fn tcp(source: SocketAddrV4, destination: SocketAddrV4, flags: &'static str) -> PacketSpec {
    PacketSpec {
        macs: MACS,
        source,
        destination,
        flags,
        ttl: 64,
        options: Vec::new(),
        payload: Vec::new(),
    }
}

/// The client's first SYN to the frontend.
#[must_use]
pub fn syn() -> PacketSpec {
    tcp(CLIENT, VIP, "S")
}

impl PacketSpec {
    /// With this time to live.
    #[must_use]
    pub fn ttl(self, ttl: u8) -> Self {
        Self { ttl, ..self }
    }

    /// With these IPv4 options.
    #[must_use]
    pub fn options(self, options: &[u8]) -> Self {
        Self { options: options.to_vec(), ..self }
    }

    /// With this many bytes of payload.
    #[must_use]
    pub fn payload(self, length: usize) -> Self {
        let payload = (0..length).map(|index| (index * 7 % 251) as u8).collect();
        Self { payload, ..self }
    }

    /// With these MAC addresses: destination, source.
    #[must_use]
    pub fn macs(self, macs: ([u8; 6], [u8; 6])) -> Self {
        Self { macs, ..self }
    }

    /// Sent on to `destination`: another receiver, one hop further.
    #[must_use]
    pub fn routed_to(self, destination: SocketAddrV4) -> Self {
        Self { destination, ttl: self.ttl - 1, ..self }
    }

    /// Sent on in the name of `source`, one hop further.
    #[must_use]
    pub fn routed_from(self, source: SocketAddrV4) -> Self {
        Self { source, ttl: self.ttl - 1, ..self }
    }

    /// The bytes.
    ///
    /// # Panics
    ///
    /// When the options are no multiple of 4 or too long.
    #[must_use]
    pub fn bytes(&self) -> Vec<u8> {
        let mut header =
            TcpHeader::new(self.source.port(), self.destination.port(), 0x0102_0304, 0xfffe);
        for flag in self.flags.chars() {
            match flag {
                'S' => header.syn = true,
                '.' => {
                    header.ack = true;
                    header.acknowledgment_number = 0x0506_0708;
                }
                'F' => header.fin = true,
                'R' => header.rst = true,
                'P' => header.psh = true,
                other => panic!("no flag `{other}`"),
            }
        }
        let mut ip = Ipv4Header::new(
            0,
            self.ttl,
            IpNumber::TCP,
            self.source.ip().octets(),
            self.destination.ip().octets(),
        )
        .expect("a short payload");
        ip.identification = 0x1234;
        ip.dont_fragment = true;
        ip.options = Ipv4Options::try_from(self.options.as_slice()).expect("whole words");
        let builder = PacketBuilder::ethernet2(self.macs.1, self.macs.0)
            .ip(etherparse::IpHeaders::Ipv4(ip, etherparse::Ipv4Extensions::default()))
            .tcp_header(header);
        let mut bytes = Vec::with_capacity(builder.size(self.payload.len()));
        builder.write(&mut bytes, &self.payload).expect("a vector has room");
        bytes
    }
}
