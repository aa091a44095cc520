//! Traffic of a served port that is not the balancer's: what its container dials from it, who comes
//! beside the VIP to addresses of their own, and who comes so only after the port was served.

use std::{
    net::{IpAddr, SocketAddr, TcpListener},
    time::Duration,
};

use anyhow::{Context as _, Result, ensure};
use lb_tests::{
    Agent, World,
    container::Container,
    needs, process,
    proxy::{Fault, Proxy},
    talk::{self, ANY6, PATIENCE, Talk, anywhere, connect_here},
    world::{BALANCER, BALANCER6, CLIENT, NODE, vip, vip6},
};
use nix::sys::signal::Signal;

/// Port of the test's own server in a container.
const PORT: u16 = 9000;
/// Of a server outside that containers dial.
const OUTSIDE: u16 = 9999;

fn container(world: &World, balancer: &str) -> Result<Container> {
    let value = format!("tcp://{balancer}:80");
    let web = world.docker_client()?.container("web").compose("shop", "web", 1);
    Ok(web.label(&format!("aliyun.lb.port_{PORT}"), &value))
}

fn listen(container: &Container, at: SocketAddr) -> Result<TcpListener> {
    let listener = container.enter(|| talk::listen_here(SocketAddr::new(at.ip(), PORT)))??;
    listener.set_nonblocking(true)?;
    Ok(listener)
}

fn wait_replies(agent: &Agent, by: &str) -> Result<()> {
    process::wait_for(&format!("replies {by}"), Duration::from_secs(10), || {
        let rows = agent.rows("backend")?;
        let row = rows.first().context("no backend")?;
        ensure!(row["replies"]["by"] == by, "{}", row["replies"]);
        Ok(())
    })
}

/// A container that dials from the very port that it serves, as libp2p and FTP do.
#[test]
fn connections_that_a_container_dials_from_its_served_port() -> Result<()> {
    needs!(docker);
    let world = World::docker()?;
    let web = container(&world, BALANCER)?.start()?;
    let listener = listen(&web, anywhere(PORT))?;
    let mut agent = world.start_agent(&world.config())?;
    agent.wait_backends(&["web"])?;
    wait_replies(&agent, "fixed")?;
    let client = Talk::open(world.client(), vip(80), &listener)?;
    client.exchange()?;

    let outside = world.client().enter(|| talk::listen_here(anywhere(OUTSIDE)))??;
    outside.set_nonblocking(true)?;
    let source = SocketAddr::new(web.address()?, PORT);
    let own = web.enter(|| connect_here(source, SocketAddr::new(CLIENT, OUTSIDE)))??;
    let (far, peer) =
        process::wait_for("the connection", PATIENCE, || outside.accept().map_err(Into::into))?;
    ensure!(peer.ip() == NODE, "{peer}: not as Docker has it for what containers send");
    far.set_nonblocking(false)?;
    for end in [&own, &far] {
        end.set_read_timeout(Some(PATIENCE))?;
    }
    let check = || -> Result<()> {
        talk::say(&own, &far, "hello")?;
        talk::say(&far, &own, "welcome")?;
        client.exchange()?;
        Talk::open(world.client(), vip(80), &listener)?.exchange()
    };
    check()?;
    // A record of it, and of nothing else.
    process::wait_for("the record", Duration::from_secs(10), || {
        let records = agent.json("status")?["records"]["replies_v4"].as_u64();
        ensure!(records == Some(1), "{records:?} records of replies");
        Ok(())
    })?;
    agent.stop(Signal::SIGKILL)?;
    check().context("without an agent")?;
    agent.start()?;
    agent.wait_backends(&["web"])?;
    wait_replies(&agent, "fixed")?;
    check().context("with another agent")
}

/// IPv6 as it is on most networks: the container's address is a global one, and clients use it.
#[test]
fn containers_with_global_addresses_are_reached_both_ways() -> Result<()> {
    needs!(docker);
    let world = World::docker()?;
    world.docker_client()?.run("network create --ipv6 --subnet 2001:db8:c::/64 global")?;
    let web = container(&world, BALANCER6)?.with("--network global").start()?;
    let listener = listen(&web, ANY6)?;
    let agent = world.start_agent(&world.config_of_both_families())?;
    agent.wait_backends(&["web"])?;
    wait_replies(&agent, "recorded")?;
    let direct = SocketAddr::new(web.address6()?, PORT);
    let talks = [direct, vip6(80), direct, vip6(80)]
        .map(|target| Talk::open(world.client(), target, &listener));
    let talks = talks.into_iter().collect::<Result<Vec<_>>>()?;
    for talk in &talks {
        // The server is the first to speak.
        talk.push("greeting")?;
    }
    for talk in &talks {
        talk.exchange()?;
    }
    // One port of the client, one way after the other.
    let source = SocketAddr::new(ANY6.ip(), 40_001);
    for target in [direct, vip6(80), direct] {
        let client = world.client().enter(|| connect_here(source, target))??;
        Talk::accept(client, &listener)?.exchange().with_context(|| format!("{target}"))?;
    }
    // What the container dials from the port stays as it is here, too.
    let outside =
        world.client().enter(|| talk::listen_here(SocketAddr::new(ANY6.ip(), OUTSIDE)))??;
    outside.set_nonblocking(true)?;
    let far: IpAddr = lb_tests::world::CLIENT6;
    let own = web.enter(|| connect_here(direct, SocketAddr::new(far, OUTSIDE)))??;
    Talk::accept(own, &outside)?.exchange()
}

/// Clients begin to come without us to a port that had a default before they could: here because
/// Docker says of its network that it hides no addresses any more.
#[test]
fn ways_in_that_open_later_leave_the_flows_from_before() -> Result<()> {
    needs!(docker);
    let world = World::docker()?;
    // So that they really can come.
    world.node().run("iptables -I DOCKER-USER -j ACCEPT")?;
    let socket = world.directory().join("proxy.sock");
    let proxy = Proxy::start(socket, world.docker_client()?.socket())?;
    let web = container(&world, BALANCER)?.start()?;
    let listener = listen(&web, anywhere(PORT))?;
    let mut config = world.config();
    config.docker = Some(proxy.socket().to_owned());
    let mut agent = world.start_agent(&config)?;
    agent.wait_backends(&["web"])?;
    wait_replies(&agent, "fixed")?;
    let before = Talk::open(world.client(), vip(80), &listener)?;
    let idle = Talk::open(world.client(), vip(80), &listener)?;
    before.exchange()?;

    agent.stop(Signal::SIGKILL)?;
    proxy.set(Fault::OpenNetworks);
    agent.start()?;
    agent.wait_backends(&["web"])?;
    wait_replies(&agent, "recorded")?;
    let direct = SocketAddr::new(web.address()?, PORT);
    let talks = [direct, vip(80), direct, vip(80)]
        .map(|target| Talk::open(world.client(), target, &listener));
    let talks = talks.into_iter().collect::<Result<Vec<_>>>()?;
    for talk in talks.iter().chain([&before, &idle]) {
        talk.push("unasked")?;
    }
    for talk in talks.iter().chain([&before, &idle]) {
        talk.exchange()?;
    }
    // And another agent that knows it no other way.
    agent.stop(Signal::SIGKILL)?;
    agent.start()?;
    agent.wait_backends(&["web"])?;
    for talk in talks.iter().chain([&before, &idle]) {
        talk.push("unasked")?;
        talk.exchange()?;
    }
    Ok(())
}
