//! A virtual address that is the node's own: its frontends are served, and all else is the node's, as if
//! there were no balancer.

use std::{
    net::{IpAddr, Ipv4Addr, SocketAddr, TcpStream, UdpSocket},
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, ensure};
use lb_tests::{
    RemoteHost, World, needs, process,
    world::{CLIENT, CLIENT6, FRONT, NODE, NODE6},
};

/// Another address of the node's, as keepalived adds them.
const VIRTUAL: IpAddr = IpAddr::V4(Ipv4Addr::new(192, 0, 2, 77));
/// Where the node's own server listens, at all its addresses.
const SSH: u16 = 22;
/// Longest time until somebody is told.
const AT_ONCE: Duration = Duration::from_secs(1);

fn name_at(world: &World, at: SocketAddr) -> Result<String> {
    Ok(world.client().fetch_one(at)?.name)
}

/// Refused, and soon.
fn refused(world: &World, at: SocketAddr) -> Result<()> {
    let begun = Instant::now();
    let said = world.client().enter(|| TcpStream::connect_timeout(&at, Duration::from_secs(5)))?;
    let error = said.err().with_context(|| format!("{at} is open"))?;
    ensure!(error.kind() == std::io::ErrorKind::ConnectionRefused, "{at}: {error}");
    ensure!(begun.elapsed() < AT_ONCE, "{at}: told after {:?}", begun.elapsed());
    Ok(())
}

/// A datagram there and one back, between servers' ports.
fn datagrams(world: &World, node: IpAddr, client: IpAddr) -> Result<()> {
    let bind = |address: IpAddr| UdpSocket::bind((address, 5300));
    let (at_node, at_client) =
        (world.node().enter(|| bind(node))??, world.client().enter(|| bind(client))??);
    for (from, to) in [(&at_client, &at_node), (&at_node, &at_client)] {
        to.set_read_timeout(Some(AT_ONCE))?;
        // Of several fragments, too.
        for length in [40, 4000] {
            from.send_to(&vec![7; length], to.local_addr()?)?;
            let mut buffer = [0; 5000];
            let received =
                to.recv(&mut buffer).with_context(|| format!("{length} bytes to {to:?}"))?;
            ensure!(received == length, "{received} bytes of {length}");
        }
    }
    Ok(())
}

#[test]
fn frontends_are_served_and_the_rest_is_the_nodes() -> Result<()> {
    needs!(docker);
    let world = World::docker()?;
    world.node().ip(&format!("addr add {VIRTUAL}/32 dev {FRONT}"))?;
    let docker = world.docker_client()?;
    let frontends = "tcp://own:81,tcp://own6:81,tcp://virtual:81";
    docker.run("network create --ipv6 --subnet fd00:77::/64 both")?;
    let web = docker.container("web").label("lb.8080.frontend", frontends);
    let web = web.with("--network both --publish 18080:8080").start()?;
    let mut config = world.config();
    for (name, address) in [("own", NODE), ("own6", NODE6), ("virtual", VIRTUAL)] {
        config.balancers.push((name.to_owned(), address.to_string()));
    }
    let agent = world.start_agent(&config)?;
    agent.wait_backends(&["web"; 3])?;
    assert_eq!(agent.refusals()?, [""; 0]);
    let at_home = world.node().serve_as("node", SSH)?;
    let outside = world.client().serve_as("client", 9999)?;
    for address in [NODE, NODE6] {
        process::wait_for("the frontend", Duration::from_secs(5), || {
            ensure!(name_at(&world, (address, 81).into())? == "web", "somebody else");
            Ok(())
        })?;
        ensure!(name_at(&world, (address, SSH).into())? == "node", "{address}");
        refused(&world, (address, 23).into())?;
    }
    // The node calls from its address, and so do its containers, whom it masquerades.
    ensure!(world.node().fetch_one((CLIENT, 9999).into())?.name == "client", "from the node");
    let words = format!("fetch --target {CLIENT}:9999 --count 20");
    lb_tests::traffic::run_command(web.exec(&words))?.check()?;
    ensure!(name_at(&world, (NODE, 18080).into())? == "web", "what Docker publishes");
    datagrams(&world, NODE, CLIENT)?;
    datagrams(&world, NODE6, CLIENT6)?;
    for (from, to) in [(world.client(), NODE), (world.node(), CLIENT), (world.client(), NODE6)] {
        for size in [56, 4000] {
            from.run(&format!("busybox ping -c 1 -W 1 -s {size} {to}"))?;
        }
    }
    // Another address of the node's is a virtual one in all.
    ensure!(name_at(&world, (VIRTUAL, 81).into())? == "web", "the virtual address");
    refused(&world, (VIRTUAL, SSH).into())?;
    ensure!(agent.drops("no_frontend")? > 0, "it is not we who refuse");
    drop((at_home, outside));
    Ok(())
}

#[test]
fn all_ports_of_it_are_refused_by_name() -> Result<()> {
    needs!(namespaces);
    let world = World::plain()?;
    let remote = RemoteHost::start(world.node(), 1)?;
    let mut config = world.config();
    config.front.push("back1".to_owned());
    let service = |name: &str, ports: &str| {
        format!(
            "[[service]]\nname = \"{name}\"\nfrontends = [\"tcp://{NODE}:{ports}\"]\n\
             [[service.backend]]\naddress = \"{}\"\n",
            remote.address
        )
    };
    config.extra = service("all", "*") + &service("one", "81");
    let agent = world.start_agent(&config)?;
    agent.wait_refusal(&["all", "tcp://192.0.2.1:*", "name fewer ports"])?;
    let at_home = world.node().serve_as("node", SSH)?;
    ensure!(name_at(&world, (NODE, SSH).into())? == "node", "its own server");
    ensure!(name_at(&world, (NODE, 81).into())? == "remote-1", "nothing else is affected");
    drop(at_home);
    Ok(())
}
