//! Packet cases: one list, run on the host's engine and by the real programs in the kernel.
//!
//! A case is data: what the tables hold, the packets that arrive, and for each of them the verdict,
//! the reason and the bytes that leave. Expected packets are built from scratch, so that their
//! checksums owe nothing to the code under test.

mod builder;
mod cases;
mod host;
mod kernel;

pub use builder::{BACKEND_ONE, BACKEND_THREE, BACKEND_TWO, CLIENT, PacketSpec, VIP, syn, tcp};
pub use cases::all;
pub use host::run_on_host;
pub use kernel::{EGRESS_IFINDEX, KernelBed, bench_object_bytes, enter_namespace, object_bytes};
use std::net::Ipv4Addr;

use lb_common::abi::{
    BackendV4, DropReason, FlowKeyV4, FlowRecord, NetU16, PATH_LOCAL, PATH_ROUTED,
    ReplyDefaultKeyV4, ReplyDefaultV4, ReplyKeyV4, ReplyRecordV4, SLOT_MOVING, SLOT_SETTLED, Slot,
    TAKES_NEW, TAKES_OLD, Verdict,
};

/// Slots of the ring of service 0 in every world.
pub const RING_SIZE: u32 = 1021;
/// Interface index of the loopback device, on which test runs arrive.
pub const INGRESS_IFINDEX: u32 = 1;

/// What the tables hold before a case.
#[derive(Clone, Debug)]
pub struct World {
    /// `cur` of every slot of the ring; `None`: the service has no ring.
    pub ring: Option<u32>,
    /// What every slot is.
    pub slots: SlotState,
    /// Flags of the frontends.
    pub frontend_flags: u32,
    /// Backends by number.
    pub backends: Vec<(u32, BackendV4)>,
    /// Recorded flows.
    pub flows: Vec<KnownFlow>,
    /// Recorded replies.
    pub replies: Vec<KnownReply>,
    /// Defaults of replies.
    pub reply_defaults: Vec<(ReplyDefaultKeyV4, ReplyDefaultV4)>,
    /// Addresses and subnets of the node.
    pub local: Vec<(Ipv4Addr, u32)>,
    /// `META` flags.
    pub flags: u32,
    /// Whether XDP may send on the interface that leads to backend 3.
    pub xdp_may_send: bool,
    /// Room in the tables of established records.
    pub records_max: u32,
}

/// State of a slot, with its age instead of a time.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum SlotState {
    /// All flows are `cur`'s.
    Plain,
    /// Unrecorded flows are `old`'s.
    Moving {
        /// Its number.
        old: u32,
        /// For how long.
        age_ticks: u32,
    },
    /// Records are honoured.
    Settled,
}

impl SlotState {
    /// The slot at a time.
    #[must_use]
    pub fn slot(self, cur: u32, now_tick: u32) -> Slot {
        match self {
            Self::Plain => Slot::plain(cur),
            Self::Moving { old, age_ticks } => {
                Slot::new(cur, old, SLOT_MOVING, now_tick.wrapping_sub(age_ticks))
            }
            Self::Settled => Slot::new(cur, 0, SLOT_SETTLED, now_tick),
        }
    }
}

/// A record, with its age instead of a time.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct KnownFlow {
    /// The flow.
    pub key: FlowKeyV4,
    /// Number of its backend.
    pub backend: u32,
    /// Generation of the backend.
    pub generation: u32,
    /// Ticks since the client was heard of.
    pub age_ticks: u32,
    /// `CLASS_*`.
    pub class: u32,
    /// Whether it is among the half open.
    pub is_half: bool,
}

impl KnownFlow {
    /// The record at a time.
    #[must_use]
    pub fn record(&self, now_tick: u32) -> FlowRecord {
        FlowRecord {
            backend: self.backend,
            generation: self.generation,
            // The machine may have been up for less.
            last_seen_tick: now_tick.wrapping_sub(self.age_ticks),
            class: self.class,
        }
    }
}

/// A record of replies; of its age nothing is asked.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct KnownReply {
    /// The flow as its backend sends it.
    pub key: ReplyKeyV4,
    /// The rest; its time is in `age_ticks`.
    pub record: ReplyRecordV4,
    /// Ticks since the client was heard of.
    pub age_ticks: u32,
    /// Whether it is among the half open.
    pub is_half: bool,
}

/// Which program gets the packet.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Program {
    /// `lb_tc_front`.
    TcFront,
    /// `lb_tc_reply`.
    TcReply,
    /// `lb_xdp_front`.
    XdpFront,
}

/// One packet and what must come of it.
#[derive(Clone, Debug)]
pub struct Step {
    /// Who gets it.
    pub program: Program,
    /// The packet.
    pub input: Vec<u8>,
    /// The verdict. XDP leaves to TC, unchanged, what it is not for: then `Pass`.
    pub verdict: Verdict,
    /// The reason, for drops.
    pub reason: DropReason,
    /// The packet that leaves; `None`: unchanged, or dropped.
    pub output: Option<Vec<u8>>,
}

/// A case.
#[derive(Clone, Debug)]
pub struct Case {
    /// The behaviour that it shows.
    pub name: &'static str,
    /// The tables before.
    pub world: World,
    /// The packets, in order.
    pub steps: Vec<Step>,
    /// The recorded flows afterwards.
    pub flows_after: Vec<KnownFlow>,
    /// The recorded replies afterwards.
    pub replies_after: Vec<KnownReply>,
}

/// Backend 1: a container behind `INGRESS_IFINDEX`, with another port than the VIP's.
#[must_use]
pub fn backend_one(state: u8) -> BackendV4 {
    BackendV4 {
        address: BACKEND_ONE.ip().to_owned().into(),
        port: NetU16::new(BACKEND_ONE.port()),
        state,
        path: PATH_LOCAL,
        ifindex: INGRESS_IFINDEX,
        generation: 5,
    }
}

/// Backend 2: a container with the VIP's port.
#[must_use]
pub fn backend_two(state: u8) -> BackendV4 {
    BackendV4 {
        address: BACKEND_TWO.ip().to_owned().into(),
        port: NetU16::new(BACKEND_TWO.port()),
        ..backend_one(state)
    }
}

/// Backend 3: on another machine.
#[must_use]
pub fn backend_three(state: u8) -> BackendV4 {
    BackendV4 {
        address: BACKEND_THREE.ip().to_owned().into(),
        port: NetU16::new(BACKEND_THREE.port()),
        path: PATH_ROUTED,
        ifindex: 0,
        ..backend_one(state)
    }
}

impl Default for World {
    /// Backends 1 to 3 are healthy, and the ring is backend 1's.
    fn default() -> Self {
        let state = TAKES_NEW | TAKES_OLD;
        Self {
            ring: Some(1),
            slots: SlotState::Plain,
            frontend_flags: 0,
            backends: vec![
                (1, backend_one(state)),
                (2, backend_two(state)),
                (3, backend_three(state)),
            ],
            flows: Vec::new(),
            replies: Vec::new(),
            reply_defaults: Vec::new(),
            local: Vec::new(),
            flags: 0,
            xdp_may_send: true,
            records_max: 16,
        }
    }
}
