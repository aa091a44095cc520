//! What a path carries: a client, a node and a container, by plain routing, by nftables DNAT, by `HAProxy`,
//! by nginx and by lb, interleaved in one run.
//!
//! The same container serves all rows, so that only the way to it differs. Docker's own rules are
//! taken out of the node's namespace first: plain routing shall be plain.

mod cost;
mod eastwest;
mod figures;
mod goals;
mod proxies;

use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use anyhow::{Context as _, Result};
use clap::Args;
use lb_tests::{World, container::PORT, world::BALANCER};

pub(crate) use self::cost::{CostOptions, cost};
use self::{
    figures::{Client, Column, Figures},
    proxies::Proxy,
};

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
    /// Only calls from container to container.
    #[arg(long)]
    east_west: bool,
}

/// Address that nftables translates.
const DNAT_VIP: Ipv4Addr = Ipv4Addr::new(203, 0, 113, 77);

struct Row {
    name: &'static str,
    target: SocketAddr,
    /// Whether nftables translates on this way.
    is_nftables: bool,
    /// The process that carries it, if one does.
    proxy: Option<Proxy>,
    figures: Vec<Figures>,
}

impl Row {
    fn new(name: &'static str, target: SocketAddr) -> Self {
        Self { name, target, is_nftables: false, proxy: None, figures: Vec::new() }
    }
}

pub(crate) fn run(options: &PathOptions) -> Result<()> {
    if !options.east_west {
        north_south(options)?;
    }
    eastwest::run(options)
}

fn north_south(options: &PathOptions) -> Result<()> {
    let world = World::docker()?;
    let web = world.docker_client()?.container("web-1").compose("shop", "web", 1);
    let frontends = format!("tcp://{BALANCER}:80,udp://{BALANCER}:80");
    let container = web.label(&format!("lb.{PORT}.frontend"), &frontends).start()?;
    let mut agent = world.start_agent(&world.config())?;
    agent.wait_backends(&["web-1"])?;
    // Replies of a container that is served come from its VIP, so the other ways lead to one that is not.
    let plain = world.docker_client()?.container("plain").start()?;
    let address = plain.address()?;
    let server = SocketAddr::new(address, PORT);
    let script = figures::write_script(world.directory())?;

    let row = Row::new;
    let dnat = SocketAddr::new(IpAddr::V4(DNAT_VIP), 80);
    let mut rows =
        vec![row("plain routing", server), Row { is_nftables: true, ..row("nftables DNAT", dnat) }];
    for kind in proxies::ALL {
        match Proxy::start(kind, &world, server) {
            Ok(proxy) => {
                let target = proxy.listens_at();
                rows.push(Row { proxy: Some(proxy), ..row(kind.name, target) });
            }
            Err(error) => println!("no row for {}: {error:#}", kind.name),
        }
    }
    rows.push(row("lb", world.front()));

    for round in 0..=options.rounds {
        for row in in_turn(&mut rows, round) {
            prepare(&world, row.is_nftables, address)?;
            let carries_udp = row.proxy.as_ref().is_none_or(Proxy::carries_udp);
            let server = if row.target == world.front() { &container } else { &plain };
            let pids = [server.pid().ok(), row.proxy.as_ref().map(Proxy::pid)];
            let pids: Vec<i32> = pids.into_iter().flatten().collect();
            let command = |program: &str| Ok(world.client().command(program));
            let datagrams = carries_udp.then(|| world.client());
            let client = Client { command: &command, datagrams };
            let figures = figures::take(&client, row.target, options, &script, &pids)
                .with_context(|| row.name)?;
            // The first round only warms up.
            if round > 0 {
                row.figures.push(figures);
            }
        }
    }
    println!("clients outside call a container: ratios to plain routing");
    print(&rows, options);
    agent.set_quiet();
    Ok(())
}

/// Rules for this way only.
fn prepare(world: &World, is_nftables: bool, container: IpAddr) -> Result<()> {
    let node = world.node();
    node.run("nft flush ruleset")?;
    if is_nftables {
        node.run("nft add table ip bench")?;
        node.run("nft add chain ip bench before { type nat hook prerouting priority -100 ; }")?;
        for protocol in ["tcp", "udp"] {
            node.run(&format!(
                "nft add rule ip bench before ip daddr {DNAT_VIP} {protocol} dport 80 dnat to \
                 {container}:{PORT}"
            ))?;
        }
    }
    Ok(())
}

/// The rows, each round from another one on: what comes after a row must not always be the same.
fn in_turn(rows: &mut [Row], round: u32) -> impl Iterator<Item = &mut Row> {
    let first = round as usize % rows.len();
    let (before, from) = rows.split_at_mut(first);
    from.iter_mut().chain(before)
}

/// The median of each round's ratio of one row to another.
fn ratio(row: &Row, first: &Row, column: &Column) -> f64 {
    let pairs = row.figures.iter().zip(&first.figures);
    figures::median(pairs.map(|(own, first)| (column.value)(own) / (column.value)(first)))
}

fn print(rows: &[Row], options: &PathOptions) {
    println!(
        "medians of {} interleaved rounds, in brackets the median of each round's ratio to the first row",
        options.rounds
    );
    print!("{:<17}", "way");
    for column in figures::COLUMNS {
        print!(" {:>17}", column.name);
    }
    println!();
    for row in rows {
        print!("{:<17}", row.name);
        for column in figures::COLUMNS {
            let value = figures::median(row.figures.iter().map(column.value));
            let ratio = ratio(row, &rows[0], &column);
            let text = if value.is_nan() {
                "-".to_owned()
            } else {
                format!("{value:.*} [{ratio:.2}]", column.digits)
            };
            print!(" {text:>17}");
        }
        println!();
    }
}
