//! Which runs were asked to end, for whoever follows them next: the daemon forgets what it told.

use super::{
    super::{container_of, endings::AskedToEnd, engine::Signalled, host::Process},
    CONTAINERS_MAX, State,
};

/// What asked them to end, while they live.
#[derive(Debug, Default)]
pub(super) struct Endings {
    asked: AskedToEnd,
    is_changed: bool,
}

impl Endings {
    /// What asked this run to end.
    pub(super) fn get(&self, instance: &str) -> Option<Signalled> {
        self.asked.get(instance).copied()
    }

    /// Sets what asked a run to end; `None`: nothing did, or it is over.
    pub(super) fn set(&mut self, instance: &str, asking: Option<Signalled>) {
        if asking == self.get(instance) {
            return;
        }
        let Some(asking) = asking else {
            self.is_changed |= self.asked.remove(instance).is_some();
            return;
        };
        if self.asked.len() < CONTAINERS_MAX || self.asked.contains_key(instance) {
            self.asked.insert(instance.to_owned(), asking);
            self.is_changed = true;
        }
    }

    /// Those that are to be kept, if they are others than when this was asked last.
    pub(super) fn take_changed(&mut self) -> Option<AskedToEnd> {
        std::mem::take(&mut self.is_changed).then(|| self.asked.clone())
    }
}

impl<P: Process> State<P> {
    /// Takes over what a predecessor kept. The daemon may tell of it again, and of what came before.
    pub(in super::super) fn take_over_asked(&mut self, asked: AskedToEnd) {
        self.endings.asked = asked.into_iter().take(CONTAINERS_MAX).collect();
        for (instance, signalled) in &self.endings.asked {
            self.heard.is_news(container_of(instance), *signalled);
        }
    }

    /// Keeps what asks the known run of a container to end.
    pub(super) fn keep_asking(&mut self, id: &str) {
        let run = self.containers.get(id).and_then(|it| Some((it, it.run.as_ref()?)));
        let Some((container, run)) = run else { return };
        // Of one that cannot be served it is not known what would ask it.
        let Some(condition) = run.condition else { return };
        let asking = container.signals.latest_asking(&run.instance, condition.stop_signal);
        self.endings.set(&run.instance, asking);
    }

    /// Forgets those who no longer run, now that all are known who do.
    pub(super) fn forget_endings(&mut self) {
        let (containers, inherited) = (&self.containers, &self.inherited);
        let before = self.endings.asked.len();
        self.endings.asked.retain(|instance, _| {
            let container = containers.get(container_of(instance));
            inherited.contains(instance) || container.is_some_and(|it| it.is_run(instance))
        });
        self.endings.is_changed |= self.endings.asked.len() != before;
    }
}
