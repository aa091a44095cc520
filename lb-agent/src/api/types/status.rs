//! The agent itself: providers, fronts, tables, drops, what could not be granted.

use lb_common::abi::DropReason;
use serde::{Deserialize, Serialize};

use super::{super::reasons, DropList, NamesView};

/// The agent itself.
#[derive(Clone, PartialEq, Debug, Default, Serialize, Deserialize)]
pub struct StatusView {
    /// Version of the agent.
    pub version: String,
    /// Version of the map layouts.
    pub abi_version: u32,
    /// Seconds since the agent started.
    pub uptime_seconds: u64,
    /// Sources of truth.
    pub providers: Vec<ProviderView>,
    /// Front interfaces.
    pub fronts: Vec<FrontView>,
    /// Socket calls of the node and its containers.
    #[serde(default)]
    pub sockets: SocketsView,
    /// The responder of names.
    #[serde(default)]
    pub names: NamesView,
    /// Recorded flows; `None` when they were not counted yet.
    pub records: Option<RecordsView>,
    /// How full the tables are.
    #[serde(default)]
    pub tables: Vec<TableView>,
    /// Packets that were dropped, by reason; reasons that never occurred are absent.
    pub drops: Vec<DropView>,
    /// Packets by hook and verdict; what never occurred is absent.
    #[serde(default)]
    pub verdicts: Vec<VerdictView>,
    /// What came of failures that the data path saw in the traffic, by what it saw.
    #[serde(default)]
    pub passive: Vec<PassiveView>,
    /// What was asked for and not granted.
    pub refusals: Vec<RefusalView>,
    /// Comparisons of what is wanted with what the kernel holds.
    pub reconcile: ReconcileView,
    /// All probes together.
    #[serde(default)]
    pub probes: ProbesView,
}

/// What a provider is doing.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ProviderState {
    /// It sees its source.
    Ok,
    /// It has told nothing yet; nothing that it may own is removed.
    Silent,
    /// It does not see its source; what it told last stays in force.
    Trouble,
}

/// One source of truth.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct ProviderView {
    /// Its name: `docker`, `file`.
    pub name: String,
    /// What it is doing.
    pub state: ProviderState,
    /// What is wrong and what is being done.
    pub trouble: Option<String>,
    /// Claims in force.
    pub claims: u64,
}

/// One front interface.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct FrontView {
    /// Its name.
    pub interface: String,
    /// How the TC program is attached: `tcx`, `clsact`, or `-`.
    pub tc: String,
    /// How the XDP program is attached: `native`, `generic`, `off`.
    pub xdp: String,
    /// Why XDP does not run although it might; `None` also where the configuration forbids it.
    pub without_xdp: Option<String>,
    /// What is wrong with it and what to do.
    pub trouble: Option<String>,
}

/// Socket calls of the node and its containers.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct SocketsView {
    /// The cgroup whose processes' calls are balanced; `None`: nobody's.
    pub cgroup: Option<String>,
    /// What is wrong with it and what to do.
    pub trouble: Option<String>,
    /// Whether the host leads containers to networks that they are not on.
    #[serde(default)]
    pub routes_across: bool,
    /// The cgroup cannot be used, and programs that an earlier agent attached go on.
    #[serde(default)]
    pub is_left: bool,
    /// Why sockets are not ended whose backend is gone, and what to do.
    #[serde(default)]
    pub unended: Option<String>,
    /// Containers whose networks are known, by name.
    pub clients: Vec<String>,
}

impl SocketsView {
    /// Whether calls are balanced, if only by what an earlier agent attached.
    #[must_use]
    pub fn is_on(&self) -> bool {
        self.cgroup.is_some() || self.is_left
    }

    /// A line for people; nothing, where socket calls are nobody's business.
    #[must_use]
    pub fn summary(&self) -> Option<String> {
        let Self { cgroup, trouble, unended, clients, .. } = self;
        let troubles = trouble.iter().chain(unended);
        let trouble: String = troubles.flat_map(|trouble| ["; ", trouble.as_str()]).collect();
        let whose = match cgroup {
            Some(cgroup) => format!("below {cgroup}, containers known {}", clients.len()),
            None if self.is_left => {
                format!("by an earlier agent's programs, containers known {}", clients.len())
            }
            None if trouble.is_empty() => return None,
            None => "of nobody".to_owned(),
        };
        Some(format!("socket calls {whose}{trouble}"))
    }
}

/// The tables of recorded flows.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct RecordsView {
    /// IPv4 flows.
    pub flows_v4: u64,
    /// IPv6 flows.
    pub flows_v6: u64,
    /// Replies of IPv4 flows.
    pub replies_v4: u64,
    /// Replies of IPv6 flows.
    pub replies_v6: u64,
    /// Room in each of these.
    pub limit: u64,
}

/// One table of the data path.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct TableView {
    /// Its name: `services`, `frontends_v4`, `flows_v6`.
    pub name: String,
    /// Entries in use.
    pub used: u64,
    /// Entries that it has room for.
    pub limit: u64,
    /// What to do, if it is nearly full.
    pub trouble: Option<String>,
}

impl TableView {
    /// How full it is, in percent, rounded down.
    #[must_use]
    pub fn percent(&self) -> u64 {
        self.used.saturating_mul(100).checked_div(self.limit).unwrap_or(0)
    }
}

/// What came of one sign of failing backends that the data path saw.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct PassiveView {
    /// Its name: `refused`, `silent`.
    pub sign: String,
    /// Times that it was noticed: it is told now and then while it lasts.
    pub observations: u64,
    /// Cases in which a backend had failed.
    pub failures: u64,
    /// Cases that came to nothing.
    pub dismissed: u64,
}

/// Packets dropped for one reason.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct DropView {
    /// Name of the reason.
    pub reason: String,
    /// Packets.
    pub packets: u64,
}

/// A drop reason, and how often it occurred.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct DropReasonView {
    /// Its number, which never gets another meaning.
    pub number: u32,
    /// Its name.
    pub reason: String,
    /// Packets, since the maps were made.
    pub packets: u64,
    /// What happened.
    pub happened: String,
    /// What to look at.
    pub look_at: String,
}

impl DropList {
    /// Every reason, with what was counted.
    #[must_use]
    pub fn new(counted: &[DropView]) -> Self {
        let reasons = DropReason::ALL.iter().filter(|reason| **reason != DropReason::None);
        let drops = reasons.map(|reason| {
            let count = counted.iter().find(|drop| drop.reason == reason.name());
            let (happened, look_at) = reasons::meaning(*reason);
            DropReasonView {
                number: *reason as u32,
                reason: reason.name().to_owned(),
                packets: count.map_or(0, |drop| drop.packets),
                happened: happened.to_owned(),
                look_at: look_at.to_owned(),
            }
        });
        Self { drops: drops.collect() }
    }
}

/// Packets of which the same was decided at the same place.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct VerdictView {
    /// Where: `tc_front`, `tc_reply`, `xdp_front`.
    pub hook: String,
    /// What: `pass`, `deliver`, `route`, `reply`, `drop`, `answer`.
    pub verdict: String,
    /// Packets, since the maps were made.
    pub packets: u64,
}

/// Who did not grant something.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum RefusedBy {
    /// The provider: it does not parse, or cannot be served.
    Provider,
    /// The arbiter: another service holds it, or there is no room.
    Arbiter,
    /// The planner: a table has no room, or the kernel refuses a backend; tried again.
    Planner,
    /// The kernel; tried again.
    Kernel,
}

/// Something that was asked for and not granted.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug, Serialize, Deserialize)]
pub struct RefusalView {
    /// Who did not grant it.
    pub refused_by: RefusedBy,
    /// What asked: a container, a service of the config file, a backend.
    pub object: String,
    /// The label or key, where there is one.
    pub key: Option<String>,
    /// What is wrong, where, and what to do.
    pub message: String,
}

/// Comparisons of what is wanted with what the kernel holds.
#[derive(Clone, PartialEq, Debug, Default, Serialize, Deserialize)]
pub struct ReconcileView {
    /// Comparisons so far.
    pub rounds: u64,
    /// Actions executed so far.
    pub actions: u64,
    /// What the kernel refuses at this moment.
    pub failed_actions: u64,
    /// Actions that the kernel refused so far.
    #[serde(default)]
    pub failures: u64,
    /// Duration of the latest round in microseconds.
    pub latest_duration_us: u64,
    /// Seconds until refused actions are tried again.
    pub retry_in_seconds: Option<u64>,
    /// How long rounds took.
    #[serde(default)]
    pub durations: HistogramView,
    /// How long after an event nothing was left to do, but for what socket calls are told later.
    #[serde(default)]
    pub lags: HistogramView,
}

/// All probes since the agent started, also of backends that are gone.
#[derive(Clone, PartialEq, Debug, Default, Serialize, Deserialize)]
pub struct ProbesView {
    /// Backends that are probed.
    pub targets: u64,
    /// Probes under way.
    pub in_flight: u64,
    /// Successes.
    pub passed: u64,
    /// Failures.
    pub failed: u64,
    /// Probes that could not be made, for reasons that are not the backend's.
    pub inconclusive: u64,
    /// Times that a backend's state changed by them.
    pub changes: u64,
    /// Durations of those that passed or failed.
    pub durations: HistogramView,
    /// How much later than due they were begun.
    pub lateness: HistogramView,
}

/// Durations.
#[derive(Clone, PartialEq, Debug, Default, Serialize, Deserialize)]
pub struct HistogramView {
    /// In ascending order.
    pub buckets: Vec<BucketView>,
    /// All.
    pub count: u64,
    /// Sum of all, in seconds.
    pub sum_seconds: f64,
}

/// Durations up to a limit.
#[derive(Clone, Copy, PartialEq, Debug, Default, Serialize, Deserialize)]
pub struct BucketView {
    /// The limit, in seconds.
    pub up_to_seconds: f64,
    /// Durations that do not exceed it.
    pub count: u64,
}
