//! How much of the tables services need, counted generously.

use std::iter::Sum;

use crate::{arbiter::Limits, model::Service};

/// Entries that a frontend may need: its own or that of its list, and that of its address.
const ENTRIES_MAX: usize = 2;

/// What services need.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Usage {
    services: usize,
    backends: usize,
    frontends: usize,
}

impl Usage {
    pub(super) fn of(service: &Service) -> Self {
        let Service { backends, frontends, .. } = service;
        Self { services: 1, backends: backends.len(), frontends: frontends.len() }
    }

    pub(super) fn with(self, more: Self) -> Self {
        Self {
            services: self.services + more.services,
            backends: self.backends + more.backends,
            frontends: self.frontends + more.frontends,
        }
    }

    /// Less than there is.
    pub(super) fn without(self, less: Self) -> Self {
        Self {
            services: self.services - less.services,
            backends: self.backends - less.backends,
            frontends: self.frontends - less.frontends,
        }
    }

    /// Whether there is room for all, however their frontends share addresses.
    pub(super) fn is_within(self, limits: Limits) -> bool {
        self.services <= limits.services
            && self.backends <= limits.backends
            && self.frontends * ENTRIES_MAX <= limits.frontends
    }
}

impl Sum for Usage {
    fn sum<I: Iterator<Item = Self>>(parts: I) -> Self {
        parts.fold(Self::default(), Self::with)
    }
}
