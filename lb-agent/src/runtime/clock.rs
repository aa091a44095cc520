//! The wall clock, for what people read. Nothing is decided by it.

use std::time::SystemTime;

/// Milliseconds since the epoch.
#[expect(clippy::disallowed_methods, reason = "people know the wall clock only")]
pub(super) fn wall_clock_ms() -> u64 {
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    u64::try_from(now.as_millis()).unwrap_or(u64::MAX)
}
