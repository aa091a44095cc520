//! The real node: `datapath` as the runtime wants it.

use std::{collections::BTreeSet, time::Duration};

use lb_common::abi::{TraceEvent, TraceFilter};

use super::{
    node::{Node, NodeCounters, NodeError, Swept},
    tracers::TraceSource,
};
use crate::{
    api::{
        explain::{CallExplanation, CallQuery, ExplainQuery, Explanation},
        types::{BackendCountersView, DropView, FrontView, RecordsView, SocketsView, VerdictView},
    },
    datapath::{Datapath, FrontStatus, SocketStatus, SweepReport, TraceReader, Way, now_tick},
    explain::Caller,
    model::LocalPrefixes,
    plan::KernelState,
    sockets::SocketTables,
};

impl Node for Datapath {
    fn read_state(&mut self) -> Result<KernelState, NodeError> {
        Self::read_state(self).map_err(|error| NodeError(format!("{error:#}")))
    }

    fn sweep_records(&mut self, is_urgent: &mut dyn FnMut() -> bool) -> Result<Swept, NodeError> {
        match self.sweep(&now_tick, is_urgent) {
            Ok(report) => {
                tracing::trace!("{report:?}");
                let SweepReport { scan, is_interrupted, .. } = report;
                Ok(Swept { scan, is_interrupted })
            }
            Err(error) => Err(NodeError(format!("{error:#}"))),
        }
    }

    fn now_tick(&self) -> u32 {
        now_tick()
    }

    fn refused_tick(&self, ring: u32) -> u32 {
        Self::refused_tick(self, ring)
    }

    fn expect_replies(&mut self, interfaces: &BTreeSet<u32>, kept_for: Duration) {
        Self::expect_replies(self, interfaces, kept_for);
    }

    fn expect_no_more(&mut self) {
        Self::expect_no_more(self);
    }

    fn local(&self) -> Result<LocalPrefixes, NodeError> {
        Self::read_local(self)
            .map_err(|error| NodeError(format!("the node's addresses cannot be listed: {error}")))
    }

    fn front_ifindex(&self) -> u32 {
        Self::front_ifindex(self)
    }

    fn routes_across(&self) -> bool {
        Self::sockets(self).routes_across
    }

    fn set_socket_tables(&mut self, tables: &SocketTables) -> Result<(), NodeError> {
        Self::set_socket_tables(self, tables).map_err(|error| NodeError(format!("{error:#}")))
    }

    fn look_at_hooks(&mut self) {
        self.ensure_fronts();
        self.ensure_calls();
    }

    fn counters(&mut self, backends: &[u32]) -> Result<NodeCounters, NodeError> {
        let read = Self::counters(self, backends);
        let counters = read.map_err(|error| NodeError(format!("{error:#}")))?;
        let backends = counters.backends.iter().map(|(number, counted)| {
            let view = BackendCountersView {
                packets_in: counted.packets_in,
                bytes_in: counted.bytes_in,
                packets_out: counted.packets_out,
                bytes_out: counted.bytes_out,
                flows: counted.flows,
                refusals: counted.refusals.into(),
            };
            (*number, view)
        });
        let drops = counters.drops.iter().filter(|(_, packets)| *packets > 0);
        let verdicts = counters.verdicts.iter().filter(|(.., packets)| *packets > 0);
        let records = counters.records;
        Ok(NodeCounters {
            ring_slots: self.ring_slots().into(),
            connections: counters.connections.clone(),
            backends: backends.collect(),
            drops: drops
                .map(|(reason, packets)| DropView {
                    reason: reason.name().to_owned(),
                    packets: *packets,
                })
                .collect(),
            verdicts: verdicts
                .map(|(hook, verdict, packets)| VerdictView {
                    hook: hook.name().to_owned(),
                    verdict: verdict.name().to_owned(),
                    packets: *packets,
                })
                .collect(),
            records: Some(RecordsView {
                flows_v4: records.flows_v4,
                flows_v6: records.flows_v6,
                replies_v4: records.replies_v4,
                replies_v6: records.replies_v6,
                limit: records.limit.into(),
            }),
        })
    }

    fn fronts(&mut self) -> Vec<FrontView> {
        Self::fronts(self).iter().map(front_view).collect()
    }

    fn sockets(&mut self) -> SocketsView {
        let SocketStatus { cgroup, trouble, routes_across, is_left, unended, .. } =
            Self::sockets(self).clone();
        let cgroup = cgroup.map(|path| path.display().to_string());
        SocketsView { cgroup, trouble, routes_across, is_left, unended, clients: Vec::new() }
    }

    fn explain(&mut self, query: &ExplainQuery) -> Result<Explanation, NodeError> {
        Self::explain(self, query).map_err(|error| NodeError(format!("{error:#}")))
    }

    fn explain_call(
        &mut self,
        query: &CallQuery,
        caller: &Caller,
    ) -> Result<CallExplanation, NodeError> {
        Self::explain_call(self, query, caller).map_err(|error| NodeError(format!("{error:#}")))
    }

    fn set_trace_filters(&mut self, filters: &[Option<TraceFilter>]) -> Result<(), NodeError> {
        Self::set_trace_filters(self, filters).map_err(|error| NodeError(format!("{error:#}")))
    }
}

impl TraceSource for TraceReader {
    fn next_event(&mut self) -> Option<TraceEvent> {
        Self::next_event(self)
    }

    fn lost(&self) -> u64 {
        Self::lost(self).unwrap_or_else(|error| {
            tracing::warn!("cannot read how many events were lost: {error:#}");
            0
        })
    }
}

fn front_view(front: &FrontStatus) -> FrontView {
    let way =
        |way: Option<Way>, none: &str| way.map_or_else(|| none.to_owned(), |way| way.to_string());
    FrontView {
        interface: front.name.clone(),
        tc: way(front.tc, "-"),
        xdp: way(front.xdp, "off"),
        without_xdp: front.without_xdp.clone(),
        trouble: (!front.troubles.is_empty()).then(|| front.troubles.join("; ")),
    }
}
