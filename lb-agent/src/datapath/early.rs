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
    sync::mpsc::{self, Sender},
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use super::sys::{self, AttachType};

/// Links under way at once; where there are more, as after a start, it is not about milliseconds.
const LINKS_MAX: usize = 16;
/// Interfaces that are remembered because nobody asked for their links.
const UNASKED_MAX: usize = 4096;

/// Links that are not pinned yet: they end with the agent.
#[derive(Debug, Default)]
pub(super) struct EarlyLinks {
    under_way: BTreeMap<u32, EarlyLink>,
    /// Nobody asked for links on these. As long as one is on its way on or off, no other can be made.
    given_back: BTreeMap<u32, JoinHandle<io::Result<Option<OwnedFd>>>>,
    /// The same, until somebody asks.
    unasked: BTreeSet<u32>,
}

#[derive(Debug)]
struct EarlyLink {
    /// Says that somebody asks for it; its end says that nobody does.
    is_asked: Sender<()>,
    thread: JoinHandle<io::Result<Option<OwnedFd>>>,
    /// Before that it is not given back.
    kept_until: Instant,
}

impl EarlyLinks {
    /// Begins to put a program on an interface. It stays there for this time even if nobody asks.
    pub(super) fn begin(
        &mut self,
        ifindex: u32,
        kept_for: Duration,
        program: impl FnOnce() -> io::Result<OwnedFd>,
    ) {
        self.given_back.retain(|_, thread| !thread.is_finished());
        let kept_until = Instant::now() + kept_for;
        let is_known = self.under_way.contains_key(&ifindex) || self.unasked.contains(&ifindex);
        if is_known || self.under_way.len() + self.given_back.len() >= LINKS_MAX {
            return;
        }
        let (is_asked, asked) = mpsc::channel();
        let begun = program().and_then(|program| {
            thread::Builder::new().name("early-link".to_owned()).spawn(move || {
                let (program, place) = (program.as_fd(), AttachType::TcxIngress);
                let link = sys::link_create(program, ifindex, place, sys::FLAG_FIRST)?;
                // Taking it off takes the kernel as long: here, too, nobody waits for it.
                Ok(asked.recv().is_ok().then_some(link))
            })
        });
        match begun {
            Ok(thread) => {
                self.under_way.insert(ifindex, EarlyLink { is_asked, thread, kept_until });
            }
            Err(error) => tracing::debug!(ifindex, %error, "no early link"),
        }
    }

    /// Waits for the link of an interface, if one was begun; of one that was given back, until it is
    /// off.
    pub(super) fn take(&mut self, ifindex: u32) -> Option<OwnedFd> {
        self.unasked.remove(&ifindex);
        let thread = match self.under_way.remove(&ifindex) {
            Some(link) => {
                // If the thread has ended, there is no link.
                link.is_asked.send(()).ok();
                link.thread
            }
            None => self.given_back.remove(&ifindex)?,
        };
        let made = thread.join().ok()?;
        made.inspect_err(|error| tracing::debug!(ifindex, %error, "no early link")).ok()?
    }

    /// Gives back what nobody has asked for, without waiting for it. It is not begun again as long as
    /// nobody asks.
    pub(super) fn give_back(&mut self) {
        if self.unasked.len() > UNASKED_MAX {
            self.unasked.clear();
        }
        let now = Instant::now();
        for (ifindex, link) in self.under_way.extract_if(.., |_, link| link.kept_until <= now) {
            self.unasked.insert(ifindex);
            self.given_back.insert(ifindex, link.thread);
        }
    }
}
