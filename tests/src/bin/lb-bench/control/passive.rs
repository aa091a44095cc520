//! A server that is gone, or silent, while its container lives: only the traffic shows it, as nobody
//! probes.
//!
//! Both are measured from the moment when the failure is clear, as docs/health.md says when that is. A
//! server that is gone is, from its end on. A server that is silent is with the third SYN in a row that
//! it does not answer: before, it may be somebody's single packet that was lost. The data path counts
//! SYNs on each processor, and here they are counted together: so on a machine with many processors the
//! figure has in it what it takes until three of them have met on one.

use std::{
    process::Command,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result};
use lb_tests::{
    Container, World,
    container::{IDLE_PORT, PORT},
    process,
    world::{BALANCER, vip},
};
use nix::sys::signal::Signal;

use super::{
    ControlOptions,
    clients::{Clients, MANY, PATIENCE},
    report::Report,
};

/// Port of the service.
const FRONT_PORT: u16 = 82;
/// How long connections are watched after the failure. Of those in the first half it is known then what
/// became of them.
const AFTERMATH: Duration = PATIENCE.saturating_mul(2);
/// Milliseconds from the failure being clear to the last connection that meets it.
const GOAL_MS: f64 = 100.0;
/// SYNs in a row without an answer that make a silence clear.
const SYNS_CLEAR: usize = 3;
/// Time for the runs of one row: a backend that fails again and again is tried for seconds until it is
/// back.
const ROW_TIME_MAX: Duration = Duration::from_mins(15);

/// A firewall in the container that swallows all SYNs to its server, and its end.
const MUTE: &str = "table inet bench { chain in { type filter hook input priority 0 ; \
                    tcp flags & ( syn | ack ) == syn drop ; } ; }";
const UNMUTE: &str = "delete table inet bench";

/// Two containers, one of which fails, and clients of both.
struct Scene {
    failing: Container,
    other: Container,
    clients: Clients,
}

pub(super) fn measure(options: &ControlOptions, report: &mut Report, world: &World) -> Result<()> {
    let scene = Scene {
        failing: start(world, 1)?,
        other: start(world, 2)?,
        clients: Clients::start(world.client(), vip(FRONT_PORT), MANY),
    };
    repeat(options, report, "server gone -> last connection refused", || scene.kill_server())?;
    repeat(options, report, "third SYN unanswered -> last SYN unanswered", || scene.mute_server())?;
    let Scene { failing, other, clients } = scene;
    drop(clients);
    for container in [failing, other] {
        container.act("rm --force")?;
    }
    Ok(())
}

fn start(world: &World, number: u32) -> Result<Container> {
    let docker = world.docker_client()?;
    let container = docker
        .container(&format!("refusing-{number}"))
        .compose("shop", "refusing", number)
        .label(&format!("lb.{PORT}.frontend"), &format!("tcp://{BALANCER}:{FRONT_PORT}"))
        .serving(IDLE_PORT)
        .start()?;
    container.begin_serving()?;
    Ok(container)
}

/// A row of as many runs as are asked for, or as there is time for.
fn repeat(
    options: &ControlOptions,
    report: &mut Report,
    name: &'static str,
    run: impl Fn() -> Result<Duration>,
) -> Result<()> {
    let (begun, mut samples) = (Instant::now(), Vec::new());
    for done in 0..options.runs {
        if begun.elapsed() > ROW_TIME_MAX {
            let asked = options.runs;
            report.note(format!("`{name}`: {done} of {asked} runs within {ROW_TIME_MAX:?}"));
            break;
        }
        samples.push(run()?.as_secs_f64() * 1e3);
    }
    report.add(name, "ms", Some(GOAL_MS), samples);
    Ok(())
}

impl Scene {
    /// Both serve, and nothing is remembered of what was before.
    fn wait_both(&self) -> Result<()> {
        for name in [self.failing.name(), self.other.name()] {
            self.clients.wait_served(name, Instant::now())?;
        }
        self.clients.take();
        Ok(())
    }

    /// Kills the server; how long after it the last connection was refused.
    fn kill_server(&self) -> Result<Duration> {
        self.wait_both()?;
        let pid = self.failing.server_pid()?;
        let killed = Instant::now();
        process::kill(pid, Signal::SIGKILL);
        process::sleep(AFTERMATH)?;
        let last = self.clients.last_not_served_by(self.other.name(), killed);
        self.failing.begin_serving()?;
        Ok(last)
    }

    /// Lets the server answer no SYN; how long after the third of them the last one was sent to it. A
    /// client gives up before it would send its SYN again.
    fn mute_server(&self) -> Result<Duration> {
        self.wait_both()?;
        let before = Instant::now();
        nft(&self.failing, MUTE)?;
        process::sleep(AFTERMATH)?;
        let unanswered = self.clients.unanswered_since(before);
        nft(&self.failing, UNMUTE)?;
        let clear = unanswered.get(SYNS_CLEAR - 1).with_context(|| {
            format!("only {} SYNs in {AFTERMATH:?} were not answered", unanswered.len())
        })?;
        Ok(unanswered.last().map_or(Duration::ZERO, |last| *last - *clear))
    }
}

/// `nft` in the network of a container.
fn nft(container: &Container, rules: &str) -> Result<()> {
    let changed = container.enter(|| process::run(Command::new("nft").arg(rules)))?;
    changed.map(drop).with_context(|| format!("in the network of {}", container.name()))
}
