//! The world of most tests: a client and a node, each in a namespace, a VIP that is routed to the
//! node, and on the node a Docker daemon or nothing.
//!
//! ```text
//!  client 192.0.2.2  ----- front0 192.0.2.1  node  back0 10.99.0.1 ----- 10.99.0.2 remote host
//!  203.0.113.0/24 via node                   containers 172.30.0.0/24, 172.31.N.0/24
//!  2001:db8:1::2                             remote hosts 2001:db8:99:N::2
//!  2001:db8:f::/64 via node                  containers in networks that tests make
//! ```

use std::{
    fs::File,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    path::Path,
    time::Duration,
};

use anyhow::{Context as _, Result};
use nix::fcntl::{Flock, FlockArg};

use crate::{
    agent::{Agent, AgentConfig},
    bpffs::BpfFs,
    container::{Container, PORT},
    docker::{Docker, DockerNode, DockerOptions},
    names::Directory,
    namespace::Namespace,
    process,
    snapshot::Snapshot,
    traffic::Server,
};

/// Address of the client.
pub const CLIENT: IpAddr = IpAddr::V4(Ipv4Addr::new(192, 0, 2, 2));
/// Address of the node towards the client.
pub const NODE: IpAddr = IpAddr::V4(Ipv4Addr::new(192, 0, 2, 1));
/// The virtual address.
pub const VIP: IpAddr = IpAddr::V4(Ipv4Addr::new(203, 0, 113, 10));
/// Address of the client.
pub const CLIENT6: IpAddr = IpAddr::V6(Ipv6Addr::new(0x2001, 0xdb8, 1, 0, 0, 0, 0, 2));
/// Address of the node towards the client.
pub const NODE6: IpAddr = IpAddr::V6(Ipv6Addr::new(0x2001, 0xdb8, 1, 0, 0, 0, 0, 1));
/// The virtual address of the other family.
pub const VIP6: IpAddr = IpAddr::V6(Ipv6Addr::new(0x2001, 0xdb8, 0xf, 0, 0, 0, 0, 0x10));
/// The front interface.
pub const FRONT: &str = "front0";
/// Where clients of the service `web` connect.
pub const FRONT_PORT: u16 = 80;
/// Name of the balancer in labels.
pub const BALANCER: &str = "slb_test";
/// Name of the balancer whose VIP is [`VIP6`], where there is one.
pub const BALANCER6: &str = "slb_six";

/// The VIP with a port.
#[must_use]
pub fn vip(port: u16) -> SocketAddr {
    SocketAddr::new(VIP, port)
}

/// The VIP of the other family with a port.
#[must_use]
pub fn vip6(port: u16) -> SocketAddr {
    SocketAddr::new(VIP6, port)
}

#[derive(Debug)]
enum Node {
    Plain(Namespace),
    Docker(Box<DockerNode>),
}

/// A client, a node, and what the agent needs. Fields are dropped in this order.
#[derive(Debug)]
pub struct World {
    client: Namespace,
    node: Node,
    bpffs: BpfFs,
    directory: Directory,
    /// Worlds run one after the other: several at once on a small machine would disturb each
    /// other's timing.
    _turn: Option<Flock<File>>,
}

/// Waits until no other world exists, and keeps it so until this is dropped.
pub fn take_turn() -> Result<Flock<File>> {
    // A file that is there anyway, so that none is left behind.
    let file = File::open(concat!(env!("CARGO_MANIFEST_DIR"), "/Cargo.toml"))
        .or_else(|_| File::open("/proc/version"))?;
    Flock::lock(file, FlockArg::LockExclusive).map_err(|(_, error)| error.into())
}

impl World {
    /// A world without Docker.
    pub fn plain() -> Result<Self> {
        Self::plain_with(Some(take_turn()?))
    }

    /// A world without Docker that waits for no other, and for which no other waits: where hardly
    /// anything happens, and nothing soon.
    pub fn beside_others() -> Result<Self> {
        Self::plain_with(None)
    }

    fn plain_with(turn: Option<Flock<File>>) -> Result<Self> {
        let node = Namespace::new()?;
        node.sysctl("net.ipv4.ip_forward=1")?;
        node.sysctl("net.ipv6.conf.all.forwarding=1")?;
        Self::around(turn, Node::Plain(node))
    }

    /// A world with Docker as it is on most hosts.
    pub fn docker() -> Result<Self> {
        Self::docker_with(DockerOptions::default())
    }

    /// A world with Docker.
    pub fn docker_with(options: DockerOptions) -> Result<Self> {
        let turn = Some(take_turn()?);
        Self::around(turn, Node::Docker(Box::new(DockerNode::start(options)?)))
    }

    fn around(turn: Option<Flock<File>>, node: Node) -> Result<Self> {
        let client = Namespace::new()?;
        let directory = Directory::new()?;
        let bpffs = BpfFs::mount(&directory)?;
        let world = Self { client, node, bpffs, directory, _turn: turn };
        let (client, node) = (&world.client, world.node());
        client.connect(("eth0", "192.0.2.2/24"), node, (FRONT, "192.0.2.1/24"))?;
        // VIPs, containers and remote hosts are all behind the node.
        client.ip("route add default via 192.0.2.1")?;
        client.ip(&format!("addr add {CLIENT6}/64 dev eth0 nodad"))?;
        node.ip(&format!("addr add {NODE6}/64 dev {FRONT} nodad"))?;
        client.ip(&format!("route add default via {NODE6}"))?;
        Ok(world)
    }

    /// Where clients run.
    #[must_use]
    pub fn client(&self) -> &Namespace {
        &self.client
    }

    /// Where the agent runs.
    #[must_use]
    pub fn node(&self) -> &Namespace {
        match &self.node {
            Node::Plain(namespace) => namespace,
            Node::Docker(node) => node.namespace(),
        }
    }

    /// The Docker daemon.
    pub fn docker_node(&mut self) -> Result<&mut DockerNode> {
        match &mut self.node {
            Node::Docker(node) => Ok(node),
            Node::Plain(_) => anyhow::bail!("this world has no Docker"),
        }
    }

    /// Client of the Docker daemon.
    pub fn docker_client(&self) -> Result<Docker> {
        match &self.node {
            Node::Docker(node) => Ok(node.docker().clone()),
            Node::Plain(_) => anyhow::bail!("this world has no Docker"),
        }
    }

    /// Replica `number` of the Compose service `web`, behind port 80 of the VIP; not started.
    pub fn web(&self, number: u32) -> Result<Container> {
        let container = self.docker_client()?.container(&format!("web-{number}"));
        Ok(container
            .compose("shop", "web", number)
            .balanced(&format!("http://{BALANCER}:{FRONT_PORT}")))
    }

    /// `count` such replicas, started at the same time.
    pub fn start_webs(&self, count: u32) -> Result<Vec<Container>> {
        let webs: Vec<_> = (1..=count).map(|number| self.web(number)).collect::<Result<_>>()?;
        Container::start_all(webs)
    }

    /// Files of this world.
    #[must_use]
    pub fn directory(&self) -> &Path {
        self.directory.path()
    }

    /// Where clients of the service `web` connect.
    #[must_use]
    pub fn front(&self) -> SocketAddr {
        vip(FRONT_PORT)
    }

    /// A configuration with the front interface, Docker where there is one, and one balancer.
    #[must_use]
    pub fn config(&self) -> AgentConfig {
        let mut config = AgentConfig::new(FRONT);
        if let Node::Docker(node) = &self.node {
            config.docker = Some(node.docker().socket().to_owned());
            config.balancers.push((BALANCER.to_owned(), VIP.to_string()));
        }
        config
    }

    /// [`World::config`] with a balancer for each family.
    #[must_use]
    pub fn config_of_both_families(&self) -> AgentConfig {
        let mut config = self.config();
        config.balancers.push((BALANCER6.to_owned(), VIP6.to_string()));
        config
    }

    /// An agent with this configuration, not started.
    pub fn prepare_agent(&self, config: &AgentConfig) -> Result<Agent> {
        let agent = Agent::prepare(self.node(), self.directory.path(), self.bpffs.path())?;
        agent.configure(config)?;
        Ok(agent)
    }

    /// An agent with this configuration, ready.
    pub fn start_agent(&self, config: &AgentConfig) -> Result<Agent> {
        let mut agent = self.prepare_agent(config)?;
        agent.start()?;
        Ok(agent)
    }

    /// State of the node's network, and every file of the agent and pin.
    pub fn snapshot(&self) -> Result<Snapshot> {
        Snapshot::take(self.node(), &[self.bpffs.path()])
    }
}

/// Another machine behind the node that serves; its replies return through the node.
#[derive(Debug)]
pub struct RemoteHost {
    _server: Server,
    /// Its namespace.
    pub namespace: Namespace,
    /// Where it serves.
    pub address: SocketAddr,
    /// Where it serves by IPv6.
    pub address6: SocketAddr,
    /// The node's interface towards it.
    pub link: String,
}

impl RemoteHost {
    /// Number `number` of them, called `remote-NUMBER`, connected to the node by a link of its own.
    pub fn start(node: &Namespace, number: u8) -> Result<Self> {
        let namespace = Namespace::new()?;
        let link = format!("back{number}");
        let (near, far) = (format!("10.99.{number}.1"), format!("10.99.{number}.2"));
        namespace.connect(("eth0", &format!("{far}/24")), node, (&link, &format!("{near}/24")))?;
        namespace.ip(&format!("route add default via {near}"))?;
        let (near6, far6) =
            (format!("2001:db8:99:{number}::1"), format!("2001:db8:99:{number}::2"));
        node.ip(&format!("addr add {near6}/64 dev {link} nodad"))?;
        namespace.ip(&format!("addr add {far6}/64 dev eth0 nodad"))?;
        namespace.ip(&format!("route add default via {near6}"))?;
        let server = namespace.serve_as(&format!("remote-{number}"), PORT)?;
        let address = format!("{far}:{PORT}").parse()?;
        let address6 = format!("[{far6}]:{PORT}").parse()?;
        let host = Self { _server: server, namespace, address, address6, link };
        process::wait_for("the remote server", Duration::from_secs(5), || {
            host.namespace.fetch_one(address).map(|_| ())
        })
        .context("remote host")?;
        Ok(host)
    }
}
