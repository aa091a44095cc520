//! All services of the file from nothing.

use std::{
    net::Ipv4Addr,
    path::PathBuf,
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, ensure};
use lb_agent::api::{client::Client, explain::Explanation, types::paths};
use lb_tests::{Agent, World, world::CLIENT};
use nix::sys::signal::Signal;
use tokio::runtime::Runtime;

use super::{ControlOptions, report::Report};

/// Longest time that is waited for the agent.
const LIMIT: Duration = Duration::from_mins(1);
/// Numbers and extents rest so long before they are used again, and a bit more.
const REST: Duration = Duration::from_secs(4);

/// Where clients of a service of the file connect: a VIP has a thousand ports.
pub(super) fn frontend(service: u32) -> (Ipv4Addr, u16) {
    let [.., vip] = (service / 1000 + 1).to_be_bytes();
    (Ipv4Addr::new(198, 51, 100, vip), 10_000 + (service % 1000) as u16)
}

/// Asks an agent what it would decide: it answers by the kernel's tables, between two plans.
pub(super) struct Oracle {
    runtime: Runtime,
    client: Client,
    path: String,
}

impl Oracle {
    /// Asks about the last service of the file.
    pub(super) fn new(agent: &Agent, options: &ControlOptions) -> Result<Self> {
        let (vip, port) = frontend(options.services - 1);
        let socket: PathBuf = agent.state_path().join("api.sock");
        let query = format!("client={CLIENT}:4000&vip={vip}:{port}&protocol=tcp");
        Ok(Self {
            runtime: tokio::runtime::Builder::new_current_thread().enable_all().build()?,
            client: Client::new(socket),
            path: format!("{}?{query}", paths::EXPLAIN),
        })
    }

    /// Whether the last service of the file is served.
    fn is_served(&self) -> Result<bool> {
        let explained: Explanation = self.runtime.block_on(self.client.get(&self.path))?;
        Ok(explained.outcome.backend.is_some())
    }

    /// Waits until it is, or is not.
    pub(super) fn wait(&self, is_served: bool) -> Result<()> {
        let deadline = Instant::now() + LIMIT;
        loop {
            // Until the agent listens there is nobody to ask.
            if self.is_served().is_ok_and(|it| it == is_served) {
                return Ok(());
            }
            ensure!(Instant::now() < deadline, "the services of the file: waited {LIMIT:?}");
            lb_tests::process::check_interrupt()?;
            thread::sleep(Duration::from_millis(2));
        }
    }
}

pub(super) fn measure(options: &ControlOptions, report: &mut Report) -> Result<()> {
    let world = World::plain()?;
    world.node().ip("route add 10.128.0.0/9 via 192.0.2.2")?;
    let empty = world.config();
    let mut all = world.config();
    all.extra = options.file_services();
    let mut agent = world.start_agent(&empty)?;
    let oracle = Oracle::new(&agent, options)?;
    let mut reloads = Vec::new();
    for run in 0..options.syncs {
        if run > 0 {
            agent.reconfigure(&empty)?;
            oracle.wait(false)?;
        }
        thread::sleep(REST);
        agent.configure(&all)?;
        let begun = Instant::now();
        agent.signal(Signal::SIGHUP)?;
        oracle.wait(true)?;
        reloads.push(begun.elapsed().as_secs_f64() * 1e3);
    }
    report.add("file read again -> all in the kernel", "ms", Some(1000.0), reloads);
    report.add_memory(agent.pid().context("no agent")?)?;

    agent.stop(Signal::SIGTERM)?;
    agent.uninstall()?;
    let begun = Instant::now();
    agent.launch()?;
    oracle.wait(true)?;
    report.add(
        "start of the agent -> all in the kernel",
        "ms",
        None,
        vec![begun.elapsed().as_secs_f64() * 1e3],
    );
    agent.wait_ready()?;
    agent.set_quiet();
    Ok(())
}
