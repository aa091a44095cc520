//! Paths that are narrower than their ends know: packets with DF, and IPv6, which has nothing else.
//! Whoever sends too much is told so, through the VIP, and bytes arrive in both directions.
//!
//! ```text
//!  far 198.51.100.2 ---1--- router (the world's client) ---2--- front0 node ---3--- server
//! ```

use std::{net::SocketAddr, time::Duration};

use anyhow::{Context as _, Result, ensure};
use lb_tests::{
    Agent, AgentConfig, Container, Namespace, RemoteHost, World, needs, process,
    traffic::run_command,
    world::{BALANCER6, CLIENT, CLIENT6, FRONT, vip, vip6},
};

const BYTES: u64 = 4 << 20;
const WIDE: u32 = 1500;
const NARROW: u32 = 1400;

/// A client behind a router, so that neither end is on the narrow link and sees its MTU.
struct Far {
    namespace: Namespace,
}

impl Far {
    fn join(world: &World) -> Result<Self> {
        let (router, node) = (world.client(), world.node());
        let namespace = Namespace::new()?;
        namespace.connect(("eth0", "198.51.100.2/24"), router, ("far0", "198.51.100.1/24"))?;
        namespace.ip("addr add 2001:db8:2::2/64 dev eth0 nodad")?;
        router.ip("addr add 2001:db8:2::1/64 dev far0 nodad")?;
        namespace.ip("route add default via 198.51.100.1")?;
        namespace.ip("route add default via 2001:db8:2::1")?;
        router.sysctl("net.ipv4.ip_forward=1")?;
        router.sysctl("net.ipv6.conf.all.forwarding=1")?;
        // Forwarding takes away nothing that was set by hand.
        node.ip(&format!("route add 198.51.100.0/24 via {CLIENT}"))?;
        node.ip(&format!("route add 2001:db8:2::/64 via {CLIENT6}"))?;
        Ok(Self { namespace })
    }

    /// Bytes both ways, as large packets that the last device cuts, and cut by the sender.
    fn check(&self, world: &World, fronts: &[SocketAddr], what: &str) -> Result<()> {
        for gso in ["tso on gso on", "tso off gso off"] {
            self.namespace.offload("eth0", gso)?;
            world.node().offload(FRONT, gso)?;
            for (front, direction) in fronts.iter().flat_map(|it| [(it, "down"), (it, "up")]) {
                self.transfer(*front, direction)
                    .with_context(|| format!("{what}, {gso}, {front}, {direction}"))?;
            }
        }
        Ok(())
    }

    /// One transfer, by someone who knows nothing of the path yet: what is learnt by sending would
    /// make the next connection ask for less.
    fn transfer(&self, front: SocketAddr, direction: &str) -> Result<()> {
        self.namespace.ip("route flush cache")?;
        self.namespace.ip("-6 route flush cache")?;
        let words = format!("bulk --target {front} --bytes {BYTES} --direction {direction}");
        let report = run_command(self.namespace.testkit(&words)?)?;
        let rate = report.check()?.gbit_per_second;
        println!("{front}, {direction}: {rate:.2} Gbit/s");
        ensure!(rate > 0.01, "a crawl: {rate} Gbit/s");
        Ok(())
    }
}

/// Both ends of a link, as the machines on it would have it.
fn narrow(ends: &[(&Namespace, &str)]) -> Result<()> {
    ends.iter().try_for_each(|(namespace, link)| {
        namespace.ip(&format!("link set {link} mtu {NARROW}")).map(|_| ())
    })
}

fn containers(world: &World, mtu: u32) -> Result<(Agent, Container)> {
    let docker = world.docker_client()?;
    docker.run(&format!(
        "network create --ipv6 --subnet fd00:77::/64 --opt com.docker.network.driver.mtu={mtu} ula"
    ))?;
    let web = world.web(1)?.with("--network ula").port(9090);
    let web = web.label("aliyun.lb.port_9090", &format!("tcp://{BALANCER6}:80")).start()?;
    let agent = world.start_agent(&world.config_of_both_families())?;
    agent.wait_backends(&["web-1", "web-1"])?;
    Ok((agent, web))
}

fn remote(world: &World) -> Result<(Agent, RemoteHost)> {
    let remote = RemoteHost::start(world.node(), 1)?;
    let mut config = AgentConfig::new(FRONT);
    config.front = [FRONT, "back1"].map(str::to_owned).to_vec();
    config.extra = format!(
        "[[service]]\nname = \"web\"\nfrontends = [\"tcp://{}\", \"tcp://{}\"]\n\
         [[service.backend]]\naddress = \"{}\"\n[[service.backend]]\naddress = \"{}\"\n",
        vip(80),
        vip6(80),
        remote.address,
        remote.address6,
    );
    let agent = world.start_agent(&config)?;
    process::wait_for("the backend", Duration::from_secs(10), || {
        world.client().fetch_one(vip(80))?;
        world.client().fetch_one(vip6(80))
    })?;
    Ok((agent, remote))
}

#[test]
fn wide_container_behind_a_narrow_front() -> Result<()> {
    needs!(docker);
    let world = World::docker()?;
    let (agent, _web) = containers(&world, WIDE)?;
    let far = Far::join(&world)?;
    narrow(&[(world.client(), "eth0"), (world.node(), FRONT)])?;
    far.check(&world, &[vip(80), vip6(80)], "container 1500, front 1400")?;
    agent.wait_drops("too_big", 1).context("nothing was too big: the test does not test")
}

#[test]
fn narrow_container_behind_a_wide_front() -> Result<()> {
    needs!(docker);
    let world = World::docker()?;
    let (_agent, _web) = containers(&world, NARROW)?;
    let far = Far::join(&world)?;
    far.check(&world, &[vip(80), vip6(80)], "container 1400, front 1500")
}

#[test]
fn router_in_the_middle_tells_the_container() -> Result<()> {
    needs!(docker);
    let world = World::docker()?;
    let (_agent, web) = containers(&world, WIDE)?;
    let far = Far::join(&world)?;
    // The link between the far client and its router, of which the client does not know: what comes
    // to it is too large for the router's end only.
    world.client().ip(&format!("link set far0 mtu {NARROW}"))?;
    world.client().offload("far0", "tx off tso off gso off")?;
    // Only what the container sends is too large; the client must not send more than its router's
    // end takes.
    for front in [vip(80), vip6(80)] {
        far.transfer(front, "down").with_context(|| format!("{front}"))?;
        // The router's word about the VIP has become one about the container's own connection.
        let far_address = if front.is_ipv4() { "198.51.100.2" } else { "2001:db8:2::2" };
        let line = format!("nsenter --target {} --net ip route get {far_address}", web.pid()?);
        let route = process::run(&mut process::words(&line))?;
        ensure!(route.contains(&format!("mtu {NARROW}")), "the container knows: {route}");
    }
    Ok(())
}

#[test]
fn wide_remote_host_behind_narrow_links() -> Result<()> {
    needs!(namespaces);
    let world = World::plain()?;
    let (agent, remote) = remote(&world)?;
    let far = Far::join(&world)?;
    // A further hop behind the node, so that the server does not see the narrow link either.
    narrow(&[(world.client(), "eth0"), (world.node(), FRONT)])?;
    far.check(&world, &[vip(80), vip6(80)], "server 1500, front 1400")?;
    drop(remote);
    agent.wait_drops("too_big", 1).context("nothing was too big: the test does not test")
}

/// Devices carry 1500 both ways; what the node's routes say is less.
#[test]
fn routes_that_are_narrower_than_their_devices() -> Result<()> {
    needs!(namespaces);
    let world = World::plain()?;
    let (agent, remote) = remote(&world)?;
    let far = Far::join(&world)?;
    let node = world.node();
    let narrow = format!("mtu lock {NARROW}");
    // First to the server: once it has learnt of a narrow way to the client it asks for less.
    node.ip(&format!("route add {}/32 dev back1 {narrow}", remote.address.ip()))?;
    node.ip(&format!("-6 route add {}/128 dev back1 {narrow}", remote.address6.ip()))?;
    far.check(&world, &[vip(80), vip6(80)], "route to the server 1400")?;
    agent.wait_drops("too_big", 1).context("nothing was too big on the way there")?;

    node.ip(&format!("route del {}/32 dev back1", remote.address.ip()))?;
    node.ip(&format!("-6 route del {}/128 dev back1", remote.address6.ip()))?;
    let before = agent.drops("too_big")?;
    node.ip(&format!("route change 198.51.100.0/24 via {CLIENT} {narrow}"))?;
    node.ip(&format!("-6 route change 2001:db8:2::/64 via {CLIENT6} {narrow}"))?;
    far.check(&world, &[vip(80), vip6(80)], "route to the client 1400")?;
    agent.wait_drops("too_big", before + 1).context("nothing was too big on the way back")
}

#[test]
fn wide_clients_of_a_server_behind_a_narrow_link() -> Result<()> {
    needs!(namespaces);
    let world = World::plain()?;
    let (agent, remote) = remote(&world)?;
    let far = Far::join(&world)?;
    narrow(&[(world.node(), "back1")])?;
    // The server itself believes in 1500, and says so in its MSS; its router's end does not take more
    // than 1400, so what it sends must stay below.
    remote.namespace.ip("route change default via 10.99.1.1 mtu lock 1400 advmss 1460")?;
    remote
        .namespace
        .ip("-6 route change default via 2001:db8:99:1::1 mtu lock 1400 advmss 1440")?;
    far.check(&world, &[vip(80), vip6(80)], "front 1500, server 1400")?;
    agent.wait_drops("too_big", 1).context("nothing was too big: the test does not test")
}
