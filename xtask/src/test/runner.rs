//! Runs a test runner, shows what it writes, and reads its results from that.

use std::io::{BufRead as _, BufReader, IsTerminal as _, Read};
use std::os::unix::process::CommandExt as _;
use std::process::{Command, Stdio};
use std::sync::mpsc::{self, RecvTimeoutError, Sender};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};

use super::summary::{Outcome, Reader};
use crate::command;

/// A run of cargo's test runner or of nextest.
pub(super) struct Run {
    /// What is tested.
    pub(super) name: &'static str,
    pub(super) command: Command,
    /// Holds where nobody is at a terminal to end a run that hangs.
    pub(super) limit: Duration,
}

/// Runs to the end, or to the limit. Whatever it writes is shown line by line.
pub(super) fn execute(run: &mut Run, mut show: impl FnMut(&str)) -> Outcome {
    let mut reader = Reader::default();
    let complaint = match follow(run, |line| {
        show(line);
        reader.line(line);
    }) {
        Ok(None) => None,
        Ok(Some(complaint)) => Some(complaint),
        Err(error) => Some(format!("{error:#}")),
    };
    let mut outcome = reader.finish();
    if let Some(complaint) = complaint {
        // A failed test explains a failed run; without one something else went wrong.
        if outcome.tally.failed == 0 || complaint.contains("limit") {
            outcome.tally.failed += 1;
            outcome.failures.push(format!("{}: {complaint}", run.name));
        }
    }
    outcome
}

/// What there is to complain about, if anything.
fn follow(run: &mut Run, mut hear: impl FnMut(&str)) -> Result<Option<String>> {
    let limited = !std::io::stdin().is_terminal();
    if limited {
        // A group of its own, to end it with everything that it has started. At a terminal this
        // would keep an interrupt from reaching the tests.
        run.command.process_group(0);
    }
    let mut child = run
        .command
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .with_context(|| format!("cannot start `{}`", command::describe(&run.command)))?;
    let (sender, lines) = mpsc::channel();
    forward(child.stdout.take(), sender.clone());
    forward(child.stderr.take(), sender);

    let deadline = Instant::now() + run.limit;
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        let wait = if limited { left } else { Duration::from_hours(1) };
        match lines.recv_timeout(wait) {
            Ok(line) => hear(&line),
            Err(RecvTimeoutError::Disconnected) => break,
            Err(RecvTimeoutError::Timeout) if limited => {
                super::kill_group(child.id())?;
                child.wait()?;
                let minutes = run.limit.as_secs() / 60;
                return Ok(Some(format!("not finished within its limit of {minutes} minutes")));
            }
            Err(RecvTimeoutError::Timeout) => {}
        }
    }
    let status = child.wait()?;
    let description = command::describe(&run.command);
    Ok((!status.success()).then(|| format!("`{description}` failed: {status}")))
}

fn forward(stream: Option<impl Read + Send + 'static>, sender: Sender<String>) {
    let Some(stream) = stream else { return };
    thread::spawn(move || {
        // Tests may print what is no UTF-8.
        for line in BufReader::new(stream).split(b'\n') {
            let Ok(line) = line else { break };
            if sender.send(String::from_utf8_lossy(&line).into_owned()).is_err() {
                break;
            }
        }
    });
}
