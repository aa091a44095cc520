//! Clients: what they send when. They know nothing of slots; they are the history of every flow.

use lb_common::{
    abi::{NetU16, PROTOCOL_TCP, PROTOCOL_UDP},
    engine::Tuple,
};

use crate::{
    agent::ring_of,
    cluster::{HOUR, MINUTE, SECOND},
    net::Net,
    random::Random,
};

pub(crate) const TCP_CLIENTS: usize = 24;
pub(crate) const UDP_CLIENTS: usize = 8;
/// What a connection is promised to survive: keepalive after two hours, late by the slack of the
/// timer wheel, and nine lost probes.
pub(crate) const TCP_PROMISE: u64 = (7200 + 262 + 675) * SECOND;
pub(crate) const UDP_PROMISE: u64 = 30 * SECOND;

/// How a connection behaves.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Style {
    Short,
    Long,
    KeepAlive,
    Bursts,
    HalfOpen,
}

/// How far a connection is, as its client sees it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Phase {
    Closed,
    /// SYNs sent so far.
    Opening(u32),
    Open,
    /// FIN sent, last acknowledgements to come.
    Closing(u32),
}

/// A 5-tuple that is used again and again.
#[derive(Clone, Debug)]
pub(crate) struct Client<A: Net> {
    pub(crate) key: A::FlowKey,
    protocol: u8,
    pub(crate) phase: Phase,
    /// Counts connections: what belongs to an earlier one is ignored.
    pub(crate) connection: u64,
    /// Instance that has the connection.
    pub(crate) owner: Option<usize>,
    /// Whether we owe it that it stays there.
    pub(crate) is_promised: bool,
    pub(crate) last_sent: u64,
    /// Publications when the connection's first SYN was sent.
    pub(crate) publications: u64,
    /// Epoch of the ring that its packets met last.
    pub(crate) seen_epoch: u32,
    style: Style,
    ends_at: u64,
    sent: u64,
    random: Random,
}

/// What a client does now.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Send {
    Syn,
    Data,
    Fin,
    Rst,
    Datagram,
    Nothing,
}

impl<A: Net> Client<A> {
    pub(crate) fn new(seed: u64, index: usize) -> Self {
        let is_tcp = index < TCP_CLIENTS;
        let protocol = if is_tcp { PROTOCOL_TCP } else { PROTOCOL_UDP };
        let [client, server] = A::ends();
        let key = A::flow_key(&Tuple {
            client,
            server,
            client_port: NetU16::new(10_000 + index as u16 * 7),
            server_port: NetU16::new(80),
            protocol: u32::from(protocol),
        });
        Self {
            key,
            protocol,
            phase: Phase::Closed,
            connection: 0,
            owner: None,
            is_promised: false,
            last_sent: 0,
            publications: 0,
            seen_epoch: 0,
            style: Style::Short,
            ends_at: 0,
            sent: 0,
            random: Random::new(seed, 1000 + index as u64),
        }
    }

    pub(crate) fn is_tcp(&self) -> bool {
        self.protocol == PROTOCOL_TCP
    }

    /// The ring that its packets fall on.
    pub(crate) fn ring(&self) -> u32 {
        ring_of(u32::from(self.protocol))
    }

    /// What the client sends now, and after how long it acts again.
    pub(crate) fn act(&mut self, now: u64) -> (Send, u64) {
        if !self.is_tcp() {
            let gap = if self.random.percent(90) {
                self.random.skewed(100, UDP_PROMISE - 500)
            } else {
                self.random.between(35, 600) * SECOND
            };
            return (Send::Datagram, gap);
        }
        match self.phase {
            Phase::Closed => {
                self.open(now);
                (Send::Syn, SECOND)
            }
            Phase::Opening(1..=4) if self.style != Style::HalfOpen => {
                let Phase::Opening(sent) = self.phase else { unreachable!() };
                self.phase = Phase::Opening(sent + 1);
                (Send::Syn, (1 << sent) * SECOND)
            }
            Phase::Opening(_) | Phase::Closing(0) => (Send::Nothing, self.close()),
            Phase::Open if now >= self.ends_at => self.end(),
            Phase::Open => {
                self.sent += 1;
                (Send::Data, self.gap())
            }
            Phase::Closing(left) => {
                self.phase = Phase::Closing(left - 1);
                (Send::Data, self.random.between(20, 2000))
            }
        }
    }

    fn open(&mut self, now: u64) {
        self.connection += 1;
        self.phase = Phase::Opening(1);
        self.owner = None;
        self.is_promised = false;
        self.sent = 0;
        (self.style, self.ends_at) = match self.random.between(0, 100) {
            0..50 => (Style::Short, now + self.random.skewed(100, 5 * SECOND)),
            50..70 => (Style::Long, now + self.random.skewed(10 * SECOND, 3 * HOUR)),
            70..80 => (Style::KeepAlive, now + self.random.between(1, 5) * HOUR),
            80..92 => (Style::Bursts, now + self.random.between(MINUTE, 5 * HOUR)),
            _ => (Style::HalfOpen, now),
        };
    }

    fn gap(&mut self) -> u64 {
        match self.style {
            Style::Short | Style::HalfOpen => self.random.skewed(10, 800),
            Style::Long => self.random.skewed(SECOND, 10 * MINUTE),
            Style::KeepAlive => {
                let probes_lost = if self.random.percent(10) { 9 } else { 0 };
                (7200 + probes_lost * 74) * SECOND + self.random.between(0, 262 * SECOND)
            }
            Style::Bursts if !self.sent.is_multiple_of(4) => self.random.skewed(50, 3000),
            Style::Bursts => self.random.skewed(10 * SECOND, 7900 * SECOND),
        }
    }

    fn end(&mut self) -> (Send, u64) {
        match self.random.between(0, 10) {
            // Without a word: the tuple is used again some time later.
            0..3 => (Send::Nothing, self.close()),
            3..5 => {
                let pause = self.close();
                (Send::Rst, pause)
            }
            _ => {
                let left = self.random.between(1, 4) as u32;
                self.phase = Phase::Closing(left);
                (Send::Fin, self.random.between(20, 2000))
            }
        }
    }

    /// Ends the connection; returns the pause before the next.
    pub(crate) fn close(&mut self) -> u64 {
        self.phase = Phase::Closed;
        self.owner = None;
        self.is_promised = false;
        self.connection += 1;
        self.random.skewed(100, 10 * MINUTE)
    }

    /// After how long a SYN+ACK arrives, if it does.
    pub(crate) fn answer_delay(&mut self) -> Option<u64> {
        match self.random.between(0, 100) {
            0..3 => None,
            3..6 => Some(self.random.between(1, 25) * SECOND),
            _ => Some(self.random.between(5, 120)),
        }
    }

    /// Whether a packet is lost before it reaches us.
    pub(crate) fn is_lost(&mut self) -> bool {
        self.random.percent(2)
    }

    /// Whether the packet is handled by the CPU that is behind.
    pub(crate) fn is_on_late_cpu(&mut self) -> bool {
        self.random.percent(50)
    }

    /// Whether we still owe anything to the flow.
    pub(crate) fn is_owed(&self, now: u64) -> bool {
        let promise = if self.is_tcp() { TCP_PROMISE } else { UDP_PROMISE };
        self.is_promised && now - self.last_sent <= promise
    }
}
