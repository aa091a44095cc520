//! Reading the per-CPU counters, summed.

use std::collections::BTreeMap;

use anyhow::Context as _;
use lb_common::abi::{BackendCounters, DropReason, Hook, Verdict, verdict_index};

use super::tables::Tables;

/// What the data path has counted since its maps were made.
#[derive(Clone, PartialEq, Debug, Default)]
pub struct Counters {
    /// By backend number, for those that were asked for. A number begins at zero for each backend
    /// that gets it.
    pub backends: BTreeMap<u32, BackendCounters>,
    /// By reason, every one.
    pub drops: Vec<(DropReason, u64)>,
    /// By hook and verdict, every one.
    pub verdicts: Vec<(Hook, Verdict, u64)>,
    /// How full the tables of recorded flows are.
    pub records: RecordCounts,
    /// Connections by backend number, of those whose replies are recorded, as the last whole sweep
    /// found them, and of sockets of this node; `None`: no sweep has ended yet.
    pub connections: Option<BTreeMap<u32, u64>>,
}

/// Recorded flows, as the last whole sweep counted them.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct RecordCounts {
    /// IPv4 flows.
    pub flows_v4: u64,
    /// IPv6 flows.
    pub flows_v6: u64,
    /// Replies of IPv4 flows.
    pub replies_v4: u64,
    /// Replies of IPv6 flows.
    pub replies_v6: u64,
    /// Room in each of these.
    pub limit: u32,
}

impl Tables {
    /// Counters of these backends, and all that are of no backend.
    pub(super) fn counters(
        &self,
        backends: &[u32],
        limit: u32,
        sees_ends: bool,
    ) -> anyhow::Result<Counters> {
        let mut counters = Counters {
            records: RecordCounts {
                flows_v4: self.records.flows_v4.counted(),
                flows_v6: self.records.flows_v6.counted(),
                replies_v4: self.records.replies_v4.counted(),
                replies_v6: self.records.replies_v6.counted(),
                limit,
            },
            connections: self.records.connections(),
            ..Counters::default()
        };
        for &number in backends {
            let values = self
                .backend_counters
                .get(&number, 0)
                .with_context(|| format!("counters of backend {number}"))?;
            let sum = sum(&values);
            let connections = counters.connections.as_mut();
            if let Some(connections) = connections.filter(|_| sees_ends && sum.sockets != 0) {
                *connections.entry(number).or_default() += open_sockets(&sum);
            }
            counters.backends.insert(number, sum);
        }
        for &reason in DropReason::ALL {
            let values = self.drops.get(&(reason as u32), 0).context("`DROPS`")?;
            counters.drops.push((reason, values.iter().sum()));
        }
        for &hook in Hook::ALL {
            for &verdict in Verdict::ALL {
                let values =
                    self.verdicts.get(&verdict_index(hook, verdict), 0).context("`VERDICTS`")?;
                counters.verdicts.push((hook, verdict, values.iter().sum()));
            }
        }
        Ok(counters)
    }
}

/// Below none are those of whom a number's count, which began anew, did not know.
fn open_sockets(sum: &BackendCounters) -> u64 {
    u64::try_from(sum.sockets.cast_signed()).unwrap_or(0)
}

fn sum(values: &[BackendCounters]) -> BackendCounters {
    values.iter().fold(BackendCounters::default(), |sum, value| BackendCounters {
        packets_in: sum.packets_in.wrapping_add(value.packets_in),
        bytes_in: sum.bytes_in.wrapping_add(value.bytes_in),
        packets_out: sum.packets_out.wrapping_add(value.packets_out),
        bytes_out: sum.bytes_out.wrapping_add(value.bytes_out),
        flows: sum.flows.wrapping_add(value.flows),
        refusals: sum.refusals.wrapping_add(value.refusals),
        sockets: sum.sockets.wrapping_add(value.sockets),
        // What is not counted but belongs to one CPU.
        ..BackendCounters::default()
    })
}
