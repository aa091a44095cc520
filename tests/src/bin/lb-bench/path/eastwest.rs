//! A container that calls another: directly, by a VIP, and with `HAProxy` between them.
//!
//! The agent balances the calls of a cgroup of the benchmark's own. Beside what the way carries: what
//! the call itself costs more, by sockets of UDP, which send nothing when they connect.

use std::{
    hint::black_box,
    io::{BufRead as _, BufReader},
    net::{Ipv4Addr, SocketAddr, UdpSocket},
    process::{Command, Stdio},
    time::Instant,
};

use anyhow::{Context as _, Result};
use clap::Args;
use lb_tests::{World, container::PORT, eastwest::Scene};

use super::{
    PathOptions, Row,
    figures::{self, Client},
    in_turn, print,
    proxies::{self, Proxy},
};

/// Calls in a row to one address.
const CALLS: u32 = 500;

pub(super) fn run(options: &PathOptions) -> Result<()> {
    let mut scene = Scene::with(World::docker()?, |_| {})?;
    let world = &scene.world;
    let plain = world.docker_client()?.container("plain").start()?;
    let server = SocketAddr::new(plain.address()?, PORT);
    let script = figures::write_script(world.directory())?;
    // One backend: each row ends at one container.
    scene.agent.lbctl("backend disable web-2")?;
    scene.agent.wait_backends(&["web-1"])?;

    let backend = SocketAddr::new(scene.webs[0].address()?, PORT);
    // The second row says how far the machine's noise reaches; the third, what the programs at the
    // interface of a backend cost those who do not call the VIP.
    let mut rows = vec![
        Row::new("direct", server),
        Row::new("direct again", server),
        Row::new("direct, a backend", backend),
        Row::new("VIP", scene.target()),
    ];
    match Proxy::start(proxies::ALL[0], world, server) {
        Ok(proxy) => {
            let target = proxy.listens_at();
            rows.push(Row { proxy: Some(proxy), ..Row::new("HAProxy between", target) });
        }
        Err(error) => println!("no row for HAProxy: {error:#}"),
    }
    let command = |program: &str| scene.callers.in_container(&scene.client, program);
    let client = Client { command: &command, datagrams: None };
    for round in 0..=options.rounds {
        for row in in_turn(&mut rows, round) {
            let is_backend = [scene.target(), backend].contains(&row.target);
            let server = if is_backend { &scene.webs[0] } else { &plain };
            let pids = [server.pid().ok(), row.proxy.as_ref().map(Proxy::pid)];
            let pids: Vec<i32> = pids.into_iter().flatten().collect();
            let figures = figures::take(&client, row.target, options, &script, &pids)
                .with_context(|| row.name)?;
            // The first round only warms up.
            if round > 0 {
                row.figures.push(figures);
            }
        }
    }
    println!("\na container calls another: ratios to calling it directly");
    print(&rows, options);
    let own = std::env::current_exe()?;
    let mut cost = command(&own.display().to_string())?;
    cost.args(["connect-cost", &server.to_string(), &scene.target().to_string()]);
    cost.arg((options.rounds * 20).to_string());
    print_cost(cost)?;
    scene.agent.set_quiet();
    Ok(())
}

fn print_cost(mut command: Command) -> Result<()> {
    let mut child = command.stdout(Stdio::piped()).spawn()?;
    let output = child.stdout.take().context("no output")?;
    for line in BufReader::new(output).lines() {
        println!("{}", line?);
    }
    child.wait()?;
    Ok(())
}

/// Options of `connect-cost`.
#[derive(Args)]
pub(crate) struct CostOptions {
    /// What it is compared with.
    direct: SocketAddr,
    /// The VIP.
    vip: SocketAddr,
    /// Rounds over both.
    rounds: u32,
}

/// What a `connect` to a VIP costs more than a direct one, of sockets that are made for it and closed
/// again, and of one that is connected again and again.
pub(crate) fn cost(options: &CostOptions) -> Result<()> {
    type Measure = fn(SocketAddr) -> Result<f64>;
    let ways: [(&str, Measure); 2] =
        [("socket, connect, close", new_sockets), ("connect", one_socket)];
    for (name, measure) in ways {
        let mut samples = [Vec::new(), Vec::new()];
        for _ in 0..=options.rounds {
            for (samples, target) in samples.iter_mut().zip([options.direct, options.vip]) {
                samples.push(measure(target)?);
            }
        }
        let [direct, vip] = samples.map(|mut samples| {
            samples.sort_by(f64::total_cmp);
            (samples[0], samples[samples.len() / 2])
        });
        println!(
            "{name:<24} direct {:.3} µs (median {:.3}), VIP {:.3} ({:.3}): added {:.3} ({:.3})",
            direct.0,
            direct.1,
            vip.0,
            vip.1,
            vip.0 - direct.0,
            vip.1 - direct.1
        );
    }
    Ok(())
}

/// Microseconds of one call.
fn timed(mut call: impl FnMut() -> Result<()>) -> Result<f64> {
    let begun = Instant::now();
    for _ in 0..CALLS {
        call()?;
    }
    Ok(begun.elapsed().as_secs_f64() * 1e6 / f64::from(CALLS))
}

fn new_sockets(target: SocketAddr) -> Result<f64> {
    timed(|| {
        let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0))?;
        socket.connect(target)?;
        black_box(socket);
        Ok(())
    })
}

fn one_socket(target: SocketAddr) -> Result<f64> {
    let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0))?;
    timed(|| Ok(socket.connect(target)?))
}
