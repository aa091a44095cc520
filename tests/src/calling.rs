//! Calls without rest, while something happens.

use std::{
    fs,
    io::{BufRead as _, BufReader},
    net::SocketAddr,
    path::PathBuf,
    process::{Child, Stdio},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    thread::{self, JoinHandle},
    time::Duration,
};

use anyhow::{Context as _, Result, ensure};

use crate::{Container, World, callers::Callers, names, process};

/// Calls of one run of `lb-dial`.
const CALLS: usize = 20;

/// Calls from a container, one after the other, until it is asked what became of them.
#[derive(Debug)]
pub struct Calling {
    child: Child,
    flag: PathBuf,
    /// What was told of each call.
    lines: Arc<Mutex<Vec<String>>>,
    /// Who reads it all the time: a full pipe would stop the calls.
    reader: Option<JoinHandle<()>>,
    /// Of one turn of all ways.
    turn: usize,
}

impl Calling {
    /// Begins, in these ways of `lb-dial` by turns.
    pub fn start(
        callers: &Callers,
        world: &World,
        from: &Container,
        ways: &[&str],
        target: SocketAddr,
    ) -> Result<Self> {
        let flag = world.directory().join(names::unique());
        fs::write(&flag, [])?;
        let dial = callers.dial_path()?.display();
        let runs = ways.iter().map(|way| format!("{dial} {way} {target} {CALLS}; "));
        let script = format!("while test -e $0; do {}done", runs.collect::<String>());
        let mut shell = callers.in_container(from, "sh")?;
        let mut child = shell.args(["-c", &script]).arg(&flag).stdout(Stdio::piped()).spawn()?;
        let output = BufReader::new(child.stdout.take().context("no output")?);
        let lines = Arc::new(Mutex::new(Vec::new()));
        let reader = thread::spawn({
            let lines = Arc::clone(&lines);
            move || {
                for line in output.lines().map_while(Result::ok) {
                    lines.lock().unwrap_or_else(PoisonError::into_inner).push(line);
                }
            }
        });
        Ok(Self { child, flag, lines, reader: Some(reader), turn: ways.len() * CALLS })
    }

    /// Waits for more calls of each way: whatever is so now, they are made under it.
    pub fn goes_on(&self) -> Result<()> {
        let before = self.lines().len();
        process::wait_for("further calls", Duration::from_secs(20), || {
            let made = self.lines().len() - before;
            ensure!(made >= self.turn + CALLS, "{made} calls since {before}");
            Ok(())
        })
    }

    /// What was told of each call.
    pub fn end(mut self) -> Result<Vec<String>> {
        fs::remove_file(&self.flag)?;
        self.child.wait()?;
        if let Some(reader) = self.reader.take() {
            ensure!(reader.join().is_ok(), "the reader of the calls has panicked");
        }
        Ok(std::mem::take(&mut *self.lines()))
    }

    /// Ends, and checks that none failed.
    pub fn none_failed(self) -> Result<()> {
        let calls = self.end()?;
        let failed: Vec<_> = calls.iter().filter(|call| call.contains("errno=")).collect();
        ensure!(failed.is_empty(), "of {} calls: {failed:?}", calls.len());
        Ok(())
    }

    fn lines(&self) -> MutexGuard<'_, Vec<String>> {
        self.lines.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Calling {
    /// The shell ends with the flag, or with its container.
    fn drop(&mut self) {
        drop(fs::remove_file(&self.flag));
    }
}
