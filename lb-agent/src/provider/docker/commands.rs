//! Runs commands in containers by Docker's exec.
//!
//! A command that does not end in time is killed with all that it has started: Docker would let it run
//! for ever, and the next probe would add another one.

mod turns;

use std::time::Duration;

use bollard::{
    API_DEFAULT_VERSION, Docker,
    errors::Error,
    exec::{CreateExecOptions, StartExecOptions, StartExecResults},
};
use futures_util::{StreamExt as _, future::BoxFuture};
use tokio::time::{Instant, sleep, timeout_at};

use self::turns::Turns;
use super::api;
use crate::{
    health::check::{Command, END_WITHIN, Exited, RunError, RunInContainer, patience},
    netlink::{BootTicks, Process, end_session},
};

/// Longest wait for Docker to begin an answer.
const ANSWER_WITHIN_SECONDS: u64 = 30;
/// Bytes of output that are kept; the rest is read and dropped.
const OUTPUT_BYTES_MAX: usize = 1024;
/// How often a command is looked at that has closed its output and not ended.
const LOOK_INTERVAL: Duration = Duration::from_millis(50);

/// Runs commands by the daemon behind one socket.
#[derive(Clone, Debug)]
pub struct Commands {
    socket_path: String,
    turns: Turns,
}

impl Commands {
    /// By the daemon of these settings, which need not be there yet.
    #[must_use]
    pub fn new(settings: &super::Settings) -> Self {
        let socket_path = settings.socket_path.clone();
        Self { socket_path, turns: Turns::new() }
    }

    /// It opens a connection per request, so there is nothing to keep.
    fn client(&self) -> Result<Docker, RunError> {
        let path = &self.socket_path;
        Docker::connect_with_unix(path, ANSWER_WITHIN_SECONDS, API_DEFAULT_VERSION)
            .map_err(|error| RunError::NotRun(api::describe(&error)))
    }

    async fn run_to_end(
        self,
        container: String,
        argv: Vec<String>,
        timeout: Duration,
    ) -> Result<Exited, RunError> {
        let deadline = Instant::now() + timeout;
        let options = CreateExecOptions {
            attach_stdout: Some(true),
            attach_stderr: Some(true),
            cmd: Some(argv),
            ..CreateExecOptions::default()
        };
        let created = timeout_at(deadline, self.client()?.create_exec(&container, options)).await;
        let exec = match created {
            Ok(created) => created.map_err(|error| failure(&error))?.id,
            // It has not been started, so there is nothing to end.
            Err(_elapsed) => return Err(RunError::NotRun("Docker does not answer".to_owned())),
        };
        match timeout_at(deadline, self.follow(&exec)).await {
            Ok(ended) => ended,
            Err(_elapsed) if self.end(&exec, &container, timeout / 2).await => Err(RunError::Late),
            Err(_elapsed) => {
                Err(RunError::NotRun("Docker did not start the command in time".to_owned()))
            }
        }
    }

    async fn follow(&self, exec: &str) -> Result<Exited, RunError> {
        let options = StartExecOptions::default();
        let started = self.client()?.start_exec(exec, Some(options)).await;
        let mut text = Vec::new();
        if let StartExecResults::Attached { mut output, .. } =
            started.map_err(|error| failure(&error))?
        {
            while let Some(Ok(part)) = output.next().await {
                let room = OUTPUT_BYTES_MAX - text.len();
                let part = part.into_bytes();
                text.extend_from_slice(&part[..part.len().min(room)]);
            }
        }
        let output = String::from_utf8_lossy(&text).into_owned();
        loop {
            let looked =
                self.client()?.inspect_exec(exec).await.map_err(|error| failure(&error))?;
            if let (Some(status), false) = (looked.exit_code, looked.running.unwrap_or(true)) {
                return Ok(Exited { status, output });
            }
            sleep(LOOK_INTERVAL).await;
        }
    }

    /// Ends a command whose time is over. Whether it had this much of it for itself: of what Docker
    /// takes to start a command, the command knows nothing.
    async fn end(&self, exec: &str, container: &str, least: Duration) -> bool {
        let limit = Instant::now() + END_WITHIN;
        let Ok(Some(pid)) = timeout_at(limit, self.process_of(exec)).await else { return false };
        let group = container.to_owned();
        let ended = tokio::task::spawn_blocking(move || {
            let has_begun = has_begun_before(pid, least);
            (has_begun, end_session(pid, &group))
        });
        let Ok((has_begun, ended)) = ended.await else { return false };
        if let Err(error) = ended {
            tracing::warn!(container, pid, %error, "cannot end a probe's command");
        }
        has_begun
    }

    /// The process of a command, as soon as Docker has started it; `None`: it will not. The process may
    /// have ended, and what it has started in the background not.
    async fn process_of(&self, exec: &str) -> Option<u32> {
        loop {
            let looked = self.client().ok()?.inspect_exec(exec).await.ok()?;
            let pid = looked.pid.and_then(|pid| u32::try_from(pid).ok()).filter(|pid| *pid > 0);
            if pid.is_some() || looked.exit_code.is_some() {
                return pid;
            }
            sleep(LOOK_INTERVAL).await;
        }
    }
}

/// Whether a process was started that long ago. One that has ended was.
fn has_begun_before(pid: u32, ago: Duration) -> bool {
    let started_at = Process::open(pid).and_then(|process| process.started_at());
    match (started_at, BootTicks::ago(ago)) {
        (Ok(started_at), Ok(moment)) => started_at <= moment,
        _ => true,
    }
}

impl RunInContainer for Commands {
    fn run<'a>(&'a self, command: Command<'a>) -> BoxFuture<'a, Result<Exited, RunError>> {
        let Command { service, instance, argv, timeout } = command;
        Box::pin(async move {
            // Who waits for others has not failed.
            let limit = Instant::now() + patience(timeout);
            let turn = self.turns.take(service, instance, limit).await;
            let turn = turn.map_err(RunError::NotRun)?;
            let container = super::container_of(instance).to_owned();
            let (this, argv) = (self.clone(), argv.to_vec());
            // Whoever gives up waiting must not keep the command from being ended.
            let task = tokio::spawn(async move {
                let ended = this.run_to_end(container, argv, timeout).await;
                turn.end(matches!(ended, Err(RunError::Late)));
                ended
            });
            task.await.unwrap_or_else(|error| Err(RunError::NotRun(error.to_string())))
        })
    }
}

fn failure(error: &Error) -> RunError {
    match error {
        // Not running, or paused: the container's own fault.
        Error::DockerResponseServerError { status_code: 409, message } => {
            RunError::Refused(message.clone())
        }
        Error::DockerResponseServerError { status_code: 400 | 500, message }
            if message.contains("exec failed") =>
        {
            RunError::Refused(message.clone())
        }
        other => RunError::NotRun(format!("Docker does not run it: {}", api::describe(other))),
    }
}

#[cfg(test)]
mod tests;
