//! A container that calls another: directly, by a VIP, and with `HAProxy` between them.
//!
//! The agent balances the calls of a cgroup of the benchmark's own. Beside what the way carries: what
//! the call itself costs more. What has a goal is said to have met it or not.

use std::{
    io::{BufRead as _, BufReader},
    net::SocketAddr,
    process::{Command, Stdio},
};

use anyhow::{Context as _, Result, ensure};
use lb_tests::{World, container::PORT, eastwest::Scene};

use super::{
    PathOptions, Row,
    figures::{self, Client},
    goals::{CARRIED, Judged},
    in_turn, print,
    proxies::{self, Proxy},
    ratio,
};

/// The rows that say how far the machine's noise reaches: the same container once more, and another one.
const CONTROLS: [&str; 2] = ["direct again", "direct, a backend"];
/// The row whose figures have goals.
const VIP: &str = "VIP";

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
    // The third row says as well what the programs at the interface of a backend cost those who do not
    // call the VIP.
    let mut rows = vec![
        Row::new("direct", server),
        Row::new(CONTROLS[0], server),
        Row::new(CONTROLS[1], backend),
        Row::new(VIP, scene.target()),
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
    for judged in judge(&rows) {
        println!("{judged}");
    }
    let own = std::env::current_exe()?;
    let mut cost = command(&own.display().to_string())?;
    cost.arg("connect-cost").args([server, backend, scene.target()].map(|it| it.to_string()));
    cost.arg((options.rounds * 20).to_string());
    print_cost(cost)?;
    scene.agent.set_quiet();
    Ok(())
}

/// The ratios of what is carried in a second.
fn judge(rows: &[Row]) -> Vec<Judged> {
    let (Some(direct), Some(vip)) = (rows.first(), rows.iter().find(|row| row.name == VIP)) else {
        return Vec::new();
    };
    let controls = |column: &figures::Column| {
        let controls = rows.iter().filter(|row| CONTROLS.contains(&row.name));
        controls.map(|row| (row.name, ratio(row, direct, column))).collect()
    };
    let carried = figures::COLUMNS.into_iter().filter(|column| column.is_carried);
    let judged = carried.map(|column| Judged {
        name: format!("{}, ratio to direct", column.name),
        figure: ratio(vip, direct, &column),
        controls: controls(&column),
        goal: CARRIED,
    });
    judged.collect()
}

fn print_cost(mut command: Command) -> Result<()> {
    let mut child = command.stdout(Stdio::piped()).spawn()?;
    let output = child.stdout.take().context("no output")?;
    for line in BufReader::new(output).lines() {
        println!("{}", line?);
    }
    let status = child.wait()?;
    ensure!(status.success(), "what a call costs was not measured: {status}");
    Ok(())
}
