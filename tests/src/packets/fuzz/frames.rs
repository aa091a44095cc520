//! Random frames: packets of all kinds between the parties of a world, and then something wrong with
//! them.

use std::net::SocketAddr;

use lb_common::abi::{PROTOCOL_TCP, PROTOCOL_UDP};

use super::{
    Random,
    worlds::{backend, client, vip},
};
use crate::packets::{Body, Net, PacketSpec, Program, World, echo, icmp, icmp_error, packet};

/// XDP leaves most to TC.
const PROGRAMS: [Program; 5] =
    [Program::TcFront, Program::TcFront, Program::TcReply, Program::TcReply, Program::XdpFront];
const FLAGS: [&str; 12] = ["S", "S", "S.", ".", ".", "P.", "F.", "R", "R.", "", "SF", "SR"];
const LENGTHS: [usize; 14] = [0, 0, 1, 2, 7, 8, 64, 100, 535, 537, 1239, 1241, 1360, 1460];
/// Types of ICMP messages with a meaning, of both families.
const ICMP_TYPES: [u8; 14] = [0, 3, 4, 5, 8, 11, 12, 1, 2, 128, 129, 133, 135, 136];
const EXTENSIONS: [u8; 5] = [0, 60, 43, 51, 44];

/// A frame, and who gets it.
pub(super) fn frame(net: &Net, world: &World, random: &mut Random) -> (Program, Vec<u8>) {
    let program = random.of(&PROGRAMS);
    // Mostly what comes to that program.
    let is_inbound = random.percent(if program == Program::TcReply { 3 } else { 75 });
    let talk = talk(net, world, random, is_inbound);
    let spec = spec(net, random, talk);
    let mut bytes = spec.bytes();
    if random.percent(25) {
        spoil(&mut bytes, random);
    }
    (program, bytes)
}

/// Who talks to whom.
#[derive(Clone, Copy)]
struct Talk {
    source: SocketAddr,
    destination: SocketAddr,
    protocol: u8,
}

/// Mostly what the tables know of.
fn talk(net: &Net, world: &World, random: &mut Random, is_inbound: bool) -> Talk {
    let near = client(net, random);
    let talk = |source, destination, protocol| Talk { source, destination, protocol };
    let known: Vec<Talk> = match random.below(10) {
        0..=3 if is_inbound => {
            world.flows.iter().map(|it| talk(it.client, it.vip, it.protocol)).collect()
        }
        0..=4 if !is_inbound => {
            world.replies.iter().map(|it| talk(it.address, it.client, it.protocol)).collect()
        }
        5..=8 if !is_inbound => {
            world.reply_defaults.iter().map(|it| talk(it.address, near, it.protocol)).collect()
        }
        _ => Vec::new(),
    };
    if !known.is_empty() {
        return random.of(&known);
    }
    let protocol = random.of(&[PROTOCOL_TCP, PROTOCOL_TCP, PROTOCOL_UDP]);
    let (far, backend) = (vip(net, random), backend(net, random));
    if is_inbound { talk(near, far, protocol) } else { talk(backend, near, protocol) }
}

fn spec(net: &Net, random: &mut Random, talk: Talk) -> PacketSpec {
    let Talk { source, destination, .. } = talk;
    let mut spec = match random.below(20) {
        0 => {
            let kind = (random.of(&ICMP_TYPES), random.below(3) as u8);
            let word = random.number() as u32;
            icmp(source.ip(), destination.ip(), kind, word).payload(random.of(&LENGTHS))
        }
        1..=3 => {
            // About a packet that came the other way, perhaps from a router.
            let about = plain(random, Talk { source: destination, destination: source, ..talk });
            let about = about.payload(random.of(&[0, 4, 20, 100]));
            let ttl = random.of(&[1, 7]);
            let about = dressed(random, about.ttl(ttl));
            let kept_bytes = random.of(&[8, 28, 47, 48, 60, 68, 100, 200]);
            let from = if random.percent(30) { net.router } else { source.ip() };
            icmp_error(from, destination.ip(), &about, kept_bytes)
        }
        4 => packet(source, destination, Body::Other(random.of(&[0, 2, 47, 50, 132, 255])))
            .payload(random.of(&LENGTHS)),
        5 => plain(random, Talk { source: destination, ..talk }),
        6 => echo(source.ip(), destination.ip()),
        _ => plain(random, talk),
    };
    spec = dressed(random, spec);
    if random.percent(12) {
        let start = random.of(&[0, 0, 8, 16, 24, 104]);
        let end = start + random.of(&[8, 16, 24, 104, 4000]);
        spec = spec.fragment(1 + random.below(2) as u32, start, end);
    }
    if random.percent(8) {
        let tag = (random.of(&[0x8100, 0x88a8]), random.number() as u16);
        spec = spec.tags(&vec![tag; 1 + random.below(3)]);
    }
    spec
}

fn plain(random: &mut Random, talk: Talk) -> PacketSpec {
    let Talk { source, destination, protocol } = talk;
    let spec = match protocol {
        PROTOCOL_UDP => packet(source, destination, Body::Udp),
        _ => packet(source, destination, Body::Tcp(random.of(&FLAGS))),
    };
    let spec = spec.payload(random.of(&LENGTHS));
    if random.percent(20) { spec.unsummed() } else { spec }
}

/// With options or extension headers, and another time to live.
fn dressed(random: &mut Random, spec: PacketSpec) -> PacketSpec {
    let mut spec = if random.percent(15) { spec.ttl(random.below(4) as u8) } else { spec };
    if random.percent(15) {
        spec.options = vec![1; 4 * random.below(11)];
    }
    if random.percent(15) {
        for _ in 0..random.of(&[1, 1, 2, 3, 5]) {
            let words = random.of(&[0, 0, 1, 3, 15]);
            let mut bytes = vec![0; 8 * (words + 1)];
            bytes[1] = words as u8;
            spec = spec.extension(random.of(&EXTENSIONS), &bytes);
        }
    }
    spec
}

/// Changes a few bytes, or the length.
fn spoil(bytes: &mut Vec<u8>, random: &mut Random) {
    for _ in 0..=random.below(3) {
        let length = bytes.len();
        let at = random.below(length.min(110));
        match random.below(10) {
            0 => bytes.truncate(at.max(14)),
            1 => bytes.extend(vec![random.number() as u8; random.below(40)]),
            2 => {
                bytes.swap(at, random.below(length));
            }
            3 => bytes[at] ^= 1 << random.below(8),
            4 => bytes[at] = random.of(&[0, 1, 0x7f, 0x80, 0xff]),
            5 => bytes[at] = bytes[at].wrapping_add(random.of(&[1, 8, 0xff])),
            // A field of the IP header.
            6 | 7 => {
                let field = 14 + random.below(28);
                if let Some(byte) = bytes.get_mut(field) {
                    *byte = random.number() as u8;
                }
            }
            _ => bytes[at] = random.number() as u8,
        }
    }
}
