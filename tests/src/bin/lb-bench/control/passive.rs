//! A server that is gone, or silent, while its container lives: only the traffic shows it, as nobody
//! probes.

use std::{
    process::Command,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result};
use lb_tests::{
    Container, World,
    container::PORT,
    process,
    world::{BALANCER, vip},
};
use nix::sys::signal::Signal;

use super::{
    ControlOptions,
    clients::{Clients, PATIENCE},
    report::Report,
};

/// Port of the service.
const FRONT_PORT: u16 = 82;
/// Port that process 1 of a container listens on, so that it lives whatever becomes of its server.
const IDLE_PORT: u16 = 9000;
/// How long connections are watched after the server is gone.
const AFTERMATH: Duration = PATIENCE.saturating_mul(2);
/// A backend is tried again the later the more often it failed.
const RUNS_MAX: u32 = 20;

/// A firewall in the container that swallows all SYNs to its server, and its end.
const MUTE: &str = "table inet bench { chain in { type filter hook input priority 0 ; \
                    tcp flags & ( syn | ack ) == syn drop ; } ; }";
const UNMUTE: &str = "delete table inet bench";

pub(super) fn measure(options: &ControlOptions, report: &mut Report, world: &World) -> Result<()> {
    let docker = world.docker_client()?;
    let start = |number| -> Result<Container> {
        let name = format!("refusing-{number}");
        let frontend = format!("tcp://{BALANCER}:{FRONT_PORT}");
        let container = docker
            .container(&name)
            .compose("shop", "refusing", number)
            .label(&format!("lb.{PORT}.frontend"), &frontend)
            .serving(IDLE_PORT)
            .start()?;
        container.begin_serving()?;
        Ok(container)
    };
    let (failing, other) = (start(1)?, start(2)?);
    let clients = Clients::start(world.client(), vip(FRONT_PORT));
    let mut last_refused = Vec::new();
    for _ in 0..options.runs.min(RUNS_MAX) {
        for name in [failing.name(), other.name()] {
            clients.wait_served(name, Instant::now())?;
        }
        let pid = failing.server_pid()?;
        clients.take();
        let killed = Instant::now();
        process::kill(pid, Signal::SIGKILL);
        process::sleep(AFTERMATH)?;
        let last = clients.last_not_served_by(other.name(), killed);
        last_refused.push(last.as_secs_f64() * 1e3);
        failing.begin_serving()?;
    }
    report.add("server gone -> last connection refused", "ms", Some(100.0), last_refused);
    let mut last_unanswered = Vec::new();
    for _ in 0..options.runs.min(RUNS_MAX) {
        for name in [failing.name(), other.name()] {
            clients.wait_served(name, Instant::now())?;
        }
        clients.take();
        nft(&failing, MUTE)?;
        let muted = Instant::now();
        process::sleep(AFTERMATH)?;
        let last = clients.last_not_served_by(other.name(), muted);
        last_unanswered.push(last.as_secs_f64() * 1e3);
        nft(&failing, UNMUTE)?;
    }
    // Silence takes time to tell, so no goal is set for it.
    report.add("server silent -> last connection unanswered", "ms", None, last_unanswered);
    for container in [failing, other] {
        container.act("rm --force")?;
    }
    Ok(())
}

/// `nft` in the network of a container.
fn nft(container: &Container, rules: &str) -> Result<()> {
    let changed = container.enter(|| process::run(Command::new("nft").arg(rules)))?;
    changed.map(drop).with_context(|| format!("in the network of {}", container.name()))
}
