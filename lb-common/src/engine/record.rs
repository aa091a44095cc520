//! Records: whether one is alive, and how a decision's changes are written.

use super::{Context, Decision, HeadersV4, Record, RecordChange, Tables};
use crate::abi::{
    BackendV4, CLASS_CLOSED, CLASS_CLOSING_BY_CLIENT, CLASS_ESTABLISHED, DropReason, FlowRecord,
    TAKES_OLD, is_closing, record_seconds, ticks_from_seconds,
};

/// Whether a record speaks for a flow: its backend is the one that it was written for and keeps its
/// flows, and the client was heard of within the time of the record's class.
#[inline(always)]
pub(super) fn is_live(record: &FlowRecord, backend: &BackendV4, context: &Context) -> bool {
    let age_ticks = context.now_tick.wrapping_sub(record.last_seen_tick);
    let limit_ticks = ticks_from_seconds(record_seconds(record.class));
    // A record may be a tick ahead of us: another CPU has seen the flow since we read the clock.
    (age_ticks <= limit_ticks || age_ticks == u32::MAX)
        && record.generation == backend.generation
        && backend.state & TAKES_OLD != 0
}

/// Class of a flow's record after a packet of the client.
#[inline(always)]
pub(super) const fn class_after_client(before: u32, headers: &HeadersV4) -> u32 {
    if headers.is_closing() {
        closed_by(before, CLASS_CLOSING_BY_CLIENT, headers)
    } else if is_closing(before) || headers.is_syn() {
        before
    } else {
        CLASS_ESTABLISHED
    }
}

/// Class of a flow's record after a FIN or RST of a side, `CLASS_CLOSING_BY_*`.
#[inline(always)]
pub(super) const fn closed_by(before: u32, side: u32, headers: &HeadersV4) -> u32 {
    if headers.is_reset() || (is_closing(before) && before != side) { CLASS_CLOSED } else { side }
}

/// Writes what a decision remembers or forgets. On error the packet must be dropped.
///
/// The flow is written before the reply: the sweeper removes replies that have no flow. Two CPUs may
/// write the same flow at once; they decided from the same slot, so they write the same backend,
/// unless a ring was published between them: then the last one wins and the other's SYN is answered
/// by a backend that the client's ACK no longer reaches, as if the SYN had been lost.
#[inline(always)]
pub fn commit<T: Tables>(tables: &T, decision: &Decision) -> Result<(), DropReason> {
    let Record { change, flow, flow_record, reply, reply_record } = &decision.record;
    match change {
        RecordChange::Keep => {}
        RecordChange::Insert | RecordChange::Renew => {
            let is_stored = tables.put_flow_v4(flow, flow_record).is_ok()
                && tables.put_reply_v4(reply, reply_record).is_ok();
            if !is_stored && matches!(change, RecordChange::Insert) {
                tables.remove_flow_v4(flow);
                return Err(DropReason::RecordTableFull);
            }
        }
        RecordChange::ForgetReply => tables.remove_reply_v4(reply),
    }
    Ok(())
}
