//! A node with some remote hosts as the backends of one service of the file, whose weights change.

use std::{fmt::Write as _, time::Duration};

use anyhow::{Context as _, Result, ensure};

use crate::{
    agent::{Agent, AgentConfig},
    process,
    world::{FRONT, RemoteHost, World, vip, vip6},
};

/// Weight of each remote host; `None`: not in the file.
pub type Weights<'a> = &'a [Option<u16>];

/// Takes its share.
pub const ON: Option<u16> = Some(100);
/// Keeps what it has.
pub const DRAINED: Option<u16> = Some(0);

/// Fields are dropped in this order.
#[derive(Debug)]
pub struct Cluster {
    /// The agent.
    pub agent: Agent,
    /// The backends.
    pub remotes: Vec<RemoteHost>,
    /// Client and node.
    pub world: World,
    /// Tables of the configuration beside the service: `[times]`, `[tables]`.
    pub settings: String,
    /// Further services.
    pub services: String,
}

impl Cluster {
    /// Starts as many remote hosts as there are weights, and an agent. The service has TCP and UDP of
    /// both families at port 80.
    pub fn start(settings: &str, weights: Weights<'_>) -> Result<Self> {
        Self::start_in(World::plain()?, settings, weights)
    }

    /// The same in a world without Docker that is there.
    pub fn start_in(world: World, settings: &str, weights: Weights<'_>) -> Result<Self> {
        // Whoever is not the client's neighbour is somewhere behind it.
        world.node().ip(&format!("route add default via {}", crate::world::CLIENT))?;
        let numbers = 1..=u8::try_from(weights.len())?;
        let remotes = numbers
            .map(|number| RemoteHost::start(world.node(), number))
            .collect::<Result<Vec<_>>>()?;
        let config = config(settings, "", &remotes, weights);
        let agent = world.start_agent(&config)?;
        let (settings, services) = (settings.to_owned(), String::new());
        let cluster = Self { agent, remotes, world, settings, services };
        cluster.wait(weights)?;
        Ok(cluster)
    }

    /// Writes other weights into the file.
    pub fn write(&self, weights: Weights<'_>) -> Result<()> {
        self.agent.configure(&config(&self.settings, &self.services, &self.remotes, weights))
    }

    /// Changes the weights, and waits until they are in force.
    pub fn set(&self, weights: Weights<'_>) -> Result<()> {
        let config = config(&self.settings, &self.services, &self.remotes, weights);
        self.agent.reconfigure(&config)?;
        self.wait(weights)
    }

    /// Waits until these weights are in force.
    pub fn wait(&self, weights: Weights<'_>) -> Result<()> {
        process::wait_for("the weights", Duration::from_secs(10), || {
            let rows = self.agent.rows("backend")?;
            for (remote, weight) in self.remotes.iter().zip(weights) {
                let address = remote.address.to_string();
                let row = rows.iter().find(|row| row["address"] == address.as_str());
                let found = row.and_then(|row| row["weight"].as_u64());
                ensure!(found == weight.map(u64::from), "{address}: {found:?}, not {weight:?}");
                let share = row.and_then(|row| row["share_percent"].as_f64()).unwrap_or(0.0);
                let is_on = weight.is_some_and(|weight| weight > 0);
                ensure!(is_on == (share > 0.0), "{address} has {share} % of the ring");
            }
            Ok(())
        })
    }

    /// Names of the remote hosts that take new connections now, by a number of requests.
    pub fn served_by(&self, requests: u32) -> Result<Vec<String>> {
        let report = self.world.client().fetch(vip(80), requests)?;
        Ok(report.check().context("requests")?.by_name.keys().cloned().collect())
    }
}

fn config(
    settings: &str,
    services: &str,
    remotes: &[RemoteHost],
    weights: Weights<'_>,
) -> AgentConfig {
    let mut config = AgentConfig::new(FRONT);
    config.front.extend(remotes.iter().map(|remote| remote.link.clone()));
    let frontends = [vip(80), vip6(80)].map(|at| format!("\"tcp://{at}\", \"udp://{at}\""));
    config.extra = format!(
        "{settings}\n[[service]]\nname = \"web\"\nfrontends = [{}]\n",
        frontends.join(", ")
    );
    for (remote, weight) in remotes.iter().zip(weights) {
        let Some(weight) = weight else { continue };
        for address in [remote.address, remote.address6] {
            // Into memory, which does not fail.
            write!(
                config.extra,
                "[[service.backend]]\naddress = \"{address}\"\nweight = {weight}\n"
            )
            .unwrap_or_default();
        }
    }
    config.extra.push_str(services);
    config
}
