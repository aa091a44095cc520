//! How a backend is probed: the settings alone. What they mean in time is `health`'s business.

use std::ops::RangeInclusive;

use serde::{Deserialize, Serialize};

/// How a backend is probed.
#[derive(Clone, PartialEq, Eq, Hash, Debug, Serialize, Deserialize)]
pub struct Probe {
    /// What is done.
    pub kind: ProbeKind,
    /// Time between two probes of a backend whose state is settled.
    pub interval_ms: u32,
    /// Time after which an unfinished probe has failed.
    pub timeout_ms: u32,
    /// Time after the backend's start before the first probe.
    pub initial_delay_ms: u32,
    /// Successes in a row that make a backend healthy.
    pub rise: u16,
    /// Failures in a row that make a backend unhealthy.
    pub fall: u16,
    /// Where it is probed from.
    pub place: ProbePlace,
}

/// What a probe does.
#[derive(Clone, PartialEq, Eq, Hash, Debug, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ProbeKind {
    /// Connects, and closes at once.
    Tcp {
        /// `None`: the backend's port.
        port: Option<u16>,
    },
    /// Sends a request and judges the answer.
    Http(HttpProbe),
    /// The same over TLS.
    Https(HttpProbe),
    /// Runs a command in the container: exit status 0 is a success.
    Command {
        /// Program and arguments, run as given.
        argv: Vec<String>,
    },
    /// The state that Docker reports for the container's HEALTHCHECK.
    Docker,
}

impl ProbeKind {
    /// Whether it connects to the port that traffic goes to, for want of another.
    #[must_use]
    pub fn is_of_traffic(&self) -> bool {
        match self {
            Self::Tcp { port } => port.is_none(),
            Self::Http(request) | Self::Https(request) => request.port.is_none(),
            Self::Command { .. } | Self::Docker => false,
        }
    }

    /// Whether it can be made of a container only.
    #[must_use]
    pub fn is_inside(&self) -> bool {
        matches!(self, Self::Command { .. } | Self::Docker)
    }
}

/// The request of an HTTP probe, and which answers are successes.
#[derive(Clone, PartialEq, Eq, Hash, Debug, Serialize, Deserialize)]
pub struct HttpProbe {
    /// `None`: the backend's port.
    pub port: Option<u16>,
    /// Path and query.
    pub path: String,
    /// Request method.
    pub method: String,
    /// `Host` header; `None`: the address that is probed.
    pub host: Option<String>,
    /// Statuses that are successes.
    pub expect_status: Vec<RangeInclusive<u16>>,
    /// Text that the body must contain, within its first 64 KiB.
    pub expect_body: Option<String>,
    /// Name sent as SNI and looked for in the certificate; `None`: `host`, else the address.
    pub server_name: Option<String>,
    /// Whether an HTTPS server must prove who it is, against the node's trusted roots.
    pub verify_certificate: bool,
}

/// Where a backend is probed from.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ProbePlace {
    /// From the node; from inside the container where its network is internal or the application
    /// listens on loopback only.
    #[default]
    Auto,
    /// From the node.
    Node,
    /// From inside the container's network namespace, to its loopback.
    Container,
}

/// What a provider says of a backend's health.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ReportedHealth {
    /// Not known yet.
    Starting,
    /// All is well.
    Healthy,
    /// It is not.
    Unhealthy,
}

impl Default for HttpProbe {
    fn default() -> Self {
        Self {
            port: None,
            path: "/".to_owned(),
            method: "GET".to_owned(),
            host: None,
            expect_status: vec![200..=399],
            expect_body: None,
            server_name: None,
            verify_certificate: false,
        }
    }
}
