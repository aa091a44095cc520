//! `lbctl trace`, running, and read all the time.

use std::{
    io::{BufRead as _, BufReader},
    process::{Child, Stdio},
    sync::mpsc::{self, Receiver},
    thread,
    time::Duration,
};

use anyhow::{Context as _, Result, bail, ensure};
use serde_json::Value;

use crate::{Agent, process};

/// Longest wait for a line.
const PATIENCE: Duration = Duration::from_secs(10);

/// It; ended on drop.
#[derive(Debug)]
pub struct Tracing {
    child: Child,
    lines: Receiver<String>,
}

impl Tracing {
    /// `lbctl trace WORDS`. Returns once packets are told of.
    pub fn start(agent: &Agent, words: &str) -> Result<Self> {
        let mut command = agent.lbctl_command(&format!("trace {words}"));
        let mut child = command.stdin(Stdio::null()).stdout(Stdio::piped()).spawn()?;
        let output = child.stdout.take().context("no output")?;
        let (sender, lines) = mpsc::channel();
        thread::spawn(move || {
            // Whoever has gone wants to hear no more.
            BufReader::new(output)
                .lines()
                .map_while(Result::ok)
                .all(|line| sender.send(line).is_ok())
        });
        let tracing = Self { child, lines };
        let first = tracing.lines.recv_timeout(PATIENCE).context("nothing is told")?;
        ensure!(
            first.starts_with("tracing for ") || first.contains(r#""what":"begin""#),
            "{first}"
        );
        Ok(tracing)
    }

    /// With `-o json`: the next packet of which all of this is told.
    pub fn find(&self, expected: &[(&str, &str)]) -> Result<Value> {
        let mut others = Vec::new();
        loop {
            let Ok(line) = self.lines.recv_timeout(PATIENCE) else {
                bail!("only this is told: {others:#?}");
            };
            let packet: Value = serde_json::from_str(&line).with_context(|| line.clone())?;
            if expected.iter().all(|(key, value)| packet[key] == *value) {
                return Ok(packet);
            }
            others.push(packet);
        }
    }

    /// That it ends, in this time, without another line.
    pub fn ends_without_more(&self, within: Duration) -> Result<()> {
        match self.lines.recv_timeout(within) {
            Ok(line) => bail!("more is told: {line}"),
            Err(mpsc::RecvTimeoutError::Timeout) => bail!("it does not end"),
            Err(mpsc::RecvTimeoutError::Disconnected) => Ok(()),
        }
    }

    /// All that it says from here to its end.
    #[must_use]
    pub fn rest(self) -> Vec<String> {
        self.lines.iter().collect()
    }
}

impl Drop for Tracing {
    fn drop(&mut self) {
        process::signal(&self.child, nix::sys::signal::Signal::SIGTERM);
        process::wait_child(&mut self.child, Duration::from_secs(5));
    }
}
