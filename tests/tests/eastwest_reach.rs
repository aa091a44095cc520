//! East-west: whom a caller reaches, where it is led, and what becomes of it while no agent runs.

use std::{
    collections::BTreeSet,
    net::SocketAddr,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, ensure};
use aya::maps::{HashMap, Map, MapData};
use lb_tests::{
    Agent, Container, World,
    callers::{Called, Callers},
    calling::Calling,
    eastwest::{Scene, frontends_of_both, shares},
    needs, process, skip,
    world::{BALANCER, BALANCER6, RemoteHost, vip, vip6},
};
use nix::sys::signal::Signal;

const ECONNABORTED: i32 = 103;
const EHOSTUNREACH: i32 = 113;

/// A world with callers, whose containers the test makes before its agent starts.
struct Stage {
    callers: Callers,
    /// Of the service `web`.
    frontends: String,
    world: World,
}

impl Stage {
    fn new() -> Result<Self> {
        let mut world = World::docker()?;
        let frontends = format!("tcp://{BALANCER}:80,udp://{BALANCER}:80");
        Ok(Self { callers: Callers::of(&mut world)?, frontends, world })
    }

    /// With networks of both families, by each of which the service is served.
    fn of_both_families(networks: &[&str]) -> Result<Self> {
        let stage = Self::new()?;
        for (number, name) in networks.iter().enumerate() {
            let create = format!("network create --ipv6 --subnet fd00:8{number}::/64 {name}");
            stage.world.docker_client()?.run(&create)?;
        }
        Ok(Self { frontends: frontends_of_both(80), ..stage })
    }

    /// A container on a network, one of the service `web` if it has a number.
    fn start(&self, name: &str, network: &str, number: Option<u32>) -> Result<Container> {
        self.start_with(name, network, number, &[])
    }

    fn start_with(
        &self,
        name: &str,
        network: &str,
        number: Option<u32>,
        labels: &[(&str, &str)],
    ) -> Result<Container> {
        let docker = self.world.docker_client()?;
        let mut container = docker.container(name).with(&format!("--network {network}"));
        if let Some(number) = number {
            container = container.compose("shop", "web", number);
            container = container.label("lb.8080.frontend", &self.frontends);
        }
        for (key, value) in labels {
            container = container.label(key, value);
        }
        container.start()
    }

    /// An agent that knows these backends, and these callers.
    fn agent(&self, keys: &str, backends: &[&str], callers: &[&str]) -> Result<Agent> {
        let mut config = self.world.config_of_both_families();
        config.cgroup = Some(self.callers.cgroup().to_owned());
        keys.clone_into(&mut config.cgroup_keys);
        let agent = self.world.start_agent(&config)?;
        agent.wait_backends(backends)?;
        for caller in callers {
            agent.wait_caller(caller)?;
        }
        Ok(agent)
    }

    /// Names of those that answer so many calls to the service, of which none fails.
    fn served(
        &self,
        from: Option<&Container>,
        way: &str,
        count: usize,
    ) -> Result<BTreeSet<String>> {
        self.served_at(vip(80), from, way, count)
    }

    fn served_at(
        &self,
        target: SocketAddr,
        from: Option<&Container>,
        way: &str,
        count: usize,
    ) -> Result<BTreeSet<String>> {
        let calls = self.callers.dial(&self.world, from, way, target, count)?;
        Ok(shares(&calls, target)?.into_keys().collect())
    }

    fn refused(&self, from: Option<&Container>) -> Result<()> {
        let begun = Instant::now();
        for way in ["tcp", "udp", "udp-unconnected"] {
            let calls = self.callers.dial(&self.world, from, way, vip(80), 1)?;
            ensure!(calls == [Called::Failed(EHOSTUNREACH)], "{way}: {calls:?}");
        }
        ensure!(begun.elapsed() < Duration::from_secs(2), "told after {:?}", begun.elapsed());
        Ok(())
    }
}

fn names(all: &[&str]) -> BTreeSet<String> {
    all.iter().map(|name| (*name).to_owned()).collect()
}

#[test]
fn whoever_reaches_one_backend_of_many_is_always_led_there() -> Result<()> {
    needs!(docker);
    let stage = Stage::new()?;
    stage.world.docker_client()?.run("network create other")?;
    // Eight slots would miss it in half of all calls.
    let mut containers = Vec::new();
    for number in 1..=11 {
        containers.push(stage.start(&format!("web-{number}"), "bridge", Some(number))?);
    }
    containers.push(stage.start("web-12", "other", Some(12))?);
    let client = stage.start("client", "other", None)?;
    let all: Vec<&str> = containers.iter().map(Container::name).collect();
    let agent = stage.agent("", &all, &["client"])?;
    for way in ["tcp", "udp"] {
        assert_eq!(stage.served(Some(&client), way, 100)?, names(&["web-12"]), "{way}");
    }
    ensure!(stage.served(None, "tcp", 200)?.len() == 12, "the node reaches all");
    let said = agent.lbctl(&format!("explain --from client {}", vip(80)))?;
    ensure!(said.contains("1 backends, for the caller's networks"), "{said}");
    ensure!(said.contains("(web-12)"), "{said}");
    // It comes to a network where the others are.
    stage.world.docker_client()?.run("network connect bridge client")?;
    process::wait_for("the other network", Duration::from_secs(10), || {
        ensure!(stage.served(Some(&client), "tcp", 100)?.len() > 6);
        Ok(())
    })?;
    // A killed agent leaves it so, and the next one finds it so.
    let mut agent = agent;
    agent.stop(Signal::SIGKILL)?;
    ensure!(stage.served(Some(&client), "tcp", 100)?.len() > 6);
    agent.start()?;
    ensure!(stage.served(Some(&client), "tcp", 100)?.len() > 6);
    Ok(())
}

#[test]
fn a_container_may_be_on_any_number_of_networks() -> Result<()> {
    needs!(docker);
    let stage = Stage::new()?;
    let docker = stage.world.docker_client()?;
    let client = stage.start("client", "bridge", None)?;
    for number in 0..12 {
        docker.run(&format!("network create --subnet 172.29.{number}.0/24 net-{number:02}"))?;
        docker.run(&format!("network connect net-{number:02} client"))?;
    }
    // The last by name, which was the first to be left out.
    stage.start_with("web-1", "net-11", Some(1), &[("lb.visible", "network:net-11")])?;
    let _agent = stage.agent("", &["web-1"], &["client"])?;
    assert_eq!(stage.served(Some(&client), "tcp", 10)?, names(&["web-1"]));
    Ok(())
}

#[test]
fn containers_that_are_kept_apart_are_told_so() -> Result<()> {
    needs!(docker);
    let stage = Stage::new()?;
    let option = "com.docker.network.bridge.enable_icc=false";
    stage.world.docker_client()?.run(&format!("network create --opt {option} apart"))?;
    let web = stage.start("web-1", "apart", Some(1))?;
    let client = stage.start("client", "apart", None)?;
    let agent = stage.agent("", &["web-1"], &["client", "web-1"])?;
    stage.refused(Some(&client))?;
    stage.refused(Some(&web))?;
    // The node itself reaches it.
    assert_eq!(stage.served(None, "tcp", 5)?, names(&["web-1"]));
    let said = agent.lbctl(&format!("explain --from client {}", vip(80)))?;
    ensure!(said.contains("by apart (icc=false): not reached"), "{said}");
    let doctor = agent.lbctl_command("doctor").output()?;
    let doctor = String::from_utf8_lossy(&doctor.stdout).into_owned();
    ensure!(doctor.contains("icc=false") && doctor.contains("from client"), "{doctor}");
    Ok(())
}

#[test]
fn a_service_may_call_itself() -> Result<()> {
    needs!(docker);
    let stage = Stage::new()?;
    let web = stage.start("web-1", "bridge", Some(1))?;
    let _agent = stage.agent("", &["web-1"], &["web-1"])?;
    for way in ["tcp", "udp", "udp-unconnected"] {
        assert_eq!(stage.served(Some(&web), way, 5)?, names(&["web-1"]), "{way}");
    }
    Ok(())
}

#[test]
fn a_backend_of_the_node_is_preferred_as_long_as_it_takes_calls() -> Result<()> {
    needs!(docker);
    let stage = Stage::new()?;
    let remotes = (1..=4)
        .map(|number| RemoteHost::start(stage.world.node(), number))
        .collect::<Result<Vec<_>>>()?;
    let web = stage.world.docker_client()?.container("web-1").compose("shop", "web", 1);
    web.label("lb.8080.frontend", &format!("tcp://{BALANCER}:80"))
        .label("lb.share", "mixed")
        .label("lb.prefer", "node")
        .start()?;
    let client = stage.start("client", "bridge", None)?;
    let mut config = stage.world.config();
    config.cgroup = Some(stage.callers.cgroup().to_owned());
    config.extra = format!(
        "[[service]]\nname = \"far\"\nshare = \"mixed\"\nprefer = \"node\"\nfrontends = [\"tcp://{}\"]\n",
        vip(80)
    );
    let backends =
        remotes.iter().map(|it| format!("[[service.backend]]\naddress = \"{}\"\n", it.address));
    config.extra.extend(backends);
    let agent = stage.world.start_agent(&config)?;
    let far: Vec<String> = remotes.iter().map(|remote| remote.address.to_string()).collect();
    let far: Vec<&str> = far.iter().map(String::as_str).collect();
    agent.wait_backends(&[&["web-1"], &far[..]].concat())?;
    agent.wait_caller("client")?;
    // A preference follows the plan that leads to a new backend.
    process::wait_for("the preference", Duration::from_secs(5), || {
        ensure!(stage.served(Some(&client), "tcp", 20)? == names(&["web-1"]));
        Ok(())
    })?;
    for from in [None, Some(&client)] {
        // One of five backends, which a ring would give a fifth of the calls.
        assert_eq!(stage.served(from, "tcp", 100)?, names(&["web-1"]));
        agent.lbctl("backend disable web-1")?;
        let others = stage.served(from, "tcp", 100)?;
        assert_eq!(others, names(&["remote-1", "remote-2", "remote-3", "remote-4"]));
        agent.lbctl("backend enable web-1")?;
    }
    Ok(())
}

#[test]
fn the_host_leads_from_network_to_network_where_it_is_allowed() -> Result<()> {
    needs!(docker);
    let stage = Stage::of_both_families(&["own", "other"])?;
    stage.start("web-1", "own", Some(1))?;
    let client = stage.start("client", "other", None)?;
    for iptables in ["iptables", "ip6tables"] {
        // Of IPv6 not every Docker makes a chain for its user.
        stage.world.node().run(&format!("{iptables} -I FORWARD -j ACCEPT"))?;
    }
    let agent = stage.agent("routes_across = true", &["web-1", "web-1"], &["client"])?;
    for target in [vip(80), vip6(80)] {
        for way in ["tcp", "udp"] {
            let served = stage.served_at(target, Some(&client), way, 10);
            assert_eq!(served.context(way)?, names(&["web-1"]), "{way} to {target}");
        }
    }
    ensure!(agent.drops("other_network")? == 0);
    Ok(())
}

#[test]
fn with_affinity_a_caller_keeps_its_backend() -> Result<()> {
    needs!(docker);
    let stage = Stage::of_both_families(&["shop"])?;
    let affinity = [("lb.affinity", "client")];
    let mut webs = Vec::new();
    for number in 1..=3 {
        let name = format!("web-{number}");
        stage.start_with(&name, "shop", Some(number), &affinity)?;
        // By each family.
        webs.extend([name.clone(), name]);
    }
    let clients: Vec<Container> = (1..=6)
        .map(|number| stage.start(&format!("client-{number}"), "shop", None))
        .collect::<Result<_>>()?;
    let callers: Vec<&str> = clients.iter().map(Container::name).collect();
    let webs: Vec<&str> = webs.iter().map(String::as_str).collect();
    let mut agent = stage.agent("", &webs, &callers)?;
    let all = |target: SocketAddr, way: &str| -> Result<Vec<BTreeSet<String>>> {
        clients.iter().map(|client| stage.served_at(target, Some(client), way, 10)).collect()
    };
    let targets = [vip(80), vip6(80)];
    let [four, six] = targets.map(|target| all(target, "tcp"));
    let chosen = [four?, six?];
    for (target, chosen) in targets.into_iter().zip(&chosen) {
        ensure!(chosen.iter().all(|names| names.len() == 1), "{target}: {chosen:?}");
        ensure!(chosen.iter().collect::<BTreeSet<_>>().len() > 1, "all to one: {chosen:?}");
        assert_eq!(&all(target, "udp")?, chosen, "{target}");
    }
    agent.stop(Signal::SIGKILL)?;
    agent.start()?;
    for (target, chosen) in targets.into_iter().zip(&chosen) {
        assert_eq!(&all(target, "tcp")?, chosen, "{target}");
    }
    Ok(())
}

#[test]
fn who_was_led_to_what_died_without_an_agent_is_told_when_one_starts() -> Result<()> {
    needs!(docker);
    let mut scene = Scene::new()?;
    let target = scene.target();
    let held = scene.callers.hold(&scene.world, Some(&scene.client), target, 400)?;
    let on_node = scene.callers.hold(&scene.world, None, target, 100)?;
    scene.agent.stop(Signal::SIGKILL)?;
    // Its network goes first: nobody resets the connections.
    scene.webs[0].cut_off()?;
    scene.webs[0].act("kill")?;
    process::sleep(Duration::from_millis(500))?;
    let started_ms = lb_tests::traffic::now_ms();
    scene.agent.start()?;
    scene.agent.wait_backends(&["web-2"])?;
    for (held, all) in [(held, 400), (on_node, 100)] {
        let ends = held.ends(ECONNABORTED)?;
        let share = ends.len() * 100 / all;
        ensure!((25..=75).contains(&share), "{} of {all} ended", ends.len());
        let first = ends.iter().copied().fold(f64::MAX, f64::min) - started_ms;
        let latest = ends.iter().copied().fold(0.0, f64::max) - started_ms;
        println!("{} of {all} ended, {first:.0} to {latest:.0} ms after the start", ends.len());
        ensure!(first > 0.0 && latest < 10_000.0, "from {first:.0} to {latest:.0} ms");
    }
    Ok(())
}

/// The agent looks for whoever was connected to one that went for the last time after ten seconds.
const LOOKED_FOR: Duration = Duration::from_secs(12);

#[test]
fn who_is_connected_to_a_backend_that_came_back_stays_so() -> Result<()> {
    needs!(docker);
    let scene = Scene::new()?;
    let target = scene.target();
    let before = scene.callers.hold(&scene.world, Some(&scene.client), target, 200)?;
    scene.agent.lbctl("backend disable web-1")?;
    let ended = Instant::now();
    process::sleep(Duration::from_millis(20))?;
    scene.agent.lbctl("backend enable web-1")?;
    println!("back after {} ms", ended.elapsed().as_millis());
    let held = scene.callers.hold(&scene.world, Some(&scene.client), target, 200)?;
    let on_node = scene.callers.hold(&scene.world, None, target, 50)?;
    let shares = scene.served(Some(&scene.client), "tcp", target, 100)?;
    assert_eq!(shares.into_keys().collect::<BTreeSet<_>>(), names(&["web-1", "web-2"]));
    process::sleep(LOOKED_FOR.saturating_sub(ended.elapsed()))?;
    held.all_answer().context("from the container")?;
    on_node.all_answer().context("from the node")?;
    // Those of before were connected to what was gone.
    let ends = before.ends(ECONNABORTED)?;
    ensure!((50..=150).contains(&ends.len()), "{} of 200 ended", ends.len());
    Ok(())
}

#[test]
fn sockets_that_have_ended_are_forgotten() -> Result<()> {
    needs!(docker);
    let scene = Scene::new()?;
    let path = scene.agent.pin_path().join("maps/CONNECTED_DATAGRAMS");
    let count = || -> Result<usize> {
        let map = Map::LruHashMap(MapData::from_pin(&path)?);
        Ok(HashMap::<_, u64, u64>::try_from(map)?.keys().filter_map(Result::ok).count())
    };
    let mut command = scene.callers.in_container(&scene.client, "sh")?;
    let dial = scene.callers.dial_path()?.display();
    let script = format!("{dial} udp-again {} 20000", scene.target());
    let child = command.args(["-c", &script]).stdout(std::process::Stdio::piped()).spawn()?;
    process::wait_for("a connected socket", Duration::from_secs(5), || {
        ensure!(count()? == 1);
        Ok(())
    })?;
    child.wait_with_output()?;
    scene.served(Some(&scene.client), "udp", scene.target(), 200)?;
    scene.served(Some(&scene.client), "tcp", scene.target(), 20)?;
    assert_eq!(count()?, 0);
    Ok(())
}

#[test]
fn an_answer_is_of_the_address_that_was_asked_for_last() -> Result<()> {
    needs!(docker);
    if process::run(std::process::Command::new("python3").arg("--version")).is_err() {
        skip!("python3 is not installed");
    }
    let stage = Stage::of_both_families(&["both"])?;
    let frontends = [BALANCER, BALANCER6].map(|it| format!("udp://{it}:80,udp://{it}:81"));
    let web = stage.world.docker_client()?.container("web-1").with("--network both");
    web.label("lb.8080.frontend", &frontends.join(",")).start()?;
    let client = stage.start("client", "both", None)?;
    // Services with one backend, of either family.
    let _agent = stage.agent("", &["web-1"; 4], &["client"])?;
    // A socket of IPv6 sends by IPv4, too, and is told so in its own words.
    let script = "import socket,sys\n\
        family = socket.AF_INET6 if ':' in sys.argv[1] else socket.AF_INET\n\
        s = socket.socket(family, socket.SOCK_DGRAM); s.settimeout(3)\n\
        for port in (80, 81, 80, 81, 81, 80):\n\
        \ts.sendto(b'?', (sys.argv[1], port)); print(*s.recvfrom(2000)[1][:2])";
    let (four, six) = (vip(0).ip().to_string(), vip6(0).ip().to_string());
    for address in [four.clone(), six, format!("::ffff:{four}")] {
        let mut python = stage.callers.in_container(&client, "python3")?;
        let said = process::run(python.args(["-c", script, &address]))?;
        let expected = [80, 81, 80, 81, 81, 80].map(|port| format!("{address} {port}\n"));
        ensure!(said == expected.concat(), "{address}: {said}");
    }
    Ok(())
}

#[test]
fn routes_for_unseen_senders_stand_in_for_the_default_route_alone() -> Result<()> {
    needs!(docker);
    let stage = Stage::new()?;
    let docker = stage.world.docker_client()?;
    let node = stage.world.node();
    node.ip("route add 198.51.100.0/24 via 192.0.2.2")?;
    let vips = [("near", "192.0.2.50"), ("routed", "198.51.100.7"), ("far", "203.0.113.60")];
    for (name, _) in vips {
        docker.container(name).balanced(&format!("tcp://{name}:80")).start()?;
    }
    stage.start("web-1", "bridge", Some(1))?;
    let mut config = stage.world.config();
    config.cgroup = Some(stage.callers.cgroup().to_owned());
    let own = vips.map(|(name, vip)| (name.to_owned(), vip.to_owned()));
    config.balancers.extend(own);
    let agent = stage.world.start_agent(&config)?;
    agent.wait_backends(&["far", "near", "routed", "web-1"])?;
    let expected = names(&["203.0.113.60", &vip(0).ip().to_string()]);
    process::wait_for("the routes", Duration::from_secs(5), || {
        let routes = node.run("ip route show proto 108")?;
        let found: BTreeSet<String> = routes
            .lines()
            .filter_map(|line| line.split_whitespace().nth(1).map(str::to_owned))
            .collect();
        ensure!(found == expected, "{routes}");
        Ok(())
    })
}

#[test]
fn an_agent_of_another_version_of_the_tables_leaves_them_alone() -> Result<()> {
    needs!(docker);
    let mut scene = Scene::new()?;
    let target = scene.target();
    let held = scene.callers.hold(&scene.world, Some(&scene.client), target, 200)?;
    let Scene { callers, world, client, .. } = &scene;
    let calling = Calling::start(callers, world, client, &["tcp"], target)?;
    calling.goes_on()?;
    scene.agent.stop(Signal::SIGTERM)?;
    // As an agent of another version would have left it.
    let path = scene.agent.pin_path().join("maps/META");
    let mut meta: aya::maps::Array<_, lb_common::abi::Meta> =
        aya::maps::Array::try_from(Map::Array(MapData::from_pin(&path)?))?;
    let ours = meta.get(&0, 0)?;
    let other = lb_common::abi::Meta { abi_version: ours.abi_version + 1, ..ours };
    meta.set(0, other, 0)?;
    ensure!(scene.agent.start().is_err(), "tables of another version were adopted");
    let log = scene.agent.log();
    ensure!(log.contains(&format!("have ABI version {}", other.abi_version)), "{log}");
    ensure!(log.contains("`lb-agent uninstall` clears it"), "{log}");
    calling.goes_on()?;
    calling.none_failed()?;
    // The way over: what is connected stays so, and new calls fail until the next agent serves.
    drop(scene.agent.stop(Signal::SIGKILL));
    scene.agent.uninstall()?;
    scene.agent.start()?;
    scene.agent.wait_backends(&["web-1", "web-2"])?;
    scene.wait_known("client")?;
    scene.served(Some(&scene.client), "tcp", target, 20)?;
    held.all_answer()
}
