//! Failures that only the traffic shows: nobody has a probe here unless a test says so.

use std::{
    io::Read as _,
    net::{Ipv4Addr, SocketAddr, TcpListener},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::Duration,
};

use anyhow::{Context as _, Result, ensure};
use lb_tests::{
    Agent, Cluster, Container, World,
    cluster::ON,
    container::{IDLE_PORT, PORT},
    needs, process,
    traffic::{Failure, Load, Report, now_ms},
    wire::{self, RawSender, Segment},
    world::{vip, vip6},
};
use nix::sys::signal::Signal;

/// Longest wait for something to arrive, on a busy machine too.
const SOON: Duration = Duration::from_secs(20);
/// Time from a failure to the last client that notices it, on a busy machine too. What it takes on one
/// that is not is printed. Without looking at the traffic it would be for ever.
const OUT_MS_MAX: f64 = 1000.0;
/// The same where each look at a silent backend takes 300 ms, and is taken again when the node was busy.
const FAR_OUT_MS_MAX: f64 = 3000.0;
/// New connections per second: a failure is seen by the first that meets it.
const RATE: u32 = 500;

/// Containers `web-1` to `web-COUNT` that live without a server, and servers in them.
fn start(world: &World, count: u32, label: Option<(&str, &str)>) -> Result<Vec<Container>> {
    let containers = (1..=count).map(|number| {
        let mut container = world.web(number)?.serving(IDLE_PORT);
        if let Some((key, value)) = label {
            container = container.label(key, value);
        }
        let container = container.start()?;
        container.begin_serving()?;
        container.wait_listening()?;
        Ok(container)
    });
    containers.collect()
}

/// Kills the server in a container; the container lives.
fn kill_server(container: &Container) -> Result<f64> {
    let pid = container.server_pid()?;
    let at_ms = now_ms();
    process::kill(pid, Signal::SIGKILL);
    Ok(at_ms)
}

/// `nft` in the network of a container.
fn nft(container: &Container, lines: &[&str]) -> Result<()> {
    container.enter(|| {
        lines.iter().try_for_each(|line| {
            process::run(&mut process::words(&format!("nft {line}"))).map(drop)
        })
    })?
}

/// A firewall that drops SYNs to the server, as if nobody were there.
const MUTE: [&str; 3] = [
    "add table inet passive",
    "add chain inet passive in { type filter hook input priority 0 ; }",
    "add rule inet passive in tcp flags & ( syn | ack ) == syn drop",
];

/// How many clients failed after a moment, and how long after it the last one came.
fn refused(report: &Report, since_ms: f64) -> (usize, f64) {
    last_of(report.failures.iter().map(|failure| failure.at_ms), since_ms)
}

/// The same of clients that came after it.
fn refused_from(report: &Report, since_ms: f64) -> (usize, f64) {
    let times = report.failures.iter().map(|failure| failure.at_ms);
    last_of(times.filter(|at_ms| *at_ms > since_ms), since_ms)
}

/// How many patient clients had to send their SYN again, and how long after a moment the last one came.
fn kept_waiting(report: &Report, since_ms: f64) -> (usize, f64) {
    const WAITED_MS: f64 = 900.0;
    let waiting = report.answers.iter().filter(|answer| answer.took_ms > WAITED_MS);
    last_of(waiting.map(|answer| answer.at_ms), since_ms)
}

fn last_of(times_ms: impl Iterator<Item = f64>, since_ms: f64) -> (usize, f64) {
    times_ms.fold((0, 0.0), |(count, last): (usize, f64), at_ms| {
        (count + 1, last.max(at_ms - since_ms))
    })
}

fn check_events(agent: &Agent, parts: &[&str]) -> Result<()> {
    let told = agent.lbctl("event list")?;
    for part in parts {
        ensure!(told.contains(part), "no `{part}` in the events:\n{told}");
    }
    Ok(())
}

/// Failures and dismissed cases of a sign.
fn cases(agent: &Agent, sign: &str) -> Result<[u64; 2]> {
    let status = agent.json("status")?;
    let rows = status["passive"].as_array().context("no figures in the status")?;
    let row = rows.iter().find(|row| row["sign"] == sign).context("no such sign")?;
    Ok(["failures", "dismissed"].map(|key| row[key].as_u64().unwrap_or_default()))
}

fn wait_answers(load: &mut Load, count: usize) -> Result<()> {
    let count = count + load.so_far()?.answers.len();
    load.wait_until("answers", SOON, |report| report.answers.len() >= count)
}

#[test]
fn who_refuses_connections_is_out_at_once_and_back_when_it_serves() -> Result<()> {
    needs!(docker);
    let world = World::docker()?;
    let webs = start(&world, 3, None)?;
    let agent = world.start_agent(&world.config())?;
    agent.wait_backends(&["web-1", "web-2", "web-3"])?;
    let streams = world.client().streams(world.front(), 30)?;
    let mut times = Vec::new();
    for _ in 0..5 {
        let mut requests = world.client().requests(world.front(), RATE)?;
        wait_answers(&mut requests, 50)?;
        let killed_ms = kill_server(&webs[0])?;
        agent.wait_backends(&["web-2", "web-3"])?;
        let out_ms = now_ms();
        wait_answers(&mut requests, 100)?;
        let report = requests.finish()?;
        let (harmed, ms) = refused(&report, killed_ms);
        let (late, _) = refused_from(&report, out_ms);
        ensure!(late == 0, "{late} were refused by one that is out: {:?}", report.failures);
        times.push((ms, harmed));
        ensure!(ms < OUT_MS_MAX, "connections are refused for {ms:.1} ms: {:?}", report.failures);

        webs[0].begin_serving()?;
        agent.wait_backends(&["web-1", "web-2", "web-3"])?;
        let report = world.client().fetch(world.front(), 100)?;
        ensure!(report.check()?.by_name.contains_key("web-1"), "it is back");
    }
    println!("refused: milliseconds to the last harmed client, and how many were: {times:.1?}");
    let broken = streams.finish()?.failures;
    ensure!(broken.iter().all(|failure| failure.name == "web-1"), "others: {broken:?}");
    check_events(&agent, &["refused connections", "unhealthy", "healthy"])?;
    ensure!(cases(&agent, "refused")?[0] >= 5, "{:?}", cases(&agent, "refused")?);
    agent.outlast_counters()?;
    for row in agent.rows("backend")? {
        let has_refused = row["counters"]["refusals"].as_u64().unwrap_or_default() > 0;
        ensure!(has_refused == (row["display_name"] == "web-1"), "{row}");
    }
    let log = agent.log();
    ensure!(!log.contains("PANIC"), "nobody panics while others serve");
    Ok(())
}

#[test]
fn who_answers_no_syn_is_out_soon_and_back_when_it_does() -> Result<()> {
    needs!(docker);
    let world = World::docker()?;
    let containers = start(&world, 3, None)?;
    let agent = world.start_agent(&world.config())?;
    agent.wait_backends(&["web-1", "web-2", "web-3"])?;
    let mut times = Vec::new();
    for _ in 0..5 {
        let mut requests = world.client().patient_requests(world.front(), RATE)?;
        wait_answers(&mut requests, 50)?;
        nft(&containers[0], &MUTE)?;
        let muted_ms = now_ms();
        agent.wait_backends(&["web-2", "web-3"])?;
        wait_answers(&mut requests, 100)?;
        // Those that wait send their SYN again, to who is there now.
        process::sleep(Duration::from_secs(2))?;
        let report = requests.finish()?;
        // Between its state and its ring it is refused by us; nobody else is lost.
        let is_lost = |it: &&Failure| !it.error.contains("refused");
        let lost: Vec<_> = report.failures.iter().filter(is_lost).collect();
        ensure!(lost.is_empty(), "{lost:?}");
        let (harmed, ms) = kept_waiting(&report, muted_ms);
        times.push((ms, harmed));
        ensure!(harmed > 0, "how was it found out?");
        ensure!(ms < OUT_MS_MAX, "connections are kept waiting for {ms:.1} ms");

        nft(&containers[0], &["delete table inet passive"])?;
        agent.wait_backends(&["web-1", "web-2", "web-3"])?;
    }
    println!("silent: milliseconds to the last harmed client, and how many were: {times:.1?}");
    println!("cases: {:?}", cases(&agent, "silent")?);
    check_events(&agent, &["does not answer SYNs"])
}

#[test]
fn resets_in_mid_stream_count_for_nothing() -> Result<()> {
    needs!(docker);
    let world = World::docker()?;
    let rude = world.web(1)?.serving(IDLE_PORT).start()?;
    world.web(2)?.serving(IDLE_PORT).start()?.begin_serving()?;
    let listener = rude.enter(|| TcpListener::bind((Ipv4Addr::UNSPECIFIED, PORT)))??;
    let is_over = Arc::new(AtomicBool::new(false));
    let shared = Arc::clone(&is_over);
    // It accepts, reads what there is, and resets.
    let server = thread::spawn(move || {
        let mut resets = 0_u32;
        for stream in listener.incoming().map_while(Result::ok) {
            if shared.load(Ordering::Relaxed) {
                break;
            }
            let mut stream = stream;
            stream.set_read_timeout(Some(Duration::from_millis(100))).ok();
            // Whether that is all of it or nothing: the client is reset.
            let _read = stream.read(&mut [0; 64]);
            let linger = libc::linger { l_onoff: 1, l_linger: 0 };
            nix::sys::socket::setsockopt(&stream, nix::sys::socket::sockopt::Linger, &linger).ok();
            resets += 1;
        }
        resets
    });
    let agent = world.start_agent(&world.config())?;
    agent.wait_backends(&["web-1", "web-2"])?;
    let report = world.client().fetch(world.front(), 400)?;
    let reset = report.summary()?.failed;
    ensure!(reset > 100, "{reset} of 400 were reset: is it served at all?");
    agent.wait_backends(&["web-1", "web-2"])?;
    agent.outlast_counters()?;
    let rows = agent.rows("backend")?;
    for row in &rows {
        ensure!(row["counters"]["refusals"] == 0, "{row}");
    }
    ensure!(cases(&agent, "refused")? == [0, 0] && cases(&agent, "silent")? == [0, 0]);

    is_over.store(true, Ordering::Relaxed);
    let address = SocketAddr::new(rude.address()?, PORT);
    rude.enter(|| std::net::TcpStream::connect(address).map(drop))??;
    let resets = server.join().ok().context("the server panicked")?;
    ensure!(u64::from(resets) >= reset, "{resets} connections were reset, {reset} clients say so");
    Ok(())
}

/// SYNs that no server answers, since their checksum is wrong, from many clients, while no good one
/// comes: the data path sees silence, and the node does not.
#[test]
fn syns_that_cannot_be_answered_take_nobody_out() -> Result<()> {
    needs!(docker);
    let world = World::docker()?;
    start(&world, 1, None)?;
    let agent = world.start_agent(&world.config())?;
    agent.wait_backends(&["web-1"])?;
    let front = world.front();
    let sender = RawSender::open(world.client())?;
    sender.flood(2000, Duration::from_secs(4), |number| {
        let client = Ipv4Addr::from_bits(0xc612_0000 | number);
        let mut packet =
            wire::tcp(SocketAddr::new(client.into(), 4000), front, Segment::Syn, number);
        packet[36] ^= 0x55;
        (packet, front.ip())
    })?;
    process::wait_for("a case", SOON, || {
        ensure!(cases(&agent, "silent")?[1] > 0, "none was opened");
        Ok(())
    })?;
    let [failures, dismissed] = cases(&agent, "silent")?;
    println!("{dismissed} cases of silence were dismissed");
    ensure!(failures == 0 && dismissed < 60, "{failures} failures, {dismissed} dismissed");
    agent.wait_backends(&["web-1"])?;
    world.client().fetch(front, 20)?.check()?;
    Ok(())
}

#[test]
fn the_last_backend_stays_and_is_served_the_moment_it_is_back() -> Result<()> {
    needs!(docker);
    let world = World::docker()?;
    let webs = start(&world, 2, None)?;
    let agent = world.start_agent(&world.config())?;
    agent.wait_backends(&["web-1", "web-2"])?;
    let requests = world.client().requests(world.front(), 100)?;
    kill_server(&webs[0])?;
    agent.wait_backends(&["web-2"])?;
    // Those who came between its state and its ring, as above.
    let refused_before = agent.drops("no_backend")?;
    kill_server(&webs[1])?;
    process::wait_for("the state", SOON, || {
        let rows = agent.rows("service")?;
        ensure!(rows.first().is_some_and(|row| row["state"] == "panic"), "{rows:?}");
        Ok(())
    })?;
    // Its clients are led to it and refused by itself, so that it serves the first that comes when it is
    // back, whenever that is found out: nobody is told meanwhile that there is nobody.
    let refusals = |agent: &Agent| -> Result<u64> {
        Ok(agent.backend("web-2")?["counters"]["refusals"].as_u64().unwrap_or_default())
    };
    let before = refusals(&agent)?;
    process::wait_for("clients at the last one", SOON, || {
        let count = refusals(&agent)? - before;
        ensure!(count >= 50, "{count} came to it");
        Ok(())
    })?;
    webs[1].begin_serving()?;
    process::wait_for("an answer", SOON, || world.client().fetch_one(world.front()).map(drop))?;
    agent.wait_backends(&["web-2"])?;
    let refused = agent.drops("no_backend")? - refused_before;
    ensure!(refused == 0, "{refused} were told that there is nobody");
    webs[0].begin_serving()?;
    agent.wait_backends(&["web-1", "web-2"])?;
    requests.finish()?;
    Ok(())
}

#[test]
fn nobody_is_judged_who_does_not_want_to() -> Result<()> {
    needs!(docker);
    let world = World::docker()?;
    let webs = start(&world, 2, Some(("lb.passive", "false")))?;
    let agent = world.start_agent(&world.config())?;
    agent.wait_backends(&["web-1", "web-2"])?;
    kill_server(&webs[0])?;
    let report = world.client().fetch(world.front(), 200)?;
    ensure!(report.summary()?.failed > 50, "{:?}", report.summary()?);
    agent.wait_backends(&["web-1", "web-2"])?;
    ensure!(cases(&agent, "refused")? == [0, 0]);
    let shown = agent.lbctl("service show compose/shop/web:8080")?;
    ensure!(shown.contains("label `lb.passive`"), "{shown}");
    Ok(())
}

/// Backends of both families on other machines, whose replies come in on a front interface.
#[test]
fn backends_on_other_machines_are_seen_to_fail_as_well() -> Result<()> {
    needs!(namespaces);
    let cluster = Cluster::start("", &[ON, ON])?;
    let [failing, _] = &cluster.remotes[..] else { anyhow::bail!("two remotes") };
    for (verdict, harm) in
        [("reject with tcp reset", refused as fn(&Report, f64) -> _), ("drop", kept_waiting)]
    {
        for front in [vip(80), vip6(80)] {
            let mut requests = cluster.world.client().patient_requests(front, RATE)?;
            wait_answers(&mut requests, 50)?;
            for line in &MUTE[..2] {
                failing.namespace.run(&format!("nft {line}"))?;
            }
            let rule = "add rule inet passive in tcp flags & ( syn | ack ) == syn";
            failing.namespace.run(&format!("nft {rule} {verdict}"))?;
            let since_ms = now_ms();
            process::wait_for("its exit", SOON, || {
                let served = cluster.world.client().fetch(front, 20)?.check()?.by_name.clone();
                ensure!(served.keys().all(|name| name == "remote-2"), "{served:?}");
                Ok(())
            })?;
            process::sleep(Duration::from_secs(2))?;
            let (harmed, ms): (usize, f64) = harm(&requests.finish()?, since_ms);
            println!("{front}, {verdict}: {harmed} clients harmed, the last after {ms:.1} ms");
            // Who was refused may have been one of those that waited for its exit.
            ensure!(harmed > 0 || verdict != "drop", "how was it found out?");
            ensure!(ms < FAR_OUT_MS_MAX, "clients are harmed for {ms:.1} ms");
            failing.namespace.run("nft delete table inet passive")?;
            process::wait_for("its return", SOON, || {
                let rows = cluster.agent.rows("backend")?;
                ensure!(rows.iter().all(|row| row["state"] == "healthy"), "{rows:?}");
                Ok(())
            })?;
        }
    }
    Ok(())
}
