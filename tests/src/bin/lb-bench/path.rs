//! What a path carries: a client, a node and a container, by plain routing, by nftables DNAT and
//! by lb, interleaved in one run.
//!
//! The same container serves all rows, so that only the way to it differs. Docker's own rules are
//! taken out of the node's namespace first: plain routing shall be plain.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use anyhow::{Context as _, Result};
use clap::Args;
use lb_tests::{World, container::PORT};

/// Options of `bench path`.
#[derive(Args)]
pub(crate) struct PathOptions {
    /// Rounds over all rows.
    #[arg(long, default_value_t = 7)]
    rounds: u32,
    /// Bytes of one bulk transfer.
    #[arg(long, default_value_t = 400_000_000)]
    bytes: u64,
    /// Seconds of one connection test.
    #[arg(long, default_value_t = 2)]
    seconds: u32,
}

/// Address that nftables translates.
const DNAT_VIP: Ipv4Addr = Ipv4Addr::new(203, 0, 113, 77);

#[derive(Clone, Copy, PartialEq, Eq)]
enum Way {
    Routing,
    Nftables,
    Lb,
}

struct Row {
    way: Way,
    name: &'static str,
    target: SocketAddr,
    download_gbit: Vec<f64>,
    upload_gbit: Vec<f64>,
    connections_per_second: Vec<f64>,
    requests_per_second: Vec<f64>,
}

pub(crate) fn run(options: &PathOptions) -> Result<()> {
    let world = World::docker()?;
    let container = world.web(1)?.start()?;
    let mut agent = world.start_agent(&world.config())?;
    agent.wait_backends(&["web-1"])?;
    let address = container.address()?;
    let row = |way, name, target| Row {
        way,
        name,
        target,
        download_gbit: Vec::new(),
        upload_gbit: Vec::new(),
        connections_per_second: Vec::new(),
        requests_per_second: Vec::new(),
    };
    let mut rows = [
        row(Way::Routing, "plain routing", SocketAddr::new(address, PORT)),
        row(Way::Nftables, "nftables DNAT", SocketAddr::new(IpAddr::V4(DNAT_VIP), 80)),
        row(Way::Lb, "lb", world.front()),
    ];
    for round in 0..=options.rounds {
        for row in &mut rows {
            prepare(&world, row.way, address)?;
            let slice = slice(&world, row.target, options).with_context(|| row.name)?;
            // The first round only warms up.
            if round > 0 {
                row.download_gbit.push(slice[0]);
                row.upload_gbit.push(slice[1]);
                row.connections_per_second.push(slice[2]);
                row.requests_per_second.push(slice[3]);
            }
        }
    }
    print(&mut rows, options);
    agent.set_quiet();
    Ok(())
}

/// Rules for this way only.
fn prepare(world: &World, way: Way, container: IpAddr) -> Result<()> {
    let node = world.node();
    node.run("nft flush ruleset")?;
    if way == Way::Nftables {
        node.run("nft add table ip bench")?;
        node.run("nft add chain ip bench before { type nat hook prerouting priority -100 ; }")?;
        node.run(&format!(
            "nft add rule ip bench before ip daddr {DNAT_VIP} tcp dport 80 dnat to {container}:{PORT}"
        ))?;
    }
    Ok(())
}

fn slice(world: &World, target: SocketAddr, options: &PathOptions) -> Result<[f64; 4]> {
    let bulk = world.client().bulk(target, options.bytes)?;
    bulk.check()?;
    let rate = |direction: &str| {
        let summary = bulk.summaries.iter().find(|summary| summary.direction == direction);
        summary.map_or(f64::NAN, |summary| summary.gbit_per_second)
    };
    Ok([
        rate("down"),
        rate("up"),
        requests(world, target, options.seconds, "close")?,
        requests(world, target, options.seconds, "keep-alive")?,
    ])
}

/// Requests per second by wrk.
fn requests(world: &World, target: SocketAddr, seconds: u32, connection: &str) -> Result<f64> {
    let output = world
        .client()
        .command("wrk")
        .args(["-t1", "-c16", &format!("-d{seconds}s")])
        .args(["-H", &format!("Connection: {connection}"), &format!("http://{target}/")])
        .output()
        .context("running wrk")?;
    let text = String::from_utf8_lossy(&output.stdout);
    text.lines()
        .find_map(|line| line.strip_prefix("Requests/sec:"))
        .and_then(|rate| rate.trim().parse().ok())
        .with_context(|| format!("wrk said:\n{text}{}", String::from_utf8_lossy(&output.stderr)))
}

fn print(rows: &mut [Row], options: &PathOptions) {
    println!(
        "medians of {} interleaved rounds, in brackets the ratio to plain routing",
        options.rounds
    );
    println!(
        "{:<16} {:>16} {:>16} {:>18} {:>18}",
        "way", "down Gbit/s", "up Gbit/s", "connections/s", "requests/s"
    );
    let medians: Vec<(&str, [f64; 4])> = rows
        .iter_mut()
        .map(|row| {
            let columns = [
                &mut row.download_gbit,
                &mut row.upload_gbit,
                &mut row.connections_per_second,
                &mut row.requests_per_second,
            ];
            (row.name, columns.map(|samples| median(samples)))
        })
        .collect();
    let base = medians[0].1;
    for (name, values) in &medians {
        let [down, up, connections, requests] = *values;
        println!(
            "{name:<16} {:>16} {:>16} {:>18} {:>18}",
            format!("{down:.2} [{:.2}]", down / base[0]),
            format!("{up:.2} [{:.2}]", up / base[1]),
            format!("{connections:.0} [{:.2}]", connections / base[2]),
            format!("{requests:.0} [{:.2}]", requests / base[3]),
        );
    }
}

fn median(samples: &mut [f64]) -> f64 {
    samples.sort_by(f64::total_cmp);
    samples.get(samples.len() / 2).copied().unwrap_or(f64::NAN)
}
