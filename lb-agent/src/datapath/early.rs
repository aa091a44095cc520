//! Links that are made while the plan that will ask for them is.
//!
//! For each link of TCX the kernel waits until no packet is under way, ten milliseconds or more; a plan
//! takes some milliseconds as well, and both together are what the clients of a new container wait
//! for. Nothing but time depends on this: a link that is asked for is pinned then, one that is not is
//! given back, and one that could not be made is tried again by whoever asks.

use std::{
    collections::{BTreeMap, BTreeSet},
    io,
    os::fd::{AsFd as _, OwnedFd},
    thread::{self, JoinHandle},
};

use super::sys::{self, AttachType};

/// Links under way at once; where there are more, as after a start, it is not about milliseconds.
const LINKS_MAX: usize = 16;
/// Interfaces that are remembered because nobody asked for their links.
const UNASKED_MAX: usize = 4096;

/// Links that are not pinned yet: they end with the agent.
#[derive(Debug, Default)]
pub(super) struct EarlyLinks {
    under_way: BTreeMap<u32, JoinHandle<io::Result<OwnedFd>>>,
    /// Nobody asked for links on these.
    unasked: BTreeSet<u32>,
}

impl EarlyLinks {
    /// Begins to put a program on an interface.
    pub(super) fn begin(&mut self, ifindex: u32, program: impl FnOnce() -> io::Result<OwnedFd>) {
        let is_known = self.under_way.contains_key(&ifindex) || self.unasked.contains(&ifindex);
        if is_known || self.under_way.len() >= LINKS_MAX {
            return;
        }
        let begun = program().and_then(|program| {
            thread::Builder::new().name("early-link".to_owned()).spawn(move || {
                sys::link_create(program.as_fd(), ifindex, AttachType::TcxIngress, sys::FLAG_FIRST)
            })
        });
        match begun {
            Ok(link) => drop(self.under_way.insert(ifindex, link)),
            Err(error) => tracing::debug!(ifindex, %error, "no early link"),
        }
    }

    /// Waits for the link of an interface, if one was begun.
    pub(super) fn take(&mut self, ifindex: u32) -> Option<OwnedFd> {
        self.unasked.remove(&ifindex);
        let made = self.under_way.remove(&ifindex)?.join().ok()?;
        made.inspect_err(|error| tracing::debug!(ifindex, %error, "no early link")).ok()
    }

    /// Gives back what nobody has asked for, without waiting for it: a link whose descriptor is closed
    /// is off. It is not begun again as long as nobody asks.
    pub(super) fn give_back(&mut self) {
        if self.unasked.len() > UNASKED_MAX {
            self.unasked.clear();
        }
        while let Some((ifindex, _thread)) = self.under_way.pop_first() {
            self.unasked.insert(ifindex);
        }
    }
}
