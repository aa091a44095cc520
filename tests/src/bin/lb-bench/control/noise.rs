//! How late the machine is by itself. Every step from an event to the kernel's tables waits for some thread
//! to be woken, so what is under these figures is under all others.

use std::{
    fs,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result};

use super::report::Report;

/// Time that a thread of nobody's sleeps, again and again.
const SLEEP: Duration = Duration::from_millis(3);

/// Looks at it meanwhile.
pub(super) struct Noise {
    is_over: Arc<AtomicBool>,
    sleeper: JoinHandle<Vec<f64>>,
    before: Ticks,
}

/// Processor time of the machine, in the kernel's ticks.
#[derive(Clone, Copy)]
struct Ticks {
    busy: u64,
    /// What a virtual machine wanted to run and could not.
    stolen: u64,
}

impl Noise {
    pub(super) fn start() -> Result<Self> {
        let before = Ticks::now()?;
        let is_over = Arc::new(AtomicBool::new(false));
        let theirs = Arc::clone(&is_over);
        let sleeper = thread::spawn(move || sleep_until_over(&theirs));
        Ok(Self { is_over, sleeper, before })
    }

    pub(super) fn end(self, report: &mut Report) -> Result<()> {
        self.is_over.store(true, Ordering::Relaxed);
        let Ok(late) = self.sleeper.join() else { anyhow::bail!("the sleeper panicked") };
        report.add("for the noise: a sleep of 3 ms is late by", "ms", None, late);
        let now = Ticks::now()?;
        let (busy, stolen) = (now.busy - self.before.busy, now.stolen - self.before.stolen);
        let share = 100.0 * stolen as f64 / (busy + stolen).max(1) as f64;
        report.add("for the noise: stolen of what was to run", "%", None, vec![share]);
        Ok(())
    }
}

fn sleep_until_over(is_over: &AtomicBool) -> Vec<f64> {
    let mut late = Vec::new();
    while !is_over.load(Ordering::Relaxed) {
        let begun = Instant::now();
        thread::sleep(SLEEP);
        late.push(begun.elapsed().saturating_sub(SLEEP).as_secs_f64() * 1e3);
    }
    late
}

impl Ticks {
    fn now() -> Result<Self> {
        let text = fs::read_to_string("/proc/stat")?;
        let line = text.lines().next().and_then(|line| line.strip_prefix("cpu "));
        let fields: Vec<u64> = line
            .context("/proc/stat does not begin with `cpu`")?
            .split_whitespace()
            .map_while(|field| field.parse().ok())
            .collect();
        // user, nice, system, idle, iowait, irq, softirq, steal
        let &[user, nice, system, _, _, irq, softirq, stolen, ..] = &fields[..] else {
            anyhow::bail!("/proc/stat has {} fields", fields.len());
        };
        Ok(Self { busy: user + nice + system + irq + softirq, stolen })
    }
}
