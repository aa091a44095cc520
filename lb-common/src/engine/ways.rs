//! Flows, backends and ways as the engine sees them, whatever the family.

use super::wire::Address;
use crate::abi::{NetU16, PATH_LOCAL, PATH_RECORDS_REPLIES, reply_class};

/// A flow: the two ends of what a client sends, or of what a backend answers.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Tuple<A> {
    /// Address of the client.
    pub client: A,
    /// Address of the VIP, or of the backend.
    pub server: A,
    /// Port of the client.
    pub client_port: NetU16,
    /// Port of the VIP, or of the backend.
    pub server_port: NetU16,
    /// IP protocol number.
    pub protocol: u32,
}

impl<A: Copy> Tuple<A> {
    /// Between these ends.
    #[inline(always)]
    #[must_use]
    pub const fn new(client: (A, NetU16), server: (A, NetU16), protocol: u32) -> Self {
        Self {
            client: client.0,
            server: server.0,
            client_port: client.1,
            server_port: server.1,
            protocol,
        }
    }

    /// The same with each end in the other's place.
    #[inline(always)]
    #[must_use]
    pub const fn reversed(self) -> Self {
        let client = (self.server, self.server_port);
        Self::new(client, (self.client, self.client_port), self.protocol)
    }
}

/// A backend as the engine sees it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Backend<A> {
    /// Its address.
    pub address: A,
    /// Its port; 0 keeps the port that the client used.
    pub port: NetU16,
    /// `TAKES_*` bits; 0: gone.
    pub state: u8,
    /// `PATH_*`.
    pub path: u8,
    /// Index of the host-side veth of a local one, else 0.
    pub ifindex: u32,
    /// Which of the backends of its number it is.
    pub generation: u32,
}

/// How replies are translated: a recorded flow's, or by default.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Way<A> {
    /// The address that the client sent to.
    pub vip: A,
    /// The port that the client sent to.
    pub vip_port: NetU16,
    /// Of a record `CLASS_*`, see [`Way::record_class`]; of a default `REPLY_DEFAULT_*`.
    pub class: u16,
    /// Number of the backend.
    pub backend: u32,
    /// The backend's generation, in a record.
    pub generation: u32,
    /// Index of the front interface that the client's packet came in on; 0: unknown.
    pub ifindex: u32,
    /// Tick of the last packet from the client, in a record.
    pub last_seen_tick: u32,
    /// [`crate::abi::reply_end`] of the client's FIN, in a record; 0: none.
    pub client_end: u16,
    /// The same of the backend's.
    pub backend_end: u16,
}

/// What was decided on the first fragment of a packet.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct FragmentWay<A> {
    /// What the destination, or the source of a reply, is translated to.
    pub address: A,
    /// Number of the backend.
    pub backend: u32,
    /// The backend's generation, unless it is a reply.
    pub generation: u32,
    /// Where to, as in the decision.
    pub ifindex: u32,
    /// Tick of the first fragment.
    pub seen_tick: u32,
    /// Number of the verdict.
    pub verdict: u32,
}

impl<A: Address> Backend<A> {
    /// No backend.
    pub const NONE: Self = Self {
        address: A::UNSPECIFIED,
        port: NetU16::new(0),
        state: 0,
        path: 0,
        ifindex: 0,
        generation: 0,
    };

    /// Whether it is a container behind `ifindex`.
    #[inline(always)]
    #[must_use]
    pub const fn is_local(&self) -> bool {
        self.path & !PATH_RECORDS_REPLIES == PATH_LOCAL
    }

    /// Whether each of its flows is recorded for the sake of its replies.
    #[inline(always)]
    #[must_use]
    pub const fn records_replies(&self) -> bool {
        self.path & PATH_RECORDS_REPLIES != 0
    }
}

impl<A: Address> Way<A> {
    /// No way.
    pub const NONE: Self = Self {
        vip: A::UNSPECIFIED,
        vip_port: NetU16::new(0),
        class: 0,
        backend: 0,
        generation: 0,
        ifindex: 0,
        last_seen_tick: 0,
        client_end: 0,
        backend_end: 0,
    };

    /// `CLASS_*` of a record.
    #[inline(always)]
    #[must_use]
    pub const fn record_class(&self) -> u32 {
        reply_class(self.class, self.client_end, self.backend_end)
    }

    /// Whether the flow is not ours: its packets stay as they are.
    #[inline(always)]
    #[must_use]
    pub fn is_foreign(&self) -> bool {
        self.vip.is_same(A::UNSPECIFIED)
    }
}
