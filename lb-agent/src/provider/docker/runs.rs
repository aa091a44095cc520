//! The main processes of the containers that are followed, for those who have to look inside.

use std::{
    collections::HashMap,
    sync::{Arc, PoisonError, RwLock},
};

use crate::{health::check::Containers, netlink::Process};

/// Shared between the provider, which knows, and health, which asks.
#[derive(Clone, Debug, Default)]
pub struct Runs(Arc<RwLock<HashMap<String, Arc<Process>>>>);

impl Runs {
    /// A run of a container is followed from now on.
    pub(super) fn begin(&self, instance: &str, process: &Arc<Process>) {
        let mut runs = self.0.write().unwrap_or_else(PoisonError::into_inner);
        runs.insert(instance.to_owned(), Arc::clone(process));
    }

    /// It is over, and those who have to know were told.
    pub(super) fn end(&self, instance: &str) {
        self.0.write().unwrap_or_else(PoisonError::into_inner).remove(instance);
    }

    /// Those that are followed, and of which nobody was told yet that they are over.
    pub(super) fn all(&self) -> Vec<(String, Arc<Process>)> {
        let runs = self.0.read().unwrap_or_else(PoisonError::into_inner);
        runs.iter().map(|(instance, process)| (instance.clone(), Arc::clone(process))).collect()
    }
}

impl Containers for Runs {
    fn process(&self, instance: &str) -> Option<Arc<Process>> {
        let runs = self.0.read().unwrap_or_else(PoisonError::into_inner);
        runs.get(instance).filter(|process| process.is_alive()).map(Arc::clone)
    }
}
