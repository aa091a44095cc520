//! What the runtime needs of the node: the data path, or a fake of it.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use lb_common::abi::TraceFilter;

use crate::{
    api::{
        explain::{CallExplanation, CallQuery, ExplainQuery, Explanation},
        types::{BackendCountersView, DropView, FrontView, RecordsView, SocketsView, VerdictView},
    },
    explain::Caller,
    model::LocalPrefixes,
    plan::{Kernel, KernelState, Scan},
    sockets::SocketTables,
};

/// How far a sweep came.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Swept {
    /// What a scan of all records found, if it has come to its end.
    pub scan: Option<Scan>,
    /// Something was more urgent: the next sweep goes on from there.
    pub is_interrupted: bool,
}

/// The node's data path. Implemented by `datapath`, and by a fake in tests.
pub trait Node: Kernel + Send {
    /// Everything that the kernel holds at this moment.
    fn read_state(&mut self) -> Result<KernelState, NodeError>;

    /// Removes records that are over, a bounded number at a time. `is_urgent` is asked now and then
    /// whether there is something that cannot wait.
    fn sweep_records(&mut self, is_urgent: &mut dyn FnMut() -> bool) -> Result<Swept, NodeError>;

    /// Ticks since boot.
    fn now_tick(&self) -> u32;

    /// The tick in which a flow of a ring was last left without a record; 0: never.
    fn refused_tick(&self, ring: u32) -> u32;

    /// Hears for which veths the next plan is likely to ask, or a plan within this time, to begin what takes
    /// time.
    fn expect_replies(&mut self, interfaces: &BTreeSet<u32>, kept_for: Duration);

    /// What was expected by now and not asked for will not be.
    fn expect_no_more(&mut self);

    /// Addresses of the node and subnets of its containers.
    fn local(&self) -> Result<LocalPrefixes, NodeError>;

    /// The front interface, when there is exactly one; else 0.
    fn front_ifindex(&self) -> u32;

    /// Whether the host leads containers to networks that they are not on.
    fn routes_across(&self) -> bool;

    /// Makes the tables of socket calls what is wanted.
    fn set_socket_tables(&mut self, tables: &SocketTables) -> Result<(), NodeError>;

    /// Attaches front interfaces that came, and forgets interfaces that are gone. The same with the cgroup
    /// of socket calls, of which [`Self::sockets`] tells.
    fn look_at_hooks(&mut self);

    /// What the data path counted, for these backend numbers.
    fn counters(&mut self, backends: &[u32]) -> Result<NodeCounters, NodeError>;

    /// How the front interfaces are attached.
    fn fronts(&mut self) -> Vec<FrontView>;

    /// How socket calls are balanced; for whom is not the node's to say.
    fn sockets(&mut self) -> SocketsView;

    /// What the data path would decide on a packet now.
    fn explain(&mut self, query: &ExplainQuery) -> Result<Explanation, NodeError>;

    /// What the data path would decide on a socket call now.
    fn explain_call(
        &mut self,
        query: &CallQuery,
        caller: &Caller,
    ) -> Result<CallExplanation, NodeError>;

    /// Tells the data path of which packets to tell; without any filter it looks at none.
    fn set_trace_filters(&mut self, filters: &[Option<TraceFilter>]) -> Result<(), NodeError>;
}

/// Why the node did not do as it was told.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[error("{0}")]
pub struct NodeError(pub String);

/// What the data path counted.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct NodeCounters {
    /// By backend number.
    pub backends: BTreeMap<u32, BackendCountersView>,
    /// Connections by backend number, of those whose replies are recorded, as the last whole sweep
    /// of the records found them; `None`: none has ended yet.
    pub connections: Option<BTreeMap<u32, u64>>,
    /// Reasons that occurred.
    pub drops: Vec<DropView>,
    /// Hooks and verdicts that occurred.
    pub verdicts: Vec<VerdictView>,
    /// Slots that all rings share.
    pub ring_slots: u64,
    /// Recorded flows of both families.
    pub records: Option<RecordsView>,
}
