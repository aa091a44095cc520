//! Our programs, and where they are attached: exactly once per hook and interface, whichever way.
//!
//! When the way changes, the new attachment is made before the old one goes, so that no packet
//! passes in between; XDP alone cannot run in two modes at once, and there TC takes over.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    os::fd::{AsFd as _, BorrowedFd, OwnedFd},
    path::Path,
    time::Duration,
};

use anyhow::Context as _;
use aya::{
    Ebpf,
    programs::{Program, ProgramError},
};
use lb_common::abi::Hook;

use super::{
    clsact::{Clsact, Ownership},
    early::EarlyLinks,
    hook::{AttachError, HOOKS, LinkName, Way, display_interface, interface_name, program_name},
    links::LinkDir,
    options::TcMode,
    pins::PinDir,
    state_dir::{StateDir, remove_if_there},
    sys,
};

/// How often a program is loaded before `EAGAIN` is believed.
const LOAD_ATTEMPTS: usize = 5;

/// One program on one interface.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Attachment {
    /// Which program.
    pub hook: Hook,
    /// On which interface.
    pub ifindex: u32,
    /// How.
    pub way: Way,
}

/// The loaded programs, by hook.
#[derive(Debug)]
struct Programs([OwnedFd; HOOKS.len()]);

/// Programs and attachments in the network namespace of the thread that opened them.
#[derive(Debug)]
pub(super) struct Hooks {
    programs: Programs,
    links: LinkDir,
    clsact: Clsact,
    netns_cookie: u64,
    tc_mode: TcMode,
    /// The way that worked, for [`TcMode::Auto`].
    tc_way: Option<Way>,
    /// By hook and interface.
    attached: [BTreeMap<u32, Way>; HOOKS.len()],
    early: EarlyLinks,
}

impl Hooks {
    /// Loads the programs and pins them; attaches nothing.
    pub(super) fn load(
        ebpf: &mut Ebpf,
        pins: &PinDir,
        state: StateDir,
        ownership: Ownership,
        tc_mode: TcMode,
    ) -> anyhow::Result<Self> {
        let programs = Programs::load(ebpf)?;
        pins.create_directories()?;
        for hook in HOOKS {
            pin_program(programs.get(hook), program_name(hook), &pins.programs())?;
        }
        let netns_cookie = sys::netns_cookie().context("cannot tell the network namespace")?;
        Ok(Self {
            programs,
            links: LinkDir::at(&pins.links()),
            clsact: Clsact::open(state, ownership, netns_cookie)?,
            netns_cookie,
            tc_mode,
            tc_way: None,
            attached: Default::default(),
            early: EarlyLinks::default(),
        })
    }

    /// Takes over what an earlier agent left: reply programs get ours in place; links of deleted
    /// interfaces, and of another namespace that an earlier agent ran in, are removed. Front
    /// interfaces follow with [`Self::attach`] and [`Self::detach_others`].
    pub(super) fn adopt(&mut self) -> anyhow::Result<()> {
        let mut replies = Vec::new();
        for link in self.links.list()? {
            if link.netns_cookie != self.netns_cookie || !self.links.is_alive(&link) {
                tracing::info!(%link, "removing a link that is of no use any more");
                self.links.detach(&link)?;
                continue;
            }
            if link.hook == Hook::TcReply {
                replies.push(link.ifindex);
            }
            self.note(link.hook, link.ifindex, Some(link.way));
        }
        for (hook, ifindex) in self.clsact.list()? {
            if hook == Hook::TcReply {
                replies.push(ifindex);
            }
            if self.way(hook, ifindex).is_none() {
                self.note(hook, ifindex, Some(Way::Clsact));
            }
        }
        for ifindex in replies {
            match self.attach_tc(Hook::TcReply, ifindex) {
                Ok(()) => {}
                Err(AttachError::Absent) => self.note(Hook::TcReply, ifindex, None),
                // The program that is there works with the same maps.
                Err(error) => {
                    let interface = display_interface(ifindex);
                    tracing::warn!(interface, %error, "keeps the reply program of an earlier agent");
                }
            }
        }
        Ok(())
    }

    /// How a hook of an interface is attached, as far as we know.
    pub(super) fn way(&self, hook: Hook, ifindex: u32) -> Option<Way> {
        self.attached[hook as usize].get(&ifindex).copied()
    }

    /// Every attachment, as far as we know.
    pub(super) fn attachments(&self) -> Vec<Attachment> {
        HOOKS
            .into_iter()
            .flat_map(|hook| {
                self.attached[hook as usize].iter().map(move |(&ifindex, &way)| Attachment {
                    hook,
                    ifindex,
                    way,
                })
            })
            .collect()
    }

    /// Whether an attachment is there, asked from the kernel.
    pub(super) fn is_alive(&mut self, attachment: Attachment) -> bool {
        let Attachment { hook, ifindex, way } = attachment;
        match way {
            Way::Clsact => self.clsact.owns_filter(hook, ifindex),
            _ => self.links.is_alive(&self.link(hook, ifindex, way)),
        }
    }

    /// Removes what is left of attachments whose interfaces are gone.
    pub(super) fn prune(&mut self) -> anyhow::Result<()> {
        for attachment in self.attachments() {
            if interface_name(attachment.ifindex).is_none() {
                self.detach(attachment.hook, attachment.ifindex)?;
            }
        }
        Ok(self.clsact.forget_absent_qdiscs()?)
    }

    /// Attaches a TC program as the mode says, atomically in the place of an earlier agent's.
    pub(super) fn attach_tc(&mut self, hook: Hook, ifindex: u32) -> Result<(), AttachError> {
        let way = match (self.tc_mode, self.tc_way) {
            (TcMode::Tcx, _) => Way::Tcx,
            (TcMode::Clsact, _) => Way::Clsact,
            (TcMode::Auto, Some(way)) => way,
            (TcMode::Auto, None) => return self.attach_tc_by_trying(hook, ifindex),
        };
        self.attach_tc_by(hook, ifindex, way)
    }

    /// Begins to put the reply program where it will be asked for. Only where a link of TCX is to be made
    /// that is not there: two of them would both translate.
    pub(super) fn expect(&mut self, interfaces: &BTreeSet<u32>, kept_for: Duration) {
        if self.tc_mode == TcMode::Clsact
            || (self.tc_mode == TcMode::Auto && self.tc_way != Some(Way::Tcx))
        {
            return;
        }
        let program = self.programs.get(Hook::TcReply);
        for ifindex in interfaces {
            let pin = self.links.pin(&self.link(Hook::TcReply, *ifindex, Way::Tcx));
            let is_attached = self.attached[Hook::TcReply as usize].contains_key(ifindex);
            if !is_attached && !pin.exists() {
                self.early.begin(*ifindex, kept_for, || program.try_clone_to_owned());
            }
        }
    }

    /// Gives back what was begun and not asked for.
    pub(super) fn expect_no_more(&mut self) {
        self.early.give_back();
    }

    fn attach_tc_by_trying(&mut self, hook: Hook, ifindex: u32) -> Result<(), AttachError> {
        let way = match self.attach_tc_by(hook, ifindex, Way::Tcx) {
            Ok(()) => Way::Tcx,
            Err(AttachError::Unsupported(reason)) => {
                tracing::info!(reason, "using clsact filters");
                self.attach_tc_by(hook, ifindex, Way::Clsact)?;
                Way::Clsact
            }
            Err(error) => return Err(error),
        };
        self.tc_way = Some(way);
        Ok(())
    }

    fn attach_tc_by(&mut self, hook: Hook, ifindex: u32, way: Way) -> Result<(), AttachError> {
        let program = self.programs.get(hook);
        if way == Way::Tcx {
            let made = if hook == Hook::TcReply { self.early.take(ifindex) } else { None };
            self.links.attach(&self.link(hook, ifindex, way), program, made)?;
            self.note(hook, ifindex, Some(way));
            self.clsact.detach(hook, ifindex)
        } else {
            self.clsact.attach(hook, ifindex, program)?;
            self.note(hook, ifindex, Some(way));
            self.links.detach(&self.link(hook, ifindex, Way::Tcx))
        }
    }

    /// Attaches XDP in one mode, which must be an XDP [`Way`].
    pub(super) fn attach_xdp(&mut self, ifindex: u32, way: Way) -> Result<(), AttachError> {
        let other = if way == Way::XdpNative { Way::XdpGeneric } else { Way::XdpNative };
        self.links.detach(&self.link(Hook::Xdp, ifindex, other))?;
        self.note(Hook::Xdp, ifindex, None);
        let program = self.programs.get(Hook::Xdp);
        self.links.attach(&self.link(Hook::Xdp, ifindex, way), program, None)?;
        self.note(Hook::Xdp, ifindex, Some(way));
        Ok(())
    }

    /// Takes a program off; one that is not there is as good.
    pub(super) fn detach(&mut self, hook: Hook, ifindex: u32) -> Result<(), AttachError> {
        let ways: &[Way] =
            if hook == Hook::Xdp { &[Way::XdpNative, Way::XdpGeneric] } else { &[Way::Tcx] };
        for &way in ways {
            self.links.detach(&self.link(hook, ifindex, way))?;
        }
        if hook != Hook::Xdp {
            match self.clsact.detach(hook, ifindex) {
                Ok(()) | Err(AttachError::Absent) => {}
                Err(error) => return Err(error),
            }
        }
        self.note(hook, ifindex, None);
        Ok(())
    }

    /// Requests about interfaces.
    pub(super) fn rtnl(&mut self) -> &mut super::rtnl::Rtnl {
        self.clsact.rtnl()
    }

    fn link(&self, hook: Hook, ifindex: u32, way: Way) -> LinkName {
        LinkName { hook, way, ifindex, netns_cookie: self.netns_cookie }
    }

    fn note(&mut self, hook: Hook, ifindex: u32, way: Option<Way>) {
        let attached = &mut self.attached[hook as usize];
        match way {
            Some(way) => attached.insert(ifindex, way),
            None => attached.remove(&ifindex),
        };
    }
}

impl Programs {
    fn load(ebpf: &mut Ebpf) -> anyhow::Result<Self> {
        let mut load = |hook| -> anyhow::Result<OwnedFd> {
            let name = program_name(hook);
            let program = ebpf
                .program_mut(name)
                .with_context(|| format!("the embedded BPF object has no program `{name}`"))?;
            load_program(program)
                .with_context(|| format!("the kernel refuses program `{name}`"))?;
            Ok(program.fd()?.as_fd().try_clone_to_owned()?)
        };
        let [tc_front, tc_reply, xdp] = HOOKS;
        Ok(Self([load(tc_front)?, load(tc_reply)?, load(xdp)?]))
    }

    fn get(&self, hook: Hook) -> BorrowedFd<'_> {
        self.0[hook as usize].as_fd()
    }
}

/// Loads a program; the verifier gives up when a signal arrives, and wants to be asked again.
pub(super) fn load_program(program: &mut Program) -> Result<(), ProgramError> {
    let mut load = || match program {
        Program::SchedClassifier(program) => program.load(),
        Program::Xdp(program) => program.load(),
        Program::CgroupSockAddr(program) => program.load(),
        Program::CgroupSock(program) => program.load(),
        _ => Err(ProgramError::UnexpectedProgramType),
    };
    for _ in 1..LOAD_ATTEMPTS {
        match load() {
            Err(ProgramError::LoadError { io_error, .. })
                if io_error.raw_os_error() == Some(libc::EAGAIN) => {}
            result => return result,
        }
    }
    load()
}

/// Pins a program in the place of an earlier one, for tools that look: it is the links that keep
/// programs in the kernel.
pub(super) fn pin_program(
    program: BorrowedFd<'_>,
    name: &str,
    directory: &Path,
) -> anyhow::Result<()> {
    let (fresh, path) = (directory.join(format!("{name}-new")), directory.join(name));
    remove_if_there(&fresh)?;
    sys::pin(program, &fresh)
        .and_then(|()| fs::rename(&fresh, &path))
        .with_context(|| format!("cannot pin program `{name}` at `{}`", path.display()))
}
