//! A client that cannot be served is told so at once, and nothing that is for a VIP reaches the
//! node's own sockets.

use std::{
    io,
    net::{IpAddr, SocketAddr, TcpListener, TcpStream},
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, ensure};
use lb_tests::{
    Agent, AgentConfig, RemoteHost, World,
    datagrams::Datagrams,
    needs, process,
    wire::{self, RawSender, Segment},
    world::{CLIENT, FRONT, VIP, VIP6, vip, vip6},
};

/// A time-out would be ten times that.
const AT_ONCE: Duration = Duration::from_secs(1);
/// Of the service that has no backends.
const EMPTY_PORT: u16 = 81;
/// In no frontend.
const OTHER_PORT: u16 = 82;
/// A VIP whose only frontend is this.
const SECOND: &str = "203.0.113.11";

/// A node whose own sockets listen on every port in question, at every address, the VIPs among
/// them.
fn world_with_own_sockets() -> Result<(World, Vec<TcpListener>)> {
    let world = World::plain()?;
    let node = world.node();
    node.ip(&format!("addr add {VIP}/32 dev lo"))?;
    node.ip(&format!("addr add {VIP6}/128 dev lo nodad"))?;
    let listeners = node.enter(|| {
        [80, EMPTY_PORT, OTHER_PORT]
            .map(|port| TcpListener::bind(("::", port)))
            .into_iter()
            .collect::<io::Result<Vec<_>>>()
    })??;
    for listener in &listeners {
        listener.set_nonblocking(true)?;
    }
    Ok((world, listeners))
}

fn start(world: &World, remote: &RemoteHost) -> Result<Agent> {
    let mut config = AgentConfig::new(FRONT);
    config.front = [FRONT, "back1"].map(str::to_owned).to_vec();
    let frontends = |port: u16| {
        let urls = [vip(port), vip6(port)].map(|at| format!("\"tcp://{at}\", \"udp://{at}\""));
        urls.join(", ")
    };
    config.extra = format!(
        "[[service]]\nname = \"web\"\nfrontends = [{}, \"tcp://{SECOND}:80\"]\n\
         [[service.backend]]\naddress = \"{}\"\n[[service.backend]]\naddress = \"{}\"\n\
         [[service]]\nname = \"empty\"\nfrontends = [{}]\n",
        frontends(80),
        remote.address,
        remote.address6,
        frontends(EMPTY_PORT),
    );
    let agent = world.start_agent(&config)?;
    process::wait_for("the backend", Duration::from_secs(10), || {
        world.client().fetch_one(vip(80))?;
        world.client().fetch_one(vip6(80))
    })?;
    Ok(agent)
}

/// Whatever came before the agent was ready was the node's.
fn forget_accepted(listeners: &[TcpListener]) {
    while listeners.iter().any(|listener| listener.accept().is_ok()) {}
}

fn connect(world: &World, to: SocketAddr) -> Result<(io::Result<TcpStream>, Duration)> {
    world.client().enter(|| {
        let begun = Instant::now();
        let result = TcpStream::connect_timeout(&to, Duration::from_secs(10));
        (result, begun.elapsed())
    })
}

#[test]
fn clients_of_no_backend_and_of_no_frontend_are_refused_at_once() -> Result<()> {
    needs!(namespaces);
    let (world, listeners) = world_with_own_sockets()?;
    let remote = RemoteHost::start(world.node(), 1)?;
    let agent = start(&world, &remote)?;
    forget_accepted(&listeners);
    for (port, reason) in [(EMPTY_PORT, "no_backend"), (OTHER_PORT, "no_frontend")] {
        let before = agent.drops(reason)?;
        for front in [vip(port), vip6(port)] {
            let (result, took) = connect(&world, front)?;
            let error = result.err().with_context(|| format!("{front} accepted"))?;
            println!("tcp://{front}: {error} after {took:?}");
            ensure!(error.kind() == io::ErrorKind::ConnectionRefused, "tcp://{front}: {error}");
            ensure!(took < AT_ONCE, "tcp://{front}: told after {took:?}");

            let socket = Datagrams::connect(world.client(), 0, front)?;
            let (error, took) = socket.refused()?;
            println!("udp://{front}: {error} after {took:?}");
            ensure!(error.kind() == io::ErrorKind::ConnectionRefused, "udp://{front}: {error}");
            ensure!(took < AT_ONCE, "udp://{front}: told after {took:?}");
        }
        agent.wait_drops(reason, before + 4)?;
    }
    // What belongs to no connection is reset as well, and never delivered.
    let sender = RawSender::open(world.client())?;
    let from = SocketAddr::new(CLIENT, 40_000);
    let before = agent.drops("no_frontend")?;
    for segment in [Segment::Ack, Segment::SynAck] {
        sender.send(&wire::tcp(from, vip(OTHER_PORT), segment, 7), VIP)?;
    }
    agent.wait_drops("no_frontend", before + 2)?;
    for listener in &listeners {
        let accepted = listener.accept();
        ensure!(accepted.is_err(), "a socket of the node got {accepted:?}");
    }
    Ok(())
}

#[test]
fn own_sockets_of_the_node_are_reached_by_its_own_address_only() -> Result<()> {
    needs!(namespaces);
    let (world, listeners) = world_with_own_sockets()?;
    let remote = RemoteHost::start(world.node(), 1)?;
    let _agent = start(&world, &remote)?;
    forget_accepted(&listeners);
    for address in [lb_tests::world::NODE, lb_tests::world::NODE6] {
        let (result, _) = connect(&world, SocketAddr::new(address, OTHER_PORT))?;
        result.with_context(|| format!("{address} is not the balancer's"))?;
    }
    for front in [vip(80), vip6(80)] {
        ensure!(world.client().fetch_one(front)?.name == "remote-1", "{front}");
    }
    let accepted = listeners.iter().filter(|listener| listener.accept().is_ok()).count();
    ensure!(accepted == 1, "{accepted} ports of the node were reached, one should be");
    Ok(())
}

#[test]
fn echo_to_a_vip_is_answered() -> Result<()> {
    needs!(namespaces);
    let world = World::plain()?;
    let remote = RemoteHost::start(world.node(), 1)?;
    let _agent = start(&world, &remote)?;
    for vip in [VIP, VIP6] {
        for bytes in [0, 56, 1400] {
            let shown =
                world.client().run(&format!("busybox ping -c 5 -i 0.1 -W 1 -s {bytes} {vip}"))?;
            let summary = shown.lines().find(|line| line.contains("packet loss"));
            println!("{vip}, {bytes} bytes: {}", summary.unwrap_or_default());
            ensure!(shown.contains(" 0% packet loss"), "{shown}");
        }
    }
    Ok(())
}

#[test]
fn clients_of_a_container_that_dies_are_reset_at_once() -> Result<()> {
    needs!(docker);
    let world = World::docker()?;
    let webs = world.start_webs(1)?;
    let agent = world.start_agent(&world.config())?;
    agent.wait_backends(&["web-1"])?;
    let mut streams = world.client().streams(world.front(), 10)?;
    streams.wait_until("streams", Duration::from_secs(5), |report| report.connected.len() == 10)?;
    let pid = webs[0].pid()?;
    let killed_ms = lb_tests::traffic::now_ms();
    process::kill(pid, nix::sys::signal::Signal::SIGKILL);
    streams.wait_until("the streams' ends", Duration::from_secs(5), |report| {
        report.failures.len() == 10
    })?;
    for failure in &streams.finish()?.failures {
        let after_ms = failure.at_ms - killed_ms;
        println!("{} after {after_ms:.0} ms", failure.error);
        ensure!(after_ms < 1000.0, "{} after {after_ms:.0} ms", failure.error);
    }
    Ok(())
}

#[test]
fn what_claims_to_come_from_a_vip_is_dropped() -> Result<()> {
    needs!(namespaces);
    let world = World::plain()?;
    let remote = RemoteHost::start(world.node(), 1)?;
    let agent = start(&world, &remote)?;
    let sender = RawSender::open(world.client())?;
    let second: IpAddr = SECOND.parse()?;
    // Our own output that came back, or its forgery: to a frontend, to a port without, by UDP.
    let loops = [
        wire::tcp(SocketAddr::new(second, 80), vip(80), Segment::SynAck, 1),
        wire::tcp(SocketAddr::new(second, 80), vip(80), Segment::Syn, 1),
        wire::tcp(SocketAddr::new(second, 80), vip(OTHER_PORT), Segment::Ack, 1),
        wire::udp(SocketAddr::new(second, 80), vip(80), b"round and round"),
    ];
    for packet in &loops {
        sender.send(packet, VIP)?;
    }
    agent.wait_drops("source_is_vip", loops.len() as u64)?;
    let land = agent.drops("land")?;
    sender.send(&wire::tcp(vip(80), vip(80), Segment::Syn, 1), VIP)?;
    sender.send(&wire::tcp(vip6(80), vip6(80), Segment::Syn, 1), VIP6)?;
    agent.wait_drops("land", land + 2)?;
    world.client().fetch(vip(80), 10)?.check()?;
    Ok(())
}
