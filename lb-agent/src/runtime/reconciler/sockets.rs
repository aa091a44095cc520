//! The tables of socket calls, which follow from what was planned.

use std::{
    hash::{BuildHasher as _, RandomState},
    sync::Arc,
    time::Duration,
};

use tokio::time::Instant;

use super::{Node, Reconciler};
use crate::{
    api::{
        explain::{CallExplanation, CallQuery},
        types::{CallerList, SocketsView},
    },
    explain::Caller,
    plan::{Action, KernelState},
    sockets::{self, Clients, SocketTables},
};

/// Time from a change of the callers to the tables as a whole: mostly there is a plan to make, which says
/// itself what cannot wait.
const SETTLE: Duration = Duration::from_millis(5);
/// The same from a plan, which has announced whom calls are led to. What is over can wait, and making the
/// tables of many services takes longer than the next plan, which may be due soon.
const SETTLE_PLANNED: Duration = Duration::from_millis(50);
/// The same, while there always is a plan to make, or somebody comes.
const SETTLE_MAX: Duration = Duration::from_millis(250);

/// Who calls from this node.
#[derive(Debug, Default)]
pub(super) struct Callers {
    /// `None`: not known yet.
    known: Option<Clients>,
    /// Those of whom the tables tell, for people.
    pub(super) list: Arc<CallerList>,
    /// The same of those of whom the tables do not tell yet.
    next_list: Option<Arc<CallerList>>,
    /// Since when the tables do not say it.
    changed_at: Option<Instant>,
    /// Since when they do not say what followed from the latest plans.
    planned_at: Option<Instant>,
    /// What the tables refused at the latest try.
    refused: Option<String>,
    /// The tables hold nothing, since nobody reads them.
    are_cleared: bool,
}

impl Callers {
    /// What was refused is tried again: there may be room by now.
    pub(super) fn retry(&mut self, now: Instant) {
        if self.refused.is_some() {
            self.set_changed(now);
        }
    }

    /// Says that something else may have to be in the tables.
    pub(super) fn set_changed(&mut self, now: Instant) {
        self.changed_at.get_or_insert(now);
    }

    /// Says that a plan was made.
    pub(super) fn set_planned(&mut self, now: Instant) {
        self.planned_at.get_or_insert(now);
    }

    /// Whether the tables say all that is known.
    pub(super) fn are_told(&self) -> bool {
        self.changed_at.or(self.planned_at).is_none()
    }

    /// When the tables are to be made anew; `is_busy`: there is a plan to make first.
    pub(super) fn due(&self, is_busy: bool) -> Option<Instant> {
        let after = |settle| if is_busy { SETTLE_MAX } else { settle };
        let changed = self.changed_at.map(|at| at + after(SETTLE));
        changed.into_iter().chain(self.planned_at.map(|at| at + after(SETTLE_PLANNED))).min()
    }
}

impl<N: Node> Reconciler<N> {
    /// How socket calls are balanced, and for whom.
    pub(super) fn sockets_view(&mut self) -> SocketsView {
        let mut view = self.node.sockets();
        // In the order of their names.
        view.clients = self.callers.list.callers.iter().map(|it| it.name.clone()).collect();
        view
    }

    /// Looks at what the programs are attached to. Those of socket calls may be on their cgroup since
    /// then, or on none any more, and the tables follow.
    pub(super) fn look_at_hooks(&mut self, now: Instant) {
        let before = self.node.sockets();
        self.node.look_at_hooks();
        if self.node.sockets() != before {
            self.callers.set_changed(now);
            self.callers.are_cleared = false;
            self.is_view_stale = true;
        }
    }

    /// Takes over who calls from this node.
    pub(super) fn set_clients(&mut self, clients: Clients) {
        if self.callers.known.as_ref() != Some(&clients) {
            self.callers.set_changed(Instant::now());
            self.callers.next_list = Some(Arc::new(clients.view()));
            self.callers.known = Some(clients);
        }
    }

    /// Who sees what, by the numbers that the plan has given.
    pub(super) fn set_socket_tables(&mut self) {
        (self.callers.changed_at, self.callers.planned_at) = (None, None);
        if self.node.sockets().is_on() {
            let mut wanted = self.wanted_tables(None);
            // Without the node's own addresses nothing is kept from anybody.
            if let Some(local) = self.local.prefixes() {
                wanted.unseen = sockets::unseen(&self.snapshot, &local);
            }
            self.store_socket_tables(&wanted);
        } else if !self.callers.are_cleared {
            // What an earlier agent has left is true no longer when programs are attached again.
            self.store_socket_tables(&SocketTables::default());
            self.callers.are_cleared = self.callers.refused.is_none();
        }
        if let Some(list) = self.callers.next_list.take() {
            self.callers.list = list;
        }
    }

    /// Makes the tables that were to wait, for nobody else will.
    pub(in crate::runtime) fn end(&mut self) {
        if !self.callers.are_told() {
            self.set_socket_tables();
        }
    }

    /// The same for what a plan will lead to, before it does: no call finds a service of which it is not
    /// known who sees it, nor a backend of which it is not known who reaches it.
    pub(super) fn announce_to_sockets(&mut self, actions: &[Action]) {
        if !self.node.sockets().is_on() {
            return;
        }
        let Some(after) = sockets::ahead(&self.mirror, actions) else { return };
        let mut wanted = self.wanted_tables(Some(&after));
        wanted.kept.is_all = true;
        // Who comes is let in when all services are known by which it is led.
        wanted.clients.clear();
        wanted.class_networks.clear();
        self.store_socket_tables(&wanted);
    }

    /// What follows for the tables from what the kernel holds, or will hold.
    fn wanted_tables(&mut self, after: Option<&KernelState>) -> SocketTables {
        let kernel = after.unwrap_or(&self.mirror);
        let known = self.callers.known.as_ref();
        let routes_across = self.node.routes_across();
        let keys = self.planner.keys_of_all(&self.snapshot);
        sockets::wanted(&self.snapshot, kernel, known, routes_across, keys)
    }

    fn store_socket_tables(&mut self, wanted: &SocketTables) {
        let refused = self.node.set_socket_tables(wanted).err().map(|error| error.to_string());
        // Of what is ahead of a plan, what follows the plan says more.
        if wanted.kept.is_all || self.callers.refused == refused {
            return;
        }
        if let Some(error) = &refused {
            tracing::warn!("the tables of socket calls: {error}");
        } else {
            tracing::info!("the tables of socket calls are whole again");
        }
        self.callers.refused = refused;
    }

    /// Cookie of the namespace that a container of this node or the node itself calls from; 0: it could not
    /// be told. Of a container that is not known, only who it is not.
    pub(in crate::runtime) fn caller(&mut self, from: &str) -> Result<u64, String> {
        let view = self.node.sockets();
        if !view.is_on() {
            let why = view.trouble.unwrap_or_else(|| "`enabled` in [cgroup] is false".to_owned());
            return Err(format!("socket calls are not balanced: {why}"));
        }
        let nobody = Clients { is_partial: true, ..Clients::default() };
        self.callers.known.as_ref().unwrap_or(&nobody).cookie_of(from)
    }

    /// What would become of a call; of a container that is not known, only who it is not.
    pub(in crate::runtime) fn explain_call(
        &mut self,
        query: &CallQuery,
    ) -> Result<CallExplanation, String> {
        let cookie = self.caller(&query.from)?;
        let nobody = Clients::default();
        let clients = self.callers.known.as_ref().unwrap_or(&nobody);
        let names = clients.containers.values().flat_map(|container| container.networks.keys());
        let isolated = clients.isolated.iter().map(|name| sockets::reach_name(name, true));
        let backends = self.snapshot.services.values().flat_map(|it| &it.backends);
        let of_backends = backends.filter_map(|it| it.network.as_deref().map(str::to_owned));
        let names = names.cloned().chain(isolated).chain(of_backends);
        let caller = Caller {
            name: query.from.clone(),
            cookie,
            // One of many; which is nobody's to choose.
            hash: RandomState::new().hash_one(cookie) as u32,
            routes_across: self.node.routes_across(),
            networks: names.map(|name| (sockets::network_hash(&name), name)).collect(),
        };
        self.node.explain_call(query, &caller).map_err(|error| error.to_string())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `events`: milliseconds and what was said then; `due`: when the tables are to be made, while there
    /// is nothing else to do and while there is.
    #[track_caller]
    fn check(events: &[(u64, &str)], due: [Option<u64>; 2]) {
        let begun = Instant::now();
        let mut callers = Callers::default();
        for (at_ms, event) in events {
            let at = begun + Duration::from_millis(*at_ms);
            match *event {
                "changed" => callers.set_changed(at),
                "planned" => callers.set_planned(at),
                "refused" => callers.refused = Some("no room".to_owned()),
                "retry" => callers.retry(at),
                other => panic!("{other}"),
            }
        }
        let found = [false, true].map(|is_busy| callers.due(is_busy));
        let expected = due.map(|ms| ms.map(|ms| begun + Duration::from_millis(ms)));
        assert_eq!(found, expected, "{events:?}");
        assert_eq!(callers.are_told(), due[0].is_none(), "{events:?}");
    }

    #[test]
    fn tables_wait_for_plans_but_not_for_ever() {
        check(&[], [None, None]);
        check(&[(0, "changed")], [Some(5), Some(250)]);
        check(&[(0, "planned")], [Some(50), Some(250)]);
        // From the first of many on.
        check(&[(0, "planned"), (40, "planned"), (200, "planned")], [Some(50), Some(250)]);
        check(&[(0, "planned"), (10, "changed")], [Some(15), Some(250)]);
        check(&[(0, "planned"), (48, "changed")], [Some(50), Some(250)]);
        check(&[(100, "changed"), (120, "planned")], [Some(105), Some(350)]);
        check(&[(0, "retry")], [None, None]);
        check(&[(0, "refused"), (1000, "retry")], [Some(1005), Some(1250)]);
    }
}
