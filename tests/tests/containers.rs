//! Containers behind a VIP: who answers, what it sees, and the other ways in beside the VIP.

use std::{
    collections::BTreeSet,
    io::{Read as _, Write as _},
    net::SocketAddr,
    time::Duration,
};

use anyhow::{Result, ensure};
use lb_tests::{
    DockerOptions, World,
    container::PORT,
    needs, process,
    traffic::now_ms,
    world::{BALANCER, CLIENT, FRONT, NODE, VIP, vip},
};
use nix::sys::signal::Signal;

#[test]
fn every_container_answers_and_sees_the_clients_address() -> Result<()> {
    needs!(docker);
    let world = World::docker()?;
    world.docker_client()?.run("network create front")?;
    let _bridge = world.web(1)?.start()?;
    let _user_network = world.web(2)?.with("--network front").start()?;
    let _published = world.web(3)?.with("--network front --publish 8080").start()?;
    let agent = world.start_agent(&world.config())?;
    agent.wait_backends(&["web-1", "web-2", "web-3"])?;

    let report = world.client().fetch(world.front(), 300)?;
    let summary = report.check()?;
    for name in ["web-1", "web-2", "web-3"] {
        let count = summary.by_name.get(name).copied().unwrap_or(0);
        ensure!((50..=150).contains(&count), "{name} answered {count} of 300");
    }
    for answer in &report.answers {
        assert_eq!(answer.client.ip(), CLIENT, "as {} saw it", answer.name);
        assert_eq!(answer.local.port(), PORT, "the container's own port");
    }
    Ok(())
}

#[test]
fn front_interface_defaults_to_that_of_the_default_route() -> Result<()> {
    needs!(docker);
    let world = World::docker()?;
    world.start_webs(1)?;
    world.node().ip(&format!("route add default via {CLIENT}"))?;
    let mut config = world.config();
    config.front.clear();
    let agent = world.start_agent(&config)?;
    agent.wait_backends(&["web-1"])?;
    agent.attachment(FRONT)?;
    world.client().fetch(world.front(), 20)?.check()?;
    Ok(())
}

#[test]
fn dead_container_leaves_at_once() -> Result<()> {
    needs!(docker);
    let world = World::docker()?;
    let webs = world.start_webs(3)?;
    let agent = world.start_agent(&world.config())?;
    agent.wait_backends(&["web-1", "web-2", "web-3"])?;
    let streams = world.client().streams(world.front(), 20)?;
    let mut requests = world.client().requests(world.front(), 200)?;
    requests.wait_until("requests", Duration::from_secs(5), |report| report.answers.len() > 100)?;

    let pid = webs[1].pid()?;
    let killed_ms = now_ms();
    process::kill(pid, Signal::SIGKILL);
    process::sleep(Duration::from_secs(2))?;

    let requests = requests.finish()?;
    for failure in &requests.failures {
        let after_ms = failure.at_ms - killed_ms;
        ensure!((-500.0..=250.0).contains(&after_ms), "{after_ms:.0} ms after: {}", failure.error);
    }
    let late = |name: &str, at_ms: f64| name == "web-2" && at_ms > killed_ms + 250.0;
    ensure!(!requests.answers.iter().any(|answer| late(&answer.name, answer.at_ms)));
    ensure!(requests.summary()?.ok > 300, "{:?}", requests.summary()?);

    // Only its own streams break.
    for failure in &streams.finish()?.failures {
        assert_eq!(failure.name, "web-2", "{}", failure.error);
    }
    agent.wait_backends(&["web-1", "web-3"])
}

#[test]
fn replacement_keeps_its_slots() -> Result<()> {
    needs!(docker);
    let world = World::docker()?;
    let webs = world.start_webs(3)?;
    let agent = world.start_agent(&world.config())?;
    agent.wait_backends(&["web-1", "web-2", "web-3"])?;
    let ports = 40000..40200;
    let served = || -> Result<Vec<String>> {
        ports.clone().map(|port| world.client().fetch_from(port, world.front())).collect()
    };
    let before = served()?;
    ensure!(before.iter().collect::<BTreeSet<_>>().len() == 3, "too few backends: {before:?}");

    webs[1].act("rm --force")?;
    agent.wait_backends(&["web-1", "web-3"])?;
    // Takes the address, so that the replacement has another one.
    world.docker_client()?.container("filler").start()?;
    let replacement = world.docker_client()?.container("web-2-again");
    let replacement = replacement.compose("shop", "web", 2);
    replacement.balanced(&format!("http://{BALANCER}:80")).start()?.wait_listening()?;
    agent.wait_backends(&["web-1", "web-2-again", "web-3"])?;

    let expected: Vec<_> = before
        .iter()
        .map(|name| if name == "web-2" { "web-2-again".to_owned() } else { name.clone() })
        .collect();
    assert_eq!(served()?, expected);
    Ok(())
}

#[test]
fn container_restarted_with_another_address_is_followed() -> Result<()> {
    needs!(docker);
    let world = World::docker()?;
    let webs = world.start_webs(1)?;
    let agent = world.start_agent(&world.config())?;
    agent.wait_backends(&["web-1"])?;
    let before = webs[0].address()?;

    webs[0].act("stop --time 0")?;
    agent.wait_backends(&[])?;
    let thief = world.docker_client()?.container("thief").start()?;
    assert_eq!(thief.address()?, before, "the fixture must reuse the address");
    webs[0].act("start")?;
    agent.wait_backends(&["web-1"])?;
    ensure!(webs[0].address()? != before);

    let report = world.client().fetch(world.front(), 50)?;
    assert_eq!(report.check()?.by_name.get("web-1"), Some(&50));
    Ok(())
}

#[test]
fn two_labels_on_one_container_are_two_frontends() -> Result<()> {
    needs!(docker);
    let world = World::docker()?;
    let _web = world
        .web(1)?
        .label("aliyun.lb.port_9090", &format!("tcp://{BALANCER}:6379"))
        .port(9090)
        .start()?;
    let agent = world.start_agent(&world.config())?;
    agent.wait_backends(&["web-1", "web-1"])?;
    for (front, expected) in [(80, PORT), (6379, 9090)] {
        let answer = world.client().fetch_one(vip(front))?;
        assert_eq!(answer.local.port(), expected, "behind front port {front}");
    }
    Ok(())
}

#[test]
fn direct_and_published_access_work_beside_the_vip() -> Result<()> {
    needs!(docker);
    let world = World::docker()?;
    let web = world.web(1)?.with("--publish 18080:8080").start()?;
    let neighbour = world.docker_client()?.container("neighbour").start()?;
    let agent = world.start_agent(&world.config())?;
    agent.wait_backends(&["web-1"])?;
    let direct = (web.address()?, PORT).into();
    let published = (NODE, 18080).into();
    let (client, node) = (world.client(), world.node());

    // All ways at once, for the same client, container and port. A stream keeps its port, which nobody
    // can then use by another way; so those of the streams are their own.
    client.choose_ports(20_000, 20_999)?;
    let by_vip = client.slow_streams(world.front(), 5, Duration::from_millis(5))?;
    client.choose_ports(21_000, 21_999)?;
    let directly = client.slow_streams(direct, 5, Duration::from_millis(5))?;
    client.choose_ports(22_000, 60_999)?;
    let loads = [
        client.requests(world.front(), 50)?,
        client.requests(published, 50)?,
        // Docker lets outsiders reach published ports of a container by its address, too.
        client.requests(direct, 50)?,
        node.requests(direct, 50)?,
    ];
    process::sleep(Duration::from_secs(2))?;
    for load in loads {
        ensure!(load.finish()?.check()?.ok > 50);
    }
    for load in [by_vip, directly] {
        load.finish()?.check()?;
    }
    // A neighbour reaches it, and it reaches its neighbour: replies to its own connections come
    // from the port's number on the other side.
    for (from, to) in [(&neighbour, &web), (&web, &neighbour)] {
        let words = format!("fetch --each --target {}:{PORT} --count 20", to.address()?);
        let report = lb_tests::traffic::run_command(from.exec(&words))?;
        assert_eq!(report.check()?.by_name.get(to.name()), Some(&20));
    }
    // And it reaches the world outside.
    let outside = client.serve(9999)?;
    let words = format!("fetch --target {CLIENT}:9999 --count 20");
    lb_tests::traffic::run_command(web.exec(&words))?.check()?;
    drop(outside);
    Ok(())
}

/// The container meets the same client address and port by one way after the other, and may answer the
/// next way's SYN from a socket in `TIME_WAIT` (RFC 9293, section 3.10.7.4). What it says then must
/// reach whoever asked: otherwise each such connection waits for its SYN to be sent again.
#[test]
fn client_ports_come_by_every_way_in_turn() -> Result<()> {
    needs!(docker);
    let world = World::docker()?;
    let web = world.web(1)?.with("--publish 18080:8080").start()?;
    let agent = world.start_agent(&world.config())?;
    agent.wait_backends(&["web-1"])?;
    let direct = (web.address()?, PORT).into();
    let published = (NODE, 18080).into();
    // So few ports that the ways share them. Often both sides close at once: the two FINs are looked at
    // on two CPUs, neither of which sees the other's.
    for first_port in (41_000..45_000).step_by(200) {
        world.client().choose_ports(first_port, first_port + 39)?;
        for way in [world.front(), direct, world.front(), published, world.front()] {
            let report = world.client().fetch(way, 12)?;
            ensure!(report.check()?.ok == 12, "by {way}: {report:?}");
        }
    }
    Ok(())
}

/// From one port of the client by two ways at once. Both would be one connection to the container: the
/// second cannot be, and must not harm the first.
fn check_first_stays(
    world: &World,
    source_port: u16,
    [first, second]: [SocketAddr; 2],
) -> Result<()> {
    let mut stream = world.client().connect_from(source_port, first)?;
    let other = world.client().connect_from(source_port, second);
    ensure!(other.is_err(), "{second} answered on the port of a connection to {first}");
    stream.write_all(b"GET / HTTP/1.1\r\n\r\n")?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    ensure!(answer.contains("name=web-1"), "{second} took the place of {first}: `{answer}`");
    Ok(())
}

#[test]
fn one_client_port_by_two_ways_at_once_keeps_the_first() -> Result<()> {
    needs!(docker);
    let world = World::docker()?;
    let web = world.web(1)?.with("--publish 18080:8080").start()?;
    let agent = world.start_agent(&world.config())?;
    agent.wait_backends(&["web-1"])?;
    let (vip, published) = (world.front(), (NODE, 18080).into());
    let direct = (web.address()?, PORT).into();
    let ways = [[vip, published], [vip, direct], [published, vip], [direct, vip]];
    for (source_port, ways) in (42_000..).zip(ways) {
        check_first_stays(&world, source_port, ways)?;
    }
    Ok(())
}

#[test]
fn forward_policy_drop_and_dockers_rules_do_not_matter() -> Result<()> {
    needs!(docker);
    let world = World::docker_with(DockerOptions { forward_drop: true, ..Default::default() })?;
    let rules = world.node().run("iptables -S FORWARD")?;
    ensure!(rules.contains("-P FORWARD DROP"), "the fixture has no such policy:\n{rules}");
    let webs = world.start_webs(2)?;
    let direct = (webs[0].address()?, PORT).into();
    ensure!(world.client().fetch_one(direct).is_err(), "Docker's rules let everything through");
    let agent = world.start_agent(&world.config())?;
    agent.wait_backends(&["web-1", "web-2"])?;
    let report = world.client().fetch(world.front(), 100)?;
    assert_eq!(report.check()?.by_name.len(), 2);
    // What Docker keeps closed stays closed.
    ensure!(world.client().fetch_one(direct).is_err(), "the agent opened what Docker closed");
    Ok(())
}

#[test]
fn several_networks_the_default_route_counts() -> Result<()> {
    needs!(docker);
    let world = World::docker()?;
    let docker = world.docker_client()?;
    // Docker takes the network that sorts first for the default route.
    docker.run("network create aaa")?;
    docker.run("network create --internal zzz")?;
    let web = world.web(1)?.with("--network zzz").start()?;
    docker.run(&format!("network connect aaa {}", web.name()))?;
    let agent = world.start_agent(&world.config())?;
    agent.wait_backends(&["web-1"])?;
    let answer = world.client().fetch_one(world.front())?;
    let expected = web.inspect(r#"{{(index .NetworkSettings.Networks "aaa").IPAddress}}"#)?;
    assert_eq!(answer.local.ip().to_string(), expected);
    Ok(())
}

#[test]
fn vip_is_not_an_address_of_the_node() -> Result<()> {
    needs!(docker);
    let world = World::docker()?;
    world.start_webs(1)?;
    let agent = world.start_agent(&world.config())?;
    agent.wait_backends(&["web-1"])?;
    let addresses = world.node().ip("-o addr")?;
    ensure!(!addresses.contains(&VIP.to_string()), "{addresses}");
    Ok(())
}
