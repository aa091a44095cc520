//! The agent's TOML file: read, checked, and turned into types that cannot be wrong.
//!
//! Owns the grammar of the file and its error messages. It reads one file and nothing else; what the
//! node looks like (interfaces, routes, groups) is checked by those who use the values.

mod address;
mod eastwest;
mod error;
mod labels;
mod owners;
mod policy;
mod raw;
mod services;
#[cfg(test)]
mod tests;
mod times;
mod validate;
mod written;

use std::{
    collections::BTreeMap,
    net::{IpAddr, SocketAddr},
    path::{Path, PathBuf},
    sync::Arc,
};

pub(crate) use address::parse_frontend;
pub use error::{ConfigError, Position, Problem};
use ipnet::IpNet;
use lb_common::{abi, slots::SlotTimes};
pub use written::{Written, WrittenChange};

use crate::{
    datapath,
    model::{FrontendAddress, Wishes},
    plan,
};

/// Where the file is when nobody says otherwise.
pub const DEFAULT_PATH: &str = "/etc/lb/lb.toml";

/// Largest file that is read, in bytes: 65,536 backends need less than a quarter of it.
const FILE_BYTES_MAX: u64 = 32 * 1024 * 1024;

/// Everything that the file can say, with the defaults filled in.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Config {
    /// Name of the file, for messages; `built-in defaults` when there is none.
    pub file_name: String,
    /// Front interfaces; empty: those of the IPv4 default route.
    pub front: Vec<String>,
    /// Directory on a bpffs that holds our pins.
    pub pin_path: PathBuf,
    /// Runtime directory: API socket, markers of what we made.
    pub state_path: PathBuf,
    /// Seed of the flow hash, the same on every node of a cluster; `None`: chosen at random when the
    /// tables are made.
    pub hash_seed: Option<u64>,
    /// XDP on front interfaces.
    pub xdp: XdpConfig,
    /// TC programs.
    pub tc: TcConfig,
    /// Socket calls of the node and its containers.
    pub cgroup: CgroupConfig,
    /// Names of services for them.
    pub names: NamesConfig,
    /// The API socket.
    pub api: ApiConfig,
    /// The Docker provider.
    pub docker: DockerConfig,
    /// Metrics for Prometheus.
    pub metrics: MetricsConfig,
    /// Sizes of tables.
    pub tables: TablesConfig,
    /// Times of recorded flows and of slots that move.
    pub times: TimesConfig,
    /// What labels may ask for.
    pub labels: LabelsConfig,
    /// Services of the file provider.
    pub services: Vec<StaticService>,
    /// All but the services as it is written, without the defaults.
    pub written: Written,
}

/// `[xdp]`.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct XdpConfig {
    /// For interfaces that are not named in `interfaces`.
    pub mode: XdpMode,
    /// Mode per interface.
    pub interfaces: BTreeMap<String, XdpMode>,
}

/// What labels of containers may ask for. The Docker provider is started anew when it changes.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct LabelsConfig {
    /// SLB instances that labels refer to.
    pub balancers: Vec<Balancer>,
    /// Addresses that labels may name beside those of the balancers.
    pub vips: Vec<IpNet>,
    /// Where names that end in `.local` get their addresses from.
    pub routing_pool: Option<IpNet>,
    /// Frontends of services that are named the way of Registrator.
    pub registrations: Vec<Registration>,
    /// What every service wishes that says nothing else.
    pub defaults: Arc<Wishes>,
}

/// How XDP is attached to an interface.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum XdpMode {
    /// Native on a physical NIC, off on veth and other virtual links.
    #[default]
    Auto,
    /// In the driver.
    Native,
    /// In the stack, for tests and for drivers without XDP.
    Generic,
    /// Not at all.
    Off,
}

/// `[tc]`.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct TcConfig {
    /// How TC programs are attached.
    pub mode: TcMode,
}

/// How TC programs are attached.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum TcMode {
    /// TCX where the kernel has it, else clsact.
    #[default]
    Auto,
    /// TCX links only.
    Tcx,
    /// clsact filters only.
    Clsact,
}

/// `[cgroup]`: whose socket calls are balanced.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct CgroupConfig {
    /// Whether any are.
    pub enabled: bool,
    /// The cgroup v2 directory whose processes they are; `None`: the root, all processes.
    pub path: Option<PathBuf>,
    /// The host leads containers to networks that they are not on.
    pub routes_across: bool,
    /// Packets to a virtual address that no call has announced are told that they do not arrive.
    pub refuses_unseen: bool,
}

/// `[names]`: the DNS responder.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct NamesConfig {
    /// Where it listens; nowhere: there is none.
    pub listen: Vec<SocketAddr>,
    /// How long an answer may be kept.
    pub ttl_seconds: u32,
    /// Who is asked for other names; nobody: they are refused.
    pub forward: Vec<SocketAddr>,
    /// Whether services are also known by their names in Compose.
    pub compose: bool,
}

/// `[api]`.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ApiConfig {
    /// Path of the Unix socket; by default `api.sock` under `state_path`.
    pub socket: PathBuf,
    /// Group that may use the socket beside root.
    pub group: String,
}

/// `[docker]`.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct DockerConfig {
    /// Whether containers are looked at.
    pub enabled: bool,
    /// Address of the daemon: `unix:///var/run/docker.sock`.
    pub endpoint: String,
    /// Time between full listings.
    pub resync_seconds: u32,
}

/// `[metrics]`.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct MetricsConfig {
    /// Where they are served; `None`: nowhere.
    pub listen: Option<SocketAddr>,
}

/// `[tables]`.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct TablesConfig {
    /// Ring slots shared by all services.
    pub ring_slots: u32,
    /// Recorded flows per address family.
    pub records: u32,
}

/// `[times]`: how long flows are remembered without a packet, and slots that move wait.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct TimesConfig {
    /// A slot that moves has none of its old owner's flows any more that were not seen; never less
    /// than `record_seconds`.
    pub settle_seconds: u32,
    /// An established TCP connection.
    pub record_seconds: u32,
    /// A connection of which only SYNs were seen.
    pub half_open_seconds: u32,
    /// A connection after FIN or RST.
    pub closing_seconds: u32,
    /// A slot whose old owner is gone waits for a replacement.
    pub hold_seconds: u32,
    /// A slot moves before flows of its old owner are recorded.
    pub grace_seconds: u32,
    /// A flow of UDP, and a UDP slot that moves.
    pub udp_seconds: u32,
}

/// `[[balancer]]`: an SLB instance that labels name.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Balancer {
    /// Its name.
    pub name: String,
    /// Its id, which labels may use instead of the name.
    pub id: Option<String>,
    /// Its virtual address.
    pub vip: IpAddr,
}

/// `[[service]]`: a service with backends of its own.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct StaticService {
    /// Its name.
    pub name: String,
    /// Where clients connect.
    pub frontends: Vec<FrontendAddress>,
    /// How it is balanced, with the defaults of the file.
    pub wishes: Arc<Wishes>,
    /// Its backends.
    pub backends: Vec<StaticBackend>,
    /// Line of the file that opens it, for messages.
    pub line: usize,
}

/// `[[service.backend]]`.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct StaticBackend {
    /// Address and port.
    pub address: SocketAddr,
    /// Share of new flows relative to the others, where one was written.
    pub weight: Option<u16>,
    /// Whether the others take no new flows while this one does, where that was written.
    pub exclusive: Option<bool>,
}

/// `[[registrator]]`: where a service that Registrator would name so is reached.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Registration {
    /// Name of the service.
    pub name: String,
    /// Where clients connect.
    pub frontend: FrontendAddress,
}

impl Config {
    /// Parses and checks the text of a file. `file_name` is for messages.
    pub fn parse(text: &str, file_name: &str) -> Result<Self, ConfigError> {
        validate::parse(text, file_name)
    }

    /// Reads, parses and checks a file that must exist.
    pub fn load(path: &Path) -> Result<Self, ConfigError> {
        let file_name = path.display().to_string();
        let failed = |cause: &dyn std::fmt::Display| {
            ConfigError::whole_file(
                &file_name,
                format!("cannot be read: {cause}; correct it, or name another file by --config"),
            )
        };
        let size = std::fs::metadata(path).map_err(|error| failed(&error))?.len();
        if size > FILE_BYTES_MAX {
            return Err(failed(&format_args!("{size} bytes are more than {FILE_BYTES_MAX}")));
        }
        let bytes = std::fs::read(path).map_err(|error| failed(&error))?;
        match std::str::from_utf8(&bytes) {
            Ok(text) => Self::parse(text, &file_name),
            Err(error) => {
                // All bytes before this one are valid, so that the position can be counted in them.
                let valid = String::from_utf8_lossy(&bytes[..error.valid_up_to()]);
                Err(ConfigError::at(
                    &file_name,
                    &valid,
                    valid.len(),
                    "this byte is not UTF-8; save the file as UTF-8".to_owned(),
                ))
            }
        }
    }

    /// Reads a file that is in force once more. One without a byte is not taken for an order to give up
    /// everything: whoever writes a file in place empties it first.
    pub fn reload(path: &Path) -> Result<Self, ConfigError> {
        let is_empty = std::fs::metadata(path).is_ok_and(|metadata| metadata.len() == 0);
        if is_empty {
            let message = "is empty, as a file that is being written; write at least a comment where \
                           nothing is wanted";
            return Err(ConfigError::whole_file(&path.display().to_string(), message.to_owned()));
        }
        Self::load(path)
    }

    /// Reads the file that the operator named, which must exist; when none was named, reads
    /// [`DEFAULT_PATH`], and takes the defaults when that does not exist.
    pub fn load_or_default(named: Option<&Path>) -> Result<Self, ConfigError> {
        let default_path = Path::new(DEFAULT_PATH);
        match named {
            Some(path) => Self::load(path),
            None if matches!(default_path.try_exists(), Ok(false)) => Ok(Self::default()),
            None => Self::load(default_path),
        }
    }
}

impl Default for Config {
    fn default() -> Self {
        let state_path = PathBuf::from("/run/lb-agent");
        Self {
            file_name: "built-in defaults".to_owned(),
            front: Vec::new(),
            pin_path: PathBuf::from("/sys/fs/bpf/lb"),
            hash_seed: None,
            xdp: XdpConfig::default(),
            tc: TcConfig::default(),
            cgroup: CgroupConfig::default(),
            names: NamesConfig::default(),
            api: ApiConfig { socket: state_path.join("api.sock"), group: "lb".to_owned() },
            docker: DockerConfig::default(),
            metrics: MetricsConfig::default(),
            tables: TablesConfig::default(),
            times: TimesConfig::default(),
            labels: LabelsConfig::default(),
            services: Vec::new(),
            written: Written::default(),
            state_path,
        }
    }
}

impl Default for CgroupConfig {
    fn default() -> Self {
        Self { enabled: true, path: None, routes_across: false, refuses_unseen: true }
    }
}

impl Default for NamesConfig {
    fn default() -> Self {
        Self { listen: Vec::new(), ttl_seconds: 5, forward: Vec::new(), compose: false }
    }
}

impl Default for DockerConfig {
    fn default() -> Self {
        Self {
            enabled: true,
            endpoint: "unix:///var/run/docker.sock".to_owned(),
            resync_seconds: 30,
        }
    }
}

impl Default for TablesConfig {
    fn default() -> Self {
        Self { ring_slots: abi::DEFAULT_RING_SLOTS, records: abi::DEFAULT_RECORDS }
    }
}

impl Default for TimesConfig {
    fn default() -> Self {
        Self {
            settle_seconds: abi::ESTABLISHED_SECONDS,
            record_seconds: abi::ESTABLISHED_SECONDS,
            half_open_seconds: abi::HALF_OPEN_SECONDS,
            closing_seconds: abi::CLOSING_SECONDS,
            hold_seconds: abi::HOLD_SECONDS,
            grace_seconds: abi::GRACE_SECONDS,
            udp_seconds: abi::DATAGRAM_SECONDS,
        }
    }
}

impl TimesConfig {
    /// As the data path has them.
    #[must_use]
    pub fn records(&self) -> datapath::RecordTimes {
        datapath::RecordTimes {
            half_open_seconds: self.half_open_seconds,
            established_seconds: self.record_seconds,
            closing_seconds: self.closing_seconds,
            datagram_seconds: self.udp_seconds,
            grace_seconds: self.grace_seconds,
        }
    }

    /// As the planner has them.
    #[must_use]
    pub fn slots(&self) -> plan::Times {
        plan::Times {
            tcp: SlotTimes {
                settle_ticks: abi::ticks_from_seconds(self.settle_seconds),
                grace_ticks: abi::ticks_from_seconds(self.grace_seconds),
                hold_ticks: abi::ticks_from_seconds(self.hold_seconds),
            },
            datagrams: SlotTimes {
                settle_ticks: abi::ticks_from_seconds(self.udp_seconds),
                grace_ticks: 0,
                hold_ticks: 0,
            },
        }
    }
}
