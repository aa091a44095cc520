//! The agent's ends of a trace: filters for the programs, events from them.

use std::{fmt, mem::offset_of};

use anyhow::Context as _;
use aya::{
    Ebpf,
    maps::{MapData, PerCpuArray, RingBuf},
};
use lb_common::abi::{META_TRACES, TraceEvent, TraceFilter, TraceState, map_names};
use zerocopy::FromBytes as _;

use super::tables::{Refusal, Tables, take};

/// The word of a filter that says whether there is one.
const UNTIL_WORD: usize = offset_of!(TraceFilter, until_tick) / 8;

/// What the programs tell of packets.
pub struct TraceReader {
    ring: RingBuf<MapData>,
    state: PerCpuArray<MapData, TraceState>,
}

impl fmt::Debug for TraceReader {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("TraceReader")
    }
}

impl TraceReader {
    pub(super) fn take(ebpf: &mut Ebpf) -> anyhow::Result<Self> {
        Ok(Self {
            ring: RingBuf::try_from(take(ebpf, map_names::TRACE)?)?,
            state: PerCpuArray::try_from(take(ebpf, map_names::TRACE_STATE)?)?,
        })
    }

    /// The oldest event that was not taken yet.
    pub fn next_event(&mut self) -> Option<TraceEvent> {
        loop {
            let item = self.ring.next()?;
            // Another length is none of ours, and cannot be.
            if let Ok(event) = TraceEvent::read_from_bytes(&item) {
                return Some(event);
            }
        }
    }

    /// Events that the programs could not tell, since the maps were made.
    pub fn lost(&self) -> anyhow::Result<u64> {
        let states = self.state.get(&0, 0).context("`TRACE_STATE`")?;
        Ok(states.iter().map(|state| state.lost).fold(0, u64::wrapping_add))
    }
}

impl Tables {
    /// Puts filters in force, and in place of all others none.
    pub(super) fn set_trace_filters(&self, filters: &[Option<TraceFilter>]) -> Result<(), Refusal> {
        let is_on = filters.iter().any(Option::is_some);
        if !is_on {
            self.set_flag(META_TRACES, false)?;
        }
        for index in 0..self.trace_filters.entries() {
            let filter = filters.get(index as usize).copied().flatten().unwrap_or_default();
            // A program may read the filter while it changes; the agent looks at each event again.
            self.trace_filters
                .store(index, &filter, UNTIL_WORD)
                .ok_or_else(|| format!("filter {index} is beyond the table"))?;
        }
        if is_on { self.set_flag(META_TRACES, true) } else { Ok(()) }
    }
}
