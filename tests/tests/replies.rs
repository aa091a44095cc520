//! Replies: whose they are, by which address they leave, and what is no reply.
//!
//! Servers here are sockets of the test in the network of a container, so that they can speak at any
//! moment: before the client, and when the service is no more.

use std::{
    net::{SocketAddr, TcpListener, UdpSocket},
    time::Duration,
};

use anyhow::{Context as _, Result, ensure};
use lb_tests::{
    Agent, AgentConfig, World,
    container::Container,
    needs, process,
    talk::{self, ANY, PATIENCE, Talk, anywhere, connect_here},
    world::{BALANCER, CLIENT, FRONT, NODE, VIP, vip},
};
use nix::sys::signal::Signal;

/// Port of the test's own server in a container.
const PORT: u16 = 9000;

/// A container that has [`PORT`] behind a port of the VIP, as a Compose service of its own.
fn container(world: &World, name: &str, front_port: u16) -> Result<Container> {
    let value = format!("tcp://{BALANCER}:{front_port}");
    let container = world.docker_client()?.container(name).compose("shop", name, 1);
    Ok(container.label(&format!("aliyun.lb.port_{PORT}"), &value))
}

fn listen(container: &Container) -> Result<TcpListener> {
    let listener = container.enter(|| talk::listen_here(anywhere(PORT)))??;
    listener.set_nonblocking(true)?;
    Ok(listener)
}

/// Waits until `lbctl` says that replies of a backend are `fixed` or `recorded`, for a reason.
fn wait_replies(agent: &Agent, name: &str, by: &str, reason: &str) -> Result<()> {
    process::wait_for(&format!("{name}: {by}"), Duration::from_secs(10), || {
        let replies = &agent.backend(name)?["replies"];
        let shown = replies["reason"].as_str().unwrap_or_default();
        ensure!(replies["by"] == by && shown.contains(reason), "{name}: {replies}");
        Ok(())
    })
}

fn replies_recorded(agent: &Agent) -> Result<u64> {
    agent.outlast_counters()?;
    let status = agent.json("status")?;
    status["records"]["replies_v4"].as_u64().context("no records in the status")
}

fn reload(agent: &mut Agent, config: &AgentConfig) -> Result<()> {
    agent.configure(config)?;
    agent.signal(Signal::SIGHUP)
}

/// E1: the server speaks again when a second service has taken the same port, and no client has said
/// anything since. The first service goes, and what it had goes on.
#[test]
fn second_service_on_a_port_leaves_the_first_ones_flows_alone() -> Result<()> {
    needs!(docker);
    let world = World::docker()?;
    // Two containers in the network of a third, so that each can go by itself.
    let holder = world.docker_client()?.container("holder").start()?;
    let shared = "--network container:holder";
    let listener = listen(&holder)?;
    let serve = |name: &str, port: u16, own: u16| {
        container(&world, name, port)?.with(shared).serving(own).without_hostname().start()
    };
    let one = serve("one", 80, 8081)?;
    let mut agent = world.start_agent(&world.config())?;
    agent.wait_backends(&["one"])?;
    wait_replies(&agent, "one", "fixed", "")?;
    let first = Talk::open(world.client(), vip(80), &listener)?;
    let idle = Talk::open(world.client(), vip(80), &listener)?;
    first.exchange()?;
    process::sleep(Duration::from_secs(2))?;
    assert_eq!(replies_recorded(&agent)?, 0, "nothing is recorded for fixed replies");

    let _two = serve("two", 81, 8082)?;
    agent.wait_backends(&["one", "two"])?;
    wait_replies(&agent, "two", "recorded", "came first")?;
    idle.push("unasked")?;
    first.push("unasked")?;
    let second = Talk::open(world.client(), vip(81), &listener)?;
    second.push("greeting")?;
    for talk in [&first, &second, &idle] {
        talk.exchange()?;
    }
    // Another agent changes nothing.
    agent.stop(Signal::SIGKILL)?;
    agent.start()?;
    agent.wait_backends(&["one", "two"])?;
    wait_replies(&agent, "one", "fixed", "")?;
    wait_replies(&agent, "two", "recorded", "came first")?;
    for talk in [&first, &second, &idle] {
        talk.push("unasked")?;
        talk.exchange()?;
    }
    one.act("kill")?;
    agent.wait_backends(&["two"])?;
    // Whose backend is gone is told so at once, and nobody else is.
    ensure!(first.exchange().is_err(), "a connection to a backend that is gone goes on");
    second.exchange()?;
    Talk::open(world.client(), vip(81), &listener)?.exchange()
}

/// E2: what a backend says after its service was removed still comes from the VIP; and when the
/// service is back, its connections go on.
#[test]
fn replies_outlive_their_service() -> Result<()> {
    needs!(docker);
    let world = World::docker()?;
    let web = container(&world, "web", 80)?.start()?;
    let published = container(&world, "published", 81)?.with("--publish 9000").start()?;
    let listeners = [listen(&web)?, listen(&published)?];
    let config = world.config();
    let mut agent = world.start_agent(&config)?;
    agent.wait_backends(&["published", "web"])?;
    wait_replies(&agent, "web", "fixed", "")?;
    wait_replies(&agent, "published", "recorded", "published")?;
    let talks = [
        Talk::open(world.client(), vip(80), &listeners[0])?,
        Talk::open(world.client(), vip(81), &listeners[1])?,
    ];
    for talk in &talks {
        talk.exchange()?;
    }
    reload(&mut agent, &AgentConfig { balancers: Vec::new(), ..config.clone() })?;
    agent.wait_backends(&[])?;
    // Longer than numbers rest.
    process::sleep(Duration::from_secs(4))?;
    for talk in &talks {
        talk.push("are you there?")?;
    }
    reload(&mut agent, &config)?;
    agent.wait_backends(&["published", "web"])?;
    for talk in &talks {
        talk.exchange()?;
    }
    Ok(())
}

/// E3: addresses of a routed network are used as they are, beside the VIP.
#[test]
fn containers_on_a_routed_network_are_reached_both_ways() -> Result<()> {
    needs!(docker);
    let world = World::docker()?;
    // As an operator of a routed network has it.
    world.node().run("iptables -I DOCKER-USER -j ACCEPT")?;
    let option = "com.docker.network.bridge.enable_ip_masquerade=false";
    world.docker_client()?.run(&format!("network create --opt {option} routed"))?;
    let web = container(&world, "web", 80)?.with("--network routed").start()?;
    let listener = listen(&web)?;
    let agent = world.start_agent(&world.config())?;
    agent.wait_backends(&["web"])?;
    wait_replies(&agent, "web", "recorded", "routed")?;
    let direct = SocketAddr::new(web.address()?, PORT);
    let talks = [
        Talk::open(world.client(), direct, &listener)?,
        Talk::open(world.client(), vip(80), &listener)?,
        Talk::open(world.client(), direct, &listener)?,
    ];
    for talk in &talks {
        talk.push("greeting")?;
        talk.exchange()?;
    }
    Ok(())
}

/// E4: a published port is reached both ways, also by one client port after the other.
#[test]
fn published_ports_are_reached_both_ways() -> Result<()> {
    needs!(docker);
    let world = World::docker()?;
    let web = container(&world, "web", 80)?.with("--publish 19000:9000").start()?;
    let listener = listen(&web)?;
    let agent = world.start_agent(&world.config())?;
    agent.wait_backends(&["web"])?;
    wait_replies(&agent, "web", "recorded", "published by Docker")?;
    let published = SocketAddr::new(NODE, 19000);
    let open = |target, port| -> Result<Talk> {
        let source = SocketAddr::new(CLIENT, port);
        let client = world.client().enter(|| connect_here(source, target))??;
        Talk::accept(client, &listener)
    };
    let talks = [open(vip(80), 40_001)?, open(published, 40_002)?, open(vip(80), 40_003)?];
    for talk in &talks {
        talk.push("greeting")?;
        talk.exchange()?;
    }
    Ok(())
}

/// E5: a container's own traffic stays as it is, whatever port it comes from.
#[test]
fn own_traffic_of_a_container_stays_as_it_is() -> Result<()> {
    needs!(docker);
    let world = World::docker()?;
    let web = container(&world, "web", 80)?.start()?;
    let listener = listen(&web)?;
    let agent = world.start_agent(&world.config())?;
    agent.wait_backends(&["web"])?;
    wait_replies(&agent, "web", "fixed", "")?;

    // As NTP does: from the service's port, to a server's.
    let time_server = world.client().enter(|| UdpSocket::bind((CLIENT, 123)))??;
    let inside = web.enter(|| UdpSocket::bind(("0.0.0.0", PORT)))??;
    for socket in [&time_server, &inside] {
        socket.set_read_timeout(Some(PATIENCE))?;
    }
    inside.send_to(b"what time is it?", (CLIENT, 123))?;
    let mut buffer = [0; 64];
    let (_, from) = time_server.recv_from(&mut buffer).context("the question")?;
    assert_eq!(from.ip(), NODE, "as Docker has it for what containers send");
    time_server.send_to(b"late", from)?;
    let (length, from) = inside.recv_from(&mut buffer).context("the answer")?;
    assert_eq!((&buffer[..length], from), (&b"late"[..], SocketAddr::new(CLIENT, 123)));

    // A connection from a port of its choice, while clients are served.
    let talk = Talk::open(world.client(), vip(80), &listener)?;
    let outside = world.client().enter(|| talk::listen_here(anywhere(9999)))??;
    outside.set_nonblocking(true)?;
    let source = SocketAddr::new(web.address()?, PORT + 1);
    let own = web.enter(|| connect_here(source, SocketAddr::new(CLIENT, 9999)))??;
    let (far, peer) =
        process::wait_for("the connection", PATIENCE, || outside.accept().map_err(Into::into))?;
    assert_eq!(peer.ip(), NODE);
    far.set_nonblocking(false)?;
    for end in [&own, &far] {
        end.set_read_timeout(Some(PATIENCE))?;
    }
    talk::say(&far, &own, "welcome")?;
    talk::say(&own, &far, "thanks")?;
    talk.exchange()
}

/// E6: processes of the node talk to the container itself, from any address of the node.
#[test]
fn node_talks_to_containers_directly() -> Result<()> {
    needs!(docker);
    let world = World::docker()?;
    let web = container(&world, "web", 80)?.start()?;
    let listener = listen(&web)?;
    let node = world.node();
    node.ip(&format!("addr add {VIP}/32 dev lo"))?;
    let agent = world.start_agent(&world.config())?;
    agent.wait_backends(&["web"])?;
    wait_replies(&agent, "web", "fixed", "")?;
    let direct = SocketAddr::new(web.address()?, PORT);
    let outside = Talk::open(world.client(), vip(80), &listener)?;
    for source in [ANY.ip(), NODE, VIP] {
        let client = node.enter(|| connect_here(SocketAddr::new(source, 0), direct))??;
        let talk = Talk::accept(client, &listener).with_context(|| format!("from {source}"))?;
        talk.push("greeting").with_context(|| format!("from {source}"))?;
        talk.exchange()?;
    }
    // An address that the node gets later is its own within seconds.
    node.ip(&format!("addr add 192.0.2.77/24 dev {FRONT}"))?;
    let later = SocketAddr::from(([192, 0, 2, 77], 0));
    let client = process::wait_for("its own address", Duration::from_secs(15), || {
        node.enter(|| connect_here(later, direct))?
    })?;
    let talk = Talk::accept(client, &listener)?;
    talk.push("greeting")?;
    outside.exchange()
}

/// E7: containers of the same network talk to each other directly.
#[test]
fn neighbours_talk_to_each_other_directly() -> Result<()> {
    needs!(docker);
    let world = World::docker()?;
    world.docker_client()?.run("network create front")?;
    let web = container(&world, "web", 80)?.with("--network front").start()?;
    let neighbour = container(&world, "neighbour", 81)?.with("--network front").start()?;
    let listener = listen(&web)?;
    let agent = world.start_agent(&world.config())?;
    agent.wait_backends(&["neighbour", "web"])?;
    wait_replies(&agent, "web", "fixed", "")?;
    let outside = Talk::open(world.client(), vip(80), &listener)?;
    let direct = SocketAddr::new(web.address()?, PORT);
    // From any port, and from the one that it serves itself.
    for port in [0, PORT] {
        let source = SocketAddr::new(neighbour.address()?, port);
        let client = neighbour.enter(|| connect_here(source, direct))??;
        let talk = Talk::accept(client, &listener)?;
        talk.push("greeting")?;
        talk.exchange()?;
    }
    outside.exchange()
}

/// E9: where the node has no end of the wire, replies could not be seen.
#[test]
fn containers_without_a_wire_to_the_node_are_refused_by_name() -> Result<()> {
    needs!(docker);
    let world = World::docker()?;
    let _host = container(&world, "on-host", 80)?
        .with("--network host")
        .without_hostname()
        .serving(8085)
        .start()?;
    let agent = world.start_agent(&world.config())?;
    agent.wait_refusal(&["container `on-host`", "network of the host", "bridge network"])?;
    agent.wait_backends(&[])
}
