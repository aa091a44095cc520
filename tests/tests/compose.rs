//! The Compose files of the systems that lb replaces, as they stand.
//!
//! Of the Consul cluster the file of one client host is here: those of the others differ in names and
//! addresses only, and those of the servers have nothing that lb reads.

use std::{
    collections::BTreeSet,
    net::{IpAddr, SocketAddr},
    process::{Command, Stdio},
    time::Duration,
};

use anyhow::{Context as _, Result, ensure};
use lb_tests::{
    Agent, World,
    callers::Callers,
    compose::Compose,
    needs, process, skip,
    world::{FRONT, NODE, VIP, vip},
};

const SOON: Duration = Duration::from_secs(30);

/// Who answers `count` requests, one connection each.
fn answers(world: &World, address: SocketAddr, count: u32) -> Result<BTreeSet<String>> {
    let report = world.client().fetch(address, count)?;
    Ok(report.check()?.by_name.keys().cloned().collect())
}

fn wait_answers(world: &World, address: SocketAddr, servers: usize) -> Result<BTreeSet<String>> {
    process::wait_for(&format!("{servers} servers"), SOON, || {
        let answers = answers(world, address, 60)?;
        ensure!(answers.len() == servers, "{answers:?} answer at {address}");
        Ok(answers)
    })
}

/// The programs that Compose files need, beside those of all tests.
fn lacking(programs: &[&str]) -> Option<String> {
    let is_missing = |program: &&&str| {
        let mut command = Command::new(program);
        command.arg("--version").stdout(Stdio::null()).stderr(Stdio::null());
        command.status().is_err()
    };
    programs.iter().find(is_missing).map(|program| format!("needs {program}"))
}

/// The address of a name, as a client's resolver would be told it.
fn address_of(agent: &Agent, name: &str) -> Result<SocketAddr> {
    let vips = agent.rows("vip")?;
    let named = vips.iter().find(|row| row["names"][0] == name);
    let vip = named.and_then(|row| row["vip"].as_str()).with_context(|| format!("no {name}"))?;
    Ok(SocketAddr::new(vip.parse()?, 80))
}

#[test]
fn a_rest_client_that_resolves_the_name_is_answered_by_both_servers() -> Result<()> {
    needs!(docker);
    if let Some(why) = lacking(&["docker-compose", "curl"]) {
        skip!("{why}");
    }
    let world = World::docker()?;
    let docker = world.docker_client()?;
    docker.import_server("nginx", &[80])?;
    let compose = Compose::new(docker.clone(), "rest.yml", "internal-loadbalance");
    let mut config = world.config();
    config.keys = "routing_pool = \"203.0.113.64/26\"".to_owned();
    let agent = world.start_agent(&config)?;
    // The number of servers is the orchestrator's business, so Compose is told.
    let scale = |count: u32| {
        compose.run(&format!("up --detach --scale restserver={count} restserver")).map(drop)
    };
    scale(2)?;
    let address = process::wait_for("the name", SOON, || address_of(&agent, "restserver.local"))?;
    let servers = wait_answers(&world, address, 2)?;

    // What the client of the file does, where the name leads to the VIP.
    let resolve = format!("restserver.local:80:{}", address.ip());
    let mut seen = BTreeSet::new();
    for _ in 0..60 {
        let mut curl = world.client().command("curl");
        curl.args(["--silent", "--fail", "--max-time", "5", "--resolve", &resolve]);
        let answer = process::run(curl.arg("http://restserver.local/"))?;
        let name = answer.split_whitespace().find_map(|word| word.strip_prefix("name="));
        seen.insert(name.with_context(|| answer.clone())?.to_owned());
    }
    assert_eq!(seen, servers);
    assert_eq!(agent.refusals()?, [""; 0]);

    // Down to none: clients are told at once, and the name keeps its address.
    scale(0)?;
    process::wait_for("nobody", SOON, || {
        ensure!(agent.healthy_backends()?.is_empty(), "somebody is left");
        Ok(())
    })?;
    let begun = std::time::Instant::now();
    ensure!(world.client().fetch_one(address).is_err(), "nobody is left who could answer");
    ensure!(begun.elapsed() < Duration::from_secs(2), "the client waited {:?}", begun.elapsed());
    // And back.
    scale(2)?;
    let again = wait_answers(&world, address, 2)?;
    ensure!(again.is_disjoint(&servers), "{again:?} are containers of before");
    assert_eq!(address_of(&agent, "restserver.local")?, address);
    Ok(())
}

/// The whole file, but that its client asks the agent for the name, as its `dns` says, instead of linking
/// to a router, whose container does not exist here.
#[test]
fn a_rest_client_beside_the_servers_is_answered_by_both() -> Result<()> {
    /// Of the file; behind it stands a comment.
    const LINKS: &str = "external_links:\n    - \"restserver.local\"";
    const ASK: &str = "for _ in $(seq 60); do
        curl --silent --show-error --fail --max-time 5 restserver.local || exit 1
    done";
    const IMAGE: &str = "registry.aliyuncs.com/acs-sample/alpine:3.3";
    needs!(docker);
    if let Some(why) = lacking(&["docker-compose", "curl"]) {
        skip!("{why}");
    }
    let mut world = World::docker()?;
    let callers = Callers::of(&mut world)?;
    let docker = world.docker_client()?;
    docker.import_server("nginx", &[80])?;
    docker.import_curl(IMAGE)?;
    let compose = Compose::new(docker.clone(), "rest.yml", "internal-loadbalance");
    let mut config = world.config();
    config.keys = "routing_pool = \"203.0.113.64/26\"".to_owned();
    config.extra = "[names]\nlisten = [\"0.0.0.0:53\"]\n".to_owned();
    config.cgroup = Some(callers.cgroup().to_owned());
    let agent = world.start_agent(&config)?;
    let template = "{{range .IPAM.Config}}{{.Gateway}}{{end}}";
    let mut inspect = docker.command();
    let gateway =
        process::run(inspect.args(["network", "inspect", "--format", template, "bridge"]))?;
    let dns = format!("dns: {}", gateway.trim());
    let compose = compose.edited(world.directory(), LINKS, &dns)?;
    compose.run("up --detach --scale restserver=2")?;
    let address = process::wait_for("the name", SOON, || address_of(&agent, "restserver.local"))?;
    let servers = wait_answers(&world, address, 2)?;
    process::wait_for("answers to the client of the file", SOON, || {
        let log = compose.run("logs --no-color restclient")?;
        ensure!(log.matches("HTTP/1.1 200 OK").count() >= 3, "{log}");
        Ok(())
    })?;
    let client = compose.run("ps --quiet restclient")?;
    let mut ask = docker.command();
    let answers = process::run(ask.args(["exec", client.trim(), "sh", "-c", ASK]))?;
    let names = answers.split_whitespace().filter_map(|word| word.strip_prefix("name="));
    assert_eq!(names.clone().count(), 60, "{answers}");
    assert_eq!(names.map(str::to_owned).collect::<BTreeSet<_>>(), servers);
    Ok(())
}

#[test]
fn registered_servers_are_served_as_their_file_stands() -> Result<()> {
    needs!(docker);
    if let Some(why) = lacking(&["docker-compose"]) {
        skip!("{why}");
    }
    let world = World::docker()?;
    let docker = world.docker_client()?;
    for image in ["test-server", "test-client"] {
        docker.import_server(image, &[8080, 25000])?;
    }
    docker.import_idle("consul", "consul")?;
    let compose = Compose::new(docker, "registrator.yml", "demo");
    let mut config = world.config();
    let frontends = [
        ("test-server-http-service", vip(80)),
        ("test-server-thrift-service", vip(25000)),
        ("my-web-server", vip(8000)),
    ];
    config.extra = frontends
        .map(|(name, frontend)| {
            format!("[[registrator]]\nname = \"{name}\"\nfrontend = \"tcp://{frontend}\"\n")
        })
        .concat();
    let agent = world.start_agent(&config)?;
    // Consul and Registrator are what lb stands for, and do no harm while they are there. But the file
    // gives Registrator the socket of the machine's own Docker, which is not a test's to give away, and
    // which Docker would make a directory of the machine where there is none.
    compose.run("up --detach consul_client_01 test_server_1 test_server_2 test_client_1")?;
    for (name, frontend) in frontends {
        let servers = if name == "my-web-server" { 1 } else { 2 };
        wait_answers(&world, frontend, servers)?;
        let shown = agent.lbctl(&format!("service show registrator/{name}"))?;
        ensure!(shown.contains("10 s"), "not its interval:\n{shown}");
    }
    // The ports of the file lead there beside it.
    for port in [16000, 18000, 80, 30000, 32000] {
        answers(&world, SocketAddr::new(NODE, port), 5).with_context(|| format!("port {port}"))?;
    }
    ensure!(!compose.run("ps --quiet consul_client_01")?.trim().is_empty(), "it is there, too");
    assert_eq!(agent.rows("service")?.len(), frontends.len(), "nothing of it is balanced");
    assert_eq!(agent.refusals()?, [""; 0]);
    Ok(())
}

/// A client of Redis that counts so often, from somewhere, at an address.
fn count(mut command: Command, host: IpAddr, times: u32) -> Result<std::process::Child> {
    command.args(["-h", &host.to_string(), "-p", "6379", "-r", &times.to_string(), "incr", "hits"]);
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    Ok(command.spawn()?)
}

#[test]
fn redis_is_reached_by_every_way_at_once() -> Result<()> {
    const TIMES: u32 = 200;
    needs!(docker);
    if let Some(why) = lacking(&["docker-compose", "redis-cli"]) {
        skip!("{why}");
    }
    let mut world = World::docker()?;
    let callers = Callers::of(&mut world)?;
    let docker = world.docker_client()?;
    docker.import_redis("redis")?;
    let compose = Compose::new(docker.clone(), "redis.yml", "redis-demo");
    let mut config = world.config();
    config.cgroup = Some(callers.cgroup().to_owned());
    config.balancers = vec![("slb_redis_app".to_owned(), VIP.to_string())];
    let agent = world.start_agent(&config)?;
    compose.run("up --detach")?;
    let name = compose.run("ps --quiet redis")?.trim().to_owned();
    process::wait_for("redis", SOON, || {
        ensure!(agent.healthy_backends()?.len() == 1, "not served yet");
        Ok(())
    })?;
    docker.run("run --detach --name sibling --network redis-demo_default redis")?;
    agent.wait_caller("sibling")?;
    let template = "{{range .NetworkSettings.Networks}}{{.IPAddress}}{{end}}";
    let mut inspect = docker.command();
    let address = process::run(inspect.args(["inspect", "--format", template, &name]))?;
    let address: IpAddr = address.trim().parse()?;

    let outside = || world.client().command("redis-cli");
    let host = || callers.on_node(&world, "redis-cli");
    let sibling = || {
        let mut command = docker.command();
        command.args(["exec", "sibling", "/usr/bin/redis-cli"]);
        command
    };
    let ways: [(&str, Command, IpAddr); 9] = [
        ("outside, VIP", outside(), VIP),
        ("outside, published port", outside(), NODE),
        ("outside, address", outside(), address),
        ("host, VIP", host(), VIP),
        ("host, published port", host(), NODE),
        ("host, address", host(), address),
        ("sibling, VIP", sibling(), VIP),
        ("sibling, published port", sibling(), NODE),
        ("sibling, address", sibling(), address),
    ];
    let count_of_ways = u32::try_from(ways.len())?;
    let running = ways.map(|(way, command, host)| (way, count(command, host, TIMES)));
    for (way, client) in running {
        let output = client?.wait_with_output()?;
        let answers = String::from_utf8_lossy(&output.stdout);
        let numbers = answers.lines().filter(|line| line.trim().parse::<u32>().is_ok()).count();
        let error = String::from_utf8_lossy(&output.stderr);
        ensure!(numbers == TIMES as usize, "{way}: {numbers} answers; {error}");
    }
    let mut get = outside();
    let hits = process::run(get.args(["-h", &VIP.to_string(), "get", "hits"]))?;
    assert_eq!(hits.trim(), (TIMES * count_of_ways).to_string(), "each once, at one server");
    // It was the VIP that led there.
    let packets = |agent: &Agent| -> Result<u64> {
        let rows = agent.rows("backend")?;
        let packets = rows.iter().filter_map(|row| row["counters"]["packets_in"].as_u64());
        Ok(packets.sum())
    };
    process::wait_for("counters", SOON, || {
        let packets = packets(&agent)?;
        ensure!(packets >= u64::from(TIMES), "{packets} packets by {FRONT}");
        Ok(())
    })
}
