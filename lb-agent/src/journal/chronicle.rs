//! What has changed between two moments. Pure.

use std::{
    collections::{BTreeMap, BTreeSet},
    mem,
    net::SocketAddr,
};

use crate::{
    api::types::{Completeness, ReplicasView},
    model::{BackendState, FrontendAddress, ServiceName},
    steering::Subject,
};

/// Changes of one comparison that are told one by one: a start with thousands of backends would drive
/// everything else out of the journal.
const DRAFTS_MAX: usize = 200;

/// Services that went with their last replica and are remembered until they are back.
const GONE_MAX: usize = 4096;

/// An event without number and time.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Draft {
    /// What it is about.
    pub object: String,
    /// The backend of the service.
    pub backend: Option<String>,
    /// What has changed.
    pub what: String,
    /// Why.
    pub why: Option<String>,
}

/// One moment.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Seen {
    /// Backends of all services.
    pub backends: BTreeMap<Subject, BackendSeen>,
    /// Who has which frontend.
    pub frontends: BTreeMap<FrontendAddress, ServiceName>,
    /// Services in panic.
    pub panics: BTreeSet<ServiceName>,
    /// Of services whose labels say how many replicas there are to be.
    pub replicas: BTreeMap<ServiceName, ReplicasView>,
    /// What is not granted: the object, and the message.
    pub refusals: BTreeSet<(String, String)>,
    /// What providers complain about.
    pub troubles: BTreeMap<&'static str, String>,
}

impl Seen {
    /// Whether a service has backends.
    fn has(&self, service: &ServiceName) -> bool {
        let next = self.backends.range(Subject::first(service)..).next();
        next.is_some_and(|(subject, _)| subject.service == *service)
    }
}

/// A backend at one moment.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct BackendSeen {
    /// Its name, for people.
    pub name: String,
    /// Where traffic goes.
    pub address: SocketAddr,
    /// Its state, as it is shown.
    pub state: BackendState,
    /// Its weight; `None`: it grows by itself, and is no news.
    pub weight: Option<u16>,
    /// It gives way to one that wants all new connections.
    pub yields: bool,
}

/// Remembers the latest moment.
#[derive(Debug, Default)]
pub struct Chronicle {
    before: Seen,
    /// What was expected of services that are gone, of which none is there.
    gone: BTreeMap<ServiceName, ReplicasView>,
}

impl Chronicle {
    /// What is new at this moment, where only these services may have changed: `now` has no backends,
    /// frontends and replicas of others. `why` knows why a backend is what it is, or is no longer there.
    pub fn compare(
        &mut self,
        now: Seen,
        changed: &BTreeSet<ServiceName>,
        why: impl Fn(&Subject) -> Option<String>,
    ) -> Vec<Draft> {
        let before = &self.take(changed);
        let mut drafts = Vec::new();
        frontends(before, &now, &mut drafts);
        backends(before, &now, why, &mut drafts);
        replicas(before, &now, &mut drafts);
        for (names, others, what) in [
            (&now.panics, &before.panics, "panic: who fails gets new connections, too"),
            (&before.panics, &now.panics, "the panic is over"),
        ] {
            drafts.extend(names.difference(others).map(|it| Draft::of(&it.0, what.to_owned())));
        }
        for (object, message) in now.refusals.difference(&before.refusals) {
            drafts.push(Draft::of(object, "not granted".to_owned()).because(Some(message.clone())));
        }
        // What is refused as before and said in other words is not granted.
        let reworded: BTreeSet<&str> =
            now.refusals.difference(&before.refusals).map(|(object, _)| object.as_str()).collect();
        for (object, _) in before.refusals.difference(&now.refusals) {
            if !reworded.contains(object.as_str()) {
                drafts.push(Draft::of(object, "no longer refused".to_owned()));
            }
        }
        for (provider, trouble) in &now.troubles {
            if before.troubles.get(provider) != Some(trouble) {
                let draft = Draft::of(provider, "in trouble".to_owned());
                drafts.push(draft.because(Some(trouble.clone())));
            }
        }
        for provider in before.troubles.keys().filter(|it| !now.troubles.contains_key(*it)) {
            drafts.push(Draft::of(provider, "all is well".to_owned()));
        }
        self.remember_gone(before, &now);
        let Seen { backends, frontends, replicas, panics, refusals, troubles } = now;
        self.before.backends.extend(backends);
        self.before.replicas.extend(replicas);
        self.before.frontends.extend(frontends);
        (self.before.panics, self.before.refusals) = (panics, refusals);
        self.before.troubles = troubles;
        if drafts.len() > DRAFTS_MAX {
            let rest = drafts.len() - DRAFTS_MAX;
            drafts.truncate(DRAFTS_MAX);
            drafts.push(Draft::of("-", format!("{rest} more changes at the same moment")));
        }
        drafts
    }

    /// A service that went with its last replica lacks all of them until it is back: only so is it told when
    /// it is whole again, however many come at once.
    fn remember_gone(&mut self, before: &Seen, now: &Seen) {
        let is_lost = |name: &ServiceName| !now.replicas.contains_key(name) && !now.has(name);
        let lost = before.replicas.iter().filter(|(name, _)| is_lost(name));
        let lost: Vec<_> =
            lost.map(|(name, seen)| (name.clone(), ReplicasView { present: 0, ..*seen })).collect();
        if self.gone.len() + lost.len() > GONE_MAX {
            self.gone.clear();
        }
        self.gone.extend(lost.into_iter().take(GONE_MAX));
    }

    /// What was seen of these services, and of everything else.
    fn take(&mut self, changed: &BTreeSet<ServiceName>) -> Seen {
        let Seen { backends, frontends, replicas, panics, refusals, troubles } = &mut self.before;
        let mut taken = Seen {
            panics: mem::take(panics),
            refusals: mem::take(refusals),
            troubles: mem::take(troubles),
            ..Seen::default()
        };
        for service in changed {
            let its = backends.range(Subject::first(service)..).map(|(subject, _)| subject);
            let its: Vec<_> = its.take_while(|it| it.service == *service).cloned().collect();
            taken.backends.extend(its.iter().filter_map(|it| backends.remove_entry(it)));
            taken.replicas.extend(replicas.remove_entry(service));
            taken.replicas.extend(self.gone.remove_entry(service));
        }
        let theirs = frontends.iter().filter(|(_, service)| changed.contains(*service));
        let theirs: Vec<_> = theirs.map(|(frontend, _)| *frontend).collect();
        taken.frontends.extend(theirs.iter().filter_map(|it| frontends.remove_entry(it)));
        taken
    }
}

fn frontends(before: &Seen, now: &Seen, drafts: &mut Vec<Draft>) {
    for (frontend, service) in &now.frontends {
        if before.frontends.get(frontend) != Some(service) {
            drafts.push(Draft::of(&service.0, format!("served at {frontend}")));
        }
    }
    for (frontend, service) in &before.frontends {
        if now.frontends.get(frontend) != Some(service) {
            drafts.push(Draft::of(&service.0, format!("no longer served at {frontend}")));
        }
    }
}

fn backends(
    before: &Seen,
    now: &Seen,
    why: impl Fn(&Subject) -> Option<String>,
    drafts: &mut Vec<Draft>,
) {
    let of = |subject: &Subject, seen: &BackendSeen, what: String| Draft {
        object: subject.service.0.to_string(),
        backend: Some(seen.name.clone()),
        what,
        why: None,
    };
    for (subject, seen) in &now.backends {
        let BackendSeen { address, state, weight, yields, .. } = seen;
        let Some(known) = before.backends.get(subject) else {
            let what = format!("came at {address}, {state}");
            drafts.push(of(subject, seen, what).because(why(subject)));
            continue;
        };
        let was_yielding = known.yields;
        if known.address != *address {
            drafts.push(of(subject, seen, format!("moved from {} to {address}", known.address)));
        }
        if known.state != *state {
            let what = format!("{} -> {state}", known.state);
            drafts.push(of(subject, seen, what).because(why(subject)));
        }
        if let (Some(known), Some(weight)) = (known.weight, weight)
            && known != *weight
        {
            let reason = match (was_yielding, *yields) {
                (_, true) => Some("yields to an exclusive one".to_owned()),
                (true, false) => Some("no exclusive one takes new connections".to_owned()),
                (false, false) => None,
            };
            drafts.push(of(subject, seen, format!("weight {known} -> {weight}")).because(reason));
        }
    }
    for (subject, seen) in &before.backends {
        if !now.backends.contains_key(subject) {
            drafts.push(of(subject, seen, "went".to_owned()).because(why(subject)));
        }
    }
}

/// Whether there are as many as there are to be, or as a rolling update leaves; how many are missing is no
/// news of its own.
fn replicas(before: &Seen, now: &Seen, drafts: &mut Vec<Draft>) {
    let mut tell = |name: &ServiceName, what: String, why: Option<&str>| {
        drafts.push(Draft::of(&name.0, what).because(why.map(str::to_owned)));
    };
    for (name, seen) in &now.replicas {
        let what = format!("{} of {} replicas are there", seen.present, seen.expected);
        let known = before.replicas.get(name).map(ReplicasView::completeness);
        let change = (known.unwrap_or(Completeness::Whole), seen.completeness());
        // That they begin to come back is told by those who come.
        if change.0 != change.1 && change != (Completeness::Absent, Completeness::Short) {
            tell(name, what, why_so_few(seen).as_deref());
        }
    }
    // With its last container a service is gone, and what its labels have expected.
    for (name, seen) in before.replicas.iter().filter(|(name, _)| !now.replicas.contains_key(name))
    {
        // Of those that drained before they went it was told when the last of them began to.
        if !now.has(name) && seen.expected > 0 && seen.completeness() != Completeness::Absent {
            let what = format!("0 of {} replicas are there", seen.expected);
            tell(name, what, Some("its labels expected more"));
        }
    }
}

fn why_so_few(seen: &ReplicasView) -> Option<String> {
    let ReplicasView { expected, minimum, .. } = *seen;
    match (seen.completeness(), minimum) {
        (Completeness::Whole, _) => None,
        (Completeness::Updating, minimum) => {
            let at_a_time = expected - minimum.unwrap_or(expected);
            Some(format!("an update may replace {at_a_time} at a time"))
        }
        (Completeness::Short, Some(minimum)) => {
            Some(format!("its labels expect more, and an update leaves at least {minimum}"))
        }
        (Completeness::Absent, _) | (Completeness::Short, None) => {
            Some("its labels expect more".to_owned())
        }
    }
}

impl Draft {
    /// About something as a whole.
    pub fn of(object: &str, what: String) -> Self {
        Self { object: object.to_owned(), backend: None, what, why: None }
    }

    fn because(self, why: Option<String>) -> Self {
        Self { why, ..self }
    }
}
