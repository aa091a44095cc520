//! What is told of a socket call to whoever traces.

use super::{Call, Decision};
use crate::{
    abi::{Hook, NetAddr6, NetU16, TRACE_EDIT_DESTINATION, TRACE_EDIT_NONE, TraceEvent, Verdict},
    engine::Family,
};

/// The event of a call and the decision on it. Who calls is told by the cookie of its namespace, in
/// the last two words of the source: a socket has no address yet.
#[inline(always)]
pub fn describe<A: Family>(
    time_ns: u64,
    call: &Call<A>,
    decision: &Decision<A>,
    event: &mut TraceEvent,
) {
    *event = TraceEvent {
        time_ns,
        source: NetAddr6::from_raw([0, 0, (call.client >> 32) as u32, call.client as u32]),
        destination: NetAddr6::from_raw(call.vip.words()),
        destination_port: call.port,
        family: A::NUMBER,
        hook: Hook::Socket as u32,
        verdict: decision.verdict as u32,
        reason: decision.reason as u32,
        backend: decision.backend,
        protocol: call.protocol,
        edit: TRACE_EDIT_NONE,
        address: NetAddr6::from_raw([0; 4]),
        port: NetU16::new(0),
        ..TraceEvent::default()
    };
    let verdict = decision.verdict as u32;
    if verdict == Verdict::Deliver as u32 || verdict == Verdict::Route as u32 {
        event.edit = TRACE_EDIT_DESTINATION;
        event.address = NetAddr6::from_raw(decision.address.words());
        event.port = decision.port;
    }
}
