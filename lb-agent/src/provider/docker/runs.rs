//! The main processes of the containers that are followed, for those who have to look inside, and what
//! a provider leaves to the next one of the same agent.

use std::{
    collections::HashMap,
    io,
    sync::{
        Arc, Mutex, PoisonError, RwLock,
        atomic::{AtomicBool, Ordering},
    },
};

use super::endings::{AskedToEnd, Endings};
use crate::{health::check::Containers, netlink::Process};

/// Shared between the provider, which knows, health, which asks, and the provider that follows.
#[derive(Clone, Debug, Default)]
pub struct Runs(Arc<Inner>);

#[derive(Debug, Default)]
struct Inner {
    processes: RwLock<HashMap<String, Arc<Process>>>,
    /// `None`: no provider of this agent has said.
    asked_to_end: Mutex<Option<AskedToEnd>>,
    /// Held by who writes them to a file.
    saving: Mutex<()>,
    /// Somebody will write them to a file, and has not begun.
    will_save: AtomicBool,
}

impl Runs {
    /// A run of a container is followed from now on.
    pub(super) fn begin(&self, instance: &str, process: &Arc<Process>) {
        let mut runs = self.0.processes.write().unwrap_or_else(PoisonError::into_inner);
        runs.insert(instance.to_owned(), Arc::clone(process));
    }

    /// It is over, and those who have to know were told.
    pub(super) fn end(&self, instance: &str) {
        self.0.processes.write().unwrap_or_else(PoisonError::into_inner).remove(instance);
    }

    /// Those that are followed, and of which nobody was told yet that they are over.
    pub(super) fn all(&self) -> Vec<(String, Arc<Process>)> {
        let runs = self.0.processes.read().unwrap_or_else(PoisonError::into_inner);
        runs.iter().map(|(instance, process)| (instance.clone(), Arc::clone(process))).collect()
    }

    /// Those that were asked to end; `None`: nobody has said.
    pub(super) fn asked_to_end(&self) -> Option<AskedToEnd> {
        self.0.asked_to_end.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// These were asked to end, and no others.
    pub(super) fn set_asked_to_end(&self, asked: AskedToEnd) {
        *self.0.asked_to_end.lock().unwrap_or_else(PoisonError::into_inner) = Some(asked);
    }

    /// Whether [`Self::save_asked_to_end`] is to be called, which nobody else is about to do.
    pub(super) fn is_to_save(&self) -> bool {
        !self.0.will_save.swap(true, Ordering::SeqCst)
    }

    /// Writes those to the file who were asked to end. Of a provider that was stopped this may go on
    /// beside the next one: one after the other, and whoever is last writes what is so then.
    pub(super) fn save_asked_to_end(&self, endings: &Endings) -> io::Result<()> {
        let _one_at_a_time = self.0.saving.lock().unwrap_or_else(PoisonError::into_inner);
        // What is said from here on is for the next one.
        self.0.will_save.store(false, Ordering::SeqCst);
        endings.save(self.asked_to_end().unwrap_or_default())
    }
}

impl Containers for Runs {
    fn process(&self, instance: &str) -> Option<Arc<Process>> {
        let runs = self.0.processes.read().unwrap_or_else(PoisonError::into_inner);
        runs.get(instance).filter(|process| process.is_alive()).map(Arc::clone)
    }
}
