//! Foreign flows: TCP connections of a backend's port that do not come through us, where replies have
//! a default. Their packets look like replies, so they are recorded as what stays as it is.
//!
//! Two ways lead to one. A container may dial from the port that it serves; its SYN tells. And clients
//! may come without us to a port that had a default before they could (`REPLY_DEFAULT_OTHER_WAYS`); the
//! SYN+ACK tells that has no record. Of either only the backend's packets are seen, never the other
//! side's, so a record's time is that of the backend. It moves to the established ones with the first
//! packet that acknowledges without SYN: an honest backend sends none before the other side has
//! answered, so a flood of SYNs from outside stays among the half open.

use super::{
    Context, Decision, Family, ReplyChange, ReplyTable, Way,
    record::closed_by,
    replies::touched,
    wire::{Headers, TCP_ACK, TCP_SYN},
};
use crate::abi::{CLASS_CLOSING_BY_BACKEND, CLASS_ESTABLISHED, CLASS_HALF_OPEN};

/// Remembers a flow that begins; the decision's record says of which tuple.
#[inline(always)]
pub(super) fn remember<A: Family>(context: &Context, decision: &mut Decision<A>) {
    decision.record.reply_change = ReplyChange::PutForeign;
    decision.record.reply_record = A::reply_record(&Way {
        class: CLASS_HALF_OPEN as u16,
        last_seen_tick: context.now_tick,
        ..Way::NONE
    });
}

/// What a packet of a recorded one that is no SYN changes in its record.
#[inline(always)]
pub(super) fn follow<A: Family>(
    context: &Context,
    headers: &Headers<A>,
    way: &Way<A>,
    table: ReplyTable,
    decision: &mut Decision<A>,
) {
    if headers.is_reset() {
        decision.record.reply_change = ReplyChange::Forget;
        return;
    }
    let before = way.record_class();
    let class = if headers.is_closing() {
        closed_by(before, CLASS_CLOSING_BY_BACKEND)
    } else if before == CLASS_HALF_OPEN && headers.tcp_flags & (TCP_SYN | TCP_ACK) == TCP_ACK {
        CLASS_ESTABLISHED
    } else {
        before
    };
    if class == before && way.last_seen_tick == context.now_tick {
        return;
    }
    decision.record.reply_change = touched(class, table);
    decision.record.reply_record =
        A::reply_record(&Way { class: class as u16, last_seen_tick: context.now_tick, ..*way });
}
