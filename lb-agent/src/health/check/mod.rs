//! Probes as they are made on a node: one module per kind, and one that connects.
//!
//! Nothing here decides about health. Whatever the other side does is bounded: in time by the
//! caller, in bytes here.

mod bounded;
mod connect;
mod http;
#[cfg(test)]
mod tests;
mod tls;

use std::{sync::Arc, time::Duration};

use futures_util::future::BoxFuture;

pub use self::tls::Tls;
use self::{bounded::Bounded, connect::Connector};
use super::{
    book::Job,
    outcome::{FailureKind, Outcome},
    run::Check,
    target::Target,
};
use crate::{
    model::{HttpProbe, ProbeKind},
    netlink::Process,
};

/// Longest part of what a command prints that is shown.
const OUTPUT_SHOWN_MAX: usize = 200;

/// Finds containers, to probe inside them.
pub trait Containers: Send + Sync + 'static {
    /// The main process of a run of a container, by [`crate::model::Backend::instance`].
    fn process(&self, instance: &str) -> Option<Arc<Process>>;
}

/// Runs commands in containers.
pub trait RunInContainer: Send + Sync + 'static {
    /// Runs a command to its end, or ends it, with all that it has started, when its timeout has passed
    /// since its turn came. It waits for its turn no longer than [`patience`], and is ended within
    /// [`END_WITHIN`].
    fn run<'a>(&'a self, command: Command<'a>) -> BoxFuture<'a, Result<Exited, RunError>>;
}

/// What is run where.
#[derive(Clone, Copy, Debug)]
pub struct Command<'a> {
    /// The service that is probed: those of one wait for each other rather than for those of others.
    pub service: &'a str,
    /// A run of a container, by [`crate::model::Backend::instance`].
    pub instance: &'a str,
    /// The program and its arguments.
    pub argv: &'a [String],
    /// Longest time that it may take.
    pub timeout: Duration,
}

/// Longest time that it takes to find and end a command that did not end by itself.
pub const END_WITHIN: Duration = Duration::from_secs(5);

/// Longest time that a command with this timeout waits for others before it is run.
#[must_use]
pub fn patience(timeout: Duration) -> Duration {
    timeout / 2
}

/// How a command ended.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Exited {
    /// Its exit status.
    pub status: i64,
    /// The beginning of what it printed.
    pub output: String,
}

/// Why a command did not end by itself.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum RunError {
    /// It took too long, and was ended.
    #[error("the command did not end in time")]
    Late,
    /// The container cannot run it: no such program, paused.
    #[error("{0}")]
    Refused(String),
    /// It was not run, for a reason that is not the container's.
    #[error("{0}")]
    NotRun(String),
}

/// Knows no containers.
#[derive(Clone, Copy, Debug, Default)]
pub struct NoContainers;

impl Containers for NoContainers {
    fn process(&self, _instance: &str) -> Option<Arc<Process>> {
        None
    }
}

impl RunInContainer for NoContainers {
    fn run<'a>(&'a self, _command: Command<'a>) -> BoxFuture<'a, Result<Exited, RunError>> {
        Box::pin(async { Err(RunError::NotRun("the Docker provider is off".to_owned())) })
    }
}

/// Makes probes on this node.
pub struct NodeChecks {
    connector: Connector,
    commands: Arc<dyn RunInContainer>,
    tls: Tls,
}

impl NodeChecks {
    /// With these ways into containers.
    pub fn new(
        containers: Arc<dyn Containers>,
        commands: Arc<dyn RunInContainer>,
        tls: Tls,
    ) -> Self {
        Self { connector: Connector::new(containers), commands, tls }
    }

    async fn tcp(&self, job: &Job, port: Option<u16>) -> Result<Outcome, Outcome> {
        // Closed at once, by a reset: nothing stays behind on either side.
        let _connection = self.connector.connect(job, port).await?;
        Ok(Outcome::Passed("connected".into()))
    }

    async fn http(&self, job: &Job, http: &HttpProbe) -> Result<Outcome, Outcome> {
        let request = http::request(http, job)?;
        let connection = Bounded::new(self.connector.connect(job, http.port).await?);
        Ok(http::exchange(http, request, connection).await)
    }

    async fn https(&self, job: &Job, http: &HttpProbe) -> Result<Outcome, Outcome> {
        let request = http::request(http, job)?;
        let connection = Bounded::new(self.connector.connect(job, http.port).await?);
        let connection = self.tls.handshake(http, job, connection).await?;
        Ok(http::exchange(http, request, connection).await)
    }

    async fn command(&self, job: &Job, argv: &[String]) -> Outcome {
        if job.target.instance.is_empty() {
            let text = "it is no container, so no command can be run in it; use another probe";
            return Outcome::Inconclusive(text.to_owned());
        }
        let timeout = Duration::from_millis(u64::from(job.probe.timeout_ms));
        let Target { service, instance, .. } = &*job.target;
        let command = Command { service: &service.0, instance, argv, timeout };
        match self.commands.run(command).await {
            Ok(Exited { status: 0, .. }) => Outcome::Passed("exit status 0".into()),
            Ok(Exited { status, output }) => {
                let shown = shown(&output);
                Outcome::failed(FailureKind::Wrong, format!("exit status {status}{shown}"))
            }
            Err(RunError::Late) => Outcome::failed(FailureKind::Late, RunError::Late.to_string()),
            Err(RunError::Refused(text)) => Outcome::failed(FailureKind::Wrong, text),
            Err(RunError::NotRun(text)) => Outcome::Inconclusive(text),
        }
    }
}

impl Check for NodeChecks {
    async fn check(&self, job: &Job) -> Outcome {
        let outcome = match &job.probe.kind {
            ProbeKind::Tcp { port } => self.tcp(job, *port).await,
            ProbeKind::Http(http) => self.http(job, http).await,
            ProbeKind::Https(http) => self.https(job, http).await,
            ProbeKind::Command { argv } => Ok(self.command(job, argv).await),
            ProbeKind::Docker => {
                Ok(Outcome::Inconclusive("Docker itself runs this probe".to_owned()))
            }
        };
        outcome.unwrap_or_else(|failure| failure)
    }
}

/// What a command printed, for one line.
fn shown(output: &str) -> String {
    let words = output.split_whitespace().collect::<Vec<_>>().join(" ");
    let printable = words.chars().filter(|letter| !letter.is_control());
    let beginning: String = printable.take(OUTPUT_SHOWN_MAX).collect();
    if beginning.is_empty() { String::new() } else { format!(": {beginning}") }
}
