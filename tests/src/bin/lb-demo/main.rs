//! `lb-demo --agent PATH --lbctl PATH --testkit PATH`: shows lb at work, to a person.
//!
//! Makes containers, a client and an agent, lets requests run while things are killed and started,
//! prints what happened, and removes everything again, also on Ctrl-C and when something fails. The
//! exit status is 1 when a promise of the product was broken. `cargo xtask demo` builds all and
//! starts it.

mod eastwest;
mod printer;
mod scenes;
mod stage;

use std::{path::PathBuf, process::ExitCode, time::Instant};

use anyhow::{Result, ensure};
use clap::Parser;
use lb_tests::{
    binaries::{self, Binaries},
    process, skip,
};

use crate::{printer::Printer, stage::Stage};

/// Shows lb at work: real containers, a client, and things that go wrong on purpose.
#[derive(Debug, Parser)]
struct Options {
    /// The agent.
    #[arg(long)]
    agent: PathBuf,
    /// The command-line client.
    #[arg(long)]
    lbctl: PathBuf,
    /// The test server and client, linked statically.
    #[arg(long)]
    testkit: PathBuf,
    /// Use a Docker daemon of the demo's own even where one runs.
    #[arg(long)]
    own_docker: bool,
    /// What to show; without it, clients from outside.
    scene: Option<Scene>,
}

/// What can be shown beside clients from outside.
#[derive(Clone, Copy, Debug, clap::ValueEnum)]
enum Scene {
    /// A container that calls a service by its name.
    EastWest,
}

fn main() -> ExitCode {
    let options = Options::parse();
    let mut printer = Printer::new();
    let begun = Instant::now();
    let result = show(options, &mut printer);
    // Everything that was made is gone here.
    if let Err(error) = result {
        printer.failed(&error);
        return ExitCode::FAILURE;
    }
    printer.summary(begun.elapsed())
}

fn show(options: Options, printer: &mut Printer) -> Result<()> {
    if let Some(why) = skip::lacking(false) {
        anyhow::bail!("the demo {why}");
    }
    process::catch_interrupts()?;
    let Options { agent, lbctl, testkit, own_docker, scene } = options;
    binaries::set(Binaries { agent, lbctl, testkit })?;
    if let Some(Scene::EastWest) = scene {
        return eastwest::play(printer);
    }
    let mut stage = Stage::build(own_docker, printer)?;
    let shown = scenes::play(&mut stage, printer);
    if shown.is_err() {
        stage.show_log(printer);
    }
    let removed = stage.strike(printer);
    shown.and(removed)?;
    ensure!(!printer.is_empty(), "nothing was shown");
    Ok(())
}
