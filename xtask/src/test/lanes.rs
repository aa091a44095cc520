//! In-kernel and end-to-end tests: one program for each file, some of them at a time.
//!
//! Each makes namespaces, cgroups and a Docker daemon of its own, and mostly waits for them. Within a
//! program tests run one at a time.

use std::collections::VecDeque;
use std::fs;
use std::path::Path;
use std::sync::mpsc::{self, Receiver};
use std::sync::{Mutex, PoisonError};
use std::thread;
use std::time::Duration;

use anyhow::{Context as _, Result};

use super::runner::{self, Run};
use super::summary::Outcome;

/// Programs at a time, each of which may load a processor for a while.
const LANES: usize = 2;
/// Those that take longest, which must not be the last to begin.
const LONG: [&str; 6] = ["floods", "eastwest_reach", "eastwest", "outage", "passive", "changes"];
/// Programs that only wait for minutes: they take nobody's lane.
const PATIENT: [&str; 1] = ["idle"];

/// What became of a program.
pub(super) struct Ended {
    pub(super) name: String,
    pub(super) outcome: Outcome,
    pub(super) lines: Vec<String>,
    pub(super) took: Duration,
}

/// Names of the test programs of a package, in the order in which they begin.
pub(super) fn names(package: &Path) -> Result<Vec<String>> {
    let directory = package.join("tests");
    let entries = fs::read_dir(&directory).with_context(|| directory.display().to_string())?;
    let mut names = Vec::new();
    for entry in entries {
        let path = entry?.path();
        let is_program =
            path.extension().is_some_and(|it| it == "rs") || path.join("main.rs").is_file();
        let stem = path.file_stem().and_then(|stem| stem.to_str());
        names.extend(stem.filter(|_| is_program).map(str::to_owned));
    }
    names.sort_by_key(|name| (rank(name), name.clone()));
    Ok(names)
}

fn rank(name: &str) -> usize {
    LONG.iter().position(|long| *long == name).unwrap_or(LONG.len())
}

/// Runs them all, and tells of each when it has ended.
pub(super) fn execute(runs: Vec<Run>, mut tell: impl FnMut(Ended)) {
    let (patient, others): (Vec<_>, Vec<_>) =
        runs.into_iter().partition(|run| PATIENT.contains(&run.name.as_str()));
    let queues = [Mutex::new(VecDeque::from(patient)), Mutex::new(VecDeque::from(others))];
    let (sender, ended): (_, Receiver<Ended>) = mpsc::channel();
    thread::scope(|scope| {
        for lane in 0..=LANES {
            let (queue, sender) = (&queues[usize::from(lane > 0)], sender.clone());
            scope.spawn(move || {
                let next = || queue.lock().unwrap_or_else(PoisonError::into_inner).pop_front();
                while let Some(run) = next() {
                    if sender.send(run_one(run)).is_err() {
                        return;
                    }
                }
            });
        }
        drop(sender);
        ended.iter().for_each(&mut tell);
    });
}

fn run_one(mut run: Run) -> Ended {
    let started = std::time::Instant::now();
    let mut lines = Vec::new();
    let outcome = runner::execute(&mut run, |line| lines.push(line.to_owned()));
    Ended { name: run.name, outcome, lines, took: started.elapsed() }
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use super::*;
    use crate::workspace;

    #[test]
    fn every_file_of_tests_is_a_program_and_the_longest_begin() {
        let names = names(&workspace::path("tests")).expect("the package is there");
        assert!(names.iter().map(String::as_str).take(LONG.len()).eq(LONG), "{names:?}");
        for name in PATIENT.iter().chain(&["docker_provider", "packet_fuzz"]) {
            assert_eq!(names.iter().filter(|it| it == name).count(), 1, "{name}");
        }
    }

    #[test]
    fn each_is_run_once_and_told_with_what_it_wrote() {
        let limit = Duration::from_mins(1);
        let run = |number: usize| {
            let mut command = Command::new("echo");
            command.arg(format!("test result: ok. {number} passed; 0 failed; 0 ignored"));
            Run { name: format!("number {number}"), command, limit }
        };
        let mut told = Vec::new();
        execute((0..20).map(run).collect(), |ended| {
            let number = ended.outcome.tally.passed;
            assert_eq!(ended.name, format!("number {number}"));
            assert_eq!(ended.lines.len(), 1, "{:?}", ended.lines);
            told.push(number);
        });
        told.sort_unstable();
        assert!(told.into_iter().eq(0..20));
    }
}
