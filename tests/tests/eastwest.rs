//! East-west: containers and the node itself call a VIP, by every kind of socket call.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::{IpAddr, SocketAddr},
    time::Duration,
};

use anyhow::{Context as _, Result, ensure};
use lb_tests::{
    Agent, Container, World,
    callers::{Called, Callers},
    needs, process,
    world::{BALANCER, BALANCER6, FRONT_PORT, vip, vip6},
};
use nix::sys::signal::Signal;

const ECONNREFUSED: i32 = 111;
const EHOSTUNREACH: i32 = 113;

const TCP: [&str; 5] = ["tcp", "tcp-nonblocking", "tcp-fastopen", "tcp-bound", "tcp-mapped"];
const UDP: [&str; 4] = ["udp", "udp-unconnected", "udp-mapped", "udp-mapped-unconnected"];

/// Replica `number` of a service of both protocols.
fn web(world: &World, number: u32) -> Result<Container> {
    Ok(world
        .docker_client()?
        .container(&format!("web-{number}"))
        .compose("shop", "web", number)
        .label("lb.8080.frontend", &format!("tcp://{BALANCER}:80,udp://{BALANCER}:80")))
}

fn caller(world: &World, name: &str) -> Result<Container> {
    world.docker_client()?.container(name).start()
}

/// A world, its callers, and an agent for them, which knows `web-1` and `web-2`.
fn start(world: &mut World, extra: &str) -> Result<(Callers, Agent, Vec<Container>)> {
    let callers = Callers::of(world)?;
    let webs = vec![web(world, 1)?.start()?, web(world, 2)?.start()?];
    let mut config = world.config();
    config.cgroup = Some(callers.cgroup().to_owned());
    extra.clone_into(&mut config.extra);
    let agent = world.start_agent(&config)?;
    agent.wait_backends(&["web-1", "web-2"])?;
    Ok((callers, agent, webs))
}

/// All were answered, by these, and show the address that was asked for. Returns how many each had.
fn check(
    calls: &[Called],
    target: SocketAddr,
    client: Option<IpAddr>,
) -> Result<BTreeMap<String, usize>> {
    let mut shares = BTreeMap::new();
    for call in calls {
        let Called::Answered { name, client: seen, peer } = call else {
            anyhow::bail!("{call:?} to {target}");
        };
        ensure!(*peer == target, "{target} shows itself as {peer}");
        if let Some(client) = client {
            ensure!(seen.ip() == client, "{name} saw {seen}, and the caller is {client}");
        }
        *shares.entry(name.clone()).or_default() += 1;
    }
    Ok(shares)
}

/// Waits until the agent knows a container as a caller.
fn wait_known(agent: &Agent, name: &str) -> Result<()> {
    agent.wait_caller(name)
}

#[test]
fn every_kind_of_call_is_balanced_and_shows_the_vip() -> Result<()> {
    needs!(docker);
    let mut world = World::docker()?;
    // There before the agent is.
    let early = caller(&world, "early")?;
    let (callers, agent, _webs) = start(&mut world, "")?;
    let late = caller(&world, "late")?;
    wait_known(&agent, "late")?;
    let target = world.front();
    for from in [None, Some(&early), Some(&late)] {
        let client = from.map(Container::address).transpose()?;
        for way in TCP.into_iter().chain(UDP) {
            let count = if way.ends_with("unconnected") || way == "tcp-bound" { 1 } else { 16 };
            let mut shares = BTreeMap::new();
            // One socket is one flow.
            for _ in 0..16 / count {
                let calls = callers.dial(&world, from, way, target, count)?;
                let of = check(&calls, target, client).with_context(|| way.to_owned())?;
                for (name, count) in of {
                    *shares.entry(name).or_insert(0) += count;
                }
            }
            let names: Vec<_> = shares.keys().map(String::as_str).collect();
            ensure!(names == ["web-1", "web-2"], "{way} from {from:?}: {shares:?}");
        }
        // Many datagrams of one socket go to one backend.
        let calls = callers.dial(&world, from, "udp-unconnected", target, 50)?;
        ensure!(check(&calls, target, client)?.len() == 1, "a socket went to two backends");
        let short = callers.dial(&world, from, "short", target, 1)?;
        ensure!(short == [Called::Failed(nix::errno::Errno::EINVAL as i32)], "{short:?}");
    }
    Ok(())
}

#[test]
fn a_thousand_connections_spread_as_the_ring_says() -> Result<()> {
    needs!(docker);
    let mut world = World::docker()?;
    let (callers, agent, _webs) = start(&mut world, "")?;
    let client = caller(&world, "client")?;
    wait_known(&agent, "client")?;
    let calls = callers.dial(&world, Some(&client), "tcp", world.front(), 1000)?;
    let shares = check(&calls, world.front(), None)?;
    // Four standard deviations.
    ensure!(shares.values().all(|count| (437..=563).contains(count)), "{shares:?}");
    Ok(())
}

#[test]
fn both_families_are_balanced() -> Result<()> {
    needs!(docker);
    let mut world = World::docker()?;
    let callers = Callers::of(&mut world)?;
    let docker = world.docker_client()?;
    docker.run("network create --ipv6 --subnet fd00:77::/64 six")?;
    let container = |name: &str| docker.container(name).with("--network six");
    for number in [1, 2] {
        container(&format!("web-{number}"))
            .compose("shop", "web", number)
            .label("lb.8080.frontend", &format!("tcp://{BALANCER6}:80,udp://{BALANCER6}:80"))
            .start()?;
    }
    let client = container("client").start()?;
    let mut config = world.config_of_both_families();
    config.cgroup = Some(callers.cgroup().to_owned());
    let agent = world.start_agent(&config)?;
    agent.wait_backends(&["web-1", "web-2"])?;
    wait_known(&agent, "client")?;
    let target = vip6(80);
    for way in ["tcp", "tcp-nonblocking", "tcp-fastopen", "tcp-bound", "udp"] {
        let count = if way == "tcp-bound" { 1 } else { 20 };
        let calls = callers.dial(&world, Some(&client), way, target, count)?;
        let shares = check(&calls, target, Some(client.address6()?)).context(way)?;
        ensure!(count == 1 || shares.len() == 2, "{way}: {shares:?}");
    }
    let calls = callers.dial(&world, Some(&client), "udp-unconnected", target, 20)?;
    ensure!(check(&calls, target, Some(client.address6()?))?.len() == 1);
    let calls = callers.dial(&world, None, "tcp", target, 20)?;
    ensure!(check(&calls, target, None)?.len() == 2, "from the node");
    let wrong = callers.dial(&world, Some(&client), "tcp", vip6(81), 1)?;
    ensure!(wrong == [Called::Failed(ECONNREFUSED)], "{wrong:?}");
    Ok(())
}

#[test]
fn what_cannot_be_served_is_told_at_once() -> Result<()> {
    needs!(docker);
    let mut world = World::docker()?;
    let docker = world.docker_client()?;
    docker.run("network create other")?;
    let client = caller(&world, "client")?;
    let stranger = docker.container("stranger").with("--network other").start()?;
    let both = docker.container("both").start()?;
    docker.run("network connect other both")?;
    let (callers, agent, webs) = start(&mut world, "")?;
    for name in ["client", "stranger", "both"] {
        wait_known(&agent, name)?;
    }
    let target = world.front();
    // The VIP's wrong port.
    for (from, way) in [(None, "tcp"), (Some(&client), "tcp"), (Some(&client), "udp")] {
        let calls = callers.dial(&world, from, way, vip(81), 1)?;
        ensure!(calls == [Called::Failed(ECONNREFUSED)], "{way}: {calls:?}");
    }
    // Another network than the backends'.
    for way in ["tcp", "udp", "udp-unconnected", "tcp-mapped"] {
        let calls = callers.dial(&world, Some(&stranger), way, target, 1)?;
        ensure!(calls == [Called::Failed(EHOSTUNREACH)], "{way}: {calls:?}");
    }
    check(&callers.dial(&world, Some(&both), "tcp", target, 4)?, target, None)?;
    ensure!(agent.drops("other_network")? >= 4 && agent.drops("no_frontend")? >= 3);
    // No backend at all.
    for web in &webs {
        agent.lbctl(&format!("backend disable {}", web.name()))?;
    }
    agent.wait_backends(&[])?;
    let calls = callers.dial(&world, Some(&client), "tcp", target, 1)?;
    ensure!(calls == [Called::Failed(ECONNREFUSED)], "{calls:?}");
    // What is no VIP is nobody's business.
    let direct = SocketAddr::new(client.address()?, 8080);
    let calls = callers.dial(&world, Some(&both), "tcp", direct, 1)?;
    check(&calls, direct, None)?;
    Ok(())
}

#[test]
fn a_service_is_there_for_whom_it_names() -> Result<()> {
    needs!(docker);
    let mut world = World::docker()?;
    let docker = world.docker_client()?;
    docker.run("network create front")?;
    let inside = docker.container("inside").with("--network front").start()?;
    let callers = Callers::of(&mut world)?;
    let service = |name: &str, port: u16, visible: &str| {
        let web = docker.container(name).with("--network front").label("lb.visible", visible);
        web.balanced(&format!("tcp://{BALANCER}:{port}")).start()
    };
    service("private", 81, "network:front")?;
    service("local", 82, "node")?;
    service("shared", 83, "containers")?;
    service("outer", 84, "none")?;
    let outside = docker.container("outside").start()?;
    let mut config = world.config();
    config.cgroup = Some(callers.cgroup().to_owned());
    let agent = world.start_agent(&config)?;
    agent.wait_backends(&["local", "outer", "private", "shared"])?;
    wait_known(&agent, "inside")?;
    wait_known(&agent, "outside")?;
    let check_port = |from: Option<&Container>, port: u16, expected: Option<&str>| -> Result<()> {
        let calls = callers.dial(&world, from, "tcp", vip(port), 1)?;
        match (&calls[0], expected) {
            (Called::Answered { name, .. }, Some(expected)) if name == expected => Ok(()),
            (Called::Failed(EHOSTUNREACH), None) => Ok(()),
            (call, _) => anyhow::bail!("port {port} from {from:?}: {call:?}"),
        }
    };
    check_port(Some(&inside), 81, Some("private"))?;
    check_port(Some(&outside), 81, None)?;
    check_port(None, 81, None)?;
    check_port(Some(&inside), 82, None)?;
    check_port(None, 82, Some("local"))?;
    check_port(Some(&inside), 83, Some("shared"))?;
    check_port(None, 83, None)?;
    // For clients from outside nothing changes.
    for port in 81..=84 {
        world.client().fetch(vip(port), 3)?.check()?;
    }
    Ok(())
}

#[test]
fn connections_end_when_their_backend_is_gone_and_new_ones_succeed() -> Result<()> {
    needs!(docker);
    let mut world = World::docker()?;
    let (callers, agent, webs) = start(&mut world, "")?;
    let client = caller(&world, "client")?;
    wait_known(&agent, "client")?;
    let target = world.front();
    let held = callers.hold(&world, Some(&client), target, 1000, 6)?;
    let on_node = callers.hold(&world, None, target, 100, 6)?;
    // Its network stays for a moment, so that nothing but us tells its clients.
    let killed_ms = lb_tests::traffic::now_ms();
    process::kill(webs[0].pid()?, Signal::SIGKILL);
    let calls = callers.dial(&world, Some(&client), "tcp", target, 200)?;
    let failed = calls.iter().filter(|call| matches!(call, Called::Failed(_))).count();
    ensure!(failed <= 20, "{failed} of 200 calls failed");
    process::sleep(Duration::from_millis(250))?;
    let calls = callers.dial(&world, Some(&client), "tcp", target, 100)?;
    assert_eq!(check(&calls, target, None)?.keys().collect::<Vec<_>>(), ["web-2"]);

    for (held, all) in [(held, 1000), (on_node, 100)] {
        let output = held.end()?;
        let ends = output.lines().filter_map(|line| line.split_once("at_ms=")?.1.parse().ok());
        let ends: Vec<f64> = ends.collect();
        let latest = ends.iter().copied().fold(0.0, f64::max) - killed_ms;
        ensure!(latest < 2000.0, "the last of {} ended after {latest:.0} ms", ends.len());
        let share = ends.len() * 100 / all;
        ensure!((35..=65).contains(&share), "{} of {all} ended", ends.len());
    }
    Ok(())
}

#[test]
fn connected_datagrams_are_told_and_others_move_at_once() -> Result<()> {
    needs!(docker);
    let mut world = World::docker()?;
    let (callers, agent, webs) = start(&mut world, "")?;
    let client = caller(&world, "client")?;
    wait_known(&agent, "client")?;
    let target = world.front();
    // One after the other on the same socket, about as long as it takes to kill.
    let mut command = callers.in_container(&client, "sh")?;
    let dial = callers.dial_path().display();
    let script = format!(
        "for i in 1 2 3 4 5 6; do {dial} udp-again {target} 20000 & done; wait; \
         {dial} udp-unconnected {target} 5"
    );
    let child = command.args(["-c", &script]).stdout(std::process::Stdio::piped()).spawn()?;
    process::sleep(Duration::from_millis(300))?;
    webs[0].act("kill")?;
    let output = String::from_utf8(child.wait_with_output()?.stdout)?;
    let failures: Vec<_> = output.lines().filter(|line| line.starts_with("errno=")).collect();
    // Each of six sockets may hear of it once or twice; none waits for an answer that cannot come.
    ensure!(failures.len() <= 12, "{failures:?}");
    ensure!(!failures.iter().any(|line| line.starts_with("errno=11 ")), "{failures:?}");
    let names: BTreeSet<_> =
        output.lines().filter_map(|line| line.split(' ').next()?.strip_prefix("name=")).collect();
    ensure!(names.contains("web-2"), "{names:?}");
    Ok(())
}

#[test]
fn shared_and_host_networks_are_served() -> Result<()> {
    needs!(docker);
    let mut world = World::docker()?;
    let (callers, agent, _webs) = start(&mut world, "")?;
    let docker = world.docker_client()?;
    let owner = caller(&world, "owner")?;
    let sharing = docker
        .container("sharing")
        .with("--network container:owner")
        .without_hostname()
        .serving(9999)
        .start()?;
    let host =
        docker.container("host").with("--network host").without_hostname().serving(9998).start()?;
    wait_known(&agent, "sharing")?;
    wait_known(&agent, "host")?;
    for from in [&owner, &sharing, &host] {
        // The container's own program, in the container's own cgroup.
        let target = world.front();
        let output = process::run(&mut from.exec(&format!("fetch --target {target} --count 20")))?;
        ensure!(output.contains("\"ok\":20"), "{}: {output}", from.name());
        let calls = callers.dial(&world, Some(from), "tcp", target, 10)?;
        check(&calls, target, None)?;
    }
    Ok(())
}

#[test]
fn an_agent_comes_and_goes_and_calls_go_on() -> Result<()> {
    needs!(docker);
    let mut world = World::docker()?;
    let (callers, mut agent, webs) = start(&mut world, "")?;
    let client = caller(&world, "client")?;
    wait_known(&agent, "client")?;
    let target = world.front();
    let calls = || -> Result<()> {
        for way in ["tcp", "udp"] {
            check(&callers.dial(&world, Some(&client), way, target, 20)?, target, None)?;
        }
        Ok(())
    };
    calls()?;
    let held = callers.hold(&world, Some(&client), target, 200, 4)?;
    let mut load = callers.in_container(&client, "sh")?;
    let dial = callers.dial_path().display();
    let script = format!("while test -e $0; do {dial} tcp {target} 20; done");
    let flag = world.directory().join("load");
    std::fs::write(&flag, [])?;
    let load =
        load.args(["-c", &script]).arg(&flag).stdout(std::process::Stdio::piped()).spawn()?;

    agent.stop(Signal::SIGKILL)?;
    calls().context("without agent")?;
    agent.start()?;
    calls().context("with the next agent")?;
    agent.stop(Signal::SIGTERM)?;
    agent.start()?;
    std::fs::remove_file(&flag)?;
    let output = String::from_utf8(load.wait_with_output()?.stdout)?;
    ensure!(output.lines().count() > 50, "{}", output.lines().count());
    ensure!(!output.contains("errno="), "{output}");

    // Removed, and what is connected stays connected.
    agent.stop(Signal::SIGTERM)?;
    let removed = agent.uninstall()?;
    ensure!(removed.contains("program lb_connect4 of socket calls"), "{removed}");
    let output = held.end()?;
    ensure!(output.contains("alive=200"), "{output}");
    let direct = SocketAddr::new(webs[0].address()?, 8080);
    check(&callers.dial(&world, Some(&client), "tcp", direct, 5)?, direct, None)?;
    Ok(())
}

#[test]
fn real_programs_call() -> Result<()> {
    needs!(docker);
    let mut world = World::docker()?;
    let (callers, agent, _webs) = start(&mut world, "")?;
    let client = caller(&world, "client")?;
    wait_known(&agent, "client")?;
    let url = format!("http://{}/", world.front());
    let mut names = BTreeSet::new();
    for _ in 0..20 {
        let mut curl = callers.in_container(&client, "curl")?;
        let output =
            process::run(curl.args(["--silent", "--show-error", "--max-time", "3", &url]))?;
        names.extend(output.split(' ').next().map(str::to_owned));
    }
    ensure!(names.len() == 2, "{names:?}");
    let fast = callers.in_container(&client, "curl").map(|mut curl| {
        process::run(curl.args(["--silent", "--tcp-fastopen", "--max-time", "3", &url]))
    })??;
    ensure!(fast.starts_with("name=web-"), "{fast}");
    let refused = callers.in_container(&client, "curl").map(|mut curl| {
        let url = format!("http://{}/", vip(FRONT_PORT + 1));
        curl.args(["--silent", "--max-time", "3", &url]).status()
    })??;
    assert_eq!(refused.code(), Some(7), "curl could not connect");
    Ok(())
}

#[test]
fn a_cgroup_that_cannot_be_used_is_told_and_packets_are_served() -> Result<()> {
    needs!(docker);
    let world = World::docker()?;
    world.start_webs(1)?;
    let mut config = world.config();
    config.cgroup = Some("/proc".into());
    let agent = world.start_agent(&config)?;
    agent.wait_backends(&["web-1"])?;
    let status = agent.json("status")?;
    let trouble = status["sockets"]["trouble"].as_str().context("no trouble")?.to_owned();
    ensure!(trouble.contains("`/proc`") && trouble.contains("not in a cgroup v2"), "{trouble}");
    world.client().fetch(world.front(), 20)?.check()?;
    Ok(())
}

#[test]
fn whoever_is_outside_of_the_cgroup_is_left_alone() -> Result<()> {
    needs!(docker);
    let mut world = World::docker()?;
    let (callers, _agent, _webs) = start(&mut world, "")?;
    // On the node's network, in the cgroup of this test.
    let target = world.front();
    let probe = format!("timeout 1 bash -c 'exec 3<>/dev/tcp/{}/{}'", target.ip(), target.port());
    let outside = world.node().command("bash").args(["-c", &probe]).status()?;
    ensure!(!outside.success(), "not translated");
    let inside = callers.on_node(&world, "bash").args(["-c", &probe]).status()?;
    ensure!(inside.success(), "translated");
    Ok(())
}

#[test]
fn calls_are_traced_while_somebody_looks() -> Result<()> {
    needs!(docker);
    let mut world = World::docker()?;
    let (callers, agent, _webs) = start(&mut world, "")?;
    let mut command = agent.lbctl_command("trace --seconds 3");
    let child = command.stdout(std::process::Stdio::piped()).spawn()?;
    process::sleep(Duration::from_millis(700))?;
    check(&callers.dial(&world, None, "tcp", world.front(), 5)?, world.front(), None)?;
    callers.dial(&world, None, "tcp", vip(81), 1)?;
    let output = String::from_utf8(child.wait_with_output()?.stdout)?;
    let calls: Vec<_> = output.lines().filter(|line| line.contains(" socket ")).collect();
    let served = format!("> {}: deliver to ", world.front());
    let count = calls.iter().filter(|line| line.contains(&served)).count();
    ensure!(count == 5 && calls.iter().all(|line| line.contains("namespace ")), "{output}");
    ensure!(calls.iter().any(|line| line.contains("drop, no_frontend")), "{output}");
    Ok(())
}
