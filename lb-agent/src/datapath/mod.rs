//! The kernel side of a node: loading, pinning, attaching, and access to the maps.
//!
//! Owns every call of bpf(2), and with it everything that stays in the kernel when the agent is
//! gone. Decides nothing about services: it executes the [`Action`]s that `plan` made, and reads
//! back what the kernel holds. Synchronous: callers run it on a thread of its own, which must stay
//! in the network namespace in which [`Datapath::open`] was called.

mod cgroup;
mod clsact;
mod connections;
mod constants;
mod counters;
mod early;
mod explain;
mod extents;
mod frontends;
mod fronts;
mod hook;
mod hooks;
mod links;
mod live;
mod log;
mod mapped;
mod object;
mod observe;
mod obstacle;
mod offloads;
mod options;
mod pins;
mod prerequisites;
mod programs;
mod reach;
mod read;
mod record_table;
mod records;
mod replies;
mod rtnl;
mod scopes;
mod sockets;
mod state_dir;
mod sys;
mod tables;
mod trace;
mod uninstall;
mod unseen;

use std::{collections::BTreeSet, path::PathBuf, sync::mpsc, time::Duration};

use anyhow::{Context as _, bail};
use lb_common::abi::{Hook, META_ROUTES_REPLIES, TraceFilter, ticks_from_ns};

use self::{
    clsact::Ownership,
    fronts::Fronts,
    hook::{AttachError, display_interface},
    hooks::Hooks,
    pins::PinDir,
    scopes::Scopes,
    sockets::SocketCalls,
    state_dir::{Lock, StateDir},
    tables::Tables,
    unseen::Unseen,
};
pub use self::{
    counters::{Counters, RecordCounts},
    fronts::FrontStatus,
    hook::Way,
    hooks::Attachment,
    log::ProgramLog,
    object::embedded,
    observe::{Observations, Observer},
    offloads::strips_tags,
    options::{CgroupOptions, FrontInterface, Options, RecordTimes, TcMode, XdpMode},
    programs::{AttachedProgram, attached_programs},
    records::SweepReport,
    sockets::SocketStatus,
    trace::TraceReader,
    uninstall::{Report, uninstall},
};
use crate::{
    model::LocalPrefixes,
    netlink,
    plan::{Action, Kernel, KernelError, KernelState},
    sockets::reaper::News,
};

/// The programs and maps of this node. Dropping it leaves everything running.
pub struct Datapath {
    tables: Tables,
    hooks: Hooks,
    fronts: Fronts,
    front_statuses: Vec<FrontStatus>,
    records: u32,
    has_adopted: bool,
    maps_path: PathBuf,
    log: Option<ProgramLog>,
    trace: Option<TraceReader>,
    scopes: Scopes,
    unseen: Unseen,
    /// Whether senders that no hook sees are told that they do not arrive.
    refuses_unseen: bool,
    calls: SocketCalls,
    sockets: SocketStatus,
    /// What becomes of backends, for the reaper.
    news: Option<mpsc::Sender<News>>,
    observations: Option<Observations>,
    _locks: [Lock; 2],
}

impl Datapath {
    /// Adopts what an earlier agent left, or makes everything, and attaches the programs to the
    /// front interfaces. Programs that run are replaced without a gap.
    ///
    /// Fails when another agent runs, when pinned maps are not exactly what this agent needs, and
    /// when no front interface can be used at all; single troubles are in [`Self::fronts`].
    pub fn open(options: &Options) -> anyhow::Result<Self> {
        let object = embedded()?;
        options.check()?;
        prerequisites::check_host()?;
        let cpus = aya::util::nr_cpus().map_or(1, |cpus| cpus as u64);
        let maps_bytes = object::memory_bytes(&object::definitions(object, options)?, cpus);
        prerequisites::check_memory(maps_bytes)?;
        tracing::info!("the tables take about {} MiB of kernel memory", maps_bytes >> 20);
        let state = StateDir::create(&options.state_path)?;
        let state_lock = state.lock()?;
        prerequisites::prepare_pin_path(&options.pin_path, &state)?;
        let locks = [state_lock, state_dir::lock_pins(&options.pin_path)?];

        let pins = PinDir::at(&options.pin_path);
        let (mut ebpf, has_made_maps) = pins.load_object(object, options)?;
        let ownership =
            if has_made_maps { Ownership::Names } else { Ownership::Maps(pins.map_ids()) };
        let mut hooks = Hooks::load(&mut ebpf, &pins, state, ownership, options.tc_mode)?;
        hooks.adopt()?;
        let mut calls = SocketCalls::load(&mut ebpf, &pins, options);
        let sockets = calls.settle();
        if let Some(trouble) = &sockets.trouble {
            tracing::error!("socket calls: {trouble}");
        }
        let mut datapath = Self {
            tables: Tables::take(&mut ebpf)?,
            hooks,
            fronts: Fronts::new(options.fronts.clone()),
            front_statuses: Vec::new(),
            records: options.records,
            has_adopted: !has_made_maps,
            maps_path: pins.maps(),
            log: log::take(&mut ebpf),
            trace: Some(TraceReader::take(&mut ebpf)?),
            scopes: Scopes::take(&mut ebpf)?,
            unseen: Unseen::default(),
            refuses_unseen: options.cgroup.as_ref().is_some_and(|it| it.refuses_unseen),
            calls,
            sockets,
            news: None,
            observations: Some(Observations::take(&mut ebpf, &pins.maps())?),
            _locks: locks,
        };
        // An agent that was killed while somebody traced could not switch it off.
        datapath.set_trace_filters(&[])?;
        datapath.check_seed(options);
        datapath.set_limits(options)?;
        datapath.attach_fronts(true);
        if !options.fronts.is_empty() && datapath.fronts().iter().all(|front| front.tc.is_none()) {
            bail!("no front interface can be used: {}", datapath.troubles().join("; "));
        }
        for trouble in datapath.troubles() {
            tracing::warn!("{trouble}");
        }
        Ok(datapath)
    }

    /// The seed of the flow hash that is in force.
    pub fn hash_seed(&self) -> u64 {
        self.tables.meta().hash_seed
    }

    /// Slots that the rings of all services share.
    pub fn ring_slots(&self) -> u32 {
        self.tables.ring_slots.entries()
    }

    /// What the programs log, where a debug object is embedded; once.
    pub fn take_log(&mut self) -> Option<ProgramLog> {
        self.log.take()
    }

    /// What the programs tell of packets; once.
    pub fn take_trace(&mut self) -> Option<TraceReader> {
        self.trace.take()
    }

    /// What the programs see of the health of backends; once.
    pub fn take_observations(&mut self) -> Option<Observations> {
        self.observations.take()
    }

    /// Tells the programs of which packets to tell, by [`lb_common::abi::TRACE_FILTERS`] filters at
    /// most; without any they look at none.
    pub fn set_trace_filters(&mut self, filters: &[Option<TraceFilter>]) -> anyhow::Result<()> {
        self.tables.set_trace_filters(filters).map_err(anyhow::Error::msg)
    }

    /// Whether maps of an earlier agent were adopted.
    pub fn has_adopted(&self) -> bool {
        self.has_adopted
    }

    /// The front interfaces, as they were when they were last looked at.
    pub fn fronts(&self) -> &[FrontStatus] {
        &self.front_statuses
    }

    /// Looks at the front interfaces again: one that came, or was deleted and made anew, gets its
    /// programs. Also forgets interfaces that are gone. For a timer, and for link events.
    pub fn ensure_fronts(&mut self) -> &[FrontStatus] {
        self.attach_fronts(false);
        self.unseen.set_stale();
        if let Err(error) = self.hooks.prune() {
            tracing::warn!("remains of deleted interfaces stay: {error:#}");
        }
        &self.front_statuses
    }

    /// Every program on every interface.
    pub fn attachments(&self) -> Vec<Attachment> {
        self.hooks.attachments()
    }

    /// Everything that the kernel holds. What the tables of socket calls hold is looked at as well, for
    /// [`Self::set_socket_tables`] to set right.
    pub fn read_state(&mut self) -> anyhow::Result<KernelState> {
        let state = self.tables.read();
        self.tables.trim();
        let mut state = state?;
        self.scopes.refresh()?;
        for attachment in self.hooks.attachments() {
            if attachment.hook == Hook::TcReply && self.hooks.is_alive(attachment) {
                state.reply_interfaces.insert(attachment.ifindex);
            }
        }
        Ok(state)
    }

    /// Deletes records that count no more, of a bounded number that it looks at, and tells what a
    /// scan of all of them found when one is over. `clock` tells the tick, [`now_tick`] but in tests;
    /// `is_urgent` is asked now and then whether there is something that cannot wait.
    pub fn sweep(
        &mut self,
        clock: &dyn Fn() -> u32,
        is_urgent: &mut dyn FnMut() -> bool,
    ) -> anyhow::Result<SweepReport> {
        let report = self.tables.sweep(clock, is_urgent);
        self.tables.trim();
        report
    }

    /// The tick in which a flow of a ring was last left without a record that it should have had;
    /// 0: never. What cannot be read may have been just now.
    pub fn refused_tick(&self, ring: u32) -> u32 {
        let refusals = self.tables.refusals.load(ring);
        refusals.map_or_else(now_tick, |refusals| refusals.refused_tick)
    }

    /// Addresses of the node and subnets of its containers. Front
    /// interfaces lead to clients, whatever subnets they have.
    pub fn read_local(&self) -> std::io::Result<LocalPrefixes> {
        let fronts = self.front_statuses.iter().map(|front| front.name.clone());
        netlink::local_prefixes(&fronts.collect::<Vec<_>>())
    }

    /// The front interface, when all that is for clients leaves by it; else 0.
    pub fn front_ifindex(&self) -> u32 {
        match self.front_statuses.as_slice() {
            _ if self.fronts.has_vlans() => 0,
            [front] => front.ifindex.unwrap_or(0),
            _ => 0,
        }
    }

    /// Counters of these backends, and those that are of no backend.
    pub fn counters(&self, backends: &[u32]) -> anyhow::Result<Counters> {
        self.tables.counters(backends, self.records, self.sockets.sees_ends)
    }

    /// Puts the reply program on a host-side veth; idempotent.
    pub fn attach_reply(&mut self, ifindex: u32) -> Result<(), KernelError> {
        self.execute(&Action::AttachReply { ifindex })
    }

    /// Begins to put the reply program on these veths, for which a plan will ask: the next one, or one
    /// within this time.
    pub fn expect_replies(&mut self, interfaces: &BTreeSet<u32>, kept_for: Duration) {
        self.hooks.expect(interfaces, kept_for);
    }

    /// Gives back what was begun and not asked for.
    pub fn expect_no_more(&mut self) {
        self.hooks.expect_no_more();
    }

    /// Takes the reply program off; idempotent, also when the interface is gone.
    pub fn detach_reply(&mut self, ifindex: u32) -> Result<(), KernelError> {
        self.execute(&Action::DetachReply { ifindex })
    }

    fn attach_fronts(&mut self, replaces: bool) {
        self.front_statuses = self.fronts.attach(&mut self.hooks, &self.tables, replaces);
        let has_several = self.front_statuses.len() > 1 || self.fronts.has_vlans();
        if let Err(error) = self.tables.set_flag(META_ROUTES_REPLIES, has_several) {
            tracing::error!(
                "replies may leave by another interface than the routing table says: {error}"
            );
        }
    }

    fn troubles(&self) -> Vec<String> {
        self.front_statuses.iter().flat_map(|front| front.troubles.clone()).collect()
    }

    fn check_seed(&self, options: &Options) {
        let pinned = self.hash_seed();
        if let Some(configured) = options.hash_seed
            && configured != pinned
        {
            tracing::warn!(
                configured,
                in_force = pinned,
                "hash_seed is not changed under living connections: the seed that the maps were \
                 made with stays in force until `lb-agent uninstall`",
            );
        }
    }

    fn set_limits(&self, options: &Options) -> anyhow::Result<()> {
        let limits = options.times.limits(online_cpus()?);
        if self.tables.set_limits(limits) {
            tracing::info!(?limits, "limits of records were changed");
        }
        Ok(())
    }

    fn try_execute(&mut self, action: &Action) -> Result<(), AttachError> {
        let tables = &mut self.tables;
        match action {
            Action::AttachReply { ifindex } => {
                return self.hooks.attach_tc(Hook::TcReply, *ifindex);
            }
            Action::DetachReply { ifindex } => {
                return self.hooks.detach(Hook::TcReply, *ifindex);
            }
            Action::SetFlags { flags } => tables.set_flags(*flags),
            Action::WriteService { number, name_hash } => tables.write_service(*number, *name_hash),
            Action::ClearService { number } => tables.clear_service(*number),
            Action::WriteBackend { number, backend } => tables.write_backend(*number, backend),
            Action::SetBackendState { number, state } => tables.set_backend_state(*number, *state),
            Action::ClearBackend { number } => tables.clear_backend(*number),
            Action::PublishRing { ring, content } => tables.publish_ring(*ring, content),
            Action::ClearRing { ring } => tables.clear_ring(*ring),
            Action::PutVip { vip } => tables.frontends.put_vip(*vip),
            Action::DeleteVip { vip } => tables.frontends.delete_vip(*vip),
            Action::PutFrontend { frontend, service, records_replies, flags } => {
                tables.frontends.put(frontend, *service, *records_replies, *flags)
            }
            Action::SetRecordsReplies { number, records_replies } => {
                tables.set_records_replies(*number, *records_replies)
            }
            Action::PutReplyDefault { port, default } => tables.replies.put_default(port, default),
            Action::DeleteReplyDefault { port } => tables.replies.delete_default(port),
            Action::PutLocal { prefix, kind } => tables.replies.put_local(prefix, *kind),
            Action::DeleteLocal { prefix } => tables.replies.delete_local(prefix),
            Action::DeleteFrontend { frontend } => tables.frontends.delete(frontend),
        }
        .map_err(AttachError::Refused)
    }
}

impl Kernel for Datapath {
    fn execute(&mut self, action: &Action) -> Result<(), KernelError> {
        let result = self.try_execute(action).map(|()| match action {
            Action::SetBackendState { number, state: 0 } | Action::ClearBackend { number } => {
                self.tell_reaper(*number, News::Gone);
            }
            Action::SetBackendState { number, .. } => self.tell_reaper(*number, News::Back),
            _ => {}
        });
        result.map_err(|error| KernelError {
            action: describe(action),
            is_absent: matches!(error, AttachError::Absent),
            cause: error.to_string(),
        })
    }
}

/// CPUs that share the limits of records. The kernel has values for more: for all that may ever come,
/// of which there are often many times as many in a virtual machine.
fn online_cpus() -> anyhow::Result<u32> {
    let cpus = aya::util::online_cpus()
        .map_err(|(path, error)| anyhow::anyhow!("{path}: {error}"))
        .context("counting the CPUs that are online")?;
    Ok(u32::try_from(cpus.len()).unwrap_or(u32::MAX))
}

/// The present tick, as the data path counts them.
pub fn now_tick() -> u32 {
    ticks_from_ns(sys::monotonic_ns())
}

/// Nanoseconds since boot, as the data path counts them.
pub fn monotonic_ns() -> u64 {
    sys::monotonic_ns()
}

/// An action in words, without its contents.
fn describe(action: &Action) -> String {
    match action {
        Action::AttachReply { ifindex } => {
            format!("attach the reply program to {}", display_interface(*ifindex))
        }
        Action::DetachReply { ifindex } => {
            format!("detach the reply program from {}", display_interface(*ifindex))
        }
        Action::SetFlags { flags } => format!("set flags {flags:#x}"),
        Action::WriteService { number, .. } => format!("write service {number}"),
        Action::ClearService { number } => format!("clear service {number}"),
        Action::WriteBackend { number, backend } => {
            format!("write backend {number} ({})", backend.address)
        }
        Action::SetBackendState { number, state } => {
            format!("set state {state:#04b} of backend {number}")
        }
        Action::ClearBackend { number } => format!("clear backend {number}"),
        Action::PublishRing { ring, content } => {
            format!("publish ring {ring} of {} slots", content.slots.len())
        }
        Action::ClearRing { ring } => format!("clear ring {ring}"),
        Action::PutVip { vip } => format!("recognise VIP {vip}"),
        Action::DeleteVip { vip } => format!("forget VIP {vip}"),
        Action::PutFrontend { frontend, service, .. } => {
            format!("serve {frontend} by service {service}")
        }
        Action::SetRecordsReplies { number, .. } => {
            format!("change how replies of backend {number} are translated")
        }
        Action::PutReplyDefault { port, default } => {
            format!("translate replies of {port} to {default}")
        }
        Action::DeleteReplyDefault { port } => format!("forget the default of replies of {port}"),
        Action::PutLocal { prefix, .. } => format!("take {prefix} for local"),
        Action::DeleteLocal { prefix } => format!("no longer take {prefix} for local"),
        Action::DeleteFrontend { frontend } => format!("stop serving {frontend}"),
    }
}
