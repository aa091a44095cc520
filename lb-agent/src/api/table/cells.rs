//! Cells of tables.

use std::fmt;

use crate::{
    api::{
        steer::SteeringView,
        types::{
            BackendCountsView, BackendView, ReplicasView, RepliesView, ServiceView, ServingState,
        },
    },
    model::{FrontendAddress, Origin, Setting},
};

/// Frontends of one service that a table shows; the rest is counted.
const FRONTENDS_SHOWN_MAX: usize = 2;

pub(super) fn connections(counted: Option<u64>) -> String {
    counted.map_or_else(dash, |count| count.to_string())
}

pub(super) fn dash() -> String {
    "-".to_owned()
}

pub(super) fn or_dash(text: String) -> String {
    if text.is_empty() { dash() } else { text }
}

pub(super) fn state(backend: &BackendView) -> String {
    match &backend.state_reason {
        None => backend.state.to_string(),
        Some(reason) => format!("{} ({reason})", backend.state),
    }
}

pub(super) fn weight_origin(backend: &BackendView) -> String {
    let asked_for = match &backend.steering {
        Some(SteeringView { weight: Some(_), by, .. }) => format!("lbctl, by {by}"),
        _ => backend.weight_origin.to_string(),
    };
    if backend.yields { format!("yields to an exclusive one; else {asked_for}") } else { asked_for }
}

pub(super) fn exclusive(backend: &BackendView) -> String {
    match &backend.exclusive {
        Setting { value: false, origin: Origin::Default } => dash(),
        Setting { value, origin } => format!("{value}, {origin}"),
    }
}

/// A moment as RFC 3339 has it, in UTC, of milliseconds since the epoch.
pub(super) fn timestamp(at_ms: u64) -> String {
    let (seconds, milliseconds) = (at_ms / 1000, at_ms % 1000);
    let (days, second) = (seconds / 86_400, seconds % 86_400);
    // Years begin in March, so that the leap day is their last; 400 of them have the same days.
    let day = days + 719_468;
    let (era, day) = (day / 146_097, day % 146_097);
    let year = (day - day / 1460 + day / 36_524 - day / 146_096) / 365;
    let day_of_year = day - (365 * year + year / 4 - year / 100);
    let month = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * month + 2) / 5 + 1;
    let (year, month) = match month {
        0..=9 => (year + era * 400, month + 3),
        _ => (year + era * 400 + 1, month - 9),
    };
    let (hour, minute, second) = (second / 3600, second / 60 % 60, second % 60);
    format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}.{milliseconds:03}Z")
}

pub(super) fn replies(replies: Option<&RepliesView>) -> String {
    match replies {
        None => dash(),
        Some(RepliesView::Fixed) => "fixed".to_owned(),
        Some(RepliesView::Recorded { reason }) => format!("recorded ({reason})"),
    }
}

pub(super) fn frontends(frontends: &[FrontendAddress]) -> String {
    let shown = frontends.iter().take(FRONTENDS_SHOWN_MAX).map(ToString::to_string);
    let rest = frontends.len().checked_sub(FRONTENDS_SHOWN_MAX).filter(|rest| *rest > 0);
    or_dash(shown.chain(rest.map(|rest| format!("+{rest}"))).collect::<Vec<_>>().join(" "))
}

pub(super) fn healthy_of_all(service: &ServiceView) -> String {
    let BackendCountsView { healthy, .. } = service.backends;
    let counted = format!("{healthy}/{}", service.backends.total());
    match service.replicas {
        Some(ReplicasView { expected, present, .. }) if expected != present => {
            format!("{counted} ({expected} expected, {present} there)")
        }
        _ => counted,
    }
}

/// Three significant digits and a unit, in integers.
pub(super) fn bytes(count: u64) -> String {
    const UNITS: [&str; 6] = ["K", "M", "G", "T", "P", "E"];
    if count < 1024 {
        return format!("{count}B");
    }
    let mut scaled = u128::from(count) * 10 / 1024;
    let mut unit = 0;
    while scaled >= 10_240 {
        scaled /= 1024;
        unit += 1;
    }
    if scaled < 1000 {
        format!("{}.{}{}", scaled / 10, scaled % 10, UNITS[unit])
    } else {
        format!("{}{}", scaled / 10, UNITS[unit])
    }
}

pub(super) fn duration(seconds: u64) -> String {
    let (days, hours, minutes) = (seconds / 86_400, seconds / 3600 % 24, seconds / 60 % 60);
    match (days, hours, minutes) {
        (0, 0, 0) => format!("{seconds}s"),
        (0, 0, minutes) => format!("{minutes}m{}s", seconds % 60),
        (0, hours, minutes) => format!("{hours}h{minutes}m"),
        (days, hours, _) => format!("{days}d{hours}h"),
    }
}

impl fmt::Display for ServingState {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(match self {
            Self::Serving => "serving",
            Self::Degraded => "degraded",
            Self::Panic => "panic",
            Self::Down => "down",
            Self::Idle => "idle",
        })
    }
}
