//! What is told of a socket call to whoever traces.

use crate::{
    abi::{
        Hook, NetAddr6, NetU16, TRACE_EDIT_DESTINATION, TRACE_EDIT_NONE, TraceEvent, TraceFilter,
        Verdict,
    },
    engine::{
        Family,
        trace::{self, Sought},
    },
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

/// Whether a filter wants the event of it, before there is one.
#[inline(always)]
#[must_use]
pub fn is_wanted<A: Family>(filter: &TraceFilter, told: &Told<A>, now_tick: u32) -> bool {
    let (client, vip) = (caller_words(told.client), NetAddr6::from_raw(told.vip.words()));
    let sought = Sought {
        client: &client,
        vip: &vip,
        port: told.vip_port,
        family: A::NUMBER,
        verdict: told.verdict,
        reason: told.reason,
        backend: told.backend,
    };
    trace::wants(filter, &sought, now_tick)
}

/// Who calls, in place of an address, which a socket has not yet: the cookie of its namespace, in the
/// last two words. So a filter whose client is this, with all bits, wants the calls from there.
#[inline(always)]
#[must_use]
pub const fn caller_words(cookie: u64) -> NetAddr6 {
    NetAddr6::from_raw([0, 0, (cookie >> 32) as u32, cookie as u32])
}

/// The cookie of [`caller_words`].
#[inline(always)]
#[must_use]
pub const fn caller_cookie(words: &NetAddr6) -> u64 {
    let [.., high, low] = words.raw();
    (high as u64) << 32 | low as u64
}

/// The event of it.
#[inline(always)]
pub fn describe<A: Family>(time_ns: u64, told: &Told<A>, event: &mut TraceEvent) {
    *event = TraceEvent {
        time_ns,
        source: caller_words(told.client),
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

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::{
        abi::{NetU32, TRACE_ANY_REASON},
        engine::wire::Address as _,
    };

    fn told() -> impl Strategy<Value = Told<NetU32>> {
        let words = (0..3_u32, 0..3_u32, 0..3_u32);
        // All that is said of calls.
        let verdict = prop_oneof![
            Just(Verdict::Pass),
            Just(Verdict::Deliver),
            Just(Verdict::Route),
            Just(Verdict::Drop)
        ];
        (0..3_u64, 0..3_u32, 0..3_u16, verdict, words).prop_map(
            |(client, vip, port, verdict, (reason, backend, protocol))| Told {
                client: client << 31,
                vip: NetU32::from_raw(vip),
                vip_port: NetU16::new(port),
                protocol,
                verdict: verdict as u32,
                reason,
                backend,
                address: NetU32::from_raw(7),
                port: NetU16::new(9),
            },
        )
    }

    prop_compose! {
        fn filter()(
            until_tick in 0..4_u32,
            families in 0..4_u32,
            verdicts in prop_oneof![Just(u32::MAX), any::<u32>()],
            reason in prop_oneof![Just(TRACE_ANY_REASON), 0..3_u32],
            backend in 0..3_u32,
            port in 0..3_u32,
            client in (0..3_u64, any::<bool>()),
            vip in (0..3_u32, any::<bool>()),
        ) -> TraceFilter {
            let mask = |is_set| NetAddr6::from_raw([if is_set { u32::MAX } else { 0 }; 4]);
            TraceFilter {
                until_tick,
                families,
                verdicts,
                reason,
                backend,
                port,
                client: caller_words(client.0 << 31),
                client_mask: mask(client.1),
                vip: NetAddr6::from_raw(NetU32::from_raw(vip.0).words()),
                vip_mask: mask(vip.1),
            }
        }
    }

    proptest! {
        #[test]
        fn who_wants_the_event_wants_the_call(told in told(), filter in filter(), tick in 0..4_u32) {
            let mut event = TraceEvent::default();
            describe(0, &told, &mut event);
            prop_assert_eq!(is_wanted(&filter, &told, tick), trace::matches(&filter, &event, tick));
        }

        #[test]
        fn who_calls_is_told_whole(cookie: u64) {
            prop_assert_eq!(caller_cookie(&caller_words(cookie)), cookie);
        }
    }
}
