//! What the data path needs to know from the configuration.

use std::{net::SocketAddrV4, path::PathBuf};

use anyhow::ensure;
use lb_common::abi::{
    CLOSING_SECONDS, DATAGRAM_SECONDS, DEFAULT_RECORDS, DEFAULT_RING_SLOTS, ESTABLISHED_SECONDS,
    GRACE_SECONDS, HALF_OPEN_SECONDS, Limits, RING_SIZES, ticks_from_seconds,
};

pub use crate::config::{TcMode, XdpMode};

/// As many as a ring descriptor can point to.
const RING_SLOTS_MAX: u32 = 1 << 28;
/// Sixteen millions take about 2 GiB per family.
const RECORDS_MAX: u32 = 1 << 24;

/// An interface on which clients' packets arrive.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct FrontInterface {
    /// Its name in the node's network namespace.
    pub name: String,
    /// Whether XDP runs on it.
    pub xdp: XdpMode,
}

/// Seconds without a packet after which records are dead, by class; and how long a slot is moving
/// before flows of its old owner are recorded.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct RecordTimes {
    /// Only a SYN was seen.
    pub half_open_seconds: u32,
    /// A TCP connection.
    pub established_seconds: u32,
    /// A FIN or RST was seen.
    pub closing_seconds: u32,
    /// UDP.
    pub datagram_seconds: u32,
    /// Before flows of a TCP slot's old owner are recorded.
    pub grace_seconds: u32,
}

impl RecordTimes {
    /// As the data path has it, on so many CPUs.
    pub(super) fn limits(&self, cpus: u32) -> Limits {
        Limits {
            half_open_ticks: ticks_from_seconds(self.half_open_seconds),
            established_ticks: ticks_from_seconds(self.established_seconds),
            closing_ticks: ticks_from_seconds(self.closing_seconds),
            datagram_ticks: ticks_from_seconds(self.datagram_seconds),
            grace_ticks: ticks_from_seconds(self.grace_seconds),
            ..Limits::with_cpus(cpus)
        }
    }
}

impl Default for RecordTimes {
    fn default() -> Self {
        Self {
            half_open_seconds: HALF_OPEN_SECONDS,
            established_seconds: ESTABLISHED_SECONDS,
            closing_seconds: CLOSING_SECONDS,
            datagram_seconds: DATAGRAM_SECONDS,
            grace_seconds: GRACE_SECONDS,
        }
    }
}

/// Whose socket calls are balanced, and how far they get.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct CgroupOptions {
    /// The cgroup v2 directory whose processes they are; `None`: the root, all processes.
    pub path: Option<PathBuf>,
    /// The host leads containers to networks that they are not on.
    pub routes_across: bool,
    /// Packets to a virtual address that no call has announced are told that they do not arrive.
    pub refuses_unseen: bool,
    /// A call to this address is answered by the cookie of the caller's namespace.
    pub cookie_question: Option<SocketAddrV4>,
}

/// Everything that [`super::Datapath::open`] and [`super::uninstall`] need. The default is what an
/// agent without a configuration file uses, so that `uninstall` works without one.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Options {
    /// Directory on a bpffs for maps, programs and links; made when its parent exists.
    pub pin_path: PathBuf,
    /// Directory for the lock and for the notes about what the agent made outside of `pin_path`.
    pub state_path: PathBuf,
    /// The front interfaces.
    pub fronts: Vec<FrontInterface>,
    /// How programs are attached to TC ingress.
    pub tc_mode: TcMode,
    /// Whose socket calls are balanced; `None`: nobody's.
    pub cgroup: Option<CgroupOptions>,
    /// Slots shared by the rings of all services; fixed when the maps are made.
    pub ring_slots: u32,
    /// Recorded flows per address family; fixed when the maps are made.
    pub records: u32,
    /// Times of records; put in force at each start.
    pub times: RecordTimes,
    /// Seed of the flow hash; `None`: random when the maps are made.
    pub hash_seed: Option<u64>,
    /// Programs use no more of the kernel than there is in this version, so that one can see on a newer
    /// one what an older one makes of them. `None`: all that the running one has.
    pub as_on_kernel: Option<(u32, u32)>,
}

impl Options {
    /// Refuses what no kernel takes.
    pub(super) fn check(&self) -> anyhow::Result<()> {
        ensure!(
            (RING_SIZES[0]..=RING_SLOTS_MAX).contains(&self.ring_slots),
            "`tables.ring_slots` is {}, and not from {} to {RING_SLOTS_MAX}",
            self.ring_slots,
            RING_SIZES[0],
        );
        ensure!(
            (1..=RECORDS_MAX).contains(&self.records),
            "`tables.records` is {}, and not from 1 to {RECORDS_MAX}",
            self.records,
        );
        Ok(())
    }
}

impl Default for Options {
    fn default() -> Self {
        Self {
            pin_path: PathBuf::from("/sys/fs/bpf/lb"),
            state_path: PathBuf::from("/run/lb-agent"),
            fronts: Vec::new(),
            tc_mode: TcMode::Auto,
            cgroup: None,
            ring_slots: DEFAULT_RING_SLOTS,
            records: DEFAULT_RECORDS,
            times: RecordTimes::default(),
            hash_seed: None,
            as_on_kernel: None,
        }
    }
}
