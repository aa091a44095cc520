//! The rows: which program gets which packet, and what must come of it.

use std::net::SocketAddr;

use lb_common::abi::{META_REPLY_DEFAULTS, META_ROUTED_BACKENDS, Verdict, program_names};

use super::{
    frames::{Payload, client, client_offsets, frame},
    tables::{self, Service},
};

const FLOORS: [(&str, &str); 3] =
    [("tc empty", "empty_tc"), ("xdp floor", "floor_xdp"), ("xdp floor, IPv6", "floor_xdp")];
/// Flows of the rows with many.
const K: u32 = 1024;

/// Who gets the packet.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Hook {
    TcFront,
    TcReply,
    Xdp,
}

/// One line of the table.
pub(crate) struct Row {
    pub(crate) name: String,
    /// Name of the program under test.
    pub(crate) program: &'static str,
    pub(crate) is_xdp: bool,
    pub(crate) is_v6: bool,
    pub(crate) frame: Vec<u8>,
    /// A power of two.
    pub(crate) flows: u32,
    /// Offsets of the last two bytes of the client's address, and of its port.
    pub(crate) offsets: (u32, u32),
    /// With a table of all flows on the way.
    pub(crate) is_tracked: bool,
    /// `META` flags.
    pub(crate) flags: u32,
    /// What the program must do with every packet; `None` for floors.
    pub(crate) verdict: Option<Verdict>,
    /// Packets of one slice at most.
    pub(crate) packets_max: u32,
    /// The service that has a record of each flow.
    pub(crate) recorded: Option<Service>,
    /// The row that this one is measured against.
    pub(crate) floor: &'static str,
    pub(crate) samples_ns: Vec<f64>,
}

impl Row {
    fn tracked(self) -> Self {
        Self { name: format!("{}, LRU per flow", self.name), is_tracked: true, ..self }
    }

    fn flags(self, flags: u32) -> Self {
        Self { flags, ..self }
    }

    fn recorded(self, service: Service) -> Self {
        Self { recorded: Some(service), ..self }
    }
}

/// All rows, in the order of the table.
pub(crate) fn all() -> Vec<Row> {
    let mut rows = floors();
    for hook in [Hook::Xdp, Hook::TcFront] {
        rows.extend(not_ours(hook));
        rows.extend(plain(hook));
        rows.extend(recorded(hook));
        rows.extend(new_flows(hook));
        rows.extend(other_packets(hook));
    }
    rows.extend(replies(Hook::Xdp));
    rows.extend(replies(Hook::TcReply));
    rows.push(rejected());
    rows
}

fn floors() -> Vec<Row> {
    let floor = |(name, program): (&'static str, &'static str)| Row {
        program,
        verdict: None,
        floor: name,
        ..row(
            if name.starts_with("tc") { Hook::TcFront } else { Hook::Xdp },
            name,
            Service::LocalPlain,
            name.ends_with("IPv6"),
            Payload::Ack,
            1,
        )
    };
    FLOORS.map(floor).into()
}

fn not_ours(hook: Hook) -> Vec<Row> {
    let other = |name, is_v6, flags| {
        let to = tables::other(is_v6);
        let frame = frame(client(is_v6), to, Payload::Ack);
        let plain = row(hook, name, Service::LocalPlain, is_v6, Payload::Ack, 1);
        Row { frame, verdict: Some(Verdict::Pass), ..plain.flags(flags) }
    };
    vec![
        other("not ours", false, 0),
        other("not ours, with routed backends", false, META_ROUTED_BACKENDS),
        other("not ours, IPv6", true, 0),
    ]
}

fn plain(hook: Hook) -> Vec<Row> {
    let plain = |name: &str, flows| row(hook, name, plain_of(hook), false, Payload::Ack, flows);
    vec![
        plain("forward, 1 flow", 1),
        plain("forward, 1 flow", 1).tracked(),
        plain("forward, 1k flows", K),
        plain("forward, 1k flows", K).tracked(),
        plain("forward, 64k flows", 64 * K),
        plain("forward, 64k flows", 64 * K).tracked(),
        plain("forward, 1M flows", K * K),
        plain("forward, 1M flows", K * K).tracked(),
    ]
}

fn recorded(hook: Hook) -> Vec<Row> {
    let (settled, moving) = match hook {
        Hook::Xdp => (Service::RoutedSettled, Service::RoutedMoving),
        _ => (Service::LocalSettled, Service::LocalMoving),
    };
    let forward = |name: &str, service, flows| {
        row(hook, name, service, false, Payload::Ack, flows).recorded(service)
    };
    let mut rows = vec![
        forward("forward, recorded, 1 flow", settled, 1),
        forward("forward, recorded, 1k flows", settled, K),
        forward("forward, recorded, 64k flows", settled, 64 * K),
        Row { recorded: None, ..forward("forward, moving slot, not recorded", moving, K) },
    ];
    if hook != Hook::Xdp {
        let service = Service::LocalRecordsReplies;
        rows.push(forward("forward, replies recorded, 1 flow", service, 1));
        rows.push(forward("forward, replies recorded, 16k flows", service, 16 * K));
    }
    rows
}

fn new_flows(hook: Hook) -> Vec<Row> {
    let new = |name, service| row(hook, name, service, false, Payload::Syn, K * K);
    let plain = || new("new flow per packet", plain_of(hook));
    let mut rows = vec![plain(), plain().tracked()];
    if hook == Hook::Xdp {
        rows.push(new("new flow per packet, moving slot", Service::RoutedMoving));
    } else {
        rows.push(new("new flow per packet, moving slot", Service::LocalMoving));
        rows.push(new("new flow per packet, replies recorded", Service::LocalRecordsReplies));
    }
    rows
}

fn other_packets(hook: Hook) -> Vec<Row> {
    let forward =
        |name, is_v6, payload, flows| row(hook, name, plain_of(hook), is_v6, payload, flows);
    vec![
        forward("forward, UDP, 1 flow", false, Payload::Datagram, 1),
        forward("forward, UDP, 64k flows", false, Payload::Datagram, 64 * K),
        forward("forward, IPv6, 1 flow", true, Payload::Ack, 1),
        forward("forward, IPv6, 64k flows", true, Payload::Ack, 64 * K),
        forward("forward, IPv6, new flow per packet", true, Payload::Syn, K * K),
    ]
}

fn replies(hook: Hook) -> Vec<Row> {
    let flags = META_REPLY_DEFAULTS | META_ROUTED_BACKENDS;
    let (fixed, recorded) = match hook {
        Hook::Xdp => (Service::RoutedPlain, Service::RoutedRecordsReplies),
        _ => (Service::LocalPlain, Service::LocalRecordsReplies),
    };
    let reply = |name, service: Service, is_v6, flows| {
        let frame = frame(service.first_backend(is_v6), client(is_v6), Payload::Ack);
        let plain = row(hook, name, service, is_v6, Payload::Ack, flows).flags(flags);
        let offsets = client_offsets(is_v6, true);
        Row { frame, offsets, verdict: Some(Verdict::Reply), ..plain }
    };
    let mut rows = vec![
        reply("reply, fixed, 1 flow", fixed, false, 1),
        reply("reply, fixed, 64k flows", fixed, false, 64 * K),
        reply("reply, recorded, 1 flow", recorded, false, 1).recorded(recorded),
        reply("reply, recorded, 16k flows", recorded, false, 16 * K).recorded(recorded),
        reply("reply, fixed, IPv6, 1 flow", fixed, true, 1),
    ];
    if hook == Hook::TcReply {
        let mut stranger = reply("reply, not ours", fixed, false, 1);
        stranger.frame = frame(tables::other(false), client(false), Payload::Ack);
        stranger.verdict = Some(Verdict::Pass);
        rows.push(stranger);
    }
    rows
}

/// Answers are limited to 10,000 per second, and come in bursts of 1,000.
fn rejected() -> Row {
    let row =
        row(Hook::TcFront, "rejected by a reset", Service::WithoutBackend, false, Payload::Ack, 1);
    let frame = row.frame[..54].to_vec();
    Row { frame: with_total_length(frame), packets_max: 900, verdict: Some(Verdict::Answer), ..row }
}

/// Says the right length in the IPv4 header.
fn with_total_length(mut frame: Vec<u8>) -> Vec<u8> {
    let length = u16::try_from(frame.len() - 14).expect("a short frame").to_be_bytes();
    (frame[16], frame[17]) = (length[0], length[1]);
    frame
}

const fn plain_of(hook: Hook) -> Service {
    match hook {
        Hook::Xdp => Service::RoutedPlain,
        _ => Service::LocalPlain,
    }
}

/// A packet of a client to a service.
fn row(hook: Hook, name: &str, service: Service, is_v6: bool, payload: Payload, flows: u32) -> Row {
    let is_xdp = hook == Hook::Xdp;
    let target: SocketAddr = service.frontend(is_v6);
    let short = name.strip_prefix("tc ").or(name.strip_prefix("xdp ")).unwrap_or(name);
    Row {
        name: format!("{} {short}", if is_xdp { "xdp" } else { "tc" }),
        program: match hook {
            Hook::TcFront => program_names::TC_FRONT,
            Hook::TcReply => program_names::TC_REPLY,
            Hook::Xdp => program_names::XDP_FRONT,
        },
        is_xdp,
        is_v6,
        frame: frame(client(is_v6), target, payload),
        flows,
        offsets: client_offsets(is_v6, false),
        is_tracked: false,
        flags: META_ROUTED_BACKENDS,
        verdict: Some(if is_xdp { Verdict::Route } else { Verdict::Deliver }),
        packets_max: u32::MAX,
        recorded: None,
        floor: match (is_xdp, is_v6) {
            (false, _) => "tc empty",
            (true, false) => "xdp floor",
            (true, true) => "xdp floor, IPv6",
        },
        samples_ns: Vec::new(),
    }
}
