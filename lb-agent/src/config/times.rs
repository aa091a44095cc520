//! `[times]`, checked.

use toml::Spanned;

use super::{
    TimesConfig, raw,
    validate::{Checker, DAY_SECONDS},
};

/// Slots count to 52 days.
const SETTLE_SECONDS_MAX: u32 = 14 * DAY_SECONDS;
/// Slots count the time since their last change to 18 minutes; half of that is left for the agent to
/// be late.
const HOLD_SECONDS_MAX: u32 = 540;

impl Checker<'_> {
    /// Times of recorded flows and of slots.
    pub(super) fn times(&mut self, times: raw::Times) -> TimesConfig {
        let defaults = TimesConfig::default();
        let idle = 60..=SETTLE_SECONDS_MAX;
        let record_seconds = self.number(
            times.record_seconds,
            "record_seconds",
            idle.clone(),
            defaults.record_seconds,
        );
        let settle_span = times.settle_seconds.as_ref().map(Spanned::span);
        let settle_default = defaults.settle_seconds.max(record_seconds);
        let settle_seconds =
            self.number(times.settle_seconds, "settle_seconds", idle, settle_default);
        if let Some(span) = settle_span.filter(|_| settle_seconds < record_seconds) {
            let message = format!(
                "`settle_seconds` is {settle_seconds}, less than the {record_seconds} of \
                 `record_seconds`: connections that are idle for longer would lose their backend; \
                 make it at least as long"
            );
            self.problem(span, message);
        }
        TimesConfig {
            settle_seconds,
            record_seconds,
            half_open_seconds: self.number(
                times.half_open_seconds,
                "half_open_seconds",
                5..=600,
                defaults.half_open_seconds,
            ),
            closing_seconds: self.number(
                times.closing_seconds,
                "closing_seconds",
                5..=3600,
                defaults.closing_seconds,
            ),
            hold_seconds: self.number(
                times.hold_seconds,
                "hold_seconds",
                0..=HOLD_SECONDS_MAX,
                defaults.hold_seconds,
            ),
            grace_seconds: self.number(
                times.grace_seconds,
                "grace_seconds",
                0..=3600,
                defaults.grace_seconds,
            ),
            udp_seconds: self.number(
                times.udp_seconds,
                "udp_seconds",
                1..=DAY_SECONDS,
                defaults.udp_seconds,
            ),
        }
    }
}
