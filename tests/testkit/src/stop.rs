//! When a client that runs until told otherwise ends: after `--seconds`, or with `--until-eof` when
//! its standard input closes, so that it ends with whoever started it.

use std::{
    io::Read as _,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use crate::args::Args;

/// Says when to stop.
#[derive(Clone, Debug)]
pub(crate) struct Stop {
    deadline: Option<Instant>,
    told: Arc<AtomicBool>,
}

impl Stop {
    /// From `--seconds` and `--until-eof`.
    pub(crate) fn new(args: &Args, default: Option<Duration>) -> Result<Self, String> {
        let told = Arc::new(AtomicBool::new(false));
        if args.flag("until-eof") {
            let told = Arc::clone(&told);
            thread::spawn(move || {
                let mut sink = [0; 64];
                while std::io::stdin().read(&mut sink).is_ok_and(|count| count > 0) {}
                told.store(true, Ordering::Relaxed);
            });
        }
        let limit = args.seconds("seconds")?.or(default);
        Ok(Self { deadline: limit.map(|limit| Instant::now() + limit), told })
    }

    /// Whether to stop now.
    pub(crate) fn now(&self) -> bool {
        self.told.load(Ordering::Relaxed)
            || self.deadline.is_some_and(|deadline| Instant::now() >= deadline)
    }

    /// Sleeps until then, or until told to stop; says whether to go on.
    pub(crate) fn sleep_until(&self, then: Instant) -> bool {
        loop {
            if self.now() {
                return false;
            }
            let left = then.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return true;
            }
            thread::sleep(left.min(Duration::from_millis(50)));
        }
    }
}
