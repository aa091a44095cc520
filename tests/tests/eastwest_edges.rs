//! East-west at its edges: who is not seen, whose address it is, what cannot be had.

use std::{
    collections::BTreeSet,
    fs,
    net::{IpAddr, SocketAddr},
    os::unix::fs::MetadataExt as _,
    process::Command,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, ensure};
use aya::programs::links::{FdLink, PinnedLink};
use lb_tests::{
    Agent, AgentConfig, Container, World,
    callers::{Called, Callers},
    eastwest::{Scene, shares, stranger},
    ipam, needs,
    odd_programs::Exclusive,
    process,
    world::{BALANCER, vip, vip6},
};

use nix::sys::signal::Signal;

const ECONNREFUSED: i32 = 111;
const EHOSTUNREACH: i32 = 113;

/// `lb-dial` that no hook sees: in the cgroup of this test. What it says, and how long that took.
fn unseen(scene: &Scene, network: &str, target: SocketAddr) -> Result<(String, Duration)> {
    let mut command = Command::new("setpriv");
    command.args(["--pdeathsig", "KILL", "nsenter", &format!("--net={network}")]);
    command.arg(scene.callers.dial_path()?).args(["tcp", &target.to_string(), "1"]);
    let begun = Instant::now();
    Ok((process::run(&mut command)?, begun.elapsed()))
}

#[test]
fn senders_that_no_hook_sees_are_told_at_once() -> Result<()> {
    needs!(docker);
    let world = World::docker()?;
    let docker = world.docker_client()?;
    let outer = docker.container("outer").label("lb.visible", "none");
    outer.balanced("tcp://outer:80").start()?;
    let scene = Scene::with(world, |config| {
        config.balancers.push(("outer".to_owned(), "203.0.113.20".to_owned()));
    })?;
    scene.agent.wait_backends(&["outer", "web-1", "web-2"])?;
    let networks = [
        scene.world.node().path().display().to_string(),
        format!("/proc/{}/ns/net", scene.client.pid()?),
    ];
    process::wait_for("the route", Duration::from_secs(5), || {
        let routes = scene.world.node().run("ip route show proto 108")?;
        ensure!(routes.contains(&format!("unreachable {}", vip(80).ip())), "{routes}");
        // Whose calls are left alone, theirs are packets as before.
        ensure!(!routes.contains("203.0.113.20"), "{routes}");
        Ok(())
    })?;
    for network in &networks {
        let (said, took) = unseen(&scene, network, scene.target())?;
        ensure!(said.starts_with(&format!("errno={EHOSTUNREACH} ")), "{network}: {said}");
        ensure!(took < Duration::from_secs(2), "{network}: it took {took:?}");
    }
    // Who is seen, and clients from outside, do not notice.
    scene.served(None, "tcp", scene.target(), 10)?;
    scene.served(Some(&scene.client), "tcp", scene.target(), 10)?;
    scene.world.client().fetch(scene.target(), 20)?.check()?;
    let dry = process::run(&mut scene.agent.command("uninstall --dry-run"))?;
    ensure!(dry.contains(&format!("route to {}", vip(80).ip())), "{dry}");
    Ok(())
}

#[test]
fn a_call_is_explained_as_it_is_decided() -> Result<()> {
    needs!(docker);
    let world = World::docker()?;
    let stranger = stranger(&world, "stranger")?;
    let scene = Scene::of_both_families_in(world, |_| {})?;
    scene.wait_known("stranger")?;
    let explain = |from: &str, at: SocketAddr| -> Result<String> {
        scene.agent.lbctl(&format!("explain --from {from} {at}"))
    };
    let webs = scene.webs.iter();
    let four: Vec<IpAddr> = webs.clone().map(Container::address).collect::<Result<_>>()?;
    let six: Vec<IpAddr> = webs.map(Container::address6).collect::<Result<_>>()?;
    for (at, backends) in [(vip as fn(u16) -> SocketAddr, four), (vip6, six)] {
        let led = |said: &str| {
            let to =
                |ip: &IpAddr| format!("decision: deliver to {} (web-", SocketAddr::new(*ip, 8080));
            backends.iter().any(|ip| said.contains(&to(ip)))
        };
        for from in ["client", "node"] {
            let said = explain(from, at(80))?;
            ensure!(led(&said), "{said}");
        }
        let said = explain("client", at(80))?;
        ensure!(said.contains("client: container, on both") && said.contains("by both"), "{said}");
        let said = explain("stranger", at(80))?;
        ensure!(said.contains("drop EHOSTUNREACH, other_network"), "{said}");
        scene.refused(Some(&stranger), "tcp", at(80), EHOSTUNREACH)?;
        let said = explain("client", at(81))?;
        ensure!(said.contains("drop ECONNREFUSED, no_frontend"), "{said}");
    }
    let error = explain("nobody", scene.target()).err().context("nobody is explained")?;
    ensure!(format!("{error:#}").contains("no container `nobody` runs on this node"), "{error:#}");
    Ok(())
}

#[test]
fn a_vip_that_is_somebodys_address_takes_nothing_else() -> Result<()> {
    needs!(docker);
    let mut world = World::docker()?;
    let callers = Callers::of(&mut world)?;
    let docker = world.docker_client()?;
    let holder = docker.container("holder").start()?;
    let client = docker.container("client").start()?;
    let node = world.node().run("ip -4 -o addr show")?;
    let node = node.lines().filter(|line| !line.contains(" lo ") && !line.contains("docker0"));
    let mut node = node.filter_map(|line| line.split_whitespace().nth(3)?.split('/').next());
    let node: IpAddr = node.next_back().context("no address")?.parse()?;
    let mut config = world.config();
    config.cgroup = Some(callers.cgroup().to_owned());
    let somebodys = [holder.address()?, node];
    for (number, address) in somebodys.iter().enumerate() {
        config.balancers.push((format!("odd-{number}"), address.to_string()));
        let web = docker.container(&format!("web-{number}"));
        web.balanced(&format!("tcp://odd-{number}:81")).start()?;
    }
    let agent = world.start_agent(&config)?;
    // Neither is refused.
    agent.wait_backends(&["web-0", "web-1"])?;
    assert_eq!(agent.refusals()?, [""; 0]);
    agent.wait_caller("client")?;
    let ports = world.node().run("ip route show proto 108")?;
    ensure!(ports.is_empty(), "no route to what is somebody's: {ports}");
    for (number, address) in somebodys.into_iter().enumerate() {
        let at = SocketAddr::new(address, 81);
        let calls = callers.dial(&world, Some(&client), "tcp", at, 2)?;
        ensure!(shares(&calls, at)?.contains_key(&format!("web-{number}")), "{calls:?}");
    }
    // The container's other ports are its own as before.
    let own = SocketAddr::new(holder.address()?, 8080);
    for from in [None, Some(&client)] {
        let calls = callers.dial(&world, from, "tcp", own, 1)?;
        ensure!(shares(&calls, own)?.contains_key("holder"), "{calls:?}");
    }
    let doctor = agent.lbctl_command("doctor").output()?;
    let doctor = String::from_utf8_lossy(&doctor.stdout).into_owned();
    ensure!(doctor.contains("is the address of container `holder`"), "{doctor}");
    Ok(())
}

#[test]
fn a_stranger_with_a_containers_address_is_not_that_container() -> Result<()> {
    needs!(docker);
    let mut world = World::docker()?;
    let callers = Callers::of(&mut world)?;
    let docker = world.docker_client()?;
    docker.run("network create --subnet 172.31.7.0/24 shop")?;
    let on_shop = |name: &str| docker.container(name).with("--network shop");
    let web = on_shop("web").label("lb.visible", "network:shop");
    web.balanced(&format!("tcp://{BALANCER}:80")).start()?;
    let client = on_shop("client").start()?;
    let mut config = world.config();
    config.cgroup = Some(callers.cgroup().to_owned());
    let agent = world.start_agent(&config)?;
    agent.wait_backends(&["web"])?;
    agent.wait_caller("client")?;
    let calls = callers.dial(&world, Some(&client), "tcp", vip(80), 2)?;
    shares(&calls, vip(80))?;
    // Another network with the same subnet, and the same address in it.
    let script = format!(
        "ip link add one type veth peer name two && ip addr add {}/24 dev one && ip link set one up \
         && ip link set two up && ip route add default dev one && exec {} tcp {} 1",
        client.address()?,
        callers.dial_path()?.display(),
        vip(80)
    );
    let mut stranger = callers.on_node(&world, "unshare");
    let said = process::run(stranger.args(["--net", "sh", "-c", &script]))?;
    ensure!(said.starts_with(&format!("errno={EHOSTUNREACH} ")), "{said}");
    agent.wait_drops("not_visible", 1)
}

/// A container on the network `near` and one on `far`, of the same address, and both on `shared`.
fn two_of_one_address(world: &mut World) -> Result<[Container; 2]> {
    let docker = world.docker_client()?;
    ipam::serve(&world.docker_node()?.plugins()?, "ranges")?;
    let subnet = "--subnet 172.29.9.0/24 --gateway 172.29.9.1";
    docker.run(&format!("network create {subnet} near"))?;
    world.node().ip("link add own0 type veth peer name own1")?;
    let own = format!("--driver macvlan --opt parent=own0 --ipam-driver ranges {subnet}");
    docker.run(&format!("network create {own} far"))?;
    docker.run("network create shared")?;
    let client = |network: &str| -> Result<Container> {
        let client = docker.container(&format!("from-{network}"));
        let client = client.with(&format!("--network {network} --ip 172.29.9.9")).start()?;
        docker.run(&format!("network connect shared {}", client.name()))?;
        Ok(client)
    };
    let clients = [client("near")?, client("far")?];
    for client in &clients {
        let addresses = client.inspect("{{json .NetworkSettings.Networks}}")?;
        ensure!(addresses.contains("\"172.29.9.9\""), "{addresses}");
    }
    Ok(clients)
}

/// Docker has each range once, but where a plugin gives out addresses.
#[test]
fn callers_with_one_address_on_two_networks_are_two_callers() -> Result<()> {
    needs!(docker);
    let mut world = World::docker()?;
    let callers = Callers::of(&mut world)?;
    let clients = two_of_one_address(&mut world)?;
    let docker = world.docker_client()?;
    let service = |name: &str, network: &str, port: u16, [key, value]: [&str; 2]| {
        let web = docker.container(name).with(&format!("--network {network}")).label(key, value);
        web.compose("shop", &format!("at-{port}"), u32::from(name.ends_with('2')) + 1)
            .label("lb.8080.frontend", &format!("tcp://{BALANCER}:{port}"))
            .start()
    };
    service("for-near", "shared", 81, ["lb.visible", "network:near"])?;
    service("for-far", "shared", 82, ["lb.visible", "network:far"])?;
    // Whose address is one of a neighbour's to both.
    service("on-near", "near", 83, ["lb.visible", "containers"])?;
    service("same-1", "shared", 84, ["lb.affinity", "client"])?;
    service("same-2", "shared", 84, ["lb.affinity", "client"])?;
    let mut config = world.config();
    config.cgroup = Some(callers.cgroup().to_owned());
    let agent = world.start_agent(&config)?;
    agent.wait_backends(&["for-far", "for-near", "on-near", "same-1", "same-2"])?;
    for client in &clients {
        agent.wait_caller(client.name())?;
    }
    let [near, far] = &clients;
    for (client, port, expected) in [
        (near, 81, Some("for-near")),
        (far, 81, None),
        (near, 82, None),
        (far, 82, Some("for-far")),
        (near, 83, Some("on-near")),
        (far, 83, None),
    ] {
        let calls = callers.dial(&world, Some(client), "tcp", vip(port), 4)?;
        let Some(expected) = expected else {
            let all = calls.iter().all(|call| *call == Called::Failed(EHOSTUNREACH));
            ensure!(all, "{} to {port}: {calls:?}", client.name());
            continue;
        };
        let shares = shares(&calls, vip(port))?;
        ensure!(shares.keys().eq([expected]), "{} to {port}: {shares:?}", client.name());
    }
    assert_eq!((agent.drops("not_visible")?, agent.drops("other_network")?), (8, 4));
    let mut hashes = BTreeSet::new();
    for client in &clients {
        let calls = callers.dial(&world, Some(client), "tcp", vip(84), 20)?;
        let shares = shares(&calls, vip(84))?;
        ensure!(shares.len() == 1, "{}: {shares:?}", client.name());
        let said = agent.lbctl(&format!("explain --from {} {}", client.name(), vip(84)))?;
        let led = shares.keys().all(|name| said.contains(&format!("({name})")));
        ensure!(led, "{shares:?}: {said}");
        let hash = said.lines().find(|line| line.contains("of the caller's namespace"));
        hashes.insert(hash.with_context(|| said.clone())?.to_owned());
    }
    // By which backend is a matter of chance.
    ensure!(hashes.len() == 2, "{hashes:?}");
    Ok(())
}

#[test]
fn a_cgroup_that_cannot_be_written_can_be_attached_to() -> Result<()> {
    needs!(docker);
    let mut world = World::docker()?;
    let callers = Callers::of(&mut world)?;
    let place = world.directory().join("read-only");
    fs::create_dir(&place)?;
    let at = place.display().to_string();
    process::run(Command::new("mount").arg("--bind").arg(callers.cgroup()).arg(&at))?;
    let unmount = || process::run(Command::new("umount").arg(&at));
    let result = (|| -> Result<()> {
        process::run(Command::new("mount").args(["-o", "remount,bind,ro", &at]))?;
        let web = lb_tests::eastwest::web(&world, 1)?.start()?;
        let mut config = world.config();
        config.cgroup = Some(place.clone());
        let agent = world.start_agent(&config)?;
        agent.wait_backends(&[web.name()])?;
        let status = agent.json("status")?;
        ensure!(status["sockets"]["trouble"].is_null(), "{}", status["sockets"]);
        let calls = callers.dial(&world, None, "tcp", vip(80), 2)?;
        shares(&calls, vip(80))?;
        let calls = callers.dial(&world, None, "tcp", vip(81), 1)?;
        ensure!(calls == [Called::Failed(ECONNREFUSED)], "{calls:?}");
        Ok(())
    })();
    unmount()?;
    result
}

/// The rest of the agent goes on: packets are served, and calls as soon as there is room.
#[test]
fn a_program_in_the_way_of_ours_is_told_and_waited_for() -> Result<()> {
    needs!(docker);
    let mut world = World::docker()?;
    let callers = Callers::of(&mut world)?;
    let web = lb_tests::eastwest::web(&world, 1)?.start()?;
    let mut config = world.config();
    config.cgroup = Some(callers.cgroup().to_owned());
    let exclusive = Exclusive::on(callers.cgroup())?;
    let agent = world.start_agent(&config)?;
    agent.wait_backends(&[web.name()])?;
    let at = callers.cgroup().display().to_string();
    let expected =
        format!("`lb_connect4` cannot be attached to the cgroup `{at}`: the program `odd` (id ");
    let doctor = String::from_utf8(agent.lbctl_command("doctor").output()?.stdout)?;
    for said in [agent.lbctl("status")?, agent.log(), doctor] {
        ensure!(said.contains(&expected), "{said}");
        let remedy = format!("`bpftool cgroup detach {at} connect4 id ");
        ensure!(said.contains(&remedy), "{said}");
    }
    let pins = agent.pin_path().join("sockets");
    ensure!(fs::read_dir(&pins)?.next().is_none(), "half of the calls are translated");
    world.client().fetch(world.front(), 10)?.check()?;
    drop(exclusive);
    process::wait_for("calls that are balanced", Duration::from_secs(15), || {
        let status = agent.json("status")?;
        ensure!(status["sockets"]["trouble"].is_null(), "{}", status["sockets"]);
        let calls = callers.dial(&world, None, "tcp", world.front(), 4)?;
        shares(&calls, world.front()).map(drop)
    })
}

/// The cgroups that an agent's programs of socket calls are attached to, by their numbers.
fn attached_to(agent: &Agent) -> Result<BTreeSet<u64>> {
    let mut found = BTreeSet::new();
    for entry in fs::read_dir(agent.pin_path().join("sockets"))? {
        let link = FdLink::from(PinnedLink::from_pin(entry?.path())?);
        let id = link.info()?.id();
        for entry in fs::read_dir("/proc/self/fdinfo")? {
            // Descriptors come and go.
            let Ok(text) = fs::read_to_string(entry?.path()) else { continue };
            let field = |key: &str| {
                text.lines().find_map(|line| line.strip_prefix(key)?.trim().parse().ok())
            };
            if field("link_id:") == Some(u64::from(id)) {
                found.insert(field("cgroup_id:").context("no cgroup")?);
            }
        }
    }
    Ok(found)
}

/// The root of an agent's own cgroup namespace stands for that of the machine, where nothing is ever attached:
/// nothing else is different for an agent that has to mount the hierarchy itself.
#[test]
fn a_hierarchy_that_is_mounted_nowhere_is_opened_by_the_agent() -> Result<()> {
    needs!(docker);
    let mut world = World::docker()?;
    let callers = Callers::of(&mut world)?;
    lb_tests::eastwest::web(&world, 1)?.start()?;
    // That of those who call on the node: it has no children, and thus takes processes.
    let root = callers.leaf().to_owned();
    let mut agent = world.prepare_agent(&world.config())?;
    agent.set_cgroup_root(&root);
    let cgroup = Some(root.clone());
    agent.configure(&AgentConfig { cgroup, is_cgroup_root: true, ..world.config() })?;
    for start in ["the first", "the next one"] {
        agent.start()?;
        agent.wait_backends(&["web-1"])?;
        let status = agent.json("status")?;
        assert_eq!(status["sockets"]["cgroup"], "cgroup2:/", "{start}: {}", status["sockets"]);
        assert_eq!(attached_to(&agent)?, [fs::metadata(&root)?.ino()].into(), "{start}");
        // Where it can be seen that the first process is elsewhere, it is told.
        if fs::read_link("/proc/1/ns/cgroup").is_ok() {
            let trouble = status["sockets"]["trouble"].as_str().context("no trouble")?;
            ensure!(trouble.contains("run it with `--cgroupns host`"), "{start}: {trouble}");
        }
        let calls = callers.dial(&world, None, "tcp", vip(80), 5)?;
        shares(&calls, vip(80)).context(start)?;
        let calls = callers.dial(&world, None, "udp", vip(81), 1)?;
        ensure!(calls == [Called::Failed(ECONNREFUSED)], "{start}: {calls:?}");
        agent.stop(Signal::SIGKILL)?;
    }
    agent.set_quiet();
    Ok(())
}
