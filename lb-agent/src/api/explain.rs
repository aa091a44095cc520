//! `lbctl explain` on the wire: a question, and the steps to the data path's decision.
//!
//! Plain data and its text; the steps are recorded by [`crate::explain`].

use std::net::{IpAddr, SocketAddr};

use serde::{Deserialize, Serialize};

use super::trace::BackendName;
use crate::model::Protocol;

/// What to explain.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ExplainQuery {
    /// The client.
    pub client: SocketAddr,
    /// Where it sends to.
    pub vip: SocketAddr,
    /// By which protocol.
    pub protocol: Protocol,
    /// What it sends, by TCP.
    #[serde(default)]
    pub packet: PacketWord,
    /// Of the other direction: `vip` is a backend's address and port, which sends to the client.
    #[serde(default)]
    pub is_reply: bool,
}

/// A socket call to explain.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CallQuery {
    /// Name of a container of this node, or [`CallQuery::NODE`].
    pub from: String,
    /// The address in the call.
    pub vip: SocketAddr,
    /// By which protocol.
    pub protocol: Protocol,
}

impl CallQuery {
    /// The node's own processes.
    pub const NODE: &'static str = "node";
}

/// What becomes of a socket call.
pub type CallExplanation = Explained<CallQuery>;

/// What is sent by TCP.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum PacketWord {
    /// The first packet of a connection.
    #[default]
    Syn,
    /// The answer to it.
    SynAck,
    /// An acknowledgement or data.
    Data,
    /// The end of its direction.
    Fin,
    /// The end of the connection.
    Rst,
}

impl PacketWord {
    /// As it is written.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Syn => "syn",
            Self::SynAck => "synack",
            Self::Data => "data",
            Self::Fin => "fin",
            Self::Rst => "rst",
        }
    }
}

/// How the data path decides on a packet.
pub type Explanation = Explained<ExplainQuery>;

/// What can be explained.
pub trait Question {
    /// Itself in a line for people.
    fn line(&self) -> String;
}

/// How the programs decide on what is asked for, at the moment of the question.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Explained<Q> {
    /// The packet or call.
    pub question: Q,
    /// What was looked up, in order, and found.
    pub steps: Vec<Step>,
    /// What was decided.
    pub outcome: Outcome,
    /// What else to know.
    pub notes: Vec<String>,
}

/// Something that the data path looks up.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(tag = "step", rename_all = "snake_case")]
pub enum Step {
    /// The destination.
    Frontend {
        /// `served`, `unserved` (a VIP without this port), `unknown` (no VIP).
        state: String,
        /// Name of the service that answers.
        service: Option<String>,
        /// Number of the service.
        number: Option<u32>,
        /// `records_replies`, `drops`, `affinity/BITS`.
        flags: Vec<String>,
    },
    /// Where the flow falls.
    Hash {
        /// What is hashed: the flow, or so many bits of the client's address.
        of: String,
        /// The hash.
        hash: u32,
    },
    /// The service's ring for the family and protocol.
    Ring {
        /// Its number.
        ring: u32,
        /// Its slots; 0: none was published.
        slots: u32,
        /// How often it was published, wrapping.
        epoch: u32,
    },
    /// The slot that the flow falls on.
    Slot {
        /// Within the ring.
        index: u32,
        /// `plain`, `moving`, `settled`.
        state: String,
        /// Who takes new flows.
        cur: BackendName,
        /// Who owns unrecorded flows while the slot is moving.
        old: Option<BackendName>,
        /// Seconds since it became what it is, if it is not plain.
        age_seconds: Option<u64>,
    },
    /// A record of the flow.
    FlowRecord {
        /// `flows`, `half_flows`.
        table: String,
        /// The record.
        record: Option<FlowRecordView>,
    },
    /// Whether there is room to record a new flow.
    Pressure {
        /// What was asked: `half_open` (records made in this second by the busiest CPU), `refused`
        /// (ticks since there was no room; 0: never), `flow_room` (records that flows of a slot's old
        /// owner may still take on the busiest CPU).
        of: String,
        /// What was found.
        value: u32,
    },
    /// A backend.
    Backend {
        /// Which.
        backend: BackendName,
        /// Where packets to it go.
        address: SocketAddr,
        /// `new`, `old`, `old_datagrams`; nothing: it is gone.
        takes: Vec<String>,
        /// `local` behind an interface, or `routed`.
        path: String,
        /// Interface of a local one.
        ifindex: u32,
        /// Which of the backends of its number it is.
        generation: u32,
    },
    /// Who calls.
    Caller {
        /// Its name.
        name: String,
        /// `node`, `container`, `unknown` (a container of which no network is known).
        kind: String,
        /// The networks that it is on.
        networks: Vec<String>,
    },
    /// Who sees the service.
    Scope {
        /// `node`, `containers`, `network:NAME`.
        visible: Vec<String>,
        /// Whether a backend on this node is preferred.
        prefers_node: bool,
        /// Whether the caller is one of them.
        is_seen: bool,
    },
    /// What callers like this one reach of the service.
    Reach {
        /// `everybody`, or `the caller's networks`.
        of: String,
        /// Slots of their own; 0: those of the ring.
        slots: u32,
        /// Backends that are preferred.
        preferred: u32,
        /// The others.
        others: u32,
    },
    /// The network of a backend.
    Network {
        /// Whose.
        backend: BackendName,
        /// Its name; `None`: it is reached by the routing table.
        network: Option<String>,
        /// Whether the caller reaches it.
        is_reached: bool,
    },
    /// A record by which replies are translated.
    ReplyRecord {
        /// `replies`, `half_replies`.
        table: String,
        /// The record.
        record: Option<ReplyView>,
    },
    /// How replies without a record are translated.
    ReplyDefault {
        /// The default of the backend's port.
        default: Option<ReplyView>,
    },
}

/// A recorded flow.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct FlowRecordView {
    /// Whose it is.
    pub backend: BackendName,
    /// The backend's generation when it was written.
    pub generation: u32,
    /// `half_open`, `established`, …
    pub class: String,
    /// Seconds since the client was heard of.
    pub age_seconds: u64,
    /// Whether it counts.
    pub is_live: bool,
}

/// What replies are translated to.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct ReplyView {
    /// Where the client sent to.
    pub vip: SocketAddr,
    /// Whose replies.
    pub backend: BackendName,
    /// `half_open`, `established`, …, of a record.
    pub class: Option<String>,
    /// Seconds since the client was heard of, of a record.
    pub age_seconds: Option<u64>,
    /// Of a default: `ambiguous`, `other_ways`, `foreign`; with any of them records come first.
    #[serde(default)]
    pub flags: Vec<String>,
}

/// What was decided.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Outcome {
    /// What becomes of the packet.
    pub verdict: String,
    /// Why it is not forwarded.
    pub reason: Option<String>,
    /// What it is answered.
    pub answer: Option<String>,
    /// The backend that gets it.
    pub backend: Option<BackendName>,
    /// What the destination becomes.
    pub to: Option<SocketAddr>,
    /// What the source of a reply becomes.
    #[serde(default)]
    pub from: Option<SocketAddr>,
    /// Interface of the container; 0: the routing table says.
    pub ifindex: u32,
    /// What is done to the flow's record.
    pub flow_record: Option<String>,
    /// What is done to the record of its replies.
    pub reply_record: Option<String>,
    /// How replies come back: `recorded`, `by_default`, or nothing if there are none.
    pub replies: Option<String>,
}

impl BackendName {
    /// One that has only a number yet.
    #[must_use]
    pub const fn of(number: u32) -> Self {
        Self { number, name: None, service: None }
    }
}

impl Question for ExplainQuery {
    fn line(&self) -> String {
        let Self { client, vip, protocol, packet, is_reply } = self;
        let packet = if *protocol == Protocol::Tcp { packet.name() } else { "datagram" };
        let (from, to) = if *is_reply { (vip, client) } else { (client, vip) };
        format!("{protocol} {packet} {from} > {to}")
    }
}

impl Question for CallQuery {
    fn line(&self) -> String {
        let Self { from, vip, protocol } = self;
        format!("{protocol} call of {from} to {vip}")
    }
}

impl<Q: Question> Explained<Q> {
    /// Every backend in it, to be given its name.
    pub fn backends_mut(&mut self) -> impl Iterator<Item = &mut BackendName> {
        let steps = self.steps.iter_mut().flat_map(|step| {
            let (first, second) = match step {
                Step::Slot { cur, old, .. } => (Some(cur), old.as_mut()),
                Step::FlowRecord { record, .. } => {
                    (record.as_mut().map(|record| &mut record.backend), None)
                }
                Step::ReplyRecord { record: reply, .. } | Step::ReplyDefault { default: reply } => {
                    (reply.as_mut().map(|reply| &mut reply.backend), None)
                }
                Step::Backend { backend, .. } | Step::Network { backend, .. } => {
                    (Some(backend), None)
                }
                _ => (None, None),
            };
            first.into_iter().chain(second)
        });
        steps.chain(self.outcome.backend.as_mut())
    }

    /// Says what the service is called.
    pub fn name_service(&mut self, name: &str) {
        for step in &mut self.steps {
            if let Step::Frontend { service, number: Some(_), .. } = step {
                *service = Some(name.to_owned());
            }
        }
    }

    /// Lines for people; names are not escaped.
    #[must_use]
    pub fn lines(&self) -> Vec<String> {
        let mut lines = vec![self.question.line()];
        lines.extend(self.steps.iter().map(|step| {
            let (what, found) = step.words();
            format!("  {what:<13} {found}")
        }));
        lines.push(self.outcome.line());
        lines.extend(self.notes.iter().map(|note| format!("note: {note}")));
        lines
    }
}

impl Outcome {
    fn line(&self) -> String {
        let parts = [
            self.answer.as_ref().map(|answer| format!(" {answer}")),
            self.to.as_ref().map(|to| format!(" to {to}")),
            self.from.as_ref().map(|from| format!(" from {from}")),
            self.backend.as_ref().map(|backend| format!(" ({backend})")),
            self.reason.as_ref().map(|reason| format!(", {reason}")),
            self.flow_record.as_ref().map(|record| format!("; flow record: {record}")),
            self.reply_record.as_ref().map(|record| format!("; reply record: {record}")),
            self.replies.as_ref().map(|replies| format!("; replies {replies}")),
        ];
        let parts: String = parts.into_iter().flatten().collect();
        format!("decision: {}{parts}", self.verdict)
    }
}

impl Step {
    /// What was looked up, and what was found.
    fn words(&self) -> (String, String) {
        match self {
            Self::Frontend { state, service, number, flags } => {
                let by = match (service, number) {
                    (Some(name), _) => format!(" by {name}"),
                    (None, Some(number)) => format!(" by service number {number}"),
                    (None, None) => String::new(),
                };
                let flags = if flags.is_empty() {
                    String::new()
                } else {
                    format!(", {}", flags.join(", "))
                };
                ("frontend".to_owned(), format!("{state}{by}{flags}"))
            }
            Self::Hash { of, hash } => ("hash".to_owned(), format!("{hash:#010x} of {of}")),
            Self::Ring { ring, slots: 0, .. } => {
                (format!("ring {ring}"), "none was published".to_owned())
            }
            Self::Ring { ring, slots, epoch } => {
                (format!("ring {ring}"), format!("{slots} slots, publication {epoch}"))
            }
            Self::Slot { index, state, cur, old, age_seconds } => {
                let old = old.as_ref().map_or_else(String::new, |old| format!(", old {old}"));
                let age =
                    age_seconds.map_or_else(String::new, |seconds| format!(", since {seconds} s"));
                (format!("slot {index}"), format!("{state}, cur {cur}{old}{age}"))
            }
            Self::FlowRecord { table, record } => {
                (table.clone(), record.as_ref().map_or_else(none, FlowRecordView::words))
            }
            Self::Pressure { of, value } => ("pressure".to_owned(), format!("{of} {value}")),
            Self::Backend { backend, address, takes, path, ifindex, generation } => {
                let takes =
                    if takes.is_empty() { "nothing: gone".to_owned() } else { takes.join(", ") };
                let behind = if *ifindex == 0 {
                    String::new()
                } else {
                    format!(" behind interface {ifindex}")
                };
                let found = format!(
                    "{backend} at {address}, {path}{behind}, takes {takes}; generation {generation}"
                );
                ("backend".to_owned(), found)
            }
            Self::Caller { name, kind, networks } => {
                let on = if networks.is_empty() {
                    String::new()
                } else {
                    format!(", on {}", networks.join(", "))
                };
                ("caller".to_owned(), format!("{name}: {kind}{on}"))
            }
            Self::Scope { visible, prefers_node, is_seen } => {
                ("scope".to_owned(), scope_words(visible, *prefers_node, *is_seen))
            }
            Self::Reach { of, slots, preferred, others } => {
                ("reach".to_owned(), reach_words(of, *slots, *preferred, *others))
            }
            Self::Network { backend, network, is_reached } => {
                ("network".to_owned(), network_words(backend, network.as_deref(), *is_reached))
            }
            Self::ReplyRecord { table, record: reply } => {
                (table.clone(), reply.as_ref().map_or_else(none, ReplyView::words))
            }
            Self::ReplyDefault { default } => {
                ("reply_default".to_owned(), default.as_ref().map_or_else(none, ReplyView::words))
            }
        }
    }
}

fn network_words(backend: &BackendName, network: Option<&str>, is_reached: bool) -> String {
    let network = network.unwrap_or("the routing table");
    format!("{backend} by {network}: {}", if is_reached { "reached" } else { "not reached" })
}

fn reach_words(of: &str, slots: u32, preferred: u32, others: u32) -> String {
    let all = preferred.saturating_add(others);
    let preferred = (preferred > 0).then(|| format!("{preferred} of them preferred"));
    let slots = (slots > 0).then(|| format!("{slots} slots of their own"));
    let parts = [Some(format!("{all} backends, for {of}")), preferred, slots];
    parts.into_iter().flatten().collect::<Vec<_>>().join("; ")
}

fn scope_words(visible: &[String], prefers_node: bool, is_seen: bool) -> String {
    let seen = if is_seen { "the caller sees it" } else { "the caller does not see it" };
    let prefers = if prefers_node { ", prefers the node" } else { "" };
    format!("{}{prefers}: {seen}", visible.join(","))
}

fn none() -> String {
    "none".to_owned()
}

impl FlowRecordView {
    fn words(&self) -> String {
        let Self { backend, generation, class, age_seconds, is_live } = self;
        let live = if *is_live { "live" } else { "dead" };
        format!("{live}: {backend}, {class}, {age_seconds} s old; generation {generation}")
    }
}

impl ReplyView {
    fn words(&self) -> String {
        let class = self.class.as_ref().map_or_else(String::new, |class| format!(", {class}"));
        let age = self.age_seconds.map_or_else(String::new, |seconds| format!(", {seconds} s old"));
        if self.vip.ip().is_unspecified() {
            return format!("not ours: stays as it is{class}{age}");
        }
        let comma = if self.flags.is_empty() { "" } else { ", " };
        let flags = self.flags.join(", ");
        format!("from {} ({}){class}{age}{comma}{flags}", self.vip, self.backend)
    }
}

/// Whether both ends are of one family; a packet has no others.
#[must_use]
pub fn are_of_one_family(query: &ExplainQuery) -> bool {
    matches!(
        (query.client.ip(), query.vip.ip()),
        (IpAddr::V4(_), IpAddr::V4(_)) | (IpAddr::V6(_), IpAddr::V6(_))
    )
}
