//! What is told of a socket call to whoever traces.

use crate::{
    abi::{Hook, NetAddr6, NetU16, TRACE_EDIT_DESTINATION, TRACE_EDIT_NONE, TraceEvent, Verdict},
    engine::Family,
};

/// A call and what was decided on it, as whoever traces is told.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Told<A> {
    /// Cookie of the caller's network namespace.
    pub client: u64,
    /// The address in the call.
    pub vip: A,
    /// The port.
    pub vip_port: NetU16,
    /// IP protocol number.
    pub protocol: u32,
    /// What was decided, by its number.
    pub verdict: u32,
    /// Why it is refused, by its number.
    pub reason: u32,
    /// Number of the backend.
    pub backend: u32,
    /// What is used instead of the address, if something is.
    pub address: A,
    /// What is used instead of the port.
    pub port: NetU16,
}

/// The event of it. Who calls is told by the cookie of its namespace, in the last two words of the
/// source: a socket has no address yet.
#[inline(always)]
pub fn describe<A: Family>(time_ns: u64, told: &Told<A>, event: &mut TraceEvent) {
    *event = TraceEvent {
        time_ns,
        source: NetAddr6::from_raw([0, 0, (told.client >> 32) as u32, told.client as u32]),
        destination: NetAddr6::from_raw(told.vip.words()),
        destination_port: told.vip_port,
        family: A::NUMBER,
        hook: Hook::Socket as u32,
        verdict: told.verdict,
        reason: told.reason,
        backend: told.backend,
        protocol: told.protocol,
        edit: TRACE_EDIT_NONE,
        address: NetAddr6::from_raw([0; 4]),
        port: NetU16::new(0),
        ..TraceEvent::default()
    };
    if told.verdict == Verdict::Deliver as u32 || told.verdict == Verdict::Route as u32 {
        event.edit = TRACE_EDIT_DESTINATION;
        event.address = NetAddr6::from_raw(told.address.words());
        event.port = told.port;
    }
}
