//! `cargo xtask test` and `cargo xtask ci`: all that a change has to pass, in one run.
//!
//! Nothing stops at the first failure; the last line sums up: `N passed, N failed, N skipped`. Each
//! lint or build counts as one test. Under `CI=true` a skipped test fails unless tests/skips.toml
//! names it.

mod runner;
mod skips;
mod summary;

use std::env;
use std::process::{Command, ExitCode};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::Result;

use crate::binaries::{self, Binaries, Profile};
use crate::ebpf::{self, Build};
use crate::{command, packages};
use runner::Run;
use skips::SkipLog;
use summary::{Outcome, Tally};

/// Options of `cargo xtask test`.
#[derive(clap::Args)]
pub(crate) struct Options {
    /// Only tests whose name contains this, and no lints.
    #[arg(long)]
    filter: Option<String>,
    /// Only unit and property tests and lints: nothing that needs root or a kernel.
    #[arg(long)]
    no_kernel: bool,
}

/// How much is checked.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Extent {
    /// What must be true of every commit.
    Test,
    /// Dependencies and documentation too.
    Ci,
}

/// How long the tests of one kind may take under CI, compilation included. A test that hangs must
/// not take the summary with it.
const LIMIT_UNIT: Duration = Duration::from_mins(12);
const LIMIT_KERNEL: Duration = Duration::from_mins(40);

/// What has happened so far.
#[derive(Default)]
struct Session {
    tally: Tally,
    failures: Vec<String>,
}

/// The subcommand.
pub(crate) fn run(options: &Options, extent: Extent) -> Result<ExitCode> {
    let started = Instant::now();
    let mut session = Session::default();
    let skip_log = SkipLog::create()?;
    // Directories of programs that the machine does not have.
    let mut tools = Vec::new();

    if !options.no_kernel {
        session.check("packages", || {
            packages::ensure_programs(packages::TESTBED)?;
            // A test that lacks one of these says so, and is skipped.
            for need in packages::UNPACKED {
                match packages::unpack(need) {
                    Ok(directory) => tools.extend(directory),
                    Err(error) => println!("{error:#}"),
                }
            }
            Ok(())
        });
        session.check("build-ebpf", || ebpf::build_and_check(&Build::release()).map(drop));
    }
    if options.filter.is_none() {
        lint(&mut session, extent, options.no_kernel);
    }
    for mut unit in unit_tests(options.filter.as_deref()) {
        unit.command.env(skips::VARIABLE, skip_log.path());
        session.tests(&mut unit);
    }
    if !options.no_kernel {
        let mut binaries = None;
        session.check("build the programs under test", || {
            binaries = Some(binaries::build(Profile::Dev)?);
            Ok(())
        });
        if let Some(binaries) = binaries {
            let [mut patient, mut kernel] = kernel_tests(options.filter.as_deref(), &binaries);
            let present = env::var_os("PATH").unwrap_or_default();
            let path = env::join_paths(env::split_paths(&present).chain(tools))?;
            for run in [&mut patient, &mut kernel] {
                run.command.env("PATH", &path);
            }
            session.tests_beside(patient, kernel, &skip_log);
        }
    }
    session.count_skips(&skip_log)?;
    println!("\ntests took {} s", started.elapsed().as_secs());
    Ok(session.finish())
}

fn lint(session: &mut Session, extent: Extent, no_kernel: bool) {
    session.cargo("format", &["fmt", "--all", "--check"]);
    session.cargo(
        "format of lb-ebpf",
        &["fmt", "--manifest-path", "lb-ebpf/Cargo.toml", "--", "--check"],
    );
    session.cargo(
        "clippy",
        &["clippy", "--workspace", "--all-targets", "--locked", "--", "-D", "warnings"],
    );
    session.cargo(
        "clippy of lbctl without the agent",
        &[
            "clippy",
            "--package",
            "lb-agent",
            "--no-default-features",
            "--lib",
            "--bin",
            "lbctl",
            "--locked",
            "--",
            "-D",
            "warnings",
        ],
    );
    if !no_kernel {
        session.check("build-ebpf --debug-trace", || {
            ebpf::build_and_check(&Build::debug_trace()).map(drop)
        });
    }
    if extent == Extent::Ci {
        session.check("documentation", || {
            command::run(
                command::host_cargo()
                    .args(["doc", "--workspace", "--no-deps", "--locked"])
                    .env("RUSTDOCFLAGS", "-D warnings"),
            )
        });
        if command::find_program("cargo-deny").is_some() {
            session.cargo("deny", &["deny", "--locked", "check", "bans", "licenses", "sources"]);
        } else {
            println!("\n=== deny: cargo-deny is not installed, not checked");
        }
    }
}

/// Everything that runs on any machine, in parallel.
fn unit_tests(filter: Option<&str>) -> Vec<Run> {
    let run = |name, arguments: &[&str]| {
        let mut command = command::host_cargo();
        command.args(arguments);
        command.args(["--workspace", "--exclude", "lb-tests", "--locked", "--no-fail-fast"]);
        command.args(filter);
        // A snapshot that differs is a failure, and not written for review.
        command.env("INSTA_UPDATE", "no");
        Run { name, command, limit: LIMIT_UNIT }
    };
    if command::find_program("cargo-nextest").is_none() {
        return vec![run("unit tests", &["test"])];
    }
    // Nextest leaves out the examples in the documentation.
    vec![
        run("unit tests", &["nextest", "run", "--no-tests", "pass"]),
        run("documentation tests", &["test", "--doc"]),
    ]
}

/// In-kernel and end-to-end tests: one at a time, as they share a kernel and measure time. Beside them
/// may run those that come first here: they only wait.
fn kernel_tests(filter: Option<&str>, binaries: &Binaries) -> [Run; 2] {
    let run = |name, targets: &[&str], words: &[&str]| {
        let mut command = command::host_cargo();
        command.args(["test", "--package", "lb-tests", "--locked", "--no-fail-fast"]);
        command.args(targets).args(filter).args(["--", "--test-threads", "1"]).args(words);
        command.env("INSTA_UPDATE", "no");
        command.env("LB_AGENT", &binaries.agent);
        command.env("LB_CTL", &binaries.lbctl);
        command.env("LB_TESTKIT", &binaries.testkit);
        Run { name, command, limit: LIMIT_KERNEL }
    };
    [
        run("tests of idle connections", &["--test", "idle"], &[]),
        run("in-kernel and end-to-end tests", &[], &["--skip", "idle_connections"]),
    ]
}

impl Session {
    /// Something that succeeds or fails as a whole.
    fn check(&mut self, name: &str, action: impl FnOnce() -> Result<()>) {
        println!("\n=== {name}");
        match action() {
            Ok(()) => self.tally.passed += 1,
            Err(error) => {
                eprintln!("error: {error:#}");
                self.tally.failed += 1;
                self.failures.push(format!("{name}: {error:#}"));
            }
        }
    }

    fn cargo(&mut self, name: &str, arguments: &[&str]) {
        self.check(name, || command::run(command::host_cargo().args(arguments)));
    }

    fn tests(&mut self, run: &mut Run) {
        println!("\n=== {}", run.name);
        self.count(runner::execute(run, |line| println!("{line}")));
    }

    /// Both at once. What the first writes is shown when both have ended.
    fn tests_beside(&mut self, mut first: Run, mut second: Run, skip_log: &SkipLog) {
        for run in [&mut first, &mut second] {
            run.command.env(skips::VARIABLE, skip_log.path());
        }
        let name = first.name;
        println!("\n=== {name}: they run beside what follows");
        let beside = thread::spawn(move || {
            let mut lines = Vec::new();
            let outcome = runner::execute(&mut first, |line| lines.push(line.to_owned()));
            (outcome, lines)
        });
        self.tests(&mut second);
        println!("\n=== {name}: how they ended");
        if let Ok((outcome, lines)) = beside.join() {
            println!("{}", lines.join("\n"));
            self.count(outcome);
        } else {
            self.tally.failed += 1;
            self.failures.push(format!("{name}: the thread that ran them panicked"));
        }
    }

    fn count(&mut self, outcome: Outcome) {
        self.tally.add(outcome.tally);
        self.failures.extend(outcome.failures);
    }

    /// A test that skips itself has returned as one that passes would.
    fn count_skips(&mut self, log: &SkipLog) -> Result<()> {
        let allowed = skips::Allowed::read()?;
        let strict = env::var("CI").is_ok_and(|value| value == "true" || value == "1");
        for skip in log.read()? {
            self.tally.passed = self.tally.passed.saturating_sub(1);
            if strict && !allowed.contains(&skip.test) {
                self.tally.failed += 1;
                self.failures.push(format!(
                    "{}: skipped ({}), and {} does not name it",
                    skip.test,
                    skip.reason,
                    skips::ALLOWED_FILE
                ));
            } else {
                self.tally.skipped += 1;
                println!("skipped: {}: {}", skip.test, skip.reason);
            }
        }
        Ok(())
    }

    fn finish(self) -> ExitCode {
        for failure in &self.failures {
            println!("failed: {failure}");
        }
        println!("{}", self.tally);
        if self.tally.failed == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
    }
}

/// Ends a whole process group; used where a run has gone over its limit.
fn kill_group(leader: u32) -> Result<()> {
    command::run(Command::new("kill").args(["-KILL", "--", &format!("-{leader}")]))
}
