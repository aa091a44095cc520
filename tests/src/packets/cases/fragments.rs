//! Packets in fragments.

use lb_common::{
    abi::{
        CLASS_DATAGRAM, DropReason, META_ROUTED_BACKENDS, NetAddr6, NetU32, PROTOCOL_UDP,
        RingDescriptor, Verdict,
    },
    engine::slot_hash,
};

use super::{case, delivered, dropped, forwarded, passed};
use crate::packets::{
    BedFamily, Case, HASH_SEED, KnownReply, Net, PacketSpec, Program, RING_SIZE, SlotState, Step,
    World, at, tcp, udp,
};

/// 2,000 bytes of transport header and data, in three parts.
const PARTS: [(usize, usize); 3] = [(0, 800), (800, 1600), (1600, 2000)];

fn parts(packet: &PacketSpec, id: u32) -> [PacketSpec; 3] {
    PARTS.map(|(start, end)| packet.clone().fragment(id, start, end))
}

fn large(net: &Net) -> PacketSpec {
    udp(net.client, net.vip).payload(1992)
}

/// From clients.
pub(super) fn inbound(net: &Net) -> Vec<Case> {
    let all = |packet: &PacketSpec| -> Vec<Step> {
        parts(packet, 7).iter().map(|part| delivered(part, net.one)).collect()
    };
    let [first, second, third] = parts(&large(net), 7);
    let unknown = |packet: &PacketSpec| dropped(packet.bytes(), DropReason::Fragment);
    let to = |packet: &PacketSpec| delivered(packet, net.one);
    let tags = [(0x8100, 5)];
    let mut cases = vec![
        case("fragments of UDP go together", net.world(), all(&large(net)), vec![], vec![]),
        case(
            "fragments of UDP without checksum",
            net.world(),
            all(&large(net).unsummed()),
            vec![],
            vec![],
        ),
        case(
            "fragments of TCP go together",
            net.world(),
            all(&tcp(net.client, net.vip, "P.").payload(1980)),
            vec![],
            vec![],
        ),
        case(
            "fragments in any order behind the first, and twice",
            net.world(),
            vec![to(&first), to(&third), to(&second), to(&third)],
            vec![],
            vec![],
        ),
        case(
            "a fragment before the first goes nowhere",
            net.world(),
            vec![unknown(&second), to(&first), to(&second)],
            vec![],
            vec![],
        ),
        case(
            "a fragment of another packet goes nowhere",
            net.world(),
            vec![to(&first), unknown(&large(net).fragment(8, 800, 1600))],
            vec![],
            vec![],
        ),
        case(
            "tagged fragments",
            net.world(),
            parts(&large(net).tags(&tags), 7).iter().map(to).collect(),
            vec![],
            vec![],
        ),
        case(
            "a container that sends what follows a client's fragment",
            net.world(),
            vec![to(&first), passed(Program::TcReply, second.bytes()), to(&second)],
            vec![],
            vec![],
        ),
        case(
            "XDP leaves later fragments to TC",
            net.world(),
            vec![passed(Program::XdpFront, second.bytes())],
            vec![],
            vec![],
        ),
    ];
    cases.push(several_backends(net));
    cases
}

/// Fragments that nobody would cut so.
pub(super) fn broken(net: &Net) -> Vec<Case> {
    let broken = |name, packet: PacketSpec, reason| {
        case(name, net.world(), vec![dropped(packet.bytes(), reason)], vec![], vec![])
    };
    vec![
        broken(
            "a first fragment that hides the ports",
            large(net).fragment(7, 0, 0),
            DropReason::FragmentInvalid,
        ),
        broken(
            "a first fragment without the whole TCP header",
            tcp(net.client, net.vip, "S").payload(100).fragment(7, 0, 16),
            DropReason::FragmentTiny,
        ),
        broken(
            "a fragment of no whole words that is not the last",
            large(net).fragment(7, 800, 1599),
            DropReason::FragmentInvalid,
        ),
        broken(
            "a fragment that would overwrite TCP flags",
            tcp(net.client, net.vip, "S").payload(100).fragment(7, 8, 200),
            DropReason::FragmentOverlap,
        ),
    ]
}

/// Every packet's fragments follow its first one, whichever backend that went to.
fn several_backends(net: &Net) -> Case {
    let world = World { more_slots: vec![(2, SlotState::Plain)], ..net.world() };
    let (mut first, mut later) = (Vec::new(), Vec::new());
    for port in 40_000..40_012 {
        let packet = PacketSpec { source: at(net.client, port), ..large(net) };
        let backend = if net.is_v6() {
            backend_of::<NetAddr6>(&world, &packet)
        } else {
            backend_of::<NetU32>(&world, &packet)
        };
        let to = [net.one, net.two][backend as usize - 1];
        let [head, rest @ ..] = parts(&packet, u32::from(port)).map(|it| delivered(&it, to));
        first.push(head);
        later.extend(rest);
    }
    let steps = [first, later].concat();
    case("fragments of packets to several backends, interleaved", world, steps, vec![], vec![])
}

/// The backend of a flow's slot, when slots are plain.
pub(super) fn backend_of<A: BedFamily>(world: &World, packet: &PacketSpec) -> u32 {
    let ends = A::ends(packet.source, packet.destination, packet.protocol());
    let hash = slot_hash(HASH_SEED, world.frontend_flags, &ends.expect("of the family"));
    world.slot(RingDescriptor::new(0, RING_SIZE, 1).slot_index(hash), 0).cur()
}

/// From backends.
pub(super) fn outbound(net: &Net) -> Vec<Case> {
    let record = KnownReply { protocol: PROTOCOL_UDP, ..net.reply(CLASS_DATAGRAM) };
    let known = World { replies: vec![record], ..net.recording() };
    let remote = KnownReply {
        protocol: PROTOCOL_UDP,
        ..net.reply_by(net.vip, net.three, 0, 3, CLASS_DATAGRAM)
    };
    let routed = World { flags: META_ROUTED_BACKENDS, replies: vec![remote], ..net.recording() };
    let replied = |program, packet: &PacketSpec| {
        forwarded(program, Verdict::Reply, packet, &packet.clone().routed_from(net.vip))
    };
    let answer = udp(net.one, net.client).payload(1992);
    let far = udp(net.three, net.client).payload(1992);
    let own = PacketSpec { source: at(net.one, 99), ..answer.clone() };
    let [first, second, _] = parts(&far, 9);
    vec![
        case(
            "fragments of an answer come from the VIP",
            known.clone(),
            parts(&answer, 9).iter().map(|part| replied(Program::TcReply, part)).collect(),
            vec![],
            vec![record],
        ),
        case(
            "fragments of what is the container's own pass",
            known,
            parts(&own, 9).iter().map(|it| passed(Program::TcReply, it.bytes())).collect(),
            vec![],
            vec![record],
        ),
        case(
            "a container that sends what follows another machine's fragment",
            routed.clone(),
            vec![
                replied(Program::TcFront, &first),
                passed(Program::TcReply, second.bytes()),
                replied(Program::TcFront, &second),
            ],
            vec![],
            vec![remote],
        ),
        case(
            "fragments of an answer from another machine",
            routed,
            parts(&far, 9).iter().map(|part| replied(Program::TcFront, part)).collect(),
            vec![],
            vec![remote],
        ),
    ]
}
