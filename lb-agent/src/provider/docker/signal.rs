//! Signals, as Docker writes them: numbers in events, names or numbers in what users set.

use std::str::FromStr as _;

use serde::{Deserialize, Serialize};

/// A number of a signal.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Serialize, Deserialize)]
#[serde(try_from = "i32", into = "i32")]
pub(super) struct Signal(i32);

impl Default for Signal {
    fn default() -> Self {
        Self::TERMINATE
    }
}

impl Signal {
    /// The one that asks to end.
    pub(super) const TERMINATE: Self = Self(libc::SIGTERM);

    /// `15`, `TERM`, `SIGTERM`, `RTMIN+3`; `None`: it is none of them.
    pub(super) fn parse(text: &str) -> Option<Self> {
        let name = text.trim().to_ascii_uppercase();
        if let Ok(number) = name.parse::<i32>() {
            return Self::try_from(number).ok();
        }
        let name = name.strip_prefix("SIG").unwrap_or(&name);
        if let Some(offset) = name.strip_prefix("RTMIN") {
            let offset: i32 = if offset.is_empty() { 0 } else { offset.parse().ok()? };
            return (0..=30).contains(&offset).then_some(Self(34 + offset));
        }
        let signal = nix::sys::signal::Signal::from_str(&format!("SIG{name}")).ok()?;
        Some(Self(signal as i32))
    }

    /// Whether it asks a container with this stop signal to end in its own time. SIGKILL asks for
    /// nothing: what it does is seen when it is done.
    pub(super) fn asks_to_end(self, stop_signal: Self) -> bool {
        let is_polite = [libc::SIGTERM, libc::SIGINT].contains(&self.0);
        (is_polite || self == stop_signal) && self.0 != libc::SIGKILL
    }
}

/// No signal has this number.
#[derive(Debug, thiserror::Error)]
#[error("{0} is no number of a signal")]
pub(super) struct NoSignal(i32);

impl TryFrom<i32> for Signal {
    type Error = NoSignal;

    fn try_from(number: i32) -> Result<Self, NoSignal> {
        (1..=64).contains(&number).then_some(Self(number)).ok_or(NoSignal(number))
    }
}

impl From<Signal> for i32 {
    fn from(Signal(number): Signal) -> Self {
        number
    }
}

#[cfg(test)]
mod tests {
    use super::Signal;

    #[test]
    fn signals_are_read_as_docker_writes_them() {
        let check = |text: &str, expected: Option<i32>| {
            assert_eq!(Signal::parse(text), expected.map(Signal), "{text}");
        };
        check("15", Some(15));
        check("SIGTERM", Some(15));
        check("term", Some(15));
        check("Quit", Some(3));
        check("SIGRTMIN+3", Some(37));
        check("RTMIN", Some(34));
        for text in ["", "0", "-9", "65", "SIG", "SIGNOTHING", "RTMIN+31", "RTMIN-1", "99999999999"]
        {
            check(text, None);
        }
    }

    #[test]
    fn some_signals_ask_to_end() {
        let check = |sent: &str, stop: &str, expected: bool| {
            let signal = |text| Signal::parse(text).expect("a signal");
            assert_eq!(signal(sent).asks_to_end(signal(stop)), expected, "{sent} with {stop}");
        };
        check("TERM", "TERM", true);
        check("INT", "TERM", true);
        check("TERM", "QUIT", true);
        check("QUIT", "QUIT", true);
        check("QUIT", "TERM", false);
        check("HUP", "TERM", false);
        check("KILL", "TERM", false);
        check("KILL", "KILL", false);
    }
}
