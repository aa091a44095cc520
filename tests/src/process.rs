//! Running programs, waiting for things with a limit, and being interrupted.

use std::{
    io::Write as _,
    process::{Child, Command, Stdio},
    sync::atomic::{AtomicBool, Ordering},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail, ensure};
use nix::{sys::signal::Signal, unistd::Pid};
use tokio::signal::unix::{SignalKind, signal as listen};

static INTERRUPTED: AtomicBool = AtomicBool::new(false);

/// From here on Ctrl-C and SIGTERM end every wait of this module with an error, so that the caller
/// unwinds and everything that it made is removed.
///
/// By handlers, not by blocking the signals: a blocked signal stays blocked in every program that we
/// start, and an agent that never sees SIGTERM is not what an operator has.
pub fn catch_interrupts() -> Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let guard = runtime.enter();
    let mut signals = Vec::new();
    for kind in [SignalKind::interrupt(), SignalKind::terminate(), SignalKind::hangup()] {
        signals.push(listen(kind)?);
    }
    drop(guard);
    thread::spawn(move || {
        runtime.block_on(async {
            let [interrupt, terminate, hangup] = &mut signals[..] else { return };
            loop {
                tokio::select! {
                    _ = interrupt.recv() => {}
                    _ = terminate.recv() => {}
                    _ = hangup.recv() => {}
                }
                INTERRUPTED.store(true, Ordering::Relaxed);
            }
        });
    });
    Ok(())
}

/// An error when Ctrl-C was pressed.
pub fn check_interrupt() -> Result<()> {
    ensure!(!INTERRUPTED.load(Ordering::Relaxed), "interrupted");
    Ok(())
}

/// Splits a line at blanks into a command; no quoting.
#[must_use]
pub fn words(line: &str) -> Command {
    let mut words = line.split_whitespace();
    let mut command = Command::new(words.next().unwrap_or("false"));
    command.args(words);
    command
}

fn shown(command: &Command) -> String {
    let words = std::iter::once(command.get_program()).chain(command.get_args());
    words.map(|word| word.to_string_lossy()).collect::<Vec<_>>().join(" ")
}

/// Runs to the end; its output, or an error with all that it printed.
pub fn run(command: &mut Command) -> Result<String> {
    let output = command
        .stdin(Stdio::null())
        .output()
        .with_context(|| format!("cannot run `{}`", shown(command)))?;
    let (stdout, stderr) =
        (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    if !output.status.success() {
        let (stdout, stderr) = (stdout.trim(), stderr.trim());
        bail!("`{}`: {}\n{stdout}\n{stderr}", shown(command), output.status);
    }
    Ok(stdout.into_owned())
}

/// Like [`run`], with something on its standard input.
pub fn run_with_input(command: &mut Command, input: &[u8]) -> Result<String> {
    let mut child = command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .with_context(|| format!("cannot run `{}`", shown(command)))?;
    child.stdin.take().context("no standard input")?.write_all(input)?;
    let output = child.wait_with_output()?;
    if !output.status.success() {
        let stderr = String::from_utf8_lossy(&output.stderr);
        bail!("`{}`: {}\n{}", shown(command), output.status, stderr.trim());
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// Sends a signal; that the process is gone already is fine.
pub fn kill(pid: i32, signal: Signal) {
    match nix::sys::signal::kill(Pid::from_raw(pid), signal) {
        Ok(()) | Err(nix::errno::Errno::ESRCH) => {}
        Err(error) => eprintln!("cannot send {signal} to {pid}: {error}"),
    }
}

/// Signals a child of ours.
pub fn signal(child: &Child, signal: Signal) {
    if let Ok(pid) = i32::try_from(child.id()) {
        kill(pid, signal);
    }
}

/// Waits for a child to end; kills it when it does not within the limit. Whether it ended itself.
pub fn wait_child(child: &mut Child, limit: Duration) -> bool {
    if poll(limit, || !matches!(child.try_wait(), Ok(None))) {
        return true;
    }
    for result in [child.kill(), child.wait().map(|_| ())] {
        if let Err(error) = result {
            eprintln!("cannot end process {}: {error}", child.id());
        }
    }
    false
}

/// Tries until it is true; whether it became so within the limit.
pub fn poll(limit: Duration, mut is_so: impl FnMut() -> bool) -> bool {
    let deadline = Instant::now() + limit;
    let mut pause = Duration::from_millis(2);
    loop {
        if is_so() {
            return true;
        }
        if Instant::now() >= deadline {
            return false;
        }
        thread::sleep(pause);
        pause = (pause * 2).min(Duration::from_millis(50));
    }
}

/// Tries until there is a value; the last error when there is none within the limit.
pub fn wait_for<T>(
    what: &str,
    limit: Duration,
    mut attempt: impl FnMut() -> Result<T>,
) -> Result<T> {
    let mut last = None;
    let found = poll(limit, || {
        if check_interrupt().is_err() {
            return true;
        }
        last = Some(attempt());
        matches!(last, Some(Ok(_)))
    });
    check_interrupt()?;
    match last {
        Some(Ok(value)) if found => Ok(value),
        Some(Err(error)) => Err(error.context(format!("waited {limit:?} for {what}"))),
        _ => bail!("waited {limit:?} for {what}"),
    }
}

/// Sleeps, unless interrupted.
pub fn sleep(time: Duration) -> Result<()> {
    poll(time, || check_interrupt().is_err());
    check_interrupt()
}
