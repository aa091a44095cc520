//! Records: whether one is alive, and how a decision's changes are written.

use super::{Backend, Decision, Family, FlowChange, Record, RecordTables, ReplyChange};
use crate::{
    abi::{
        CLASS_ANSWERED, CLASS_CLOSED, CLASS_CLOSING_BY_BACKEND, CLASS_CLOSING_BY_CLIENT,
        CLASS_DATAGRAM, CLASS_ESTABLISHED, CLASS_HALF_OPEN, CLASS_LAST_ACK, CLASS_REOPENED,
        CLASS_RESET, CLASS_RESUMED, DropReason, FlowRecord, Limits, TAKES_OLD, TAKES_OLD_DATAGRAMS,
        is_closing,
    },
    rules::{Rule, is_broken},
};

/// Whether a record speaks for a flow: its backend is the one that it was written for and keeps its
/// flows, and the client was heard of within the time of the record's class.
#[inline(always)]
#[must_use]
pub fn is_live<A>(
    record: &FlowRecord,
    backend: &Backend<A>,
    limits: &Limits,
    now_tick: u32,
) -> bool {
    let keeps = if record.class == CLASS_DATAGRAM { TAKES_OLD_DATAGRAMS } else { TAKES_OLD };
    let is_of_backend =
        record.generation == backend.generation || is_broken(Rule::HitsMatchGeneration);
    let is_alive = (is_fresh(record.class, record.last_seen_tick, limits, now_tick)
        && backend.state & keeps != 0)
        || is_broken(Rule::HitsAreLive);
    is_of_backend && is_alive
}

/// Whether the client of a record was heard of within the time of its class.
#[inline(always)]
#[must_use]
pub fn is_fresh(class: u32, last_seen_tick: u32, limits: &Limits, now_tick: u32) -> bool {
    let age_ticks = now_tick.wrapping_sub(last_seen_tick);
    let limit_ticks = match class {
        CLASS_HALF_OPEN | CLASS_ANSWERED | CLASS_REOPENED => limits.half_open_ticks,
        // A RST proves nothing: anybody can send one.
        CLASS_ESTABLISHED | CLASS_CLOSING_BY_CLIENT | CLASS_RESUMED | CLASS_RESET => {
            limits.established_ticks
        }
        CLASS_DATAGRAM => limits.datagram_ticks,
        // What is lost at the end may be sent again for as long.
        _ => limits.closing_ticks,
    };
    // A record may be ahead of us: another CPU has seen the flow since we read the clock, and the agent
    // may have been stopped in between.
    age_ticks <= limit_ticks || age_ticks > u32::MAX / 2
}

/// Whether a record, though it may be alive, is of a flow whose sides both ended it some time ago, as
/// far as was seen; where room is scarce, a RST counts as well.
#[must_use]
pub fn is_spent(
    class: u32,
    last_seen_tick: u32,
    limits: &Limits,
    now_tick: u32,
    is_scarce: bool,
) -> bool {
    let has_ended =
        matches!(class, CLASS_CLOSED | CLASS_LAST_ACK) || (is_scarce && class == CLASS_RESET);
    let age_ticks = now_tick.wrapping_sub(last_seen_tick);
    has_ended && age_ticks > limits.closed_ticks && age_ticks <= u32::MAX / 2
}

/// Class of a record after a RST of the client, which may be anybody's: it does not prolong what ends
/// sooner without it.
#[inline(always)]
pub(super) const fn reset_from(before: u32) -> u32 {
    match before {
        CLASS_CLOSING_BY_BACKEND | CLASS_CLOSED | CLASS_LAST_ACK => before,
        _ => CLASS_RESET,
    }
}

/// Class of a flow's record after a FIN of a side, `CLASS_CLOSING_BY_*`.
#[inline(always)]
pub(super) const fn closed_by(before: u32, side: u32) -> u32 {
    if is_closing(before) && before != side { CLASS_CLOSED } else { side }
}

/// Writes what a decision remembers or forgets. On error the packet must be dropped.
///
/// A record is written to its new table before it leaves the other, so that no lookup misses it.
/// Two CPUs may write the same flow at once; they decided from the same slot, so they write the same
/// backend, unless a ring was published between them: then the last one wins and the other's SYN is
/// answered by a backend that the client's ACK no longer reaches, as if the SYN had been lost.
#[inline(always)]
pub fn commit<A: Family, T: RecordTables<A>>(
    tables: &T,
    decision: &Decision<A>,
) -> Result<(), DropReason> {
    commit_reply(tables, &decision.record)?;
    commit_flow(tables, &decision.record)?;
    if decision.record.has_fragments != 0 {
        tables.put_fragment(&decision.record.fragment, &decision.record.fragment_record);
    }
    Ok(())
}

#[inline(always)]
fn commit_flow<A: Family, T: RecordTables<A>>(
    tables: &T,
    change: &Record<A>,
) -> Result<(), DropReason> {
    let Record { flow_change, flow, flow_record, ring, is_refused, .. } = change;
    let tick = flow_record.last_seen_tick;
    match flow_change {
        FlowChange::Keep => {}
        FlowChange::Touch => tables.touch_flow(flow, flow_record),
        FlowChange::TouchHalf => tables.touch_half_flow(flow, flow_record),
        FlowChange::PutHalf => {
            if tables.put_half_flow(flow, flow_record).is_err() {
                // When the SYN comes again, it finds the table full and goes to `old`, if that takes
                // it. Unrecorded, its handshake would be split between `cur` and `old`.
                tables.note_refusal(*ring, tick, true);
                if !is_broken(Rule::UnrecordedSynsAreDropped) {
                    return Err(DropReason::RecordTableFull);
                }
            }
            if !is_broken(Rule::SynForgetsEarlierRecord) {
                tables.remove_flow(flow);
            }
            tables.count_half_open(tick);
        }
        FlowChange::Put | FlowChange::Promote => {
            if tables.put_flow(flow, flow_record).is_ok() {
                tables.remove_half_flow(flow);
                tables.count_insertion();
                if matches!(flow_change, FlowChange::Promote) {
                    // What has gone on is no part of a flood: that never does.
                    tables.uncount_half_open(tick);
                }
            } else {
                tables.note_refusal(*ring, tick, true);
                if matches!(flow_change, FlowChange::Promote) {
                    tables.touch_half_flow(flow, flow_record);
                }
            }
        }
        FlowChange::Forget => {
            tables.remove_flow(flow);
            tables.remove_half_flow(flow);
        }
    }
    if *is_refused != 0 {
        tables.note_refusal(*ring, tick, false);
    }
    Ok(())
}

#[inline(always)]
fn commit_reply<A: Family, T: RecordTables<A>>(
    tables: &T,
    change: &Record<A>,
) -> Result<(), DropReason> {
    let Record { reply_change, reply, reply_record, .. } = change;
    match reply_change {
        ReplyChange::Keep => {}
        ReplyChange::Touch => tables.touch_reply(reply, reply_record),
        ReplyChange::TouchHalf => tables.touch_half_reply(reply, reply_record),
        ReplyChange::PutHalf => {
            if tables.put_half_reply(reply, reply_record).is_err() {
                return Err(DropReason::RecordTableFull);
            }
            tables.remove_reply(reply);
        }
        ReplyChange::Put => {
            if tables.put_reply(reply, reply_record).is_ok() {
                tables.remove_half_reply(reply);
            } else {
                tables.touch_half_reply(reply, reply_record);
            }
        }
        ReplyChange::Forget => {
            tables.remove_reply(reply);
            tables.remove_half_reply(reply);
        }
        ReplyChange::PutForeign => {
            if tables.put_half_reply(reply, reply_record).is_err() {
                return Err(DropReason::RecordTableFull);
            }
            tables.remove_reply(reply);
            // The next packet of the flow comes later: it finds both.
            tables.mark_reply_default(&A::default_key_of(reply));
        }
    }
    Ok(())
}
