//! What the demo plays on: a Docker daemon (one that runs, or one of its own), a client in a
//! namespace, an agent.
//!
//! Owns all that it makes and removes it. With a daemon that was there before, that is: one network,
//! one image, containers, one veth on the host, one bpffs in a temporary directory.

use std::{
    net::{IpAddr, SocketAddr},
    path::Path,
};

use anyhow::{Context as _, Result, ensure};
use lb_tests::{
    Agent, AgentConfig, BpfFs, Container, Docker, DockerNode, DockerOptions, Namespace, Snapshot,
    docker::IMAGE,
    names::{self, Directory},
    process,
};

use crate::printer::Printer;

/// Where a Docker daemon that runs already listens.
const HOST_SOCKET: &str = "/var/run/docker.sock";
/// Client's network and VIP's network: first those of the other address blocks for documentation.
const NETWORKS: [(&str, &str); 3] =
    [("192.0.2", "203.0.113"), ("198.51.100", "203.0.113"), ("192.0.2", "198.51.100")];
/// Balancer that the containers' labels name.
pub(crate) const BALANCER: &str = "slb_demo";

#[derive(Debug)]
enum Daemon {
    Own(Box<DockerNode>),
    Host(Docker),
}

/// Everything that the demo made. Fields are dropped in this order.
#[derive(Debug)]
pub(crate) struct Stage {
    pub(crate) agent: Agent,
    pub(crate) client: Namespace,
    pub(crate) client_address: IpAddr,
    pub(crate) vip: SocketAddr,
    /// The node's address towards the client, where published ports answer.
    pub(crate) node_address: IpAddr,
    containers: Vec<Container>,
    network: String,
    image: String,
    before: Option<Snapshot>,
    is_struck: bool,
    node: Namespace,
    daemon: Daemon,
    bpffs: BpfFs,
    _directory: Directory,
}

impl Stage {
    /// Makes all that is needed before the first scene, except the agent's process.
    pub(crate) fn build(own_docker: bool, printer: &mut Printer) -> Result<Self> {
        printer.scene("The stage");
        let host = Docker::at(HOST_SOCKET);
        let running = if own_docker { None } else { host.ready().ok() };
        let (daemon, node) = if let Some(version) = running {
            printer.line(&format!("Docker {version}: the one that runs on this machine"));
            (Daemon::Host(host), Namespace::host())
        } else {
            let node = DockerNode::start(DockerOptions::default())?;
            let version = node.docker().ready()?;
            printer.line(&format!(
                "Docker {version}: started for the demo, in a network namespace of its own"
            ));
            let namespace = node.namespace().borrowed();
            (Daemon::Own(Box::new(node)), namespace)
        };
        let directory = Directory::new()?;
        let bpffs = BpfFs::mount(&directory)?;
        let client = Namespace::new()?;
        let (client_net, vip_net) = free_networks(&node)?;
        let name = names::unique();
        let front = format!("lbd{}", std::process::id());
        let (near, far) = (format!("{client_net}.1"), format!("{client_net}.2"));
        client.connect(("eth0", &format!("{far}/24")), &node, (&front, &format!("{near}/24")))?;
        client.ip(&format!("route add default via {near}"))?;

        let agent = Agent::prepare(&node, directory.path(), bpffs.path())?;
        let vip: SocketAddr = format!("{vip_net}.10:80").parse()?;
        let mut stage = Self {
            agent,
            client,
            client_address: far.parse()?,
            vip,
            node_address: near.parse()?,
            containers: Vec::new(),
            network: String::new(),
            image: format!("{IMAGE}:{name}"),
            before: None,
            is_struck: false,
            node,
            daemon,
            bpffs,
            _directory: directory,
        };
        // From here on a failure is cleaned up by `Drop`.
        stage.docker().import_image(&stage.image)?;
        stage.docker().run(&format!("network create {name}"))?;
        stage.network = name;
        let mut config = AgentConfig::new(&front);
        config.docker = Some(stage.docker().socket().to_owned());
        config.balancers.push((BALANCER.to_owned(), vip.ip().to_string()));
        stage.agent.configure(&config)?;
        printer.line(&format!("Client: {far}, in a network namespace of its own"));
        printer.line(&format!("VIP:    {}, routed to the node; no interface has it", vip.ip()));
        Ok(stage)
    }

    pub(crate) fn docker(&self) -> &Docker {
        match &self.daemon {
            Daemon::Own(node) => node.docker(),
            Daemon::Host(docker) => docker,
        }
    }

    /// The node's namespace.
    pub(crate) fn node(&self) -> &Namespace {
        &self.node
    }

    /// Starts replica `number` of the Compose service `web`. `options`: as for `docker run`.
    pub(crate) fn start_web(&mut self, number: u32, options: &str) -> Result<Container> {
        // On a daemon that is not ours the name must be nobody else's.
        let name = match self.daemon {
            Daemon::Own(_) => format!("web-{number}"),
            Daemon::Host(_) => format!("{}-web-{number}", self.network),
        };
        let container = self
            .docker()
            .container(&name)
            .image(&self.image)
            .compose("demo", "web", number)
            .balanced(&format!("http://{BALANCER}:{}", self.vip.port()))
            .with(options);
        // Known before it is started: a half-started one is removed, too.
        self.containers.push(container.clone());
        container.start()
    }

    /// The demo's own user-defined network.
    pub(crate) fn network(&self) -> &str {
        &self.network
    }

    /// Remembers the node's state; [`Stage::strike`] compares.
    pub(crate) fn remember_state(&mut self) -> Result<()> {
        self.before = Some(self.snapshot()?);
        Ok(())
    }

    fn snapshot(&self) -> Result<Snapshot> {
        Snapshot::take(&self.node, &[self.bpffs.path()])
    }

    /// Runs `lbctl` as an operator would.
    pub(crate) fn lbctl(&self, words: &str, printer: &Printer) -> Result<()> {
        printer.quote(&format!("lbctl {words}"), &self.agent.lbctl(words)?);
        Ok(())
    }

    /// Shows the end of the agent's log.
    pub(crate) fn show_log(&self, printer: &Printer) {
        let log = self.agent.log();
        let lines: Vec<_> = log.lines().collect();
        printer.quote("tail lb-agent.log", &lines[lines.len().saturating_sub(40)..].join("\n"));
    }

    /// Uninstalls lb, compares, and removes the rest.
    pub(crate) fn strike(mut self, printer: &mut Printer) -> Result<()> {
        printer.scene("The end: lb-agent uninstall");
        if self.agent.is_running() {
            self.agent.stop(nix::sys::signal::Signal::SIGTERM)?;
        }
        printer.quote("lb-agent uninstall", &self.agent.uninstall()?);
        if let Some(before) = self.before.take() {
            let difference = before.difference_but_links(&self.snapshot()?);
            for line in difference.lines().take(20) {
                printer.line(line);
            }
            printer.promise(
                difference.is_empty(),
                "uninstall left nothing: rules, addresses, links, queueing, filters, sysctls and \
                 pins are as before",
            );
        }
        Ok(())
    }

    fn remove_containers(&mut self) {
        let names: Vec<_> = self.containers.drain(..).map(|one| one.name().to_owned()).collect();
        if !names.is_empty() {
            complain(process::run(self.docker().command().args(["rm", "--force"]).args(names)));
        }
    }
}

impl Drop for Stage {
    fn drop(&mut self) {
        if self.is_struck {
            return;
        }
        self.is_struck = true;
        self.agent.set_quiet();
        if self.agent.is_running() {
            complain(self.agent.stop(nix::sys::signal::Signal::SIGKILL));
        }
        // The links of a daemon that is not ours stay, so must not keep our programs.
        if self.bpffs.tree().is_empty() {
            self.remove_containers();
        } else {
            complain(self.agent.uninstall());
            self.remove_containers();
        }
        if !self.network.is_empty() {
            complain(self.docker().run(&format!("network rm {}", self.network)));
        }
        complain(self.docker().run(&format!("image rm {}", self.image)));
    }
}

fn complain<T>(result: Result<T>) {
    if let Err(error) = result {
        eprintln!("cleaning up: {error:#}");
    }
}

/// Networks for the client and the VIP that this node does not know.
fn free_networks(node: &Namespace) -> Result<(&'static str, &'static str)> {
    let known = node.ip("-o addr")? + &node.ip("route show table all")?;
    let is_free = |network: &str| !known.contains(&format!(" {network}."));
    NETWORKS
        .into_iter()
        .find(|(client, vip)| is_free(client) && is_free(vip))
        .context("this node has routes to all networks that are reserved for documentation")
}

/// The demo must not be the reason that something else is served.
pub(crate) fn require_unserved(stage: &Stage) -> Result<()> {
    let path = Path::new("/sys/fs/bpf/lb");
    let is_host = matches!(stage.daemon, Daemon::Host(_));
    ensure!(!is_host || !path.exists(), "an lb-agent is at work on this node ({})", path.display());
    Ok(())
}
