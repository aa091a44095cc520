//! What a process takes, by `/proc`.

use std::{fs, time::Duration};

use anyhow::{Context as _, Result};
use nix::unistd::{SysconfVar, sysconf};

/// Descriptors that it has open.
pub(super) fn descriptors(pid: u32) -> Result<f64> {
    Ok(fs::read_dir(format!("/proc/{pid}/fd"))?.count() as f64)
}

/// A line of its status that is in kB, in MiB: `VmRSS`, `RssAnon`.
pub(super) fn memory_mib(pid: u32, line: &str) -> Result<f64> {
    let status = fs::read_to_string(format!("/proc/{pid}/status"))?;
    let found = status.lines().find_map(|it| it.strip_prefix(line)?.strip_prefix(':'));
    let kb = found.and_then(|rest| rest.split_whitespace().next()?.parse::<f64>().ok());
    Ok(kb.with_context(|| format!("no {line} in\n{status}"))? / 1024.0)
}

/// What it has in RAM of its own, in MiB: without the pages of BPF maps that it has mapped, which are
/// the kernel's memory.
pub(super) fn own_memory_mib(pid: u32) -> Result<f64> {
    let text = fs::read_to_string(format!("/proc/{pid}/smaps"))?;
    let (mut is_map, mut maps_kb) = (false, 0.0);
    for line in text.lines() {
        // A mapping begins with its addresses; what is said of it follows.
        if line.starts_with(|first: char| first.is_ascii_digit() || first.is_ascii_lowercase()) {
            is_map = line.contains("bpf-map");
        } else if let Some(rest) = line.strip_prefix("Rss:").filter(|_| is_map) {
            let kb = rest.split_whitespace().next().and_then(|kb| kb.parse::<f64>().ok());
            maps_kb += kb.with_context(|| line.to_owned())?;
        }
    }
    Ok(memory_mib(pid, "VmRSS")? - maps_kb / 1024.0)
}

/// Processor time of all its threads.
pub(super) fn cpu_time(pid: u32) -> Result<Duration> {
    let text = fs::read_to_string(format!("/proc/{pid}/stat"))?;
    // The name, in parentheses, may contain blanks.
    let fields = text.rsplit_once(')').map_or("", |(_, rest)| rest);
    let fields: Vec<&str> = fields.split_whitespace().collect();
    let ticks = |at: usize| fields.get(at).and_then(|field| field.parse::<u32>().ok());
    let ticks = ticks(11).zip(ticks(12)).context("no times in /proc/PID/stat")?;
    let per_second = sysconf(SysconfVar::CLK_TCK)?.context("the kernel's clock tick")?;
    Ok(Duration::from_secs(1) * (ticks.0 + ticks.1) / u32::try_from(per_second)?)
}
