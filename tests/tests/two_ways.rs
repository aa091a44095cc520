//! A client with two ways to the node, as networks with several uplinks have it: what it sends comes by
//! one, and the node's routing table leads back by the other.

use std::{
    io::{Read as _, Write as _},
    net::SocketAddr,
    time::Duration,
};

use anyhow::{Context as _, Result, ensure};
use lb_tests::{
    Agent, AgentConfig, Namespace, RemoteHost, World,
    container::PORT,
    datagrams, needs, process,
    talk::{PATIENCE, connect_here},
    world::{BALANCER, BALANCER6, CLIENT, CLIENT6, FRONT, vip, vip6},
};

/// The node's end of the second way.
const SECOND: &str = "front1";

/// A second link between client and node; the client's own addresses are behind it for the node.
fn second_way(world: &World) -> Result<()> {
    let (client, node) = (world.client(), world.node());
    client.connect(("eth1", "192.0.3.2/24"), node, (SECOND, "192.0.3.1/24"))?;
    client.ip("addr add 2001:db8:3::2/64 dev eth1 nodad")?;
    node.ip(&format!("addr add 2001:db8:3::1/64 dev {SECOND} nodad"))?;
    // By the first link nobody would hear it.
    node.ip(&format!("route add {CLIENT}/32 via 192.0.3.2"))?;
    node.ip(&format!("-6 route add {CLIENT6}/128 via 2001:db8:3::2"))?;
    for setting in ["all.rp_filter=0", "eth0.rp_filter=0", "eth1.rp_filter=0"] {
        client.sysctl(&format!("net.ipv4.conf.{setting}"))?;
    }
    Ok(())
}

fn packets(node: &Namespace, link: &str) -> Result<u64> {
    let counters = node.run(&format!("grep {link}: /proc/net/dev"))?;
    // Name, eight numbers of what was received, bytes sent.
    let word = counters.split_whitespace().nth(10).context("too few words")?;
    Ok(word.parse()?)
}

/// Bytes both ways, and datagrams; the answers leave by the second link.
fn check(world: &World, what: &str) -> Result<()> {
    for front in [vip(80), vip6(80)] {
        let before = [FRONT, SECOND].map(|link| packets(world.node(), link));
        let [first_before, second_before] = before;
        let report = world.client().fetch(front, 50)?;
        report.check().with_context(|| format!("{what}, {front}"))?;
        world.client().bulk(front, 1 << 20)?.check()?;
        let udp = if front.is_ipv4() { vip(53) } else { vip6(53) };
        datagrams::spread(world.client(), udp, 10, 100)?;
        let first = packets(world.node(), FRONT)? - first_before?;
        let second = packets(world.node(), SECOND)? - second_before?;
        println!("{what}, {front}: {first} packets by the first link, {second} by the second");
        ensure!(second > 100 && first < 50, "{what}, {front}: {first} and {second} packets");
    }
    Ok(())
}

/// Recorded replies of containers: of a published port, and of datagrams.
#[test]
fn recorded_replies_of_containers_leave_as_the_routes_say() -> Result<()> {
    needs!(docker);
    let world = World::docker()?;
    world.docker_client()?.run("network create --ipv6 --subnet fd00:77::/64 ula")?;
    second_way(&world)?;
    let mut web = world.docker_client()?.container("web").compose("shop", "web", 1);
    web = web.with("--network ula --publish 8080").port(9090).port(9091).port(9092);
    for (port, url) in [
        (PORT, format!("tcp://{BALANCER}:80")),
        (9090, format!("tcp://{BALANCER6}:80")),
        (9091, format!("udp://{BALANCER}:53")),
        (9092, format!("udp://{BALANCER6}:53")),
    ] {
        web = web.label(&format!("lb.{port}.frontend"), &url);
    }
    let _web = web.start()?;
    let mut config = world.config_of_both_families();
    config.front = [FRONT, SECOND].map(str::to_owned).to_vec();
    let agent = world.start_agent(&config)?;
    agent.wait_backends(&["web"; 4])?;
    check(&world, "containers")
}

fn remote(world: &World) -> Result<(Agent, RemoteHost)> {
    let remote = RemoteHost::start(world.node(), 1)?;
    let mut config = AgentConfig::new(FRONT);
    config.front = [FRONT, SECOND, "back1"].map(str::to_owned).to_vec();
    let frontends = [80, 53].map(|port| {
        let protocol = if port == 80 { "tcp" } else { "udp" };
        format!("\"{protocol}://{}\", \"{protocol}://{}\"", vip(port), vip6(port))
    });
    config.extra = format!(
        "[[service]]\nname = \"web\"\nfrontends = [{}]\n\
         [[service.backend]]\naddress = \"{}\"\n[[service.backend]]\naddress = \"{}\"\n",
        frontends.join(", "),
        remote.address,
        remote.address6,
    );
    let agent = world.start_agent(&config)?;
    process::wait_for("the backend", Duration::from_secs(10), || {
        ensure!(agent.healthy_backends()?.len() == 2, "not yet");
        Ok(())
    })?;
    Ok((agent, remote))
}

/// And where the routing table knows no way back, they leave where the client came in.
#[test]
fn replies_of_remote_hosts_leave_as_the_routes_say_or_where_the_client_came_in() -> Result<()> {
    needs!(namespaces);
    let world = World::plain()?;
    second_way(&world)?;
    let (_agent, _remote) = remote(&world)?;
    check(&world, "remote host")?;

    // An address that the node has no route to, and no default one either.
    let stranger = SocketAddr::from(([198, 51, 100, 77], 0));
    world.client().ip(&format!("addr add {}/32 dev eth0", stranger.ip()))?;
    let route = world.node().ip(&format!("route get {}", stranger.ip()));
    ensure!(route.is_err(), "there is a route: {route:?}");
    let mut stream = world.client().enter(|| connect_here(stranger, vip(80)))??;
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.write_all(b"GET / HTTP/1.1\r\n\r\n")?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    ensure!(answer.contains("name=remote-1"), "the answer is `{answer}`");
    Ok(())
}
