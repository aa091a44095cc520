//! Connections outlive changes of the backends: every failure that others' users report, by name.

use std::{
    io::{Read as _, Write as _},
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, ensure};
use lb_tests::{
    Cluster,
    cluster::{DRAINED, ON},
    datagrams::Datagrams,
    needs, process,
    world::{vip, vip6},
};
use nix::sys::signal::Signal;

/// Shorter than a user's patience, longer than a tick.
const PAUSE: Duration = Duration::from_millis(1200);

#[test]
fn a_b_a_within_a_second_breaks_none_of_200_streams() -> Result<()> {
    needs!(namespaces);
    let cluster = Cluster::start("", &[ON, ON])?;
    let client = cluster.world.client();
    let interval = Duration::from_millis(20);
    let before = [
        client.slow_streams(vip(80), 100, interval)?,
        client.slow_streams(vip6(80), 100, interval)?,
    ];
    let begun = Instant::now();
    cluster.set(&[DRAINED, ON])?;
    let mut between = client.streams(vip(80), 50)?;
    between.wait_until("streams", Duration::from_secs(5), |it| it.connected.len() == 50)?;
    cluster.set(&[ON, ON])?;
    println!("there and back within {:?}", begun.elapsed());
    let after = client.slow_streams(vip(80), 50, interval)?;
    process::sleep(3 * PAUSE)?;

    let between = between.finish()?;
    between.check().context("streams that were opened between")?;
    ensure!(between.connected.iter().all(|name| name == "remote-2"), "{:?}", between.connected);
    after.finish()?.check().context("streams that were opened after")?;
    for load in before {
        let report = load.finish()?;
        let summary = report.check().context("streams from before")?;
        println!("{} round trips, {:?}", summary.round_trips, summary.by_name);
        ensure!(summary.by_name.len() == 2, "{:?}", summary.by_name);
    }
    Ok(())
}

#[test]
fn three_changes_in_a_row_and_a_killed_agent_between() -> Result<()> {
    needs!(namespaces);
    let mut cluster = Cluster::start("", &[ON, ON, ON])?;
    let interval = Duration::from_millis(20);
    let mut loads = Vec::new();
    let stages: [&[Option<u16>]; 5] = [
        &[DRAINED, ON, ON],
        &[ON, DRAINED, ON],
        &[DRAINED, DRAINED, ON],
        &[ON, ON, DRAINED],
        &[ON, ON, ON],
    ];
    loads.push(cluster.world.client().slow_streams(vip(80), 60, interval)?);
    for (stage, weights) in stages.into_iter().enumerate() {
        if stage % 2 == 1 {
            // Killed before it knows of the change, which its successor finds in the file.
            cluster.agent.stop(Signal::SIGKILL)?;
            cluster.write(weights)?;
            process::sleep(PAUSE)?;
            cluster.agent.start()?;
            cluster.wait(weights)?;
        } else {
            cluster.set(weights)?;
        }
        loads.push(cluster.world.client().slow_streams(vip(80), 30, interval)?);
        loads.push(cluster.world.client().slow_streams(vip6(80), 30, interval)?);
        process::sleep(PAUSE)?;
    }
    for (index, load) in loads.into_iter().enumerate() {
        let report = load.finish()?;
        let summary = report.check().with_context(|| format!("streams number {index}"))?;
        println!("{index}: {} round trips, {:?}", summary.round_trips, summary.by_name);
    }
    Ok(())
}

#[test]
fn weight_0_keeps_connections_and_takes_no_new_ones() -> Result<()> {
    needs!(namespaces);
    let cluster = Cluster::start("", &[ON, ON])?;
    let client = cluster.world.client();
    let old = client.slow_streams(vip(80), 60, Duration::from_millis(20))?;
    cluster.set(&[DRAINED, ON])?;
    ensure!(cluster.served_by(300)? == ["remote-2"], "new connections to a drained backend");
    process::sleep(2 * PAUSE)?;
    let report = old.finish()?;
    let summary = report.check()?;
    println!("{:?}", summary.by_name);
    ensure!(summary.by_name.len() == 2, "no stream was on the drained one: {:?}", summary.by_name);
    Ok(())
}

/// The largest ring takes its time to be written.
#[test]
fn drains_refuse_no_connection() -> Result<()> {
    needs!(namespaces);
    let settings = "[defaults]\nring_size = 131071";
    let cluster = Cluster::start(settings, &[ON, ON])?;
    let client = cluster.world.client();
    let loads = [vip(80), vip6(80)].map(|front| client.requests(front, 400));
    for round in 0..10 {
        let drained = if round % 2 == 0 { [DRAINED, ON] } else { [ON, DRAINED] };
        cluster.set(&drained)?;
        cluster.set(&[ON, ON])?;
    }
    for load in loads {
        let summary = load?.finish()?.check()?.clone();
        println!("{} ok, p99 {} ms", summary.ok, summary.p99_ms);
    }
    let agent = &cluster.agent;
    ensure!(agent.drops("no_backend")? == 0, "{}", agent.json("status")?["drops"]);
    Ok(())
}

#[test]
fn affinity_leaves_a_backend_of_weight_0_and_returns() -> Result<()> {
    needs!(namespaces);
    let cluster = Cluster::start("[defaults]\naffinity = \"client/24,64\"", &[ON, ON])?;
    let served = cluster.served_by(50)?;
    ensure!(served.len() == 1, "one client on several backends: {served:?}");
    let (drained, other) = if served == ["remote-1"] {
        ([DRAINED, ON], "remote-2")
    } else {
        ([ON, DRAINED], "remote-1")
    };
    let old = cluster.world.client().slow_streams(vip(80), 30, Duration::from_millis(20))?;
    cluster.set(&drained)?;
    ensure!(cluster.served_by(100)? == [other], "new connections to a drained backend");
    process::sleep(PAUSE)?;
    cluster.set(&[ON, ON])?;
    ensure!(cluster.served_by(100)? == served, "the client's backend is another one now");
    process::sleep(PAUSE)?;
    let report = old.finish()?;
    let names: Vec<&String> = report.check()?.by_name.keys().collect();
    ensure!(names == served.iter().collect::<Vec<_>>(), "streams on {names:?}");
    Ok(())
}

#[test]
fn datagrams_of_a_removed_backend_leave_at_once() -> Result<()> {
    needs!(namespaces);
    let cluster = Cluster::start("[defaults]\ndrain_seconds = 0", &[ON, ON, ON])?;
    let mut sockets = Vec::new();
    for front in [vip(80), vip6(80)] {
        for _ in 0..60 {
            let mut socket = Datagrams::connect(cluster.world.client(), 0, front)?;
            let name = socket.ask(100)?.name;
            sockets.push((front, socket, name));
        }
    }
    cluster.set(&[None, ON, ON])?;
    let mut moved = [0, 0];
    for (front, socket, name) in &mut sockets {
        let now = socket.ask(100)?.name;
        if name == "remote-1" {
            ensure!(now != "remote-1", "a datagram to a backend that is gone");
            moved[usize::from(front.is_ipv6())] += 1;
        } else {
            ensure!(now == *name, "a flow of {name} went to {now}");
        }
    }
    println!("{moved:?} of 60 flows of either family had to move");
    ensure!(moved.iter().all(|count| *count > 5), "{moved:?}");
    Ok(())
}

#[test]
fn one_backend_behind_two_vips_and_the_same_client_port_to_both() -> Result<()> {
    needs!(namespaces);
    let mut cluster = Cluster::start("", &[ON])?;
    let second: std::net::SocketAddr = "203.0.113.11:80".parse()?;
    cluster.services = format!(
        "[[service]]\nname = \"other\"\nfrontends = [\"tcp://{second}\"]\n\
         [[service.backend]]\naddress = \"{}\"\n",
        cluster.remotes[0].address
    );
    cluster.set(&[ON])?;
    let client = cluster.world.client();
    process::wait_for("the other VIP", Duration::from_secs(5), || client.fetch_one(second))?;
    let loads = [client.streams(vip(80), 20)?, client.streams(second, 20)?];
    let mut requests = [client.requests(vip(80), 100)?, client.requests(second, 100)?];
    for load in &mut requests {
        load.wait_until("requests", Duration::from_secs(10), |it| it.answers.len() > 100)?;
    }
    for load in requests {
        load.finish()?.check()?;
    }
    for load in loads {
        load.finish()?.check()?;
    }
    // The backend could not tell the two apart: both would be connections from one port of the client
    // to its own. The first goes on, the second is told at once.
    let first = client.connect_from(41_000, vip(80))?;
    let begun = Instant::now();
    let refused = client.connect_from(41_000, second);
    let error = refused.err().context("the backend has two connections of one name")?;
    println!("{error:#} after {:?}", begun.elapsed());
    ensure!(begun.elapsed() < Duration::from_secs(1), "told after {:?}", begun.elapsed());
    (&first).write_all(b"GET / HTTP/1.1\r\n\r\n")?;
    let mut answer = String::new();
    (&first).read_to_string(&mut answer)?;
    ensure!(answer.contains("name=remote-1"), "the first connection got `{answer}`");
    cluster.agent.wait_drops("tuple_collision", 1)?;
    drop(first);
    // When it is over the other one may have the port.
    process::wait_for("the port", Duration::from_secs(5), || {
        client.connect_from(41_000, second).map(|_| ())
    })
}

/// Not in any version of the file, and so never to be seen.
const STRANGER: usize = 3;

#[test]
fn rings_rebuilt_every_second_lead_to_old_and_new_backends_only() -> Result<()> {
    needs!(namespaces);
    let cluster = Cluster::start("", &[ON, ON, ON, None])?;
    let (world, client) = (&cluster.world, cluster.world.client());
    // What reached the host's stack would be answered by it.
    world.node().ip(&format!("addr add {}/32 dev lo", vip(80).ip()))?;
    let own = world.node().enter(|| std::net::TcpListener::bind(("0.0.0.0", 80)))??;
    own.set_nonblocking(true)?;
    let segments = || cluster.remotes[STRANGER].namespace.run("grep ^Tcp: /proc/net/snmp");
    let segments_before = segments()?;
    let interval = Duration::from_millis(10);
    let streams =
        [client.slow_streams(vip(80), 60, interval)?, client.slow_streams(vip6(80), 60, interval)?];
    let requests = [client.requests(vip(80), 150)?, client.requests(vip6(80), 50)?];
    let begun = Instant::now();
    for round in 0..10_u16 {
        let weights = [Some(1 + round % 3 * 50), Some(1 + (round + 1) % 3 * 50), Some(40), None];
        cluster.set(&weights)?;
        let due = Duration::from_secs(u64::from(round) + 1);
        process::sleep(due.saturating_sub(begun.elapsed()))?;
    }
    for load in requests {
        let report = load.finish()?;
        let summary = report.check()?;
        println!("requests: {} ok, p99 {} ms, {:?}", summary.ok, summary.p99_ms, summary.by_name);
        ensure!(summary.ok > 300 && !summary.by_name.contains_key("remote-4"), "{summary:?}");
    }
    for load in streams {
        let report = load.finish()?;
        let summary = report.check()?;
        println!("streams: {} round trips, {:?}", summary.round_trips, summary.by_name);
    }
    ensure!(own.accept().is_err(), "a socket of the node was reached");
    ensure!(segments()? == segments_before, "the stranger got segments:\n{}", segments()?);
    let drops = cluster.agent.json("status")?["drops"].clone();
    println!("drops: {drops}");
    Ok(())
}
