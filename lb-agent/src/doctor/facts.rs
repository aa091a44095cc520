//! What a diagnosis is made of: plain data, gathered once.
//!
//! Every `Option` is something that could not be read; a check says so where it matters.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::{IpAddr, SocketAddr},
    path::PathBuf,
};

use ipnet::IpNet;
use serde::Deserialize;

use crate::api::types::{BackendView, CallerList, ProgramList, StatusView, VipView};

/// Everything that was looked at.
#[derive(Clone, Debug, Default)]
pub struct Facts {
    /// Version of `lbctl`.
    pub version: String,
    /// The agent.
    pub agent: AgentFacts,
    /// The file that says how the agent should run.
    pub config: ConfigFacts,
    /// The kernel.
    pub kernel: KernelFacts,
    /// The cgroup v2 hierarchy, and the cgroup that counts.
    pub cgroup: CgroupFacts,
    /// Who runs on this node.
    pub processes: ProcessFacts,
    /// Front interfaces by name.
    pub interfaces: BTreeMap<String, InterfaceFacts>,
    /// `net.ipv4.ip_forward` and `net.ipv6.conf.all.forwarding`.
    pub forwarding: [Option<bool>; 2],
    /// Addresses of the node itself.
    pub addresses: BTreeSet<IpAddr>,
    /// Routes of IPv4 in the main table, and of IPv6.
    pub routes: Vec<Route>,
    /// Virtual services of IPVS; `None`: the kernel has none.
    pub ipvs: Option<Vec<SocketAddr>>,
    /// Other software that handles the same packets: what showed it, by its name.
    pub software: BTreeMap<String, String>,
    /// Docker's socket.
    pub docker: DockerFacts,
    /// The API's socket file.
    pub socket: SocketFileFacts,
    /// What name servers of the agent answered.
    pub names: Vec<NameFacts>,
}

/// What the agent says of itself.
#[derive(Clone, Debug)]
pub enum AgentFacts {
    /// It answered.
    Running(Box<Running>),
    /// It does not run.
    NotRunning(String),
    /// This user may not ask.
    NotAllowed(String),
    /// It did not answer as it should.
    Failing(String),
}

impl Default for AgentFacts {
    fn default() -> Self {
        Self::NotRunning("nobody asked".to_owned())
    }
}

impl AgentFacts {
    /// What it says, if it runs.
    #[must_use]
    pub fn running(&self) -> Option<&Running> {
        match self {
            Self::Running(running) => Some(running),
            _ => None,
        }
    }
}

/// An agent that runs.
#[derive(Clone, Debug, Default)]
pub struct Running {
    /// Itself.
    pub status: StatusView,
    /// Virtual addresses.
    pub vips: Vec<VipView>,
    /// Backends.
    pub backends: Vec<BackendView>,
    /// Who calls from this node.
    pub callers: CallerList,
    /// Programs on interfaces, ours and others'.
    pub programs: ProgramList,
}

/// The keys of the configuration that matter here; `lb-agent check` reads all of them.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub struct ConfigKeys {
    /// Front interfaces.
    pub front: Vec<String>,
    /// `[cgroup]`.
    pub cgroup: CgroupKeys,
    /// `[docker]`.
    pub docker: DockerKeys,
}

/// `[cgroup]`.
#[derive(Clone, Debug, Deserialize)]
#[serde(default)]
pub struct CgroupKeys {
    /// Whether socket calls are balanced.
    pub enabled: bool,
    /// Whose.
    pub path: Option<PathBuf>,
}

impl Default for CgroupKeys {
    fn default() -> Self {
        Self { enabled: true, path: None }
    }
}

/// `[docker]`.
#[derive(Clone, Debug, Deserialize)]
#[serde(default)]
pub struct DockerKeys {
    /// Whether Docker is followed.
    pub enabled: bool,
    /// Where it listens.
    pub endpoint: String,
}

impl Default for DockerKeys {
    fn default() -> Self {
        Self { enabled: true, endpoint: "unix:///var/run/docker.sock".to_owned() }
    }
}

/// The configuration.
#[derive(Clone, Debug, Default)]
pub struct ConfigFacts {
    /// Where it is.
    pub path: PathBuf,
    /// What it says; the defaults, where it is not there or cannot be read.
    pub keys: ConfigKeys,
    /// Why it cannot be read.
    pub trouble: Option<String>,
}

/// The kernel.
#[derive(Clone, Debug, Default)]
pub struct KernelFacts {
    /// As it names itself.
    pub release: Option<String>,
    /// `net.core.bpf_jit_enable`.
    pub has_jit: Option<bool>,
    /// Whether a bpffs is mounted at `/sys/fs/bpf`.
    pub has_bpffs: Option<bool>,
}

/// The cgroup v2 hierarchy.
#[derive(Clone, Debug, Default)]
pub struct CgroupFacts {
    /// Where its root is mounted.
    pub root: Option<PathBuf>,
    /// What counts: the configured path, or the root.
    pub path: Option<PathBuf>,
    /// `path` below `root`, as `/proc/PID/cgroup` has it; `None`: it is not in the hierarchy.
    pub relative: Option<String>,
    /// Whether it is there.
    pub exists: bool,
}

/// Who runs on this node.
#[derive(Clone, Debug, Default)]
pub struct ProcessFacts {
    /// Processes that were looked at.
    pub count: usize,
    /// Processes whose namespace could not be read.
    pub unreadable: usize,
    /// Names of processes whose calls no hook sees, and how many there are of each.
    pub outside: BTreeMap<String, usize>,
    /// Network namespaces that are neither the node's nor a known container's.
    pub strangers: Vec<Stranger>,
    /// Sockets that make packets without a call: those of the node, then of namespaces with such.
    pub raw: Vec<RawSockets>,
}

/// A network namespace that nobody told the agent of.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Stranger {
    /// Name of a process in it.
    pub process: String,
    /// Its number.
    pub pid: u32,
    /// Its cgroup, which mostly says whose it is.
    pub cgroup: String,
}

/// Raw and packet sockets of a namespace.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct RawSockets {
    /// Whose: a container, or a process; empty: the node's.
    pub owner: String,
    /// Raw sockets of IP.
    pub raw: usize,
    /// Packet sockets.
    pub packet: usize,
}

/// A network interface.
#[derive(Clone, Debug, Default)]
pub struct InterfaceFacts {
    /// Whether there is one of this name.
    pub exists: bool,
    /// `up`, `down`, `unknown`.
    pub state: String,
    /// Whether it is a device, and no veth, bridge or tunnel.
    pub is_physical: bool,
    /// The strictest of `rp_filter` of it and of all.
    pub reverse_path_filter: Option<u8>,
}

/// A route.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Route {
    /// Where to.
    pub prefix: IpNet,
    /// By which interface.
    pub interface: String,
    /// By whom; `None`: it is the subnet of the interface.
    pub gateway: Option<IpAddr>,
    /// Its preference: the lower, the more it counts.
    pub metric: u32,
    /// Whether it says `unreachable`, or the like.
    pub is_refused: bool,
}

/// Docker's socket.
#[derive(Clone, Debug, Default)]
pub struct DockerFacts {
    /// Docker's version, or why it does not say it.
    pub version: Option<Result<String, String>>,
}

/// The API's socket file.
#[derive(Clone, Debug, Default)]
pub struct SocketFileFacts {
    /// Where.
    pub path: PathBuf,
    /// Its permissions; `None`: it is not there.
    pub mode: Option<u32>,
    /// Name of its group, or its number.
    pub group: String,
    /// Its owner's number.
    pub owner: u32,
}

/// A name server of the agent.
#[derive(Clone, Debug)]
pub struct NameFacts {
    /// Where it should answer.
    pub address: SocketAddr,
    /// Why it does not.
    pub trouble: Option<String>,
}
