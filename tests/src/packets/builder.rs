//! Packets, built byte by byte with checksums computed from zero.

use std::net::{IpAddr, SocketAddr};

/// MAC addresses of a packet as it arrives: destination, which is that of the loopback device that test
/// runs arrive on, and source.
pub(super) const MACS: ([u8; 6], [u8; 6]) = ([0; 6], [2, 0, 0, 0, 0, 2]);

/// Sequence and acknowledgement number of a TCP packet that does not say otherwise: what one side sends
/// is near what the other acknowledges, and both are near 0.
pub(super) const NUMBERS: (u32, u32) = (0x0002_0304, 0x0003_0708);

/// Protocol number of the IPv6 fragment header.
pub(super) const FRAGMENT_HEADER: u8 = 44;

/// What an IP packet carries.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Body {
    /// TCP, with flags as tcpdump abbreviates them: `S`, `.` (ACK), `F`, `R`, `P`.
    Tcp(&'static str),
    /// UDP.
    Udp,
    /// An ICMP message: type and code, and the word behind the checksum. Ports mean nothing.
    Icmp((u8, u8), u32),
    /// Another protocol.
    Other(u8),
}

/// Which part of a packet's transport bytes a fragment carries.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct FragmentSpec {
    /// The packet's identification.
    pub id: u32,
    /// First byte.
    pub start: usize,
    /// Behind the last byte; beyond the end: no fragments follow.
    pub end: usize,
}

/// A packet.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct PacketSpec {
    /// Destination and source MAC address.
    pub macs: ([u8; 6], [u8; 6]),
    /// VLAN tags: ethertype and what follows it.
    pub tags: Vec<(u16, u16)>,
    /// Sender.
    pub source: SocketAddr,
    /// Receiver.
    pub destination: SocketAddr,
    /// Time to live or hop limit.
    pub ttl: u8,
    /// Bytes of IPv4 options; a multiple of 4, at most 40.
    pub options: Vec<u8>,
    /// IPv6 extension headers: protocol, and bytes of which the first is filled in.
    pub extensions: Vec<(u8, Vec<u8>)>,
    /// What it carries.
    pub body: Body,
    /// Sequence and acknowledgement number of TCP; the second only with the flag ACK.
    pub numbers: (u32, u32),
    /// Bytes after the transport header.
    pub payload: Vec<u8>,
    /// Whether UDP has a checksum.
    pub is_summed: bool,
    /// Which part is sent.
    pub fragment: Option<FragmentSpec>,
}

/// A packet from one end to another.
#[must_use]
pub fn packet(
    source: impl Into<SocketAddr>,
    destination: impl Into<SocketAddr>,
    body: Body,
) -> PacketSpec {
    PacketSpec {
        macs: MACS,
        tags: Vec::new(),
        source: source.into(),
        destination: destination.into(),
        ttl: 64,
        options: Vec::new(),
        extensions: Vec::new(),
        body,
        numbers: NUMBERS,
        payload: Vec::new(),
        is_summed: true,
        fragment: None,
    }
}

/// A TCP packet from one end to another.
#[must_use]
pub fn tcp(
    source: impl Into<SocketAddr>,
    destination: impl Into<SocketAddr>,
    flags: &'static str,
) -> PacketSpec {
    packet(source, destination, Body::Tcp(flags))
}

/// A UDP packet from one end to another.
#[must_use]
pub fn udp(source: impl Into<SocketAddr>, destination: impl Into<SocketAddr>) -> PacketSpec {
    packet(source, destination, Body::Udp).payload(40)
}

/// An ICMP message.
#[must_use]
pub fn icmp(source: IpAddr, destination: IpAddr, kind: (u8, u8), word: u32) -> PacketSpec {
    packet(SocketAddr::new(source, 0), SocketAddr::new(destination, 0), Body::Icmp(kind, word))
}

/// An echo request.
#[must_use]
pub fn echo(source: IpAddr, destination: IpAddr) -> PacketSpec {
    let kind = if source.is_ipv4() { 8 } else { 128 };
    icmp(source, destination, (kind, 0), 0x1234_0001).payload(56)
}

/// An ICMP error, port unreachable, that quotes so many bytes of a packet.
#[must_use]
pub fn icmp_error(
    source: IpAddr,
    destination: IpAddr,
    quoted: &PacketSpec,
    quoted_bytes: usize,
) -> PacketSpec {
    let kind = if source.is_ipv4() { (3, 3) } else { (1, 4) };
    let mut payload = quoted.ip_bytes();
    payload.truncate(quoted_bytes);
    PacketSpec { payload, ..icmp(source, destination, kind, 0) }
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

    /// With an extension header more.
    #[must_use]
    pub fn extension(mut self, protocol: u8, bytes: &[u8]) -> Self {
        self.extensions.push((protocol, bytes.to_vec()));
        self
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

    /// With these VLAN tags.
    #[must_use]
    pub fn tags(self, tags: &[(u16, u16)]) -> Self {
        Self { tags: tags.to_vec(), ..self }
    }

    /// TCP with this sequence and acknowledgement number.
    #[must_use]
    pub fn numbers(self, sequence: u32, acknowledgement: u32) -> Self {
        Self { numbers: (sequence, acknowledgement), ..self }
    }

    /// UDP without checksum.
    #[must_use]
    pub fn unsummed(self) -> Self {
        Self { is_summed: false, ..self }
    }

    /// The fragment with these transport bytes.
    #[must_use]
    pub fn fragment(self, id: u32, start: usize, end: usize) -> Self {
        Self { fragment: Some(FragmentSpec { id, start, end }), ..self }
    }

    /// Sent on to `destination`: another receiver, one hop further.
    #[must_use]
    pub fn routed_to(self, destination: impl Into<SocketAddr>) -> Self {
        Self { destination: destination.into(), ttl: self.ttl - 1, tags: Vec::new(), ..self }
    }

    /// Sent on in the name of `source`, one hop further.
    #[must_use]
    pub fn routed_from(self, source: impl Into<SocketAddr>) -> Self {
        Self { source: source.into(), ttl: self.ttl - 1, tags: Vec::new(), ..self }
    }

    /// Protocol of the transport header.
    #[must_use]
    pub fn protocol(&self) -> u8 {
        match self.body {
            Body::Tcp(_) => 6,
            Body::Udp => 17,
            Body::Icmp(..) if self.source.is_ipv4() => 1,
            Body::Icmp(..) => 58,
            Body::Other(protocol) => protocol,
        }
    }

    /// The bytes of the frame.
    #[must_use]
    pub fn bytes(&self) -> Vec<u8> {
        let mut bytes = [self.macs.0, self.macs.1].concat();
        for (kind, tag) in &self.tags {
            bytes.extend(kind.to_be_bytes());
            bytes.extend(tag.to_be_bytes());
        }
        bytes.extend(if self.source.is_ipv4() { [0x08, 0x00] } else { [0x86, 0xdd] });
        bytes.extend(self.ip_bytes());
        bytes
    }

    /// The bytes from the IP header on.
    #[must_use]
    pub fn ip_bytes(&self) -> Vec<u8> {
        let whole = self.transport_bytes();
        let part = self.fragment.map_or(&whole[..], |part| {
            &whole[part.start.min(whole.len())..part.end.min(whole.len())]
        });
        match (self.source.ip(), self.destination.ip()) {
            (IpAddr::V4(source), IpAddr::V4(destination)) => {
                self.ipv4(source.octets(), destination.octets(), part, whole.len())
            }
            (IpAddr::V6(source), IpAddr::V6(destination)) => {
                self.ipv6(source.octets(), destination.octets(), part, whole.len())
            }
            _ => panic!("both ends are of one family: {self:?}"),
        }
    }

    fn ipv4(&self, source: [u8; 4], destination: [u8; 4], part: &[u8], whole: usize) -> Vec<u8> {
        let header_bytes = 20 + self.options.len();
        let (id, field) = self.fragment.map_or((0x1234, 0x4000), |fragment| {
            let more = if fragment.end < whole { 0x2000 } else { 0 };
            (fragment.id as u16, more | (fragment.start / 8) as u16)
        });
        let mut bytes = vec![0x40 | (header_bytes / 4) as u8, 0x28];
        bytes.extend(((header_bytes + part.len()) as u16).to_be_bytes());
        bytes.extend(u16::to_be_bytes(id));
        bytes.extend(u16::to_be_bytes(field));
        bytes.extend([self.ttl, self.protocol(), 0, 0]);
        bytes.extend(source);
        bytes.extend(destination);
        bytes.extend(&self.options);
        let checksum = checksum(&[&bytes]);
        bytes[10..12].copy_from_slice(&checksum.to_be_bytes());
        bytes.extend(part);
        bytes
    }

    fn ipv6(&self, source: [u8; 16], destination: [u8; 16], part: &[u8], whole: usize) -> Vec<u8> {
        let mut extensions = self.extensions.clone();
        if let Some(fragment) = self.fragment {
            let field = fragment.start as u16 | u16::from(fragment.end < whole);
            let mut header = vec![0, 0];
            header.extend(field.to_be_bytes());
            header.extend(fragment.id.to_be_bytes());
            extensions.push((FRAGMENT_HEADER, header));
        }
        let kinds: Vec<u8> =
            extensions.iter().map(|(kind, _)| *kind).chain([self.protocol()]).collect();
        let length: usize = extensions.iter().map(|(_, bytes)| bytes.len()).sum();
        let mut bytes = vec![0x62, 0x8a, 0xbc, 0xde];
        bytes.extend(((length + part.len()) as u16).to_be_bytes());
        bytes.extend([kinds[0], self.ttl]);
        bytes.extend(source);
        bytes.extend(destination);
        for (index, (_, extension)) in extensions.iter().enumerate() {
            bytes.push(kinds[index + 1]);
            bytes.extend(&extension[1..]);
        }
        bytes.extend(part);
        bytes
    }

    /// All bytes of transport header and payload, whichever part of them is sent.
    fn transport_bytes(&self) -> Vec<u8> {
        let (mut bytes, checksum_at) = self.transport_header();
        bytes.extend(&self.payload);
        let Some(at) = checksum_at else { return bytes };
        let pseudo = self.pseudo_header(bytes.len());
        let is_plain = matches!(self.body, Body::Icmp(..)) && self.source.is_ipv4();
        let sum = checksum(&[if is_plain { &[] } else { &pseudo }, &bytes]);
        let sum = if sum == 0 && self.body == Body::Udp { 0xffff } else { sum };
        bytes[at..at + 2].copy_from_slice(&sum.to_be_bytes());
        bytes
    }

    /// The header without checksum, and where that is to be.
    fn transport_header(&self) -> (Vec<u8>, Option<usize>) {
        let ports = [self.source.port(), self.destination.port()];
        let mut bytes: Vec<u8> = ports.into_iter().flat_map(u16::to_be_bytes).collect();
        match &self.body {
            Body::Tcp(flags) => {
                let flags = flags.chars().map(tcp_flag).sum();
                let (sequence, acknowledgement) = self.numbers;
                bytes.extend(sequence.to_be_bytes());
                bytes.extend(if flags & 0x10 == 0 {
                    [0; 4]
                } else {
                    acknowledgement.to_be_bytes()
                });
                bytes.extend([0x50, flags, 0xff, 0xfe, 0, 0, 0, 0]);
                (bytes, Some(16))
            }
            Body::Udp => {
                bytes.extend(((8 + self.payload.len()) as u16).to_be_bytes());
                bytes.extend([0, 0]);
                (bytes, self.is_summed.then_some(6))
            }
            Body::Icmp((kind, code), word) => {
                let mut bytes = vec![*kind, *code, 0, 0];
                bytes.extend(word.to_be_bytes());
                (bytes, Some(2))
            }
            Body::Other(_) => (Vec::new(), None),
        }
    }

    fn pseudo_header(&self, length: usize) -> Vec<u8> {
        let octets = |address| match address {
            IpAddr::V4(address) => address.octets().to_vec(),
            IpAddr::V6(address) => address.octets().to_vec(),
        };
        let mut bytes = octets(self.source.ip());
        bytes.extend(octets(self.destination.ip()));
        bytes.extend([0, self.protocol()]);
        bytes.extend((length as u32).to_be_bytes());
        bytes
    }
}

fn tcp_flag(letter: char) -> u8 {
    match letter {
        'F' => 1,
        'S' => 2,
        'R' => 4,
        'P' => 8,
        '.' => 16,
        other => panic!("no flag `{other}`"),
    }
}

/// The internet checksum (RFC 1071), as the words of the bytes say, nothing saved.
fn checksum(parts: &[&[u8]]) -> u16 {
    let mut sum = 0_u32;
    for part in parts {
        for pair in part.chunks(2) {
            sum += u32::from(pair[0]) << 8 | u32::from(pair.get(1).copied().unwrap_or(0));
        }
    }
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    !(sum as u16)
}
