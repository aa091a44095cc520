//! Frames of both families, and the ends of the flows that they belong to.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use etherparse::PacketBuilder;

/// Ports of a client's address.
const PORTS_PER_CLIENT: u32 = 1 << 14;
const PORT_MIN: u16 = 1024;
const HOP_LIMIT: u8 = 64;
/// Address of the loopback device.
pub(crate) const RECEIVER: [u8; 6] = [0; 6];

/// The client of flow 0.
pub(crate) fn client(is_v6: bool) -> SocketAddr {
    client_of(is_v6, 0)
}

/// The client of a flow, as the harness numbers them.
pub(crate) fn client_of(is_v6: bool, flow: u32) -> SocketAddr {
    let [high, low] = ((flow / PORTS_PER_CLIENT) as u16).to_ne_bytes();
    let address: IpAddr = if is_v6 {
        let mut octets = Ipv6Addr::new(0x2001, 0xdb8, 0, 7, 0, 0, 0, 0).octets();
        (octets[14], octets[15]) = (high, low);
        IpAddr::from(octets)
    } else {
        Ipv4Addr::new(198, 51, high, low).into()
    };
    SocketAddr::new(address, (flow % PORTS_PER_CLIENT) as u16 + PORT_MIN)
}

/// What a frame carries.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Payload {
    /// A segment of a connection.
    Ack,
    /// The first segment of a connection.
    Syn,
    /// A datagram.
    Datagram,
}

/// A frame for the loopback device, as test runs arrive there: 64 bytes, of IPv6 84.
pub(crate) fn frame(source: SocketAddr, destination: SocketAddr, payload: Payload) -> Vec<u8> {
    let link = PacketBuilder::ethernet2([2, 0, 0, 0, 0, 2], RECEIVER);
    let network = match (source.ip(), destination.ip()) {
        (IpAddr::V4(from), IpAddr::V4(to)) => link.ipv4(from.octets(), to.octets(), HOP_LIMIT),
        (IpAddr::V6(from), IpAddr::V6(to)) => link.ipv6(from.octets(), to.octets(), HOP_LIMIT),
        _ => panic!("{source} and {destination} are of two families"),
    };
    let (from, to) = (source.port(), destination.port());
    let mut bytes = Vec::new();
    if payload == Payload::Datagram {
        network.udp(from, to).write(&mut bytes, &[7; 22]).expect("a vector has room");
        return bytes;
    }
    let segment = network.tcp(from, to, 0x0102_0304, 0xfffe);
    let segment = if payload == Payload::Syn { segment.syn() } else { segment.ack(0x0506_0708) };
    segment.write(&mut bytes, &[7; 10]).expect("a vector has room");
    bytes
}

/// Where a frame has the last two bytes of the client's address, and the client's port.
pub(crate) fn client_offsets(is_v6: bool, is_reply: bool) -> (u32, u32) {
    match (is_v6, is_reply) {
        (false, false) => (28, 34),
        (false, true) => (32, 36),
        (true, false) => (36, 54),
        (true, true) => (52, 56),
    }
}
