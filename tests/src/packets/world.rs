//! What the tables hold before the first packet: plain data, for both families.

use std::net::{IpAddr, SocketAddr};

use lb_common::abi::{
    FlowRoom, Limits, SLOT_MOVING, SLOT_SETTLED, Slot, TAKES_NEW, TAKES_OLD, TAKES_OLD_DATAGRAMS,
};

use serde::{Deserialize, Serialize};

use super::{Net, RING_SIZE};

/// What the tables hold.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct World {
    /// `cur` of the ring's slots; `None`: the service has no ring.
    pub ring: Option<u32>,
    /// What the slots are.
    pub slots: SlotState,
    /// Other slots, with their `cur`: they take turns with the first kind.
    pub more_slots: Vec<(u32, SlotState)>,
    /// Frontends.
    pub frontends: Vec<FrontendSpec>,
    /// Flags of all frontends and VIPs.
    pub frontend_flags: u32,
    /// Backends by number.
    pub backends: Vec<(u32, BackendSpec)>,
    /// Recorded flows.
    pub flows: Vec<KnownFlow>,
    /// Recorded replies.
    pub replies: Vec<KnownReply>,
    /// Defaults of replies.
    pub reply_defaults: Vec<ReplyDefaultSpec>,
    /// Addresses and subnets of the node.
    pub local: Vec<(IpAddr, u32, u32)>,
    /// `META` flags.
    pub flags: u32,
    /// Half-open records that may be made in a tick, see [`Limits`].
    pub half_open_per_tick: u32,
    /// Records of flows of an old owner that may be made, see [`lb_common::abi::FlowRoom`].
    #[serde(default = "plenty")]
    pub flow_room: u32,
    /// Whether XDP may send on the interface that leads to backend 3.
    pub xdp_may_send: bool,
    /// MTU of that interface.
    pub egress_mtu: u32,
    /// Room in the tables of established records.
    pub records_max: u32,
}

/// As much as there is.
const fn plenty() -> u32 {
    u32::MAX
}

/// A frontend.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct FrontendSpec {
    /// Its address.
    pub vip: IpAddr,
    /// `PROTOCOL_*`.
    pub protocol: u8,
    /// First port.
    pub first: u16,
    /// Last port.
    pub last: u16,
    /// Number of the service.
    pub service: u32,
}

/// A backend.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct BackendSpec {
    /// Address and port.
    pub address: SocketAddr,
    /// `TAKES_*` bits.
    pub state: u8,
    /// `PATH_*`.
    pub path: u8,
    /// Host-side veth.
    pub ifindex: u32,
    /// Which of the backends of its number it is.
    pub generation: u32,
}

/// The default way of a port's replies.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct ReplyDefaultSpec {
    /// Host-side veth of the backend.
    pub ifindex: u32,
    /// Address and port of the backend.
    pub address: SocketAddr,
    /// `PROTOCOL_*`.
    pub protocol: u8,
    /// What replies are translated to.
    pub vip: SocketAddr,
    /// `REPLY_DEFAULT_*`.
    pub flags: u16,
    /// Number of the backend.
    pub backend: u32,
    /// Front interface, or 0.
    pub front_ifindex: u32,
}

/// State of a slot, with its age instead of a time.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
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
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct KnownFlow {
    /// Who sends.
    pub client: SocketAddr,
    /// To whom.
    pub vip: SocketAddr,
    /// `PROTOCOL_*`.
    pub protocol: u8,
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

/// A record of replies, with its age instead of a time.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct KnownReply {
    /// Host-side veth of the backend, or 0 for one that is routed.
    pub ifindex: u32,
    /// Who sends.
    pub address: SocketAddr,
    /// To whom.
    pub client: SocketAddr,
    /// `PROTOCOL_*`.
    pub protocol: u8,
    /// What replies are translated to.
    pub vip: SocketAddr,
    /// `CLASS_*`.
    pub class: u32,
    /// Number of the backend.
    pub backend: u32,
    /// Generation of the backend.
    pub generation: u32,
    /// Front interface, or 0.
    pub front_ifindex: u32,
    /// Ticks since the client was heard of.
    pub age_ticks: u32,
    /// Whether it is among the half open.
    pub is_half: bool,
    /// `reply_end` of the client's FIN, or 0.
    pub client_end: u16,
    /// The same of the backend's.
    pub backend_end: u16,
}

impl World {
    /// The slot at a place of the ring.
    #[must_use]
    pub fn slot(&self, index: u32, now_tick: u32) -> Slot {
        let turn = index as usize % (1 + self.more_slots.len());
        let (cur, state) = match turn {
            0 => (self.ring.unwrap_or(0), self.slots),
            other => self.more_slots[other - 1],
        };
        state.slot(cur, now_tick)
    }

    /// The slots of the ring.
    pub fn all_slots(&self, now_tick: u32) -> impl Iterator<Item = Slot> {
        (0..RING_SIZE).map(move |index| self.slot(index, now_tick))
    }

    /// Limits of records.
    #[must_use]
    pub fn limits(&self) -> Limits {
        Limits { half_open_per_tick: self.half_open_per_tick, ..Limits::with_cpus(1) }
    }

    /// Room for flows of an old owner.
    #[must_use]
    pub fn room(&self) -> FlowRoom {
        FlowRoom { epoch: 1, per_cpu: self.flow_room }
    }

    /// The VIPs of the frontends, each once.
    #[must_use]
    pub fn vips(&self) -> Vec<IpAddr> {
        let mut vips: Vec<_> = self.frontends.iter().map(|frontend| frontend.vip).collect();
        vips.sort_unstable();
        vips.dedup();
        vips
    }
}

impl Net {
    /// Backends 1 to 3 are healthy, and the ring is backend 1's.
    #[must_use]
    pub fn world(&self) -> World {
        let state = TAKES_NEW | TAKES_OLD | TAKES_OLD_DATAGRAMS;
        World {
            ring: Some(1),
            slots: SlotState::Plain,
            more_slots: Vec::new(),
            frontends: self.frontends(),
            frontend_flags: 0,
            backends: vec![
                (1, self.backend_one(state)),
                (2, self.backend_two(state)),
                (3, self.backend_three(state)),
            ],
            flows: Vec::new(),
            replies: Vec::new(),
            reply_defaults: Vec::new(),
            local: Vec::new(),
            flags: 0,
            half_open_per_tick: Limits::with_cpus(1).half_open_per_tick,
            flow_room: plenty(),
            xdp_may_send: true,
            egress_mtu: 1500,
            records_max: 16,
        }
    }
}
