//! Programs on the socket calls of a cgroup's processes: nine links that are pinned by the names of
//! their programs.
//!
//! A later agent gives each link its own program, between two calls. What is not on the cgroup that
//! the configuration names is taken off before anything is attached there: a call must not pass
//! through two programs of ours, since the second would take the first one's backend for the address
//! that the application asked for.
//!
//! Others can remove a cgroup, and take programs off, of which nobody is told. So it is looked again
//! from time to time, as at the front interfaces.

use std::{
    collections::BTreeSet,
    fs, io,
    os::fd::{AsFd as _, BorrowedFd, OwnedFd},
    path::{Path, PathBuf},
    sync::mpsc,
};

use anyhow::{Context as _, bail};
use aya::{
    Ebpf,
    maps::{Array, HashMap, Map},
};
use lb_common::abi::{MAX_BACKENDS, map_names, program_names};

use super::{
    Datapath,
    cgroup::{self, Cgroup},
    hooks::load_program,
    live::open,
    obstacle,
    options::{CgroupOptions, Options},
    pins::PinDir,
    state_dir::remove_if_there,
    sys::{self, AttachType},
};
use crate::sockets::{
    SocketTables,
    reaper::{self, BackendId, Maps, News, Reaper},
};

/// A loaded program: its name, the call that it is for, and itself.
type Loaded = (&'static str, AttachType, OwnedFd);

/// Every program with the call that it is for. Those that translate back come first: whoever is led
/// to a backend is shown the address that it asked for.
const CALLS: [(&str, AttachType); 9] = [
    (program_names::SOCK_RELEASE, AttachType::SockRelease),
    (program_names::RECVMSG4, AttachType::Recvmsg4),
    (program_names::RECVMSG6, AttachType::Recvmsg6),
    (program_names::GETPEERNAME4, AttachType::Getpeername4),
    (program_names::GETPEERNAME6, AttachType::Getpeername6),
    (program_names::SENDMSG4, AttachType::Sendmsg4),
    (program_names::SENDMSG6, AttachType::Sendmsg6),
    (program_names::CONNECT4, AttachType::Connect4),
    (program_names::CONNECT6, AttachType::Connect6),
];

/// How socket calls are balanced on this node.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct SocketStatus {
    /// The cgroup whose processes' calls are; `None`: nobody's.
    pub cgroup: Option<PathBuf>,
    /// Why they are not, or not all of them, although they should be.
    pub trouble: Option<String>,
    /// Whether the host leads containers to networks that they are not on.
    pub routes_across: bool,
    /// Programs are attached that an earlier agent attached, where the cgroup cannot be used or they cannot
    /// be taken off. They have the same tables, so what they need to know is looked after as ever.
    pub is_left: bool,
    /// The ends of sockets are seen: what the programs count as open is.
    pub sees_ends: bool,
    /// Why sockets are not ended whose backend is gone, or not all of them.
    pub unended: Option<String>,
}

impl SocketStatus {
    /// Whether calls are translated by programs of ours.
    fn translates(&self) -> bool {
        self.cgroup.is_some() || self.is_left
    }
}

/// The programs of this agent, and what is wanted of them.
#[derive(Debug)]
pub(super) struct SocketCalls {
    links: SocketLinks,
    /// Where programs are pinned.
    programs_path: PathBuf,
    wanted: Option<CgroupOptions>,
    /// Those that are attached, in the order of [`CALLS`]; or why they cannot be.
    loaded: Result<Vec<Loaded>, String>,
    /// The number of the root of cgroup v2, where that is wanted: it cannot be removed.
    root: Option<u64>,
}

impl SocketCalls {
    /// Loads the programs, if they are wanted; attaches nothing.
    pub(super) fn load(ebpf: &mut Ebpf, pins: &PinDir, options: &Options) -> Self {
        let wanted = options.cgroup.clone();
        let loaded = if wanted.is_some() { load_all(ebpf) } else { Ok(Vec::new()) };
        Self {
            links: SocketLinks::at(&pins.sockets()),
            programs_path: pins.programs(),
            wanted,
            loaded: loaded.map_err(|error| format!("{error:#}")),
            root: None,
        }
    }

    /// Puts the programs on the cgroup that is wanted, in the place of an earlier agent's; or takes
    /// those off, when none is wanted.
    ///
    /// What does not work here is told and stops nothing else: packets are balanced all the same.
    pub(super) fn settle(&mut self) -> SocketStatus {
        let Some(wanted) = self.wanted.clone() else {
            let trouble = self.links.detach_all().err().map(|error| format!("{error:#}"));
            let is_left = !self.links.attached().is_empty();
            let sees_ends = self.links.see_ends();
            return SocketStatus { trouble, is_left, sees_ends, ..SocketStatus::default() };
        };
        let routes_across = wanted.routes_across;
        let status = match self.attach(&wanted) {
            Ok(cgroup) => {
                self.root = wanted.path.is_none().then_some(cgroup.id);
                let trouble = cgroup.trouble();
                let cgroup = Some(cgroup.path);
                SocketStatus { cgroup, trouble, routes_across, ..SocketStatus::default() }
            }
            Err(error) => {
                let mut trouble = format!("{error:#}");
                let left = self.links.attached();
                if !left.is_empty() {
                    let still = format!(
                        "; {} programs of socket calls are attached all the same, those of before \
                         where they could not be replaced, and go on translating: set it right, or \
                         let `enabled = false` in [cgroup] take them off",
                        left.len()
                    );
                    trouble += &still;
                }
                let (is_left, trouble) = (!left.is_empty(), Some(trouble));
                SocketStatus { trouble, routes_across, is_left, ..SocketStatus::default() }
            }
        };
        SocketStatus { sees_ends: self.links.see_ends(), ..status }
    }

    /// Looks whether all is where it was put, and settles again where it is not, or never was.
    /// `None`: nothing was to be done.
    fn look(&mut self, before: &SocketStatus) -> Option<SocketStatus> {
        if self.wanted.is_none() {
            return before.trouble.is_some().then(|| self.settle());
        }
        let lost = self.lost();
        if before.cgroup.is_some() && lost.as_ref().is_ok_and(Vec::is_empty) {
            return None;
        }
        let after = self.settle();
        if let (Ok(lost), Some(cgroup)) = (lost, &after.cgroup)
            && before.cgroup.is_some()
        {
            let cgroup = cgroup.display();
            tracing::warn!(
                "programs of socket calls were lost, and are on `{cgroup}` again: {lost:?}"
            );
        }
        Some(after)
    }

    /// Names of the programs that are not on the cgroup.
    fn lost(&self) -> anyhow::Result<Vec<&'static str>> {
        let path = self.wanted.as_ref().and_then(|wanted| wanted.path.as_deref());
        let id = match (path, self.root) {
            (None, Some(root)) => root,
            (path, _) => cgroup::open(path)?.id,
        };
        let names = self.loaded.iter().flatten().map(|(name, ..)| *name);
        // What cannot be looked at is not lost.
        let is_lost = |name: &&str| self.links.cgroup_of(name).is_ok_and(|on| on != Some(id));
        Ok(names.filter(is_lost).collect())
    }

    fn attach(&self, wanted: &CgroupOptions) -> anyhow::Result<Cgroup> {
        let cgroup = cgroup::open(wanted.path.as_deref())?;
        let loaded = self.loaded.as_ref().map_err(|error| anyhow::Error::msg(error.clone()))?;
        let is_there = |name: &str| {
            let on = self.links.cgroup_of(name).with_context(|| format!("the link of `{name}`"));
            on.map(|on| on == Some(cgroup.id))
        };
        let mut missing = Vec::new();
        for program in loaded {
            if is_there(program.0)? {
                self.put(program, &cgroup)?;
            } else {
                missing.push(program);
            }
        }
        // All, before one is attached: half of them would lead some calls and not others. And before one is
        // taken off another cgroup, where calls are translated so long.
        for (name, attach_type, _) in &missing {
            // As `bpftool` names it.
            let call = name.strip_prefix("lb_").unwrap_or(name);
            if let Some(obstacle) = obstacle::of(&cgroup, *attach_type, call) {
                let path = cgroup.path.display();
                bail!("`{name}` cannot be attached to the cgroup `{path}`: {obstacle}");
            }
        }
        self.links.detach_elsewhere(&cgroup)?;
        for (name, _) in CALLS {
            if loaded.iter().all(|(it, ..)| *it != name) {
                self.links.detach(name)?;
            }
        }
        for program in missing {
            self.put(program, &cgroup)?;
        }
        Ok(cgroup)
    }

    fn put(&self, program: &Loaded, cgroup: &Cgroup) -> anyhow::Result<()> {
        let (name, attach_type, program) = program;
        super::hooks::pin_program(program.as_fd(), name, &self.programs_path)?;
        let attached = self.links.attach(name, *attach_type, program.as_fd(), cgroup);
        attached.with_context(|| format!("`{name}` on the cgroup `{}`", cgroup.path.display()))
    }
}

/// The pinned links.
#[derive(Clone, Debug)]
pub(super) struct SocketLinks {
    path: PathBuf,
}

impl SocketLinks {
    /// Without looking whether the directory is there.
    pub(super) fn at(path: &Path) -> Self {
        Self { path: path.to_path_buf() }
    }

    fn see_ends(&self) -> bool {
        self.attached().contains(&program_names::SOCK_RELEASE)
    }

    /// Number of the cgroup that a program is on; `None`: it is on none.
    fn cgroup_of(&self, name: &str) -> io::Result<Option<u64>> {
        match sys::open_pin(&self.path.join(name)) {
            Ok(link) => Ok(Some(sys::link_cgroup(link.as_fd())?).filter(|id| *id != 0)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    }

    fn attach(
        &self,
        name: &str,
        attach_type: AttachType,
        program: BorrowedFd<'_>,
        cgroup: &Cgroup,
    ) -> anyhow::Result<()> {
        let pin = self.path.join(name);
        match sys::open_pin(&pin) {
            Ok(link) => {
                sys::link_update(link.as_fd(), program).context("cannot replace the program")
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                let link = sys::link_create_cgroup(program, cgroup.directory.as_fd(), attach_type)
                    .map_err(|error| explain(&error))?;
                sys::pin(link.as_fd(), &pin)
                    .with_context(|| format!("cannot pin the link at `{}`", pin.display()))
            }
            Err(error) => Err(error).context("cannot open its link"),
        }
    }

    /// Takes off what is on another cgroup, or on one that is gone.
    fn detach_elsewhere(&self, cgroup: &Cgroup) -> anyhow::Result<()> {
        for name in self.pinned() {
            let on = self.cgroup_of(name).with_context(|| format!("the link of `{name}`"))?;
            if on != Some(cgroup.id) {
                tracing::info!(name, "taking a program of sockets off another cgroup");
                self.detach(name)?;
            }
        }
        Ok(())
    }

    fn detach_all(&self) -> anyhow::Result<()> {
        self.pinned().into_iter().try_for_each(|name| self.detach(name))
    }

    /// Names of the programs that have a link, those that lead to backends first.
    pub(super) fn pinned(&self) -> Vec<&'static str> {
        CALLS.iter().rev().map(|(name, _)| *name).filter(|name| self.has(name)).collect()
    }

    fn has(&self, name: &str) -> bool {
        fs::symlink_metadata(self.path.join(name)).is_ok()
    }

    /// Those of them that are on a cgroup, whichever, or cannot be looked at. A link outlives the cgroup
    /// that it was made for.
    fn attached(&self) -> Vec<&'static str> {
        let names = self.pinned().into_iter();
        names.filter(|name| !matches!(self.cgroup_of(name), Ok(None))).collect()
    }

    /// Takes a program off; one that is not there is as good.
    pub(super) fn detach(&self, name: &str) -> anyhow::Result<()> {
        let pin = self.path.join(name);
        if let Ok(link) = sys::open_pin(&pin)
            && let Err(error) = sys::link_detach(link.as_fd())
        {
            // The pin goes all the same, and the program with it a little later.
            tracing::debug!(name, %error, "cannot detach at once");
        }
        remove_if_there(&pin).with_context(|| format!("cannot remove the link `{}`", pin.display()))
    }
}

impl Datapath {
    /// How socket calls are balanced.
    pub fn sockets(&self) -> &SocketStatus {
        &self.sockets
    }

    /// Makes the tables of sockets what is wanted.
    pub fn set_socket_tables(&mut self, wanted: &SocketTables) -> anyhow::Result<()> {
        let tables = self.scopes.set(wanted).map_err(anyhow::Error::msg);
        // What goes ahead of a plan says nothing of clients: the tables may still tell less than is known.
        if !wanted.is_partial && !wanted.kept.is_all {
            for cookie in self.scopes.take_newcomers() {
                self.send_news(News::Caller(cookie));
            }
        }
        if wanted.kept.is_all {
            return tables;
        }
        let nobody = (BTreeSet::new(), BTreeSet::new());
        let is_on = self.sockets.translates() && self.refuses_unseen;
        let (unseen, kept) =
            if is_on { (&wanted.unseen, &wanted.kept.vips) } else { (&nobody.0, &nobody.1) };
        // Whatever was refused before: a route that is over would lead nowhere what somebody sends.
        let routes = self.unseen.set(unseen, kept);
        tables.and(routes.context("routes for senders that no hook sees"))
    }

    /// Looks at the cgroup again: one that came, or was removed and made anew, gets the programs of socket
    /// calls, and so does one that has lost some. For a timer.
    pub fn ensure_calls(&mut self) -> &SocketStatus {
        let Some(after) = self.calls.look(&self.sockets) else { return &self.sockets };
        if after.trouble != self.sockets.trouble {
            match (&after.trouble, &after.cgroup) {
                (Some(trouble), _) => tracing::error!("socket calls: {trouble}"),
                (None, Some(cgroup)) => {
                    tracing::info!("socket calls are balanced below `{}`", cgroup.display());
                }
                (None, None) => tracing::info!("socket calls are left alone"),
            }
        }
        self.sockets = SocketStatus { unended: self.sockets.unended.take(), ..after };
        &self.sockets
    }

    /// Ends sockets whose backends this data path takes out; only where socket calls are balanced, or are
    /// to be as soon as their cgroup can be used.
    pub fn take_reaper(&mut self) -> anyhow::Result<Option<Reaper>> {
        if !self.sockets.translates() && self.calls.wanted.is_none() {
            return Ok(None);
        }
        let maps = &self.maps_path;
        let connected = open(maps, map_names::CONNECTED)?.fd().as_fd().try_clone_to_owned()?;
        let datagrams = Map::LruHashMap(open(maps, map_names::CONNECTED_DATAGRAMS)?);
        let maps = Maps {
            connected,
            datagrams: HashMap::try_from(datagrams)?,
            backends_v4: Array::try_from(Map::Array(open(maps, map_names::BACKENDS_V4)?))?,
            backends_v6: Array::try_from(Map::Array(open(maps, map_names::BACKENDS_V6)?))?,
            clients: HashMap::try_from(Map::HashMap(open(maps, map_names::CLIENTS)?))?,
            class_networks: HashMap::try_from(Map::HashMap(open(
                maps,
                map_names::CLASS_NETWORKS,
            )?))?,
            networks: Array::try_from(Map::Array(open(maps, map_names::BACKEND_NETWORKS)?))?,
            // What programs do that an earlier agent has left is not known: nobody is ended for it.
            routes_across: self.sockets.routes_across || self.sockets.is_left,
        };
        self.sockets.unended = reaper::obstacle();
        let (sender, receiver) = mpsc::channel();
        self.news = Some(sender);
        // A predecessor that was killed may not have come to the sockets of what it took out.
        let gone_before = (1..=MAX_BACKENDS).filter_map(|number| {
            let generation = self.tables.identity(number).generation;
            (generation != 0 && self.tables.is_gone(number)).then_some((number, generation))
        });
        Ok(Some(Reaper::new(maps, receiver, gone_before.collect())))
    }

    /// Tells the reaper, if there is one, what became of a backend.
    pub(super) fn tell_reaper(&self, number: u32, news: fn(BackendId) -> News) {
        let generation = self.tables.identity(number).generation;
        self.send_news(news((number, generation)));
    }

    fn send_news(&self, news: News) {
        if let Some(sender) = &self.news
            && sender.send(news).is_err()
        {
            tracing::debug!(?news, "nobody ends sockets; they end by themselves, later");
        }
    }
}

/// All of them, before one is attached.
fn load_all(ebpf: &mut Ebpf) -> anyhow::Result<Vec<Loaded>> {
    let mut loaded = Vec::with_capacity(CALLS.len());
    for (name, attach_type) in CALLS {
        match load(ebpf, name) {
            Ok(program) => loaded.push((name, attach_type, program)),
            // Its table is one from which the oldest goes when it is full.
            Err(error) if attach_type == AttachType::SockRelease => {
                tracing::info!("the ends of sockets are not seen (before Linux 5.9): {error:#}");
            }
            Err(error) => return Err(error),
        }
    }
    Ok(loaded)
}

fn load(ebpf: &mut Ebpf, name: &str) -> anyhow::Result<OwnedFd> {
    let program = ebpf
        .program_mut(name)
        .with_context(|| format!("the embedded BPF object has no program `{name}`"))?;
    load_program(program).with_context(|| format!("the kernel refuses program `{name}`"))?;
    Ok(program.fd()?.as_fd().try_clone_to_owned()?)
}

/// What is seen to be in the way was looked for before.
fn explain(error: &io::Error) -> anyhow::Error {
    let hint = match error.raw_os_error() {
        Some(libc::EPERM) => {
            "; somebody's program on a cgroup above, which cannot be seen from here, may allow no other"
        }
        _ => "",
    };
    anyhow::anyhow!("cannot attach: {error}{hint}")
}
