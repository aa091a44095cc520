//! ICMP errors from the backend's side reach the client about the connection that it knows: that to the
//! VIP. Of the backend itself they come from the VIP, of a router before it from the router.

use std::{
    io,
    net::{IpAddr, SocketAddr, UdpSocket},
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, ensure};
use lb_tests::{
    AgentConfig, Container, Namespace, RemoteHost, World,
    container::PORT,
    datagrams::Datagrams,
    needs,
    packets::{Body, icmp_error, udp},
    process,
    talk::{ANY, PATIENCE, connect_here},
    traffic::run_command,
    wire::RawSender,
    world::{BALANCER, BALANCER6, CLIENT, CLIENT6, FRONT, VIP, vip, vip6},
};
use nix::sys::socket::{self, AddressFamily, SockFlag, SockProtocol, SockType};

/// A time-out would be ten times that.
const AT_ONCE: Duration = Duration::from_secs(1);
/// A port of the containers where nobody listens.
const DEAF: u16 = 9099;
const NARROW: u32 = 1300;

/// Hears ICMP of either family, from its header on.
struct Listener(UdpSocket);

impl Listener {
    fn open(client: &Namespace, is_v6: bool) -> Result<Self> {
        let (family, protocol) = if is_v6 {
            (AddressFamily::Inet6, SockProtocol::IcmpV6)
        } else {
            (AddressFamily::Inet, SockProtocol::Icmp)
        };
        let flags = SockFlag::SOCK_CLOEXEC;
        let raw = client.enter(|| socket::socket(family, SockType::Raw, flags, protocol))??;
        // It is none of UDP, but receives as such do.
        let socket = UdpSocket::from(raw);
        socket.set_read_timeout(Some(PATIENCE))?;
        Ok(Self(socket))
    }

    /// Who sends the next error of this type and code.
    fn sender_of(&self, kind: (u8, u8)) -> Result<IpAddr> {
        let mut buffer = [0; 2048];
        loop {
            let (length, from) =
                self.0.recv_from(&mut buffer).with_context(|| format!("no ICMP error {kind:?}"))?;
            // IPv4 gives its own header, too.
            let start = if from.is_ipv4() { usize::from(buffer[0] & 15) * 4 } else { 0 };
            ensure!(length > start + 1, "a stump of {length} bytes");
            if (buffer[start], buffer[start + 1]) == kind {
                return Ok(from.ip());
            }
        }
    }
}

fn container(world: &World) -> Result<Container> {
    world.docker_client()?.run("network create --ipv6 --subnet fd00:77::/64 ula")?;
    let mut web = world.web(1)?.with("--network ula").port(9090).port(9091).port(9092);
    for (port, url) in [
        (9090, format!("tcp://{BALANCER6}:80")),
        (9091, format!("udp://{BALANCER}:53")),
        (9092, format!("udp://{BALANCER6}:53")),
        (DEAF, format!("udp://{BALANCER}:54")),
        (DEAF + 1, format!("udp://{BALANCER6}:54")),
    ] {
        web = web.label(&format!("lb.{port}.frontend"), &url);
    }
    web.start()
}

#[test]
fn unreachable_port_of_a_container() -> Result<()> {
    needs!(docker);
    let world = World::docker()?;
    let _web = container(&world)?;
    let agent = world.start_agent(&world.config_of_both_families())?;
    agent.wait_backends(&["web-1"; 6])?;
    for (front, kind) in [(vip(54), (3, 3)), (vip6(54), (1, 4))] {
        let listener = Listener::open(world.client(), front.is_ipv6())?;
        let (error, took) = Datagrams::connect(world.client(), 0, front)?.refused()?;
        println!("udp://{front}: {error} after {took:?}");
        ensure!(error.kind() == io::ErrorKind::ConnectionRefused, "{front}: {error}");
        ensure!(took < AT_ONCE, "{front}: told after {took:?}");
        let from = listener.sender_of(kind)?;
        ensure!(from == front.ip(), "{front}: told by {from}");
    }
    ensure!(agent.drops("no_frontend")? == 0, "the agent has refused it, not the container");
    Ok(())
}

/// By a default, too: the container's own packet filter refuses connections.
#[test]
fn connection_that_a_container_prohibits() -> Result<()> {
    needs!(docker);
    let world = World::docker()?;
    let web = world.web(1)?.start()?;
    let agent = world.start_agent(&world.config())?;
    agent.wait_backends(&["web-1"])?;
    world.client().fetch_one(vip(80))?;
    let rule = format!(
        "iptables -A INPUT -p tcp --dport {PORT} -j REJECT --reject-with icmp-admin-prohibited"
    );
    let line = format!("nsenter --target {} --net {rule}", web.pid()?);
    process::run(&mut process::words(&line))?;
    let listener = Listener::open(world.client(), false)?;
    let begun = Instant::now();
    let error = world.client().enter(|| connect_here(ANY, vip(80)))?.err();
    let error = error.context("the container has accepted")?;
    println!("{error:#} after {:?}", begun.elapsed());
    // Between namespaces the error is back before the SYN has left the socket's hands, which believes
    // the second one only.
    ensure!(format!("{error:#}").contains("EHOSTUNREACH"), "{error:#}");
    let from = listener.sender_of((3, 13))?;
    ensure!(from == VIP, "told by {from}");
    Ok(())
}

/// What a client's kernel knows of the path to an address.
fn path_mtu(client: &Namespace, to: IpAddr) -> Result<String> {
    client.ip(&format!("route get {to}"))
}

/// A container that forwards further, and says so when it cannot.
#[test]
fn packet_too_big_for_what_is_behind_a_container() -> Result<()> {
    needs!(docker);
    let world = World::docker()?;
    let web = container(&world)?;
    let agent = world.start_agent(&world.config_of_both_families())?;
    agent.wait_backends(&["web-1"; 6])?;
    for (front, port, client) in [(vip(53), 9091, CLIENT), (vip6(53), 9092, CLIENT6)] {
        let mut socket = Datagrams::connect(world.client(), 5353, front)?;
        socket.ask(100)?;
        ensure!(!path_mtu(world.client(), front.ip())?.contains("mtu"), "known before");
        let address = if front.is_ipv4() { web.address()? } else { web.address6()? };
        let said = udp(SocketAddr::new(client, 5353), SocketAddr::new(address, port)).payload(64);
        let mut error = icmp_error(address, client, &said, 92);
        let kind = if front.is_ipv4() { (3, 4) } else { (2, 0) };
        error.body = Body::Icmp(kind, NARROW);
        let sender = web.enter(RawSender::here)??;
        let listener = Listener::open(world.client(), front.is_ipv6())?;
        sender.send(&error.ip_bytes(), client)?;
        let from = listener.sender_of(kind)?;
        ensure!(from == front.ip(), "{front}: told by {from}");
        let known = path_mtu(world.client(), front.ip())?;
        ensure!(known.contains(&format!("mtu {NARROW}")), "{front}: {known}");
        // The socket is told as well; what it sends then is in fragments that fit.
        let told = socket.ask(2000).err().context("the socket was not told")?;
        ensure!(format!("{told:#}").contains("os error 90"), "{front}: {told:#}");
        socket.ask(2000)?;
    }
    Ok(())
}

/// Node, router, server: the router's link to the server is narrow, which it says to clients in words
/// about the server.
#[test]
fn router_before_the_server_tells_the_client() -> Result<()> {
    needs!(namespaces);
    let world = World::plain()?;
    let router = RemoteHost::start(world.node(), 1)?;
    let server = Namespace::new()?;
    server.connect(("eth0", "10.88.0.2/24"), &router.namespace, ("far0", "10.88.0.1/24"))?;
    server.ip("addr add 2001:db8:88::2/64 dev eth0 nodad")?;
    router.namespace.ip("addr add 2001:db8:88::1/64 dev far0 nodad")?;
    server.ip("route add default via 10.88.0.1")?;
    server.ip("route add default via 2001:db8:88::1")?;
    router.namespace.sysctl("net.ipv4.ip_forward=1")?;
    router.namespace.sysctl("net.ipv6.conf.all.forwarding=1")?;
    world.node().ip(&format!("route add 10.88.0.0/24 via {}", router.address.ip()))?;
    world.node().ip(&format!("route add 2001:db8:88::/64 via {}", router.address6.ip()))?;
    let _serving = server.serve_as("server", PORT)?;
    let mut config = AgentConfig::new(FRONT);
    config.front = [FRONT, "back1"].map(str::to_owned).to_vec();
    config.extra = format!(
        "[[service]]\nname = \"web\"\nfrontends = [\"tcp://{}\", \"tcp://{}\"]\n\
         [[service.backend]]\naddress = \"10.88.0.2:{PORT}\"\n\
         [[service.backend]]\naddress = \"[2001:db8:88::2]:{PORT}\"\n",
        vip(80),
        vip6(80),
    );
    let _agent = world.start_agent(&config)?;
    process::wait_for("the backend", Duration::from_secs(10), || {
        world.client().fetch_one(vip(80))?;
        world.client().fetch_one(vip6(80))
    })?;
    // The server itself believes in 1500, and says so in its MSS.
    router.namespace.ip(&format!("link set far0 mtu {NARROW}"))?;
    world.client().offload("eth0", "tso off gso off")?;
    for (front, kind, router) in
        [(vip(80), (3, 4), router.address.ip()), (vip6(80), (2, 0), router.address6.ip())]
    {
        let listener = Listener::open(world.client(), front.is_ipv6())?;
        let words = format!("bulk --target {front} --bytes 1000000 --direction up");
        run_command(world.client().testkit(&words)?)?
            .check()
            .with_context(|| format!("{front}"))?;
        let from = listener.sender_of(kind)?;
        ensure!(from == router, "{front}: told by {from}, not by the router");
        let known = path_mtu(world.client(), front.ip())?;
        ensure!(known.contains(&format!("mtu {NARROW}")), "{front}: {known}");
    }
    Ok(())
}
