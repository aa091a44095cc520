//! Static backends on other hosts, reached by XDP and by TC, with replies through this node.

use std::{
    net::SocketAddr,
    os::fd::AsRawFd as _,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    thread,
    time::Duration,
};

use anyhow::{Context as _, Result, ensure};
use lb_tests::{
    Agent, AgentConfig, Namespace, RemoteHost, World, needs, process,
    world::{CLIENT, FRONT, vip},
};
use nix::sys::socket::{
    AddressFamily, MsgFlags, SockFlag, SockProtocol, SockType, recv, setsockopt, socket, sockopt,
};

const MEGABYTE: u64 = 1 << 20;

/// Counts TCP packets that reach the stack, coming or going: XDP takes them before. The node itself
/// speaks no TCP in these tests.
struct Tap {
    ended: Arc<AtomicBool>,
    seen: Arc<AtomicU64>,
    thread: Option<thread::JoinHandle<()>>,
}

impl Tap {
    fn open(namespace: &Namespace) -> Result<Self> {
        let tap = namespace.enter(|| {
            socket(
                AddressFamily::Packet,
                SockType::Datagram,
                SockFlag::SOCK_CLOEXEC,
                SockProtocol::EthAll,
            )
        })??;
        let pause = nix::sys::time::TimeVal::new(0, 50_000);
        setsockopt(&tap, sockopt::ReceiveTimeout, &pause)?;
        let (ended, seen) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
        let shared = (Arc::clone(&ended), Arc::clone(&seen));
        let thread = thread::spawn(move || {
            let mut packet = [0; 64];
            while !shared.0.load(Ordering::Relaxed) {
                // A time-out is no packet. Cooked: the packet begins with the IP header.
                if let Ok(length) = recv(tap.as_raw_fd(), &mut packet, MsgFlags::empty())
                    && length >= 20
                    && (packet[0] >> 4, packet[9]) == (4, 6)
                {
                    shared.1.fetch_add(1, Ordering::Relaxed);
                }
            }
        });
        Ok(Self { ended, seen, thread: Some(thread) })
    }

    fn close(mut self) -> Result<u64> {
        self.ended.store(true, Ordering::Relaxed);
        let thread = self.thread.take().context("closed twice")?;
        thread.join().ok().context("the tap panicked")?;
        Ok(self.seen.load(Ordering::Relaxed))
    }
}

/// `[[service]]` with these backends behind port 80 of the VIP.
fn service(backends: &[SocketAddr]) -> String {
    let backend = |address: &SocketAddr| format!("[[service.backend]]\naddress = \"{address}\"\n");
    format!(
        "[[service]]\nname = \"web\"\nfrontends = [\"tcp://{}\"]\n{}",
        vip(80),
        backends.iter().map(backend).collect::<String>()
    )
}

fn config(fronts: &[&str], xdp: &str, backends: &[SocketAddr]) -> AgentConfig {
    let mut config = AgentConfig::new(FRONT);
    config.front = fronts.iter().map(|front| (*front).to_owned()).collect();
    xdp.clone_into(&mut config.xdp);
    config.extra = service(backends);
    config
}

/// Requests and bytes to two remote hosts; the client's address and the sums are right.
fn check_traffic(world: &World, agent: &Agent, remotes: &[RemoteHost]) -> Result<()> {
    process::wait_for("the backends", Duration::from_secs(10), || {
        ensure!(agent.healthy_backends()?.len() == remotes.len(), "not yet");
        Ok(())
    })?;
    let report = world.client().fetch(vip(80), 100)?;
    let summary = report.check()?;
    assert_eq!(summary.by_name.len(), remotes.len(), "{:?}", summary.by_name);
    for answer in &report.answers {
        assert_eq!(answer.client.ip(), CLIENT, "as {} saw it", answer.name);
    }
    world.client().bulk(vip(80), 5 * MEGABYTE)?.check()?;
    world.client().streams(vip(80), 10)?.finish()?.check()?;
    Ok(())
}

#[test]
fn remote_backends_through_tc_with_partial_and_complete_sums() -> Result<()> {
    needs!(namespaces);
    let world = World::plain()?;
    let remotes = [RemoteHost::start(world.node(), 1)?, RemoteHost::start(world.node(), 2)?];
    let addresses = remotes.each_ref().map(|remote| remote.address);
    let agent = world.start_agent(&config(&[FRONT, "back1", "back2"], "off", &addresses))?;
    assert_eq!(agent.attachment(FRONT)?.1, "off");
    // What senders leave partial is completed by the device where the packet leaves, or is not.
    for (senders, egress) in
        [("tx on", "tx on"), ("tx on", "tx off"), ("tx off", "tx on"), ("tx off", "tx off")]
    {
        world.client().offload("eth0", senders)?;
        world.node().offload(FRONT, egress)?;
        for remote in &remotes {
            remote.namespace.offload("eth0", senders)?;
            world.node().offload(&remote.link, egress)?;
        }
        check_traffic(&world, &agent, &remotes)
            .with_context(|| format!("senders {senders}, egress devices {egress}"))?;
    }
    Ok(())
}

/// Packets that may go past XDP: of 65,536 complete checksums one looks like a partial one, and XDP
/// leaves it to TC.
const STRAYS_MAX: u64 = 4;

fn through_xdp(mode: &str) -> Result<()> {
    let world = World::plain()?;
    let remotes = [RemoteHost::start(world.node(), 1)?, RemoteHost::start(world.node(), 2)?];
    let addresses = remotes.each_ref().map(|remote| remote.address);
    // XDP cannot carry partial sums, as no packet from a wire has them; and a veth takes redirected
    // frames only where its peer polls.
    world.client().offload("eth0", "tx off gro on")?;
    world.node().offload(FRONT, "tx off gro on")?;
    for remote in &remotes {
        remote.namespace.offload("eth0", "tx off gro on")?;
        world.node().offload(&remote.link, "tx off gro on")?;
    }
    let agent = world.start_agent(&config(&[FRONT, "back1", "back2"], mode, &addresses))?;
    assert_eq!(agent.attachment(FRONT)?.1, mode);
    check_traffic(&world, &agent, &remotes)?;
    // Neighbours are known now: XDP takes every packet.
    let tap = Tap::open(world.node())?;
    check_traffic(&world, &agent, &remotes)?;
    let past = tap.close()?;
    ensure!(past <= STRAYS_MAX, "{past} packets went past XDP");
    Ok(())
}

/// Senders that leave their sums to a device, as all on this machine do by default: XDP hands such
/// packets to TC, and the bytes arrive with right sums all the same.
fn through_xdp_with_partial_sums(mode: &str) -> Result<()> {
    let world = World::plain()?;
    let remotes = [RemoteHost::start(world.node(), 1)?, RemoteHost::start(world.node(), 2)?];
    let addresses = remotes.each_ref().map(|remote| remote.address);
    // The devices towards both ends finish the sums, so that a wrong one does not go unseen.
    world.node().offload(FRONT, "tx off gro on")?;
    for remote in &remotes {
        world.node().offload(&remote.link, "tx off gro on")?;
    }
    let agent = world.start_agent(&config(&[FRONT, "back1", "back2"], mode, &addresses))?;
    assert_eq!(agent.attachment(FRONT)?.1, mode);
    check_traffic(&world, &agent, &remotes)
}

#[test]
fn partial_sums_through_xdp_generic() -> Result<()> {
    needs!(namespaces);
    through_xdp_with_partial_sums("generic")
}

#[test]
fn partial_sums_through_xdp_native() -> Result<()> {
    needs!(namespaces);
    through_xdp_with_partial_sums("native")
}

#[test]
fn remote_backends_through_xdp_generic() -> Result<()> {
    needs!(namespaces);
    through_xdp("generic")
}

#[test]
fn remote_backends_through_xdp_native() -> Result<()> {
    needs!(namespaces);
    through_xdp("native")
}

#[test]
fn the_tap_sees_what_xdp_does_not_take() -> Result<()> {
    needs!(namespaces);
    let world = World::plain()?;
    let remote = RemoteHost::start(world.node(), 1)?;
    let agent = world.start_agent(&config(&[FRONT, "back1"], "off", &[remote.address]))?;
    let tap = Tap::open(world.node())?;
    check_traffic(&world, &agent, &[remote])?;
    ensure!(tap.close()? > 100, "a tap that sees nothing proves nothing");
    Ok(())
}

/// Client and remote host behind the same interface of the node: in and out by one wire.
fn one_armed(xdp: &str) -> Result<()> {
    let world = World::plain()?;
    let (client, node) = (world.client(), world.node());
    // The wire is a bridge in the client's namespace: client, node and remote host are on it.
    client.ip("link add wire type bridge forward_delay 0")?;
    client.ip("addr flush dev eth0")?;
    client.ip("link set eth0 master wire")?;
    client.ip("link set wire up")?;
    client.ip("addr add 192.0.2.2/24 dev wire")?;
    client.ip("route add default via 192.0.2.1")?;
    let remote = Namespace::new()?;
    remote.connect(("eth0", "10.99.1.2/24"), client, ("port1", "192.0.2.99/32"))?;
    client.ip("addr flush dev port1")?;
    client.ip("link set port1 master wire")?;
    node.ip(&format!("addr add 10.99.1.1/24 dev {FRONT}"))?;
    remote.ip("route add default via 10.99.1.1")?;
    for (namespace, link) in [(client, "wire"), (client, "eth0"), (node, FRONT), (&remote, "eth0")]
    {
        namespace.offload(link, "tx off")?;
    }
    // Else the node tells the remote host and the client of shorter ways.
    for setting in ["all", FRONT] {
        node.sysctl(&format!("net.ipv4.conf.{setting}.send_redirects=0"))?;
    }
    let _server = remote.serve_as("remote-1", 8080)?;
    let backend = "10.99.1.2:8080".parse()?;
    let agent = world.start_agent(&config(&[FRONT], xdp, &[backend]))?;
    agent.wait_backends(&["10.99.1.2:8080"])?;
    assert_eq!(agent.attachment(FRONT)?.1, xdp);
    let report = client.fetch(vip(80), 50)?;
    report.check()?;
    ensure!(report.answers.iter().all(|answer| answer.client.ip() == CLIENT));
    // Neighbours are known now.
    let tap = Tap::open(node)?;
    client.bulk(vip(80), 5 * MEGABYTE)?.check()?;
    let past = tap.close()?;
    let is_by_xdp = past <= STRAYS_MAX;
    assert_eq!(is_by_xdp, xdp != "off", "{past} packets went past XDP");
    Ok(())
}

#[test]
fn one_armed_through_xdp_generic() -> Result<()> {
    needs!(namespaces);
    one_armed("generic")
}

#[test]
fn one_armed_through_tc() -> Result<()> {
    needs!(namespaces);
    one_armed("off")
}
