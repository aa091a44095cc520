//! Tracing on the wire: which packets somebody wants to see, and what is told of each.
//!
//! The answer is a stream of JSON, one [`TraceLine`] a line. Plain data and its text; who collects it
//! is `runtime`.

use std::{
    fmt,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    str::FromStr,
};

use lb_common::{
    abi::{
        BACKEND_NONE, FAMILY_V6, Hook, NetAddr6, TRACE_EDIT_NONE, TRACE_EDIT_SOURCE, TraceEvent,
        Verdict,
    },
    socket::caller_cookie,
};
use serde::{Deserialize, Serialize};

use super::names;

/// Longest time that somebody traces, in seconds.
pub const TRACE_SECONDS_MAX: u32 = 600;
/// Time that somebody traces who does not say, in seconds.
pub const TRACE_SECONDS: u32 = 60;

/// Which packets to tell of: those that all of this is true of.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TraceQuery {
    /// The client's address, or its network.
    pub client: Option<Prefix>,
    /// Who makes a socket call: a container of this node, or `node`, as for `explain`.
    pub from: Option<String>,
    /// The virtual address.
    pub vip: Option<IpAddr>,
    /// The port of the virtual address.
    pub port: Option<u16>,
    /// The backend, by its name or address.
    pub backend: Option<String>,
    /// Name of the drop reason.
    pub reason: Option<String>,
    /// Only what was dropped, or answered in place of a backend.
    #[serde(default)]
    pub dropped: bool,
    /// End after so many packets.
    pub count: Option<u64>,
    /// End after so many seconds.
    pub seconds: Option<u32>,
}

impl TraceQuery {
    /// As the pairs of a query string, not escaped.
    #[must_use]
    pub fn pairs(&self) -> Vec<(&'static str, String)> {
        fn text<T: ToString>(value: Option<&T>) -> Option<String> {
            value.map(ToString::to_string)
        }
        let pairs = [
            ("client", text(self.client.as_ref())),
            ("from", self.from.clone()),
            ("vip", text(self.vip.as_ref())),
            ("port", text(self.port.as_ref())),
            ("backend", self.backend.clone()),
            ("reason", self.reason.clone()),
            ("dropped", self.dropped.then(|| true.to_string())),
            ("count", text(self.count.as_ref())),
            ("seconds", text(self.seconds.as_ref())),
        ];
        pairs.into_iter().filter_map(|(key, value)| Some((key, value?))).collect()
    }
}

/// An address and how many of its bits count.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Prefix {
    /// The address.
    pub address: IpAddr,
    /// Bits of it that count.
    pub bits: u8,
}

impl FromStr for Prefix {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = || format!("`{text}` is neither an address nor a network such as 192.0.2.0/24");
        let (address, bits) = match text.split_once('/') {
            Some((address, bits)) => (address, Some(bits)),
            None => (text, None),
        };
        let address: IpAddr = address.parse().map_err(|_| wrong())?;
        let bits_max = if address.is_ipv4() { 32 } else { 128 };
        let bits = match bits {
            Some(bits) => bits.parse().map_err(|_| wrong())?,
            None => bits_max,
        };
        if bits > bits_max { Err(wrong()) } else { Ok(Self { address, bits }) }
    }
}

impl TryFrom<String> for Prefix {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        text.parse()
    }
}

impl From<Prefix> for String {
    fn from(prefix: Prefix) -> Self {
        prefix.to_string()
    }
}

impl fmt::Display for Prefix {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let is_one = self.bits == if self.address.is_ipv4() { 32 } else { 128 };
        if is_one {
            self.address.fmt(formatter)
        } else {
            write!(formatter, "{}/{}", self.address, self.bits)
        }
    }
}

/// One line of the stream.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(tag = "what", rename_all = "snake_case")]
pub enum TraceLine {
    /// Tracing has begun: packets from now on are told of.
    Begin {
        /// Seconds until it ends.
        seconds: u32,
    },
    /// A packet.
    Packet(Box<PacketView>),
    /// Packets that could not be told of, since there were too many.
    Lost {
        /// How many, of all that somebody traces.
        packets: u64,
    },
}

/// A packet and the decision that it got.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct PacketView {
    /// Microseconds since 1970.
    pub unix_us: u64,
    /// Where it met the data path: `tc_front`, `tc_reply`, `xdp_front`, `socket`.
    pub hook: String,
    /// `tcp`, `udp`, `icmp`, `icmpv6`, or a number.
    pub protocol: String,
    /// `call` of a socket; flags of TCP: `S`, `SA`, `A`, `FA`, `R`; what it is, if it has no ports; else nothing.
    pub kind: String,
    /// Where it came from, as it came; of a socket call, who makes it: a container (by its id if it is
    /// called `node`), `node`, or `namespace NUMBER` of somebody unknown.
    pub source: String,
    /// Where it went to, as it came.
    pub destination: String,
    /// Bytes from the IP header on.
    pub length_bytes: u32,
    /// What became of it.
    pub verdict: String,
    /// Why it was not forwarded.
    pub reason: Option<String>,
    /// What it was answered.
    pub answer: Option<String>,
    /// What its destination became, on its way to a backend.
    pub to: Option<String>,
    /// What its source became, on its way to a client.
    pub from: Option<String>,
    /// The backend.
    pub backend: Option<BackendName>,
    /// Interface that it came in on.
    pub ingress_ifindex: u32,
    /// Interface that it leaves by; 0: the routing table says.
    pub egress_ifindex: u32,
    /// What was done to the flow's record.
    pub flow_record: Option<String>,
    /// What was done to the record of its replies.
    pub reply_record: Option<String>,
}

/// A backend, for people.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct BackendName {
    /// Its number in the data path.
    pub number: u32,
    /// A container's name or an address; `None`: it has just gone, or is not known.
    pub name: Option<String>,
    /// Name of its service.
    pub service: Option<String>,
}

impl fmt::Display for BackendName {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.name {
            Some(name) => write!(formatter, "{name}"),
            None => write!(formatter, "backend {}", self.number),
        }
    }
}

impl PacketView {
    /// What an event says. `boot_unix_us` is when the node was booted; `backend` and `caller` tell names
    /// by number and cookie.
    pub fn new(
        event: &TraceEvent,
        boot_unix_us: u64,
        backend: impl FnOnce(u32) -> BackendName,
        caller: impl FnOnce(u64) -> Option<String>,
    ) -> Self {
        let end = |address, port: u16| end(event.family, address, port);
        let translated = || Some(end(&event.address, event.port.get()));
        let is_source = event.edit == TRACE_EDIT_SOURCE;
        let is_edited = event.edit != TRACE_EDIT_NONE;
        let is_answer = event.verdict == Verdict::Answer as u32;
        let flow = names::flow_change(event.flow_change);
        let cookie = calls_from(event);
        Self {
            unix_us: boot_unix_us.saturating_add(event.time_ns / 1000),
            hook: names::hook(event.hook).to_owned(),
            protocol: names::protocol(event.protocol),
            kind: match cookie {
                Some(_) => "call".to_owned(),
                None => names::packet(event.kind, event.tcp_flags),
            },
            source: match cookie {
                Some(cookie) => caller(cookie).unwrap_or_else(|| format!("namespace {cookie}")),
                None => end(&event.source, event.source_port.get()),
            },
            destination: end(&event.destination, event.destination_port.get()),
            length_bytes: event.length_bytes,
            verdict: names::verdict(event.verdict).to_owned(),
            reason: (event.reason != 0).then(|| names::reason(event.reason).to_owned()),
            answer: is_answer.then(|| names::answer(event.answer).to_owned()),
            to: if is_edited && !is_source { translated() } else { None },
            from: if is_source { translated() } else { None },
            backend: (event.backend != BACKEND_NONE).then(|| backend(event.backend)),
            ingress_ifindex: event.ingress_ifindex,
            egress_ifindex: event.egress_ifindex,
            flow_record: flow.map(|change| format!("{change} {}", names::class(event.class))),
            reply_record: names::reply_change(event.reply_change).map(str::to_owned),
        }
    }

    /// A line for people; names are not escaped.
    #[must_use]
    pub fn line(&self) -> String {
        let mut line = format!(
            "{} {:<9} {:<4} {:<3} {:>5}B {} > {}: {}",
            clock(self.unix_us),
            self.hook,
            self.protocol,
            self.kind,
            self.length_bytes,
            self.source,
            self.destination,
            self.verdict
        );
        let parts = [
            self.answer.as_ref().map(|answer| format!(" {answer}")),
            self.to.as_ref().map(|to| format!(" to {to}")),
            self.from.as_ref().map(|from| format!(" from {from}")),
            self.backend.as_ref().map(|backend| format!(" ({backend})")),
            self.reason.as_ref().map(|reason| format!(", {reason}")),
            self.flow_record.as_ref().map(|record| format!("; flow record: {record}")),
            self.reply_record.as_ref().map(|record| format!("; reply record: {record}")),
        ];
        line.extend(parts.into_iter().flatten());
        line
    }
}

/// An address as words, which for IPv4 is one.
#[must_use]
pub fn address(family: u32, address: &NetAddr6) -> IpAddr {
    if family == FAMILY_V6 {
        IpAddr::V6(Ipv6Addr::from(*address))
    } else {
        IpAddr::V4(Ipv4Addr::from(address.raw()[0].to_ne_bytes()))
    }
}

/// Address and port, or the address alone.
fn end(family: u32, words: &NetAddr6, port: u16) -> String {
    let address = address(family, words);
    if port == 0 { address.to_string() } else { SocketAddr::new(address, port).to_string() }
}

/// Of a socket call: the cookie of the network namespace that it comes from.
#[must_use]
pub fn calls_from(event: &TraceEvent) -> Option<u64> {
    (event.hook == Hook::Socket as u32).then(|| caller_cookie(&event.source))
}

/// The time of day, UTC.
fn clock(unix_us: u64) -> String {
    let (seconds, micros) = (unix_us / 1_000_000, unix_us % 1_000_000);
    let (hours, minutes) = (seconds / 3600 % 24, seconds / 60 % 60);
    format!("{hours:02}:{minutes:02}:{:02}.{micros:06}", seconds % 60)
}
