//! East-west: containers and the node itself call a VIP, by every kind of socket call.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::{IpAddr, SocketAddr},
    time::Duration,
};

use anyhow::{Context as _, Result, bail, ensure};
use lb_tests::{
    World,
    callers::{Called, Callers},
    calling::Calling,
    eastwest::{Scene, frontends_of_both, shares, stranger},
    needs, process,
    tracing::Tracing,
    world::{vip, vip6},
};
use nix::sys::signal::Signal;

const ENETUNREACH: i32 = 101;
const ECONNABORTED: i32 = 103;
const ECONNREFUSED: i32 = 111;
const EHOSTUNREACH: i32 = 113;

/// Longest time from a death until the last of a hundred sockets has heard of it.
const LATEST_MS: f64 = 900.0;

const TCP: [&str; 5] = ["tcp", "tcp-nonblocking", "tcp-fastopen", "tcp-bound", "tcp-mapped"];
const UDP: [&str; 4] = ["udp", "udp-unconnected", "udp-mapped", "udp-mapped-unconnected"];

/// The same, and each was from this address.
fn from_address(calls: &[Called], address: IpAddr) -> Result<()> {
    for call in calls {
        let Called::Answered { name, client, .. } = call else { bail!("{call:?}") };
        ensure!(client.ip() == address, "{name} saw {client}, and the caller is {address}");
    }
    Ok(())
}

#[test]
fn every_kind_of_call_is_balanced_and_shows_the_vip() -> Result<()> {
    needs!(docker);
    let world = World::docker()?;
    // There before the agent is.
    let early = world.docker_client()?.container("early").start()?;
    let scene = Scene::with(world, |_| {})?;
    let late = scene.world.docker_client()?.container("late").start()?;
    scene.wait_known("late")?;
    let target = scene.target();
    for from in [None, Some(&early), Some(&late)] {
        for way in TCP.into_iter().chain(UDP) {
            let count = if way.ends_with("unconnected") || way == "tcp-bound" { 1 } else { 16 };
            let mut all = BTreeMap::new();
            // One socket is one flow.
            for _ in 0..16 / count {
                let calls = scene.dial(from, way, target, count)?;
                if let Some(from) = from {
                    from_address(&calls, from.address()?).context(way)?;
                }
                for (name, count) in shares(&calls, target).with_context(|| way.to_owned())? {
                    *all.entry(name).or_insert(0) += count;
                }
            }
            let names: Vec<_> = all.keys().map(String::as_str).collect();
            ensure!(names == ["web-1", "web-2"], "{way} from {from:?}: {all:?}");
        }
        // Many datagrams of one socket go to one backend.
        let one = scene.served(from, "udp-unconnected", target, 50)?;
        ensure!(one.len() == 1, "a socket went to two backends");
        let short = scene.dial(from, "short-tcp", target, 1)?;
        ensure!(short == [Called::Failed(nix::errno::Errno::EINVAL as i32)], "{short:?}");
    }
    Ok(())
}

#[test]
fn a_thousand_connections_spread_as_the_ring_says() -> Result<()> {
    needs!(docker);
    let scene = Scene::new()?;
    let shares = scene.served(Some(&scene.client), "tcp", scene.target(), 1000)?;
    // Four standard deviations.
    ensure!(shares.values().all(|count| (437..=563).contains(count)), "{shares:?}");
    scene.agent.lbctl("backend weight web-1 300")?;
    let shares = scene.served(Some(&scene.client), "tcp", scene.target(), 1000)?;
    ensure!(shares.get("web-1").is_some_and(|count| (695..=805).contains(count)), "{shares:?}");
    Ok(())
}

#[test]
fn both_families_are_balanced() -> Result<()> {
    needs!(docker);
    let scene = Scene::of_both_families(|_| {})?;
    let client = Some(&scene.client);
    let target = vip6(80);
    for way in ["tcp", "tcp-nonblocking", "tcp-fastopen", "tcp-bound", "udp"] {
        let count = if way == "tcp-bound" { 1 } else { 20 };
        let calls = scene.dial(client, way, target, count)?;
        from_address(&calls, scene.client.address6()?).context(way)?;
        let shares = shares(&calls, target).context(way)?;
        ensure!(count == 1 || shares.len() == 2, "{way}: {shares:?}");
    }
    ensure!(scene.served(client, "udp-unconnected", target, 20)?.len() == 1);
    ensure!(scene.served(None, "tcp", target, 20)?.len() == 2, "from the node");
    scene.refused(client, "tcp", vip6(81), ECONNREFUSED)
}

#[test]
fn what_cannot_be_served_is_told_at_once() -> Result<()> {
    needs!(docker);
    let world = World::docker()?;
    let stranger = stranger(&world, "stranger")?;
    let scene = Scene::of_both_families_in(world, |_| {})?;
    let docker = scene.world.docker_client()?;
    let member = docker.container("member").with("--network both").start()?;
    docker.run("network connect other member")?;
    let client = Some(&scene.client);
    scene.wait_known("stranger")?;
    scene.wait_known("member")?;
    let agent = &scene.agent;
    for at in [vip, vip6] {
        let before = (agent.drops("other_network")?, agent.drops("no_frontend")?);
        // The VIP's wrong port.
        for (from, way) in [(None, "tcp"), (client, "tcp"), (client, "udp")] {
            scene.refused(from, way, at(81), ECONNREFUSED)?;
        }
        // Another network than the backends'.
        for way in ["tcp", "udp", "udp-unconnected", "tcp-mapped"] {
            scene.refused(Some(&stranger), way, at(80), EHOSTUNREACH)?;
        }
        scene.served(Some(&member), "tcp", at(80), 4)?;
        let counted = (agent.drops("other_network")?, agent.drops("no_frontend")?);
        assert_eq!(counted, (before.0 + 4, before.1 + 3), "{}", at(80));
    }
    // No backend at all.
    for web in &scene.webs {
        agent.lbctl(&format!("backend disable {}", web.name()))?;
    }
    agent.wait_backends(&[])?;
    for at in [vip, vip6] {
        scene.refused(client, "tcp", at(80), ECONNREFUSED)?;
    }
    // What is no VIP is nobody's business.
    for address in [scene.client.address()?, scene.client.address6()?] {
        scene.served(Some(&member), "tcp", SocketAddr::new(address, 8080), 1)?;
    }
    Ok(())
}

#[test]
fn a_service_is_there_for_whom_it_names() -> Result<()> {
    needs!(docker);
    let mut world = World::docker()?;
    let docker = world.docker_client()?;
    for (number, network) in ["front", "back"].into_iter().enumerate() {
        docker.run(&format!("network create --ipv6 --subnet fd00:8{number}::/64 {network}"))?;
    }
    let inside = docker.container("inside").with("--network front").start()?;
    let callers = Callers::of(&mut world)?;
    let service = |name: &str, port: u16, visible: &str| {
        let web = docker.container(name).with("--network front").label("lb.visible", visible);
        web.label("lb.8080.frontend", &frontends_of_both(port)).start()
    };
    service("private", 81, "network:front")?;
    service("local", 82, "node")?;
    service("shared", 83, "containers")?;
    service("outer", 84, "none")?;
    service("open", 85, "all")?;
    let outside = docker.container("outside").with("--network back").start()?;
    let mut config = world.config_of_both_families();
    config.cgroup = Some(callers.cgroup().to_owned());
    let agent = world.start_agent(&config)?;
    // Each by both families.
    let names = ["local", "open", "outer", "private", "shared"];
    agent.wait_backends(&names.map(|name| [name; 2]).concat())?;
    agent.wait_caller("inside")?;
    agent.wait_caller("outside")?;
    let cases = [
        (Some(&inside), 81, Some("private")),
        (Some(&outside), 81, None),
        (None, 81, None),
        (Some(&inside), 82, None),
        (None, 82, Some("local")),
        (Some(&inside), 83, Some("shared")),
        (None, 83, None),
        (Some(&inside), 85, Some("open")),
        (None, 85, Some("open")),
    ];
    for at in [vip, vip6] {
        for (from, port, expected) in cases {
            let calls = callers.dial(&world, from, "tcp", at(port), 1)?;
            match (&calls[0], expected) {
                (Called::Answered { name, .. }, Some(expected)) if name == expected => {}
                (Called::Failed(EHOSTUNREACH), None) => {}
                (call, _) => bail!("{} from {from:?}: {call:?}", at(port)),
            }
        }
        // For clients from outside nothing changes.
        for port in 81..=85 {
            world.client().fetch(at(port), 3)?.check()?;
        }
    }
    // Why: it does not see the one, and would not reach the other.
    ensure!(agent.drops("not_visible")? >= 8, "{}", agent.json("status")?["drops"]);
    Ok(())
}

#[test]
fn connections_end_when_their_backend_is_gone_and_new_ones_succeed() -> Result<()> {
    needs!(docker);
    let scene = Scene::new()?;
    let Scene { callers, world, client, .. } = &scene;
    let target = scene.target();
    let held = callers.hold(world, Some(client), target, 10_000)?;
    let on_node = callers.hold(world, None, target, 100)?;
    // Its network goes first: nothing that it sends in the end arrives, so nobody but us tells its clients.
    let pid = scene.webs[0].pid()?;
    scene.webs[0].cut_off()?;
    let killed_ms = lb_tests::traffic::now_ms();
    process::kill(pid, Signal::SIGKILL);
    let calls = scene.dial(Some(client), "tcp", target, 200)?;
    let failed = calls.iter().filter(|call| matches!(call, Called::Failed(_))).count();
    ensure!(failed <= 20, "{failed} of 200 calls failed");
    process::sleep(Duration::from_millis(250))?;
    let shares = scene.served(Some(client), "tcp", target, 100)?;
    assert_eq!(shares.keys().collect::<Vec<_>>(), ["web-2"]);

    // Those who tell of so many have little time for each, on the processors on which they are ended.
    for (held, all, limit_ms) in [(held, 10_000, 5000.0), (on_node, 100, 1500.0)] {
        let ends = held.ends(ECONNABORTED)?;
        let latest = ends.iter().copied().fold(0.0, f64::max) - killed_ms;
        println!("{} of {all} ended, the last after {latest:.0} ms", ends.len());
        ensure!(latest < limit_ms, "the last of {} ended after {latest:.0} ms", ends.len());
        let share = ends.len() * 100 / all;
        ensure!((35..=65).contains(&share), "{} of {all} ended", ends.len());
    }
    Ok(())
}

#[test]
fn connected_datagrams_are_told_and_others_move_at_once() -> Result<()> {
    needs!(docker);
    let scene = Scene::new()?;
    let Scene { callers, webs, client, world, .. } = &scene;
    let target = scene.target();
    // They send nothing, so nobody but us tells them.
    let held = callers.hold_datagrams(world, Some(client), target, 100)?;
    // One after the other on the same socket, until all has been seen.
    let mut command = callers.in_container(client, "sh")?;
    let dial = callers.dial_path()?.display();
    let script = format!(
        "for i in 1 2 3 4 5 6; do \
         setpriv --pdeathsig KILL {dial} udp-again {target} 9999999 & all=\"$all $!\"; done; \
         read line; kill $all; wait; {dial} udp-unconnected {target} 5"
    );
    // Into a file: nobody reads a pipe meanwhile, and a full one would stop the calls.
    let told = world.directory().join("told");
    let command = command.args(["-c", &script]).stdin(std::process::Stdio::piped());
    let mut child = command.stdout(std::fs::File::create(&told)?).spawn()?;
    let wait_calls = || {
        let before = std::fs::metadata(&told)?.len();
        process::wait_for("calls", Duration::from_secs(10), || {
            ensure!(std::fs::metadata(&told)?.len() > before, "{before} bytes of them as before");
            Ok(())
        })
    };
    wait_calls()?;
    let pid = webs[0].pid()?;
    let killed_ms = lb_tests::traffic::now_ms();
    process::kill(pid, Signal::SIGKILL);
    wait_calls()?;
    // Longer than any of them waits for an answer.
    process::sleep(Duration::from_secs(4))?;
    wait_calls().context("after it was killed")?;
    drop(child.stdin.take());
    child.wait()?;
    let output = std::fs::read_to_string(&told)?;
    let unconnected: Vec<_> = output.lines().rev().take(5).collect();
    ensure!(unconnected.iter().all(|it| it.starts_with("name=web-2 ")), "{unconnected:?}");
    let failures: Vec<_> = output.lines().filter(|line| line.starts_with("errno=")).collect();
    // Each of six sockets may hear of it once or twice; none waits for an answer that cannot come.
    ensure!(failures.len() <= 12, "{failures:?}");
    ensure!(!failures.iter().any(|line| line.starts_with("errno=11 ")), "{failures:?}");
    let names: BTreeSet<_> =
        output.lines().filter_map(|line| line.split(' ').next()?.strip_prefix("name=")).collect();
    ensure!(names.contains("web-2"), "{names:?}");
    let ends = held.ends(ECONNABORTED)?;
    ensure!((20..=80).contains(&ends.len()), "{} of 100 were told", ends.len());
    let latest_ms = ends.iter().copied().fold(0.0, f64::max) - killed_ms;
    println!("{} were told, the last after {latest_ms:.0} ms", ends.len());
    ensure!(latest_ms < LATEST_MS, "the last was told after {latest_ms:.0} ms");
    Ok(())
}

#[test]
fn shared_and_host_networks_are_served() -> Result<()> {
    needs!(docker);
    let scene = Scene::new()?;
    let docker = scene.world.docker_client()?;
    let container = |name: &str, network: &str, port: u16| {
        docker.container(name).with(network).without_hostname().serving(port).start()
    };
    let sharing = container("sharing", "--network container:client", 9999)?;
    let host = container("host", "--network host", 9998)?;
    scene.wait_known("sharing")?;
    scene.wait_known("host")?;
    let target = scene.target();
    for from in [&scene.client, &sharing, &host] {
        // The container's own program, in the container's own cgroup.
        let output = process::run(&mut from.exec(&format!("fetch --target {target} --count 20")))?;
        ensure!(output.contains("\"ok\":20"), "{}: {output}", from.name());
        scene.served(Some(from), "tcp", target, 10)?;
    }
    Ok(())
}

#[test]
fn an_agent_comes_and_goes_and_calls_go_on() -> Result<()> {
    needs!(docker);
    let Scene { mut agent, callers, webs, client, world } = Scene::new()?;
    let target = world.front();
    let call = |way, target| shares(&callers.dial(&world, Some(&client), way, target, 20)?, target);
    let calls =
        || -> Result<()> { call("tcp", target).and_then(|_| call("udp", target)).map(drop) };
    calls()?;
    let held = callers.hold(&world, Some(&client), target, 200)?;
    let held_datagrams = callers.hold_datagrams(&world, Some(&client), target, 10)?;
    let calling = Calling::start(&callers, &world, &client, &["tcp"], target)?;
    calling.goes_on()?;
    agent.stop(Signal::SIGKILL)?;
    calls().context("without agent")?;
    calling.goes_on()?;
    agent.start()?;
    calls().context("with the next agent")?;
    calling.goes_on()?;
    agent.stop(Signal::SIGTERM)?;
    agent.start()?;
    calling.goes_on()?;
    calling.none_failed()?;

    // Removed, and what is connected stays connected.
    agent.stop(Signal::SIGTERM)?;
    let removed = agent.uninstall()?;
    ensure!(removed.contains("program lb_connect4 of socket calls"), "{removed}");
    held.all_answer().context("connections")?;
    held_datagrams.all_answer().context("connected datagrams")?;
    let direct = SocketAddr::new(webs[0].address()?, 8080);
    call("tcp", direct)?;
    ensure!(!world.node().run("ip route show proto 108")?.contains("unreachable"));
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
    ensure!(!trouble.contains("attached all the same"), "{trouble}");
    world.client().fetch(world.front(), 20)?.check()?;
    Ok(())
}

#[test]
fn what_an_earlier_agent_attached_is_told_when_the_cgroup_cannot_be_used() -> Result<()> {
    needs!(docker);
    let mut scene = Scene::new()?;
    scene.agent.stop(Signal::SIGTERM)?;
    let mut config = scene.world.config();
    config.cgroup = Some("/proc".into());
    let agent = scene.world.start_agent(&config)?;
    agent.wait_backends(&["web-1", "web-2"])?;
    let status = agent.json("status")?;
    let trouble = status["sockets"]["trouble"].as_str().context("no trouble")?.to_owned();
    ensure!(trouble.contains("9 programs of socket calls are attached all the same"), "{trouble}");
    // It is true, and what they know is what there is.
    let target = scene.target();
    scene.served(Some(&scene.client), "tcp", target, 10)?;
    agent.wait_caller("client")?;
    let held = scene.callers.hold(&scene.world, Some(&scene.client), target, 100)?;
    let docker = scene.world.docker_client()?;
    let late = docker.container("late").start()?;
    agent.wait_caller("late")?;
    scene.webs[0].cut_off()?;
    scene.webs[0].act("kill")?;
    let shares = scene.served(Some(&late), "tcp", target, 20)?;
    assert_eq!(shares.keys().collect::<Vec<_>>(), ["web-2"]);
    let ends = held.ends(ECONNABORTED)?;
    ensure!((20..=80).contains(&ends.len()), "{} of 100 ended", ends.len());
    let said = agent.lbctl(&format!("explain --from late {target}"))?;
    ensure!(said.contains("deliver"), "{said}");
    let doctor = agent.lbctl_command("doctor").output()?;
    let doctor = String::from_utf8_lossy(&doctor.stdout).into_owned();
    ensure!(doctor.contains("are balanced as before"), "{doctor}");
    Ok(())
}

#[test]
fn calls_are_traced_while_somebody_looks() -> Result<()> {
    needs!(docker);
    let scene = Scene::of_both_families(|_| {})?;
    for at in [vip, vip6] {
        // It ends with the call that is refused, which comes last.
        let words = format!("--from node --vip {} --count 6 --seconds 60", at(80).ip());
        let trace = Tracing::start(&scene.agent, &words)?;
        for other in [vip, vip6] {
            scene.served(None, "tcp", other(80), 5)?;
        }
        scene.dial(None, "tcp", at(81), 1)?;
        let output = trace.rest();
        let calls: Vec<_> = output.iter().filter(|line| line.contains(" socket ")).collect();
        let served = format!(" node > {}: deliver to ", at(80));
        let count = calls.iter().filter(|line| line.contains(&served)).count();
        ensure!(count == 5 && calls.len() == 6, "{output:#?}");
        let refused = format!(" node > {}: drop, no_frontend", at(81));
        ensure!(calls.iter().any(|line| line.ends_with(&refused)), "{output:#?}");
    }
    Ok(())
}

/// Who made the calls by TCP that are told of, in the order of their names, and how many each; and how
/// many packets are told of beside them. A call by UDP is the last of all.
fn told(trace: &Tracing) -> Result<(Vec<(String, usize)>, usize)> {
    let (mut callers, mut packets) = (BTreeMap::<String, usize>::new(), 0);
    loop {
        let line = trace.find(&[])?;
        ensure!(line["what"] == "packet", "{line}");
        if line["hook"] != "socket" {
            packets += 1;
            continue;
        }
        if line["protocol"] == "udp" {
            return Ok((callers.into_iter().collect(), packets));
        }
        let caller = line["source"].as_str().with_context(|| line.to_string())?;
        *callers.entry(caller.to_owned()).or_default() += 1;
    }
}

#[test]
fn calls_are_traced_by_the_name_of_who_makes_them() -> Result<()> {
    needs!(docker);
    let world = World::docker()?;
    let scene = Scene::with(world, |_| {})?;
    let docker = scene.world.docker_client()?;
    let other = docker.container("other").start()?;
    let sharing = docker.container("sharing").with("--network container:client");
    let sharing = sharing.without_hostname().serving(9000).start()?;
    for container in [&other, &sharing] {
        scene.wait_known(container.name())?;
    }
    let traces = ["", "--from sharing", "--from node", "--from other --port 81"];
    // Longer than all calls take on any machine; each is ended when the last of them was told.
    let [all, shared, node, refused] =
        traces.map(|words| Tracing::start(&scene.agent, &format!("{words} --seconds 600 -o json")));
    let target = scene.target();
    for (from, count) in
        [(None, 2), (Some(&scene.client), 3), (Some(&sharing), 4), (Some(&other), 5)]
    {
        scene.served(from, "tcp", target, count)?;
    }
    scene.refused(Some(&other), "tcp", vip(81), ECONNREFUSED)?;
    // On a network of nobody's that the agent knows, from which no way leads to the backend.
    let mut nobody = scene.callers.on_node(&scene.world, "unshare");
    nobody.arg("--net").arg(scene.callers.dial_path()?);
    let said = process::run(nobody.args(["tcp", &target.to_string(), "1"]))?;
    ensure!(said.starts_with(&format!("errno={ENETUNREACH} ")), "{said}");
    for last in [None, Some(&sharing), Some(&other)] {
        scene.refused(last, "udp", vip(81), ECONNREFUSED)?;
    }

    let calls = |expected: &[(&str, usize)]| -> Vec<(String, usize)> {
        expected.iter().map(|(name, count)| ((*name).to_owned(), *count)).collect()
    };
    let (mut found, packets) = told(&all?)?;
    let is_number = |name: &str| {
        let number = name.strip_prefix("namespace ").map(str::parse::<u64>);
        number.is_some_and(|number| number.is_ok())
    };
    let unknown = found.extract_if(.., |(name, _)| is_number(name)).collect::<Vec<_>>();
    ensure!(unknown.len() == 1 && unknown[0].1 == 1, "{unknown:?} beside {found:?}");
    assert_eq!(found, calls(&[("client,sharing", 7), ("node", 2), ("other", 6)]));
    ensure!(packets > 0, "of calls alone there is nothing to keep from the others");
    assert_eq!(told(&shared?)?, (calls(&[("client,sharing", 7)]), 0));
    assert_eq!(told(&node?)?, (calls(&[("node", 2)]), 0));
    assert_eq!(told(&refused?)?, (calls(&[("other", 1)]), 0));

    let unknown = scene.agent.lbctl("trace --from nobody").err().context("nobody is traced")?;
    let expected = "no container `nobody` runs on this node, where there are client, other, sharing, \
                    web-1, web-2; `docker ps` lists all, and `node` stands for the node's own processes";
    ensure!(format!("{unknown:#}").contains(expected), "{unknown:#}");
    Ok(())
}
