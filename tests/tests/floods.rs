//! Floods of packets that open no connection: those that are open stay, and clients get new ones.
//!
//! Each flood is ten times what the tables of half-open records hold, from addresses that nobody has,
//! bounded in number and time, inside the namespaces of the test.

use std::{
    fs,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, anyhow, ensure};
use lb_common::abi::DEFAULT_HALF_OPEN_RECORDS;
use lb_tests::{
    Agent, Cluster, Namespace, World,
    cluster::{DRAINED, ON},
    needs, process,
    wire::{self, RawSender, Segment},
    world::{BALANCER, CLIENT, vip, vip6},
};

/// Ten times what is recorded of half-open connections.
const PACKETS: u32 = 10 * DEFAULT_HALF_OPEN_RECORDS;
/// What one sender is to need for them; on a busy machine it takes longer.
const TIME: Duration = Duration::from_secs(6);
/// Between two words of connections that begin in a flood.
const PAUSE: Duration = Duration::from_secs(15);
/// Few records, so that the table of established ones is under pressure, too.
const SETTINGS: &str = "[tables]\nrecords = 8192\n[times]\ngrace_seconds = 0";

/// An address and port that nobody has, another for each number.
fn stranger(number: u32, is_v4: bool) -> SocketAddr {
    let mixed = number.wrapping_mul(0x9e37_79b1);
    let port = 1024 + (mixed >> 20) as u16;
    let ip = if is_v4 {
        // 198.18.0.0/15 is for benchmarks.
        IpAddr::V4(Ipv4Addr::from_bits(0xc612_0000 | number & 0x1_ffff))
    } else {
        IpAddr::V6(Ipv6Addr::from_bits(0x2001_0002_u128 << 96 | u128::from(mixed)))
    };
    SocketAddr::new(ip, port)
}

/// Sends the flood while good clients come, and checks that they hardly notice.
fn check(
    agent: &Agent,
    client: &Namespace,
    front: SocketAddr,
    segments: &[Segment],
    meanwhile: impl FnOnce() -> Result<()>,
) -> Result<()> {
    let bytes_before = agent.map_bytes()?;
    let slab_before = slab_kib()?;
    let streams = client.slow_streams(front, 50, Duration::from_millis(50))?;
    let requests = client.requests(front, 50)?;
    let kinds = segments.len() as u32;
    let mut floods = Vec::new();
    for (kind, segment) in (0..).zip(segments.iter().copied()) {
        let sender = RawSender::open(client)?;
        floods.push(thread::spawn(move || {
            sender.flood(PACKETS, TIME, |number| {
                // Nobody sends two kinds.
                let from = stranger(number * kinds + kind, front.is_ipv4());
                (wire::tcp(from, front, segment, number), front.ip())
            })
        }));
    }
    process::sleep(TIME / 3)?;
    meanwhile()?;
    let mut took = Duration::ZERO;
    for flood in floods {
        took = took.max(flood.join().map_err(|_| anyhow!("the sender panicked"))??);
    }
    // Connections are opened after the flood as before.
    process::sleep(Duration::from_secs(1))?;
    let requests = requests.finish()?;
    let summary = requests.summary()?;
    let share = summary.ok as f64 / summary.sent as f64;
    let streams = streams.finish()?;
    let records = agent.json("status")?["records"].clone();
    let slab_growth_mib = (slab_kib()? - slab_before) / 1024;
    println!(
        "{segments:?} flood to {front}: {PACKETS} packets of each in {took:.1?}; new clients {} of {} \
         ({:.2} %), p99 {:.1} ms; streams {} round trips, {} broken; slab {slab_growth_mib:+} MiB; \
         {records}",
        summary.ok,
        summary.sent,
        share * 100.0,
        summary.p99_ms,
        streams.summary()?.round_trips,
        streams.failures.len(),
    );
    streams.check().context("connections that were open before")?;
    ensure!(summary.sent > 200, "too few requests to mean anything: {summary:?}");
    ensure!(share >= 0.99, "{:?}", requests.failures.iter().take(5).collect::<Vec<_>>());
    let bytes_after = agent.map_bytes()?;
    ensure!(bytes_after == bytes_before, "maps: {bytes_before} bytes before, {bytes_after} after");
    ensure!(slab_growth_mib < 100, "the kernel's memory grew by {slab_growth_mib} MiB");
    Ok(())
}

/// Kernel memory of all kinds of objects, in KiB.
fn slab_kib() -> Result<i64> {
    let text = fs::read_to_string("/proc/meminfo")?;
    let line = text.lines().find_map(|line| line.strip_prefix("Slab:")).context("no Slab")?;
    let word = line.split_whitespace().next().context("no number")?;
    Ok(word.parse()?)
}

#[test]
fn syn_flood_on_plain_slots() -> Result<()> {
    needs!(namespaces);
    let cluster = Cluster::start(SETTINGS, &[ON, ON])?;
    let client = cluster.world.client();
    for front in [vip(80), vip6(80)] {
        check(&cluster.agent, client, front, &[Segment::Syn], || Ok(()))?;
    }
    Ok(())
}

#[test]
fn syn_flood_while_slots_move() -> Result<()> {
    needs!(namespaces);
    let cluster = Cluster::start(SETTINGS, &[ON, ON, ON])?;
    let client = cluster.world.client();
    let old = client.slow_streams(vip(80), 50, Duration::from_millis(50))?;
    cluster.set(&[DRAINED, ON, ON])?;
    check(&cluster.agent, client, vip(80), &[Segment::Syn], || cluster.set(&[ON, DRAINED, ON]))?;
    old.finish()?.check().context("connections from before all changes")?;
    Ok(())
}

#[test]
fn syn_and_ack_floods_at_once_while_slots_move() -> Result<()> {
    needs!(namespaces);
    let cluster = Cluster::start(SETTINGS, &[ON, ON, ON])?;
    let client = cluster.world.client();
    let old = client.slow_streams(vip(80), 50, Duration::from_millis(50))?;
    cluster.set(&[DRAINED, ON, ON])?;
    // A RST would end the record of what it answers; not everybody sends one.
    for remote in &cluster.remotes {
        remote.namespace.run("nft add table inet quiet")?;
        let chain = "{ type filter hook output priority 0 ; }";
        remote.namespace.run(&format!("nft add chain inet quiet out {chain}"))?;
        remote.namespace.run("nft add rule inet quiet out tcp flags & rst == rst drop")?;
    }
    // Acknowledgements that belong to nobody are recorded as flows of the drained backend, until
    // they have all the room that there is for them; SYNs turn over what is half open.
    let mut young = None;
    check(&cluster.agent, client, vip(80), &[Segment::Ack, Segment::Syn], || {
        young = Some((client.slow_streams(vip(80), 50, PAUSE)?, Instant::now()));
        Ok(())
    })?;
    // They speak again only after as many SYNs as there is room for.
    let (young, begun) = young.context("no streams")?;
    process::sleep((PAUSE + Duration::from_secs(1)).saturating_sub(begun.elapsed()))?;
    let young = young.finish()?;
    println!("{} round trips of streams that began in the flood", young.summary()?.round_trips);
    young.check().context("connections that began in the flood")?;
    old.finish()?.check().context("connections from before all changes")?;
    let records = cluster.agent.json("status")?["records"].clone();
    let number = |name: &str| records[name].as_u64().with_context(|| format!("no {name}"));
    let (flows, limit) = (number("flows_v4")?, number("limit")?);
    // An eighth is for handshakes, of which there were not that many.
    ensure!(
        (limit * 3 / 4..limit * 15 / 16).contains(&flows),
        "{flows} of {limit} records: did the flood take all room, or none?"
    );
    Ok(())
}

#[test]
fn syn_flood_on_a_service_whose_replies_are_recorded() -> Result<()> {
    needs!(docker);
    let world = World::docker()?;
    world.node().ip(&format!("route add default via {CLIENT}"))?;
    for number in 1..=2 {
        world
            .docker_client()?
            .container(&format!("web-{number}"))
            .compose("shop", "web", number)
            .balanced(&format!("tcp://{BALANCER}:80"))
            .with("--publish 8080")
            .start()?;
    }
    let mut config = world.config();
    config.extra = SETTINGS.to_owned();
    let agent = world.start_agent(&config)?;
    agent.wait_backends(&["web-1", "web-2"])?;
    check(&agent, world.client(), vip(80), &[Segment::Syn], || Ok(()))
}

/// Two services have one port of one container: the replies of the later one are recorded, and every
/// SYN to it has to be told apart from those to the first.
#[test]
fn syn_flood_on_the_second_of_two_services_on_a_port() -> Result<()> {
    needs!(docker);
    let world = World::docker()?;
    world.node().ip(&format!("route add default via {CLIENT}"))?;
    let docker = world.docker_client()?;
    let _first = docker
        .container("one")
        .compose("shop", "one", 1)
        .balanced(&format!("tcp://{BALANCER}:80"))
        .start()?;
    let mut config = world.config();
    config.extra = SETTINGS.to_owned();
    let agent = world.start_agent(&config)?;
    agent.wait_backends(&["one"])?;
    let _second = docker
        .container("two")
        .compose("shop", "two", 1)
        .balanced(&format!("tcp://{BALANCER}:81"))
        .with("--network container:one")
        .serving(8081)
        .without_hostname()
        .start()?;
    agent.wait_backends(&["one", "two"])?;
    let replies = agent.backend("two")?["replies"].clone();
    ensure!(replies["by"] == "recorded", "{replies}");
    // Few: a client port that one service has is lost to the other, and ports follow each other.
    let first = world.client().slow_streams(vip(80), 5, Duration::from_millis(50))?;
    check(&agent, world.client(), vip(81), &[Segment::Syn], || Ok(()))?;
    first.finish()?.check().context("connections of the first service")?;
    Ok(())
}

#[test]
fn ack_and_syn_ack_floods_on_plain_slots_and_while_they_move() -> Result<()> {
    needs!(namespaces);
    let cluster = Cluster::start(SETTINGS, &[ON, ON, ON])?;
    let client = cluster.world.client();
    for segment in [Segment::Ack, Segment::SynAck] {
        check(&cluster.agent, client, vip(80), &[segment], || cluster.set(&[DRAINED, ON, ON]))?;
        check(&cluster.agent, client, vip(80), &[segment], || cluster.set(&[ON, ON, ON]))?;
    }
    Ok(())
}
