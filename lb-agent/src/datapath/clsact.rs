//! Programs attached as filters on the clsact qdisc, where the kernel has no TCX.
//!
//! A filter of ours has a preference and a handle of its own, so that a later agent replaces it in
//! place and nobody else's is touched. The qdisc carries no name: only a note in the runtime
//! directory tells that it was made by us.

use std::{collections::BTreeSet, os::fd::BorrowedFd};

use lb_common::abi::Hook;

use super::{
    hook::{AttachError, interface_name, program_name},
    rtnl::{Filter, FilterPlace, Rtnl, RtnlError},
    state_dir::StateDir,
    sys,
};

/// Runs after an operator's own filters of the usual small numbers and before automatic ones.
const PREFERENCE: u16 = 100;
/// "lb" in ASCII; the hook is added.
const HANDLE: u32 = 0x6c62;

/// The TC hooks.
const TC_HOOKS: [Hook; 2] = [Hook::TcFront, Hook::TcReply];

/// Tells our filters from others'.
#[derive(Clone, Debug)]
pub(super) enum Ownership {
    /// By place, program name and a map of ours that the program uses.
    Maps(BTreeSet<u32>),
    /// By place and program name: the pins of the agent that made the filter are lost.
    Names,
}

impl Ownership {
    fn owns(&self, filter: &Filter, hook: Hook) -> bool {
        let Some((name, id)) = &filter.program else {
            return false;
        };
        if filter.place != place(hook) || name != program_name(hook) {
            return false;
        }
        match self {
            Self::Names => true,
            Self::Maps(ours) => sys::program_info(*id)
                .is_ok_and(|program| program.map_ids.iter().any(|map| ours.contains(map))),
        }
    }
}

/// The filters of the calling thread's network namespace.
#[derive(Debug)]
pub(super) struct Clsact {
    rtnl: Rtnl,
    ownership: Ownership,
    state: StateDir,
    netns_cookie: u64,
}

impl Clsact {
    /// Opens a netlink socket in the namespace of the calling thread.
    pub(super) fn open(
        state: StateDir,
        ownership: Ownership,
        netns_cookie: u64,
    ) -> anyhow::Result<Self> {
        Ok(Self { rtnl: Rtnl::open()?, ownership, state, netns_cookie })
    }

    /// For requests beside filters.
    pub(super) fn rtnl(&mut self) -> &mut Rtnl {
        &mut self.rtnl
    }

    /// Puts the program on, in the place of the one that an earlier agent left there.
    pub(super) fn attach(
        &mut self,
        hook: Hook,
        ifindex: u32,
        program: BorrowedFd<'_>,
    ) -> Result<(), AttachError> {
        self.ensure_qdisc(ifindex).map_err(|error| explain(ifindex, &error))?;
        let filters =
            self.rtnl.ingress_filters(ifindex).map_err(|error| explain(ifindex, &error))?;
        let present = filters.iter().find(|filter| filter.place == place(hook));
        if let Some(foreign) = present.filter(|filter| !self.ownership.owns(filter, hook)) {
            return Err(AttachError::Refused(format!(
                "the place of our filter (preference {PREFERENCE}, handle {:#x}) is taken by {}",
                foreign.place.handle,
                foreign.program.as_ref().map_or("another filter", |(name, _)| name.as_str()),
            )));
        }
        let (place, name, replaces) = (place(hook), program_name(hook), present.is_some());
        self.rtnl
            .put_bpf_filter(ifindex, place, name, program, replaces)
            .map_err(|error| explain(ifindex, &error))
    }

    /// Takes our filter off, and the qdisc when we made it and nothing else uses it. What is not
    /// there is as good.
    pub(super) fn detach(&mut self, hook: Hook, ifindex: u32) -> Result<(), AttachError> {
        if self.owns_filter(hook, ifindex) {
            self.rtnl
                .delete_filter(ifindex, place(hook))
                .map_err(|error| explain(ifindex, &error))?;
        }
        self.remove_qdisc(ifindex)
    }

    /// Whether our filter is there.
    pub(super) fn owns_filter(&mut self, hook: Hook, ifindex: u32) -> bool {
        let Self { rtnl, ownership, .. } = self;
        rtnl.ingress_filters(ifindex)
            .is_ok_and(|filters| filters.iter().any(|filter| ownership.owns(filter, hook)))
    }

    /// Every filter of ours in the namespace.
    pub(super) fn list(&mut self) -> anyhow::Result<Vec<(Hook, u32)>> {
        let mut ours = Vec::new();
        for ifindex in self.rtnl.ingress_qdiscs()? {
            for filter in self.rtnl.ingress_filters(ifindex)? {
                let hooks = TC_HOOKS.into_iter();
                ours.extend(
                    hooks
                        .filter(|&hook| self.ownership.owns(&filter, hook))
                        .map(|hook| (hook, ifindex)),
                );
            }
        }
        Ok(ours)
    }

    /// Whether others' filters hang on the qdisc, in either direction.
    pub(super) fn has_foreign_filters(&mut self, ifindex: u32) -> Result<bool, RtnlError> {
        let Self { rtnl, ownership, .. } = self;
        let is_ours =
            |filter: &Filter| TC_HOOKS.into_iter().any(|hook| ownership.owns(filter, hook));
        Ok(!rtnl.ingress_filters(ifindex)?.iter().all(is_ours)
            || !rtnl.egress_filters(ifindex)?.is_empty())
    }

    /// Interfaces that carry a qdisc of our making.
    pub(super) fn own_qdiscs(&mut self) -> Result<Vec<u32>, RtnlError> {
        let present = self.rtnl.ingress_qdiscs()?;
        let mut noted = self.state.noted_qdiscs(self.netns_cookie);
        noted.retain(|ifindex| present.contains(ifindex));
        Ok(noted)
    }

    /// Forgets qdiscs that went with their interfaces.
    pub(super) fn forget_absent_qdiscs(&mut self) -> std::io::Result<()> {
        for ifindex in self.state.noted_qdiscs(self.netns_cookie) {
            if interface_name(ifindex).is_none() {
                self.state.forget_qdisc(ifindex, self.netns_cookie)?;
            }
        }
        Ok(())
    }

    /// Removes a qdisc of our making that carries no filter.
    pub(super) fn remove_qdisc(&mut self, ifindex: u32) -> Result<(), AttachError> {
        self.try_remove_qdisc(ifindex).map_err(|error| explain(ifindex, &error))
    }

    fn try_remove_qdisc(&mut self, ifindex: u32) -> Result<(), RtnlError> {
        if !self.own_qdiscs()?.contains(&ifindex)
            || !self.rtnl.ingress_filters(ifindex)?.is_empty()
            || !self.rtnl.egress_filters(ifindex)?.is_empty()
        {
            return Ok(());
        }
        self.rtnl.delete_clsact(ifindex)?;
        Ok(self.state.forget_qdisc(ifindex, self.netns_cookie)?)
    }

    fn ensure_qdisc(&mut self, ifindex: u32) -> Result<(), RtnlError> {
        if self.rtnl.ingress_qdiscs()?.contains(&ifindex) {
            return Ok(());
        }
        // An older note is about a qdisc that is gone.
        self.state.note_qdisc(ifindex, self.netns_cookie)?;
        match self.rtnl.add_clsact(ifindex) {
            Ok(true) => Ok(()),
            // Somebody was quicker: theirs.
            Ok(false) => Ok(self.state.forget_qdisc(ifindex, self.netns_cookie)?),
            Err(error) => {
                self.state.forget_qdisc(ifindex, self.netns_cookie)?;
                Err(error)
            }
        }
    }
}

fn place(hook: Hook) -> FilterPlace {
    FilterPlace { preference: PREFERENCE, handle: HANDLE + hook as u32 }
}

fn explain(ifindex: u32, error: &RtnlError) -> AttachError {
    if error.errno() == Some(libc::ENODEV) || interface_name(ifindex).is_none() {
        return AttachError::Absent;
    }
    AttachError::Refused(error.to_string())
}
