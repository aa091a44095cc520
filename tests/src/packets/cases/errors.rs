//! ICMP: errors both ways, and echo.

use lb_common::{
    abi::{
        CLASS_ESTABLISHED, DropReason, FRONTEND_DROPS, META_REPLY_DEFAULTS, META_ROUTED_BACKENDS,
        PROTOCOL_TCP, PROTOCOL_UDP, Verdict,
    },
    engine::answer::AnswerKind,
};

use super::{answered, case, dropped, forwarded, passed};
use crate::packets::{
    Body, Case, INGRESS_IFINDEX, KnownFlow, Net, PacketSpec, Program, ReplyDefaultSpec, SlotState,
    Step, World, at, echo, icmp_error, packet, tcp, udp,
};

/// As much as fits; the least that is quoted, an IP header and eight bytes; all but the checksum of TCP.
fn quotations(net: &Net) -> [usize; 3] {
    [1000, net.l4_offset() - 14 + 8, net.l4_offset() - 14 + 16]
}

fn to_backend(input: &PacketSpec, output: &PacketSpec) -> Step {
    forwarded(Program::TcFront, Verdict::Deliver, input, output)
}

/// Errors about what the VIP has sent.
pub(super) fn to_vip(net: &Net) -> Vec<Case> {
    let (client, vip, one, two) = (net.client.ip(), net.vip.ip(), net.one.ip(), net.two.ip());
    let mut steps = Vec::new();
    for kept_bytes in quotations(net) {
        for (said, meant) in [
            (tcp(net.vip, net.client, "P."), tcp(net.one, net.client, "P.")),
            (udp(net.vip, net.client), udp(net.one, net.client)),
            (udp(net.vip, net.client).unsummed(), udp(net.one, net.client).unsummed()),
        ] {
            let (said, meant) = (said.payload(101).ttl(3), meant.payload(101).ttl(3));
            for from in [client, net.router] {
                steps.push(to_backend(
                    &icmp_error(from, vip, &said, kept_bytes),
                    &icmp_error(from, one, &meant, kept_bytes).ttl(63),
                ));
            }
        }
    }
    let said = tcp(net.vip, net.client, "P.");
    let error = |quoted: &PacketSpec| icmp_error(client, vip, quoted, 100);
    let known = KnownFlow { age_ticks: 500, ..net.flow(2, CLASS_ESTABLISHED) };
    let settled = World { slots: SlotState::Settled, flows: vec![known], ..net.world() };
    let meant = icmp_error(client, two, &tcp(net.two, net.client, "P."), 100).ttl(63);
    let refused = |name, packet: &PacketSpec, reason| {
        case(name, net.world(), vec![dropped(packet.bytes(), reason)], vec![], vec![])
    };
    let elsewhere = tcp(at(net.vip, 81), net.client, "P.");
    let other = packet(net.vip, net.client, Body::Other(132)).payload(50);
    vec![
        case(
            "an error about a packet of the VIP reaches its backend",
            net.world(),
            steps,
            vec![],
            vec![],
        ),
        case(
            "an error goes where the flow's record says, and does not renew it",
            settled,
            vec![to_backend(&error(&said), &meant)],
            vec![known],
            vec![],
        ),
        refused(
            "an error about a port without frontend",
            &error(&elsewhere),
            DropReason::NoFrontend,
        ),
        refused(
            "an error about a packet that somebody else has sent",
            &error(&tcp(net.one, net.client, "P.")),
            DropReason::IcmpEmbeddedInvalid,
        ),
        refused(
            "an error that quotes too little",
            &icmp_error(client, vip, &said, net.l4_offset() - 14 + 7),
            DropReason::IcmpEmbeddedInvalid,
        ),
        refused(
            "an error about another protocol",
            &error(&other),
            DropReason::IcmpEmbeddedUnserved,
        ),
        refused(
            "an error about a later fragment",
            &error(&udp(net.vip, net.client).payload(200).fragment(7, 104, 208)),
            DropReason::IcmpEmbeddedUnserved,
        ),
        refused("an error whose TTL is used up", &error(&said).ttl(1), DropReason::TtlExceeded),
        case(
            "XDP leaves errors to TC",
            net.world(),
            vec![passed(Program::XdpFront, error(&said).bytes())],
            vec![],
            vec![],
        ),
    ]
}

/// Errors about what clients have sent.
pub(super) fn to_client(net: &Net) -> Vec<Case> {
    let (client, vip) = (net.client.ip(), net.vip.ip());
    let default = |protocol| ReplyDefaultSpec {
        ifindex: INGRESS_IFINDEX,
        address: net.one,
        protocol,
        vip: net.vip,
        flags: 0,
        backend: 1,
        front_ifindex: INGRESS_IFINDEX,
    };
    let defaults = World {
        flags: META_REPLY_DEFAULTS,
        reply_defaults: vec![default(PROTOCOL_TCP), default(PROTOCOL_UDP)],
        ..net.world()
    };
    let mut local = Vec::new();
    for kept_bytes in quotations(net) {
        for (said, meant) in [
            (tcp(net.client, net.one, "."), tcp(net.client, net.vip, ".")),
            (udp(net.client, net.one), udp(net.client, net.vip)),
        ] {
            // Of the container itself, and of a router behind it.
            for (from, seen_from) in [(net.one.ip(), vip), (net.container, net.container)] {
                local.push(forwarded(
                    Program::TcReply,
                    Verdict::Reply,
                    &icmp_error(from, client, &said, kept_bytes),
                    &icmp_error(seen_from, client, &meant, kept_bytes).ttl(63),
                ));
            }
        }
    }
    let record = net.reply_by(net.vip, net.three, 0, 3, CLASS_ESTABLISHED);
    let routed = World { flags: META_ROUTED_BACKENDS, replies: vec![record], ..net.recording() };
    let said = tcp(net.client, net.three, ".").payload(64);
    let meant = tcp(net.client, net.vip, ".").payload(64);
    let remote = [(net.three.ip(), vip), (net.router, net.router)].map(|(from, seen_from)| {
        forwarded(
            Program::TcFront,
            Verdict::Reply,
            &icmp_error(from, client, &said, 100),
            &icmp_error(seen_from, client, &meant, 100).ttl(63),
        )
    });
    let own = icmp_error(net.one.ip(), client, &tcp(net.client, at(net.one, 99), "."), 100);
    vec![
        case(
            "an error of a container about a client's packet",
            defaults.clone(),
            local,
            vec![],
            vec![],
        ),
        case(
            "an error about a packet to another port is the container's own",
            defaults,
            vec![passed(Program::TcReply, own.bytes())],
            vec![],
            vec![],
        ),
        case(
            "an error of a backend on another machine, and of a router on the way there",
            routed,
            remote.to_vec(),
            vec![],
            vec![record],
        ),
    ]
}

/// Echo requests.
pub(super) fn echoes(net: &Net) -> Vec<Case> {
    let ask = echo(net.client.ip(), net.vip.ip());
    let with_options =
        if net.is_v6() { ask.clone().extension(60, &[0; 8]) } else { ask.clone().options(&[1; 4]) };
    let lengths = [0, 1, 56, 57, 1400];
    vec![
        case(
            "a VIP answers echo requests",
            World { frontend_flags: FRONTEND_DROPS, ring: None, ..net.world() },
            lengths
                .map(|length| {
                    let input = ask.clone().payload(length).bytes();
                    answered(net, input, AnswerKind::EchoReply, DropReason::None)
                })
                .to_vec(),
            vec![],
            vec![],
        ),
        case(
            "an echo request with options is not answered",
            net.world(),
            vec![dropped(with_options.bytes(), DropReason::EchoUnanswerable)],
            vec![],
            vec![],
        ),
        case(
            "a fragmented echo request is not answered",
            net.world(),
            vec![dropped(ask.payload(100).fragment(7, 0, 64).bytes(), DropReason::IcmpFragmented)],
            vec![],
            vec![],
        ),
    ]
}
