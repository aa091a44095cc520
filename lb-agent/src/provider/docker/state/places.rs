//! The place of a container that is renamed: that of the name by which it was known first, as long as
//! this run of it lives and no other container bears that name. So its slots stay with it, and whoever
//! takes over its name, as deployments by `docker rename` do, takes over its place: also if it has run
//! beside it under another name until then.

use super::{
    super::{container_of, host::Process, places::FormerNames},
    CONTAINERS_MAX, State,
};

/// Names of containers before they were renamed.
#[derive(Debug, Default)]
pub(super) struct Places {
    former: FormerNames,
    is_changed: bool,
}

impl Places {
    /// Sets the former name of a run of a container; `None`: it is known by its own.
    pub(super) fn set(&mut self, instance: &str, former: Option<&str>) {
        let Some(former) = former else {
            self.is_changed |= self.former.remove(instance).is_some();
            return;
        };
        let is_known = self.former.get(instance).is_some_and(|known| known == former);
        if !is_known && self.former.len() < CONTAINERS_MAX {
            self.former.insert(instance.to_owned(), former.to_owned());
            self.is_changed = true;
        }
    }

    /// The other run that is known by this name.
    fn holder(&self, name: &str, instance: &str) -> Option<&str> {
        let holders = self.former.iter();
        let mut holders = holders.filter(|(holder, former)| *former == name && *holder != instance);
        holders.next().map(|(holder, _)| holder.as_str())
    }

    /// Those that are to be kept, if they are others than when this was asked last.
    pub(super) fn take_changed(&mut self) -> Option<FormerNames> {
        std::mem::take(&mut self.is_changed).then(|| self.former.clone())
    }
}

impl<P: Process> State<P> {
    /// Takes over what a predecessor kept.
    pub(in super::super) fn remember(&mut self, former: FormerNames) {
        self.places.former = former.into_iter().take(CONTAINERS_MAX).collect();
    }

    /// The name by which a container is known that was just seen to bear this one; `None`: by that.
    pub(super) fn former_name(&mut self, id: &str, instance: &str, name: &str) -> Option<String> {
        let run = self.containers.get(id).filter(|container| container.is_run(instance));
        let known = self.places.former.get(instance).or(run.map(|container| &container.name));
        let former = known.filter(|former| former.as_str() != name).cloned();
        let is_borne = |former: &String| {
            let mut others = self.containers.iter().filter(|(other, _)| *other != id);
            others.any(|(_, other)| other.run.is_some() && other.name == *former)
        };
        let holder = self.places.holder(name, instance).map(container_of);
        // Names are unique: who bore it when it was seen last was renamed, and is not yet looked at.
        let bearer = || {
            let mut others = self.containers.iter().filter(|(other, _)| *other != id);
            others.find(|(_, other)| other.name == name && other.living().is_some())
        };
        let renamed = former.as_ref().and_then(|_| bearer());
        let holder = holder.or(renamed.map(|(other, _)| other.as_str()));
        let holder = holder.map(str::to_owned);
        let former = former.filter(|former| holder.is_none() && !is_borne(former));
        self.places.set(instance, former.as_deref());
        // Who had the place of this name has it no longer.
        if let Some(holder) = holder {
            self.want_look(&holder);
        }
        former
    }

    /// Forgets those who no longer run, now that all are known who do.
    pub(super) fn forget_places(&mut self) {
        let containers = &self.containers;
        let before = self.places.former.len();
        self.places.former.retain(|instance, _| {
            let container = containers.get(container_of(instance));
            container.is_some_and(|container| container.is_run(instance))
        });
        self.places.is_changed |= self.places.former.len() != before;
    }
}
