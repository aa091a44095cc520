//! What tests of east-west begin with: a world with callers, an agent for them, two backends of both
//! protocols, and a container that calls.

use std::{collections::BTreeMap, net::SocketAddr, time::Duration};

use anyhow::{Context as _, Result, bail, ensure};

use crate::{
    Agent, AgentConfig, Container, World,
    callers::{Called, Callers},
    process,
    world::{BALANCER, BALANCER6},
};

/// The gateway of [`Scene::of_both_families`], and with it the node.
pub const GATEWAY6: &str = "fd00:77::1";

/// It. Fields end in this order: the agent before the world that it runs in.
#[derive(Debug)]
pub struct Scene {
    /// Knows `web-1` and `web-2` as backends, and `client` as a caller.
    pub agent: Agent,
    /// Calls from inside.
    pub callers: Callers,
    /// `web-1` and `web-2`.
    pub webs: Vec<Container>,
    /// `client`.
    pub client: Container,
    /// Everything else.
    pub world: World,
}

/// Replica `number` of the service of both protocols.
pub fn web(world: &World, number: u32) -> Result<Container> {
    Ok(world
        .docker_client()?
        .container(&format!("web-{number}"))
        .compose("shop", "web", number)
        .label("lb.8080.frontend", &format!("tcp://{BALANCER}:80,udp://{BALANCER}:80")))
}

impl Scene {
    /// With Docker, and nothing else said.
    pub fn new() -> Result<Self> {
        Self::with(World::docker()?, |_| {})
    }

    /// In a world in which there may be containers already, with a configuration that may say more.
    pub fn with(mut world: World, configure: impl FnOnce(&mut AgentConfig)) -> Result<Self> {
        let callers = Callers::of(&mut world)?;
        let webs = vec![web(&world, 1)?.start()?, web(&world, 2)?.start()?];
        let client = world.docker_client()?.container("client").start()?;
        let mut config = world.config();
        configure(&mut config);
        Self::begin(callers, webs, client, world, config)
    }

    /// On a network of both families, by which both backends are served.
    pub fn of_both_families(configure: impl FnOnce(&mut AgentConfig)) -> Result<Self> {
        Self::of_both_families_in(World::docker()?, configure)
    }

    /// The same in a world in which there may be containers already.
    pub fn of_both_families_in(
        mut world: World,
        configure: impl FnOnce(&mut AgentConfig),
    ) -> Result<Self> {
        let callers = Callers::of(&mut world)?;
        let docker = world.docker_client()?;
        docker.run(&format!(
            "network create --ipv6 --subnet fd00:77::/64 --gateway {GATEWAY6} both"
        ))?;
        let frontends = frontends_of_both(80);
        let container = |name: &str| docker.container(name).with("--network both");
        let web = |number| {
            let web = container(&format!("web-{number}")).compose("shop", "web", number);
            web.label("lb.8080.frontend", &frontends).start()
        };
        let webs = vec![web(1)?, web(2)?];
        let client = container("client").start()?;
        let mut config = world.config_of_both_families();
        configure(&mut config);
        Self::begin(callers, webs, client, world, config)
    }

    fn begin(
        callers: Callers,
        webs: Vec<Container>,
        client: Container,
        world: World,
        mut config: AgentConfig,
    ) -> Result<Self> {
        config.cgroup = Some(callers.cgroup().to_owned());
        let agent = world.start_agent(&config)?;
        let scene = Self { agent, callers, webs, client, world };
        process::wait_for("the backends", Duration::from_secs(15), || {
            let healthy = scene.agent.healthy_backends()?;
            ensure!(["web-1", "web-2"].iter().all(|it| healthy.iter().any(|name| name == it)));
            Ok(())
        })?;
        scene.wait_known("client")?;
        Ok(scene)
    }

    /// Where both backends are served.
    #[must_use]
    pub fn target(&self) -> SocketAddr {
        self.world.front()
    }

    /// Waits until the agent knows a container as a caller.
    pub fn wait_known(&self, name: &str) -> Result<()> {
        self.agent.wait_caller(name)
    }

    /// Calls of one kind, from the node or from a container.
    pub fn dial(
        &self,
        from: Option<&Container>,
        way: &str,
        target: SocketAddr,
        count: usize,
    ) -> Result<Vec<Called>> {
        self.callers.dial(&self.world, from, way, target, count)
    }

    /// The same, all of which are to be answered by a service. How many each backend had.
    pub fn served(
        &self,
        from: Option<&Container>,
        way: &str,
        target: SocketAddr,
        count: usize,
    ) -> Result<BTreeMap<String, usize>> {
        let shares = shares(&self.dial(from, way, target, count)?, target);
        shares.with_context(|| format!("{way} to {target}"))
    }

    /// Calls that all fail like this.
    pub fn refused(
        &self,
        from: Option<&Container>,
        way: &str,
        target: SocketAddr,
        errno: i32,
    ) -> Result<()> {
        let calls = self.dial(from, way, target, 1)?;
        ensure!(calls == [Called::Failed(errno)], "{way} to {target}: {calls:?}");
        Ok(())
    }
}

/// Both protocols at a port of both balancers.
#[must_use]
pub fn frontends_of_both(port: u16) -> String {
    let of = |balancer| format!("tcp://{balancer}:{port},udp://{balancer}:{port}");
    [BALANCER, BALANCER6].map(of).join(",")
}

/// A container on a network of its own and of both families, `other`, where no service is.
pub fn stranger(world: &World, name: &str) -> Result<Container> {
    let docker = world.docker_client()?;
    docker.run("network create --ipv6 --subnet fd00:78::/64 other")?;
    docker.container(name).with("--network other").start()
}

/// All were answered, and show the address that was asked for. Returns how many each backend had.
pub fn shares(calls: &[Called], target: SocketAddr) -> Result<BTreeMap<String, usize>> {
    let mut shares = BTreeMap::new();
    for call in calls {
        let Called::Answered { name, peer, .. } = call else { bail!("{call:?} to {target}") };
        ensure!(*peer == target, "{target} shows itself as {peer}");
        *shares.entry(name.clone()).or_default() += 1;
    }
    Ok(shares)
}
