//! What came of one probe.

use std::{borrow::Cow, fmt, io};

/// What came of one probe.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Outcome {
    /// The backend is as it should be; says what it answered.
    Passed(Cow<'static, str>),
    /// It is not.
    Failed(Failure),
    /// The probe could not be made, for a reason that is not the backend's: says nothing about it.
    Inconclusive(String),
}

/// Why a probe failed.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Failure {
    /// The kind, by which decisions are made.
    pub kind: FailureKind,
    /// For people.
    pub text: Cow<'static, str>,
}

/// Kinds of failures.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum FailureKind {
    /// Nobody listens at the port that was probed.
    Refused,
    /// There was no answer, or no end of one, in time.
    Late,
    /// The network says that it cannot be reached.
    Unreachable,
    /// Something answered, and not as it should.
    Wrong,
}

impl Outcome {
    /// A failure.
    pub fn failed(kind: FailureKind, text: impl Into<Cow<'static, str>>) -> Self {
        Self::Failed(Failure { kind, text: text.into() })
    }

    /// What an attempt to connect came to.
    pub fn of_connect_error(error: &io::Error) -> Self {
        use io::ErrorKind::{
            ConnectionRefused, ConnectionReset, HostUnreachable, NetworkUnreachable, TimedOut,
        };
        let text = || describe(error);
        match error.kind() {
            ConnectionRefused => Self::failed(FailureKind::Refused, "connection refused"),
            ConnectionReset => Self::failed(FailureKind::Wrong, "connection reset"),
            TimedOut => Self::failed(FailureKind::Late, "no answer to the attempt to connect"),
            HostUnreachable | NetworkUnreachable => Self::failed(FailureKind::Unreachable, text()),
            // Everything else is between us and our kernel: no descriptors, no ports, no memory, a
            // filter on the way out.
            _ => Self::Inconclusive(format!("cannot connect: {}", text())),
        }
    }

    /// For people.
    pub fn text(&self) -> &str {
        match self {
            Self::Passed(text) | Self::Failed(Failure { text, .. }) => text,
            Self::Inconclusive(text) => text,
        }
    }

    /// Whether the port that was probed has nobody listening.
    pub fn is_refused(&self) -> bool {
        matches!(self, Self::Failed(Failure { kind: FailureKind::Refused, .. }))
    }
}

impl fmt::Display for FailureKind {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(match self {
            Self::Refused => "refused",
            Self::Late => "late",
            Self::Unreachable => "unreachable",
            Self::Wrong => "wrong",
        })
    }
}

/// An error without the number that `std` adds to it.
pub(super) fn describe(error: &io::Error) -> String {
    let text = error.to_string();
    text.split_once(" (os error").map_or(text.clone(), |(words, _)| words.to_lowercase())
}
