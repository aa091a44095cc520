//! The cases.

use std::net::{Ipv4Addr, SocketAddrV4};

use lb_common::abi::{
    CLASS_CLOSING, CLASS_ESTABLISHED, CLASS_HALF_OPEN, DropReason, FlowKeyV4, FrontendKeyV4,
    META_ROUTED_BACKENDS, NetU16, PROTOCOL_ANY, PROTOCOL_TCP, ReplyKeyV4, ReplyRecordV4,
    SCOPE_FRONT, TAKES_NEW, TAKES_OLD, Verdict,
};

use super::{
    Case, INGRESS_IFINDEX, KnownFlow, Program, Step, World, backend_one, backend_two,
    builder::{BACKEND_ONE, BACKEND_THREE, BACKEND_TWO, CLIENT, PacketSpec, VIP, syn, tcp},
};

const SECOND_VIP: SocketAddrV4 = SocketAddrV4::new(Ipv4Addr::new(192, 0, 2, 11), 80);
const ALIVE: u8 = TAKES_NEW | TAKES_OLD;

/// MAC addresses that the routing table of the kernel's bed gives to backend 3.
pub(super) const NEXT_HOP_MACS: ([u8; 6], [u8; 6]) = ([2, 0, 0, 0, 9, 2], [2, 0, 0, 0, 9, 1]);

/// Keys that lead to the ring of service 0: two VIPs with port 80, and their own entries.
pub(super) fn frontend_keys() -> Vec<FrontendKeyV4> {
    let key = |vip: &SocketAddrV4, port, protocol| FrontendKeyV4 {
        vip: (*vip.ip()).into(),
        port: NetU16::new(port),
        protocol,
        scope: SCOPE_FRONT,
    };
    [VIP, SECOND_VIP]
        .iter()
        .flat_map(|vip| [key(vip, 80, PROTOCOL_TCP), key(vip, 0, PROTOCOL_ANY)])
        .collect()
}

/// Every case.
#[must_use]
pub fn all() -> Vec<Case> {
    [new_flows(), known_flows(), not_ours(), broken(), refusals(), replies(), routed()].concat()
}

fn flow_key(client: SocketAddrV4, vip: SocketAddrV4) -> FlowKeyV4 {
    FlowKeyV4 {
        client: (*client.ip()).into(),
        vip: (*vip.ip()).into(),
        client_port: NetU16::new(client.port()),
        vip_port: NetU16::new(vip.port()),
        protocol: u32::from(PROTOCOL_TCP),
    }
}

/// A record of the client's flow, of generation 5, just seen.
fn flow(backend: u32, class: u32) -> KnownFlow {
    KnownFlow { key: flow_key(CLIENT, VIP), backend, generation: 5, age_ticks: 0, class }
}

fn reply_key(backend: SocketAddrV4, ifindex: u32) -> ReplyKeyV4 {
    ReplyKeyV4 {
        ifindex,
        backend: (*backend.ip()).into(),
        client: (*CLIENT.ip()).into(),
        backend_port: NetU16::new(backend.port()),
        client_port: NetU16::new(CLIENT.port()),
        protocol: u32::from(PROTOCOL_TCP),
        reserved: 0,
    }
}

fn reply_of_one() -> ReplyKeyV4 {
    reply_key(BACKEND_ONE, INGRESS_IFINDEX)
}

fn reply_record(vip: SocketAddrV4, backend: u32) -> ReplyRecordV4 {
    ReplyRecordV4 {
        vip: (*vip.ip()).into(),
        vip_port: NetU16::new(vip.port()),
        pad: 0,
        backend,
        ifindex: INGRESS_IFINDEX,
    }
}

fn forwarded(program: Program, verdict: Verdict, input: &PacketSpec, output: &PacketSpec) -> Step {
    Step {
        program,
        input: input.bytes(),
        verdict,
        reason: DropReason::None,
        output: Some(output.bytes()),
    }
}

/// From the client to a container.
fn delivered(input: &PacketSpec, to: SocketAddrV4) -> Step {
    forwarded(Program::TcFront, Verdict::Deliver, input, &input.clone().routed_to(to))
}

fn passed(program: Program, input: Vec<u8>) -> Step {
    Step { program, input, verdict: Verdict::Pass, reason: DropReason::None, output: None }
}

fn dropped(input: Vec<u8>, reason: DropReason) -> Step {
    Step { program: Program::TcFront, input, verdict: Verdict::Drop, reason, output: None }
}

fn case(
    name: &'static str,
    world: World,
    steps: Vec<Step>,
    flows_after: Vec<KnownFlow>,
    replies_after: Vec<ReplyKeyV4>,
) -> Case {
    Case { name, world, steps, flows_after, replies_after }
}

fn new_flows() -> Vec<Case> {
    let half_open = vec![flow(1, CLASS_HALF_OPEN)];
    let established = vec![flow(1, CLASS_ESTABLISHED)];
    let mut cases = vec![
        case(
            "a first SYN goes to the ring's backend and is recorded half open",
            World::default(),
            vec![delivered(&syn(), BACKEND_ONE)],
            half_open.clone(),
            vec![reply_of_one()],
        ),
        case(
            "the same port on both sides needs no port change",
            World { ring: Some(2), ..World::default() },
            vec![delivered(&syn(), BACKEND_TWO)],
            vec![flow(2, CLASS_HALF_OPEN)],
            vec![reply_key(BACKEND_TWO, INGRESS_IFINDEX)],
        ),
        case(
            "SYN, ACK and data of one connection go to one backend",
            World::default(),
            vec![
                delivered(&syn(), BACKEND_ONE),
                delivered(&tcp(CLIENT, VIP, "."), BACKEND_ONE),
                delivered(&tcp(CLIENT, VIP, "P.").payload(1), BACKEND_ONE),
                delivered(&tcp(CLIENT, VIP, "P.").payload(1400), BACKEND_ONE),
            ],
            established.clone(),
            vec![reply_of_one()],
        ),
        case(
            "a FIN of an unknown flow is forwarded and recorded as closing",
            World::default(),
            vec![delivered(&tcp(CLIENT, VIP, "F."), BACKEND_ONE)],
            vec![flow(1, CLASS_CLOSING)],
            vec![reply_of_one()],
        ),
        case(
            "an unknown flow in mid-stream is adopted as established",
            World::default(),
            vec![delivered(&tcp(CLIENT, VIP, "P.").payload(33), BACKEND_ONE)],
            established.clone(),
            vec![reply_of_one()],
        ),
        case(
            "a draining backend keeps what falls on its slots in mid-stream",
            World { backends: vec![(1, backend_one(TAKES_OLD))], ..World::default() },
            vec![delivered(&tcp(CLIENT, VIP, "."), BACKEND_ONE)],
            established,
            vec![reply_of_one()],
        ),
        case(
            "TTL 2 is enough for one hop",
            World::default(),
            vec![delivered(&syn().ttl(2), BACKEND_ONE)],
            half_open.clone(),
            vec![reply_of_one()],
        ),
    ];
    for (name, length) in [
        ("IPv4 options of one word", 4),
        ("IPv4 options of five words", 20),
        ("as many IPv4 options as fit", 40),
    ] {
        // No-operation options.
        let packet = syn().options(&vec![1; length]);
        cases.push(case(
            name,
            World::default(),
            vec![delivered(&packet, BACKEND_ONE)],
            half_open.clone(),
            vec![reply_of_one()],
        ));
    }
    cases
}

fn known_flows() -> Vec<Case> {
    let on_two = |class| World { flows: vec![flow(2, class)], ..World::default() };
    let two = reply_key(BACKEND_TWO, INGRESS_IFINDEX);
    let draining_two = |class| World {
        backends: vec![(1, backend_one(ALIVE)), (2, backend_two(TAKES_OLD))],
        ..on_two(class)
    };
    let ack = tcp(CLIENT, VIP, ".");
    vec![
        case(
            "a recorded flow keeps its backend although the ring has another",
            on_two(CLASS_ESTABLISHED),
            vec![delivered(&ack, BACKEND_TWO)],
            vec![flow(2, CLASS_ESTABLISHED)],
            vec![],
        ),
        case(
            "the ACK of the handshake establishes the record",
            on_two(CLASS_HALF_OPEN),
            vec![delivered(&ack, BACKEND_TWO)],
            vec![flow(2, CLASS_ESTABLISHED)],
            vec![two],
        ),
        case(
            "a record that was not seen for a while is renewed",
            World {
                flows: vec![KnownFlow { age_ticks: 500, ..flow(2, CLASS_ESTABLISHED) }],
                ..World::default()
            },
            vec![delivered(&ack, BACKEND_TWO)],
            vec![flow(2, CLASS_ESTABLISHED)],
            vec![two],
        ),
        case(
            "a retransmitted SYN goes where the first one went",
            on_two(CLASS_HALF_OPEN),
            vec![delivered(&syn(), BACKEND_TWO)],
            vec![flow(2, CLASS_HALF_OPEN)],
            vec![],
        ),
        case(
            "a draining backend keeps its recorded flows",
            draining_two(CLASS_ESTABLISHED),
            vec![delivered(&ack, BACKEND_TWO)],
            vec![flow(2, CLASS_ESTABLISHED)],
            vec![],
        ),
        case(
            "a SYN on a draining backend's record decides anew",
            draining_two(CLASS_ESTABLISHED),
            vec![delivered(&syn(), BACKEND_ONE)],
            vec![flow(1, CLASS_HALF_OPEN)],
            vec![reply_of_one()],
        ),
        case(
            "a SYN on a closing record decides anew",
            on_two(CLASS_CLOSING),
            vec![delivered(&syn(), BACKEND_ONE)],
            vec![flow(1, CLASS_HALF_OPEN)],
            vec![reply_of_one()],
        ),
        case(
            "a record of an earlier generation does not count",
            World {
                flows: vec![KnownFlow { generation: 4, ..flow(2, CLASS_ESTABLISHED) }],
                ..World::default()
            },
            vec![delivered(&ack, BACKEND_ONE)],
            vec![flow(1, CLASS_ESTABLISHED)],
            vec![reply_of_one()],
        ),
        case(
            "a record of a gone backend does not count",
            World {
                backends: vec![(1, backend_one(ALIVE)), (2, backend_two(0))],
                ..on_two(CLASS_ESTABLISHED)
            },
            vec![delivered(&ack, BACKEND_ONE)],
            vec![flow(1, CLASS_ESTABLISHED)],
            vec![reply_of_one()],
        ),
        case(
            "a record older than its class allows does not count",
            World {
                flows: vec![KnownFlow { age_ticks: 90, ..flow(2, CLASS_HALF_OPEN) }],
                ..World::default()
            },
            vec![delivered(&ack, BACKEND_ONE)],
            vec![flow(1, CLASS_ESTABLISHED)],
            vec![reply_of_one()],
        ),
        case(
            "FIN makes a record closing, and data afterwards does not open it again",
            on_two(CLASS_ESTABLISHED),
            vec![delivered(&tcp(CLIENT, VIP, "F."), BACKEND_TWO), delivered(&ack, BACKEND_TWO)],
            vec![flow(2, CLASS_CLOSING)],
            vec![two],
        ),
        case(
            "RST makes a record closing",
            on_two(CLASS_ESTABLISHED),
            vec![delivered(&tcp(CLIENT, VIP, "R"), BACKEND_TWO)],
            vec![flow(2, CLASS_CLOSING)],
            vec![two],
        ),
    ]
}

fn not_ours() -> Vec<Case> {
    let other = SocketAddrV4::new(Ipv4Addr::new(192, 0, 2, 99), 80);
    let other_port = SocketAddrV4::new(*VIP.ip(), 81);
    let with = |at: usize, value: u8| {
        let mut bytes = syn().bytes();
        bytes[at] = value;
        bytes
    };
    // Only by XDP: a test run refuses such a frame as a socket buffer.
    let too_short = case(
        "a frame too short for an address passes",
        World::default(),
        vec![passed(Program::XdpFront, syn().bytes()[..33].to_vec())],
        vec![],
        vec![],
    );
    let mut tagged = syn().bytes();
    tagged.splice(12..12, [0x81, 0x00, 0x00, 0x05]);
    [
        ("another address passes", tcp(CLIENT, other, "S").bytes()),
        ("another port of a VIP passes", tcp(CLIENT, other_port, "S").bytes()),
        ("UDP passes", with(23, 17)),
        ("ICMP passes", with(23, 1)),
        ("ARP passes", with(13, 6)),
        ("IPv6 passes", with(12, 0x86)),
        ("a tag in the bytes passes", tagged),
        ("a fragment for another address passes", {
            let mut bytes = tcp(CLIENT, other, "S").bytes();
            bytes[20] = 0x20;
            bytes
        }),
    ]
    .into_iter()
    .map(|(name, input)| {
        let steps = vec![
            passed(Program::TcFront, input.clone()),
            passed(Program::TcReply, input.clone()),
            passed(Program::XdpFront, input),
        ];
        case(name, World::default(), steps, vec![], vec![])
    })
    .chain([too_short])
    .collect()
}

fn broken() -> Vec<Case> {
    let with = |changes: &[(usize, u8)]| {
        let mut bytes = syn().bytes();
        for (at, value) in changes {
            bytes[*at] = *value;
        }
        bytes
    };
    let cut = |length: usize| {
        let mut bytes = syn().bytes();
        bytes.truncate(length);
        // The stated length agrees with what is left.
        let total = (length - 14) as u16;
        bytes[16..18].copy_from_slice(&total.to_be_bytes());
        bytes
    };
    use DropReason::{Fragment, Ipv4HeaderInvalid, TcpHeaderInvalid};
    [
        ("IP version 5", with(&[(14, 0x55)]), Ipv4HeaderInvalid),
        ("a header length below 5 words", with(&[(14, 0x44)]), Ipv4HeaderInvalid),
        ("a header length of 0", with(&[(14, 0x40)]), Ipv4HeaderInvalid),
        ("a total length beyond the packet", with(&[(16, 0x10)]), Ipv4HeaderInvalid),
        ("a total length below the header", with(&[(17, 19)]), Ipv4HeaderInvalid),
        ("a total length of 0", with(&[(16, 0), (17, 0)]), Ipv4HeaderInvalid),
        ("a header longer than the packet", with(&[(14, 0x4f)]), Ipv4HeaderInvalid),
        ("a first fragment", with(&[(20, 0x20)]), Fragment),
        ("a later fragment", with(&[(21, 0x10)]), Fragment),
        ("a TCP header that is cut off", cut(14 + 20 + 19), TcpHeaderInvalid),
        ("no TCP header at all", cut(14 + 20), TcpHeaderInvalid),
        ("a data offset below 5 words", with(&[(46, 0x40)]), TcpHeaderInvalid),
        ("a data offset beyond the packet", with(&[(46, 0xf0)]), TcpHeaderInvalid),
    ]
    .into_iter()
    .map(|(name, input, reason)| {
        let xdp = Step { program: Program::XdpFront, ..dropped(input.clone(), reason) };
        case(name, World::default(), vec![dropped(input, reason), xdp], vec![], vec![])
    })
    .collect()
}

fn refusals() -> Vec<Case> {
    let other_flow = KnownFlow { key: flow_key(CLIENT, SECOND_VIP), ..flow(1, CLASS_ESTABLISHED) };
    let collision = |class| World {
        flows: vec![KnownFlow { class, ..other_flow }],
        replies: vec![(reply_of_one(), reply_record(SECOND_VIP, 1))],
        ..World::default()
    };
    let full = World { flows: vec![other_flow], records_max: 1, ..World::default() };
    let with_one = |state| World { backends: vec![(1, backend_one(state))], ..World::default() };
    let no_backend = |name, world| {
        let steps = vec![dropped(syn().bytes(), DropReason::NoBackend)];
        case(name, world, steps, vec![], vec![])
    };
    vec![
        no_backend("a service without a ring", World { ring: None, ..World::default() }),
        no_backend("a ring without backends", World { ring: Some(0), ..World::default() }),
        no_backend("a SYN for a draining backend", with_one(TAKES_OLD)),
        no_backend("a SYN for a gone backend", with_one(0)),
        case(
            "the TTL is used up",
            World::default(),
            vec![
                dropped(syn().ttl(1).bytes(), DropReason::TtlExceeded),
                dropped(syn().ttl(0).bytes(), DropReason::TtlExceeded),
            ],
            vec![],
            vec![],
        ),
        case(
            "one client port, two VIPs, one backend: the second connection is refused",
            collision(CLASS_ESTABLISHED),
            vec![dropped(syn().bytes(), DropReason::TupleCollision)],
            vec![other_flow],
            vec![reply_of_one()],
        ),
        case(
            "one client port, two VIPs, one backend: a closing connection makes room",
            collision(CLASS_CLOSING),
            vec![delivered(&syn(), BACKEND_ONE)],
            vec![KnownFlow { class: CLASS_CLOSING, ..other_flow }, flow(1, CLASS_HALF_OPEN)],
            vec![reply_of_one()],
        ),
        case(
            "a full table refuses new flows and serves known ones",
            full,
            vec![
                dropped(syn().bytes(), DropReason::RecordTableFull),
                delivered(&tcp(CLIENT, SECOND_VIP, "."), BACKEND_ONE),
            ],
            vec![other_flow],
            vec![],
        ),
    ]
}

fn replies() -> Vec<Case> {
    let world = |class| World {
        flows: vec![flow(1, class)],
        replies: vec![(reply_of_one(), reply_record(VIP, 1))],
        ..World::default()
    };
    let open = || world(CLASS_ESTABLISHED);
    let from_one = |flags| tcp(BACKEND_ONE, CLIENT, flags);
    let replied = |input: &PacketSpec| {
        let output = input.clone().routed_from(VIP);
        forwarded(Program::TcReply, Verdict::Reply, input, &output)
    };
    let pass = |input: PacketSpec| passed(Program::TcReply, input.bytes());
    let elsewhere = ReplyKeyV4 { ifindex: INGRESS_IFINDEX + 1, ..reply_of_one() };
    let kept = vec![reply_of_one()];
    let established = vec![flow(1, CLASS_ESTABLISHED)];
    vec![
        case(
            "data and acknowledgements come from the VIP",
            open(),
            vec![replied(&from_one(".")), replied(&from_one("P.").payload(1399))],
            established.clone(),
            kept.clone(),
        ),
        case(
            "the SYN+ACK of a handshake comes from the VIP",
            world(CLASS_HALF_OPEN),
            vec![replied(&from_one("S."))],
            vec![flow(1, CLASS_HALF_OPEN)],
            kept.clone(),
        ),
        case(
            "a reply with IPv4 options",
            open(),
            vec![replied(&from_one(".").options(&[1; 12]))],
            established.clone(),
            kept.clone(),
        ),
        case(
            "FIN of the backend makes the record closing",
            open(),
            vec![replied(&from_one("F."))],
            vec![flow(1, CLASS_CLOSING)],
            kept.clone(),
        ),
        case(
            "RST of the backend makes the record closing",
            open(),
            vec![replied(&from_one("R."))],
            vec![flow(1, CLASS_CLOSING)],
            kept.clone(),
        ),
        case(
            "a connection that the container opens itself is left alone",
            open(),
            vec![pass(from_one("S"))],
            established.clone(),
            kept.clone(),
        ),
        case(
            "answers to anybody else are left alone",
            open(),
            vec![
                pass(tcp(BACKEND_ONE, SocketAddrV4::new(*CLIENT.ip(), 40_001), ".")),
                pass(tcp(SocketAddrV4::new(*BACKEND_ONE.ip(), 81), CLIENT, ".")),
            ],
            established.clone(),
            kept.clone(),
        ),
        case(
            "a container with the same address on another network is left alone",
            World { replies: vec![(elsewhere, reply_record(VIP, 1))], ..open() },
            vec![pass(from_one("."))],
            established.clone(),
            vec![elsewhere],
        ),
        case(
            "a SYN+ACK after the flow has ended answers direct access, and the record goes",
            world(CLASS_CLOSING),
            vec![pass(from_one("S.")), pass(from_one("."))],
            vec![flow(1, CLASS_CLOSING)],
            vec![],
        ),
        case(
            "the TTL of a reply is used up",
            open(),
            vec![Step {
                program: Program::TcReply,
                ..dropped(from_one(".").ttl(1).bytes(), DropReason::TtlExceeded)
            }],
            established,
            kept,
        ),
    ]
}

fn routed() -> Vec<Case> {
    let world = || World { ring: Some(3), flags: META_ROUTED_BACKENDS, ..World::default() };
    let reply = reply_key(BACKEND_THREE, 0);
    let known = || World {
        flows: vec![flow(3, CLASS_ESTABLISHED)],
        replies: vec![(reply, reply_record(VIP, 3))],
        ..world()
    };
    let answer = tcp(BACKEND_THREE, CLIENT, "P.").payload(100);
    let at_next_hop = |packet: PacketSpec| packet.macs(NEXT_HOP_MACS);
    let unroutable = super::BackendV4 {
        address: Ipv4Addr::new(203, 0, 113, 1).into(),
        ..super::backend_three(ALIVE)
    };
    vec![
        case(
            "TC sends a flow to a backend on another machine",
            world(),
            vec![forwarded(
                Program::TcFront,
                Verdict::Route,
                &syn(),
                &syn().routed_to(BACKEND_THREE),
            )],
            vec![flow(3, CLASS_HALF_OPEN)],
            vec![reply],
        ),
        case(
            "TC translates the reply of a backend on another machine",
            known(),
            vec![forwarded(
                Program::TcFront,
                Verdict::Reply,
                &answer,
                &answer.clone().routed_from(VIP),
            )],
            vec![flow(3, CLASS_ESTABLISHED)],
            vec![reply],
        ),
        case(
            "without routed backends nobody looks for their replies",
            World { flags: 0, ..known() },
            vec![passed(Program::TcFront, answer.bytes())],
            vec![flow(3, CLASS_ESTABLISHED)],
            vec![reply],
        ),
        case(
            "XDP sends a flow to a backend on another machine",
            world(),
            vec![forwarded(
                Program::XdpFront,
                Verdict::Route,
                &syn().payload(11),
                &at_next_hop(syn().payload(11).routed_to(BACKEND_THREE)),
            )],
            vec![flow(3, CLASS_HALF_OPEN)],
            vec![reply],
        ),
        case(
            "XDP translates the reply of a backend on another machine",
            known(),
            vec![forwarded(
                Program::XdpFront,
                Verdict::Reply,
                &answer,
                &at_next_hop(answer.clone().routed_from(VIP)),
            )],
            vec![flow(3, CLASS_ESTABLISHED)],
            vec![reply],
        ),
        case(
            "XDP leaves local backends to TC, without a trace",
            World::default(),
            vec![passed(Program::XdpFront, syn().bytes())],
            vec![],
            vec![],
        ),
        case(
            "XDP leaves a checksum that a device would finish to TC, without a trace",
            world(),
            vec![passed(Program::XdpFront, with_partial_checksum(&syn()))],
            vec![],
            vec![],
        ),
        case(
            "XDP leaves interfaces that it must not send to to TC, without a trace",
            World { xdp_may_send: false, ..world() },
            vec![passed(Program::XdpFront, syn().bytes())],
            vec![],
            vec![],
        ),
        case(
            "a backend that no route leads to",
            World { backends: vec![(3, unroutable)], ..world() },
            vec![dropped(syn().bytes(), DropReason::NoRoute)],
            vec![],
            vec![],
        ),
    ]
}

/// The packet as a local sender hands it to a device that computes checksums: the field holds the
/// sum of the pseudo header, not inverted.
fn with_partial_checksum(packet: &PacketSpec) -> Vec<u8> {
    let mut bytes = packet.bytes();
    let tcp_length = (bytes.len() - 34) as u16;
    let mut sum: u32 = u32::from(PROTOCOL_TCP) + u32::from(tcp_length);
    for pair in bytes[26..34].chunks(2) {
        sum += u32::from(u16::from_be_bytes([pair[0], pair[1]]));
    }
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    bytes[50..52].copy_from_slice(&(sum as u16).to_be_bytes());
    bytes
}
