//! What is measured on a way: bulk, connections, requests and how long they take, and what they cost.

use std::{
    fs,
    net::SocketAddr,
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use anyhow::{Context as _, Result, ensure};
use lb_tests::{Namespace, binaries, datagrams, traffic};

use super::PathOptions;

/// Makes wrk print what it knows in one line.
const SCRIPT: &str = r#"done = function(summary, latency, requests)
  io.write(string.format("FIGURES %f %d %d %d\n", summary.requests * 1e6 / summary.duration,
    latency:percentile(50), latency:percentile(99), latency:percentile(99.9)))
end
"#;

/// One round on one way.
#[derive(Clone, Copy)]
pub(crate) struct Figures {
    down_gbit: f64,
    up_gbit: f64,
    connections: f64,
    requests: f64,
    p50_us: f64,
    p99_us: f64,
    worst_us: f64,
    cpu_us: f64,
    datagrams: f64,
}

/// A column of the table.
pub(crate) struct Column {
    pub(crate) name: &'static str,
    pub(crate) digits: usize,
    pub(crate) value: fn(&Figures) -> f64,
    /// Whether it is carried in a second, and there is a goal for that.
    pub(crate) is_carried: bool,
}

impl Column {
    const fn new(name: &'static str, digits: usize, value: fn(&Figures) -> f64) -> Self {
        Self { name, digits, value, is_carried: false }
    }

    const fn carried(self) -> Self {
        Self { is_carried: true, ..self }
    }
}

/// All columns. Times are of requests on connections that are kept; the CPU time is that of client,
/// server and proxy together, and of the packets that the kernel handles in their name. Datagrams are
/// those of 64 bytes that came back; nobody sends any from container to container.
pub(crate) const COLUMNS: [Column; 9] = [
    Column::new("down Gbit/s", 2, |it| it.down_gbit).carried(),
    Column::new("up Gbit/s", 2, |it| it.up_gbit).carried(),
    Column::new("connections/s", 0, |it| it.connections).carried(),
    Column::new("requests/s", 0, |it| it.requests).carried(),
    Column::new("p50 µs", 0, |it| it.p50_us),
    Column::new("p99 µs", 0, |it| it.p99_us),
    Column::new("p99.9 µs", 0, |it| it.worst_us),
    Column::new("CPU µs/request", 1, |it| it.cpu_us),
    Column::new("datagrams/s", 0, |it| it.datagrams),
];

/// The median: of an even number, the mean of the two in the middle.
pub(crate) fn median(samples: impl Iterator<Item = f64>) -> f64 {
    let mut samples: Vec<f64> = samples.collect();
    samples.sort_by(f64::total_cmp);
    let middle = samples.len().saturating_sub(1) / 2..=samples.len() / 2;
    let Some(middle) = samples.get(middle) else { return f64::NAN };
    middle.iter().sum::<f64>() / middle.len() as f64
}

/// Writes what wrk is told to print.
pub(crate) fn write_script(directory: &Path) -> Result<PathBuf> {
    let path = directory.join("figures.lua");
    fs::write(&path, SCRIPT).with_context(|| path.display().to_string())?;
    Ok(path)
}

/// Who calls.
pub(crate) struct Client<'a> {
    /// A program in its place.
    pub(crate) command: &'a dyn Fn(&str) -> Result<Command>,
    /// Where it sends datagrams from, if it is to.
    pub(crate) datagrams: Option<&'a Namespace>,
}

/// Measures one way once. `pids` are the processes that carry it, beside the client.
pub(crate) fn take(
    client: &Client<'_>,
    target: SocketAddr,
    options: &PathOptions,
    script: &Path,
    pids: &[i32],
) -> Result<Figures> {
    let testkit = binaries::testkit()?;
    let mut bulk = (client.command)(&testkit.display().to_string())?;
    let bytes = options.bytes.to_string();
    bulk.args(["bulk", "--target", &target.to_string(), "--bytes", &bytes]);
    let bulk = traffic::run_command(bulk)?;
    bulk.check()?;
    let rate = |direction: &str| {
        let summary = bulk.summaries.iter().find(|summary| summary.direction == direction);
        summary.map_or(f64::NAN, |summary| summary.gbit_per_second)
    };
    let run = |connection| requests(client, target, options.seconds, script, connection);
    let [connections, ..] = run("close")?;
    let before_us = cpu_us(pids)?;
    let [requests, p50_us, p99_us, worst_us] = run("keep-alive")?;
    let spent_us = cpu_us(pids)? - before_us;
    let datagrams = match client.datagrams {
        Some(namespace) => {
            let time = Duration::from_secs(options.seconds.into());
            let rate = datagrams::rate(namespace, target, time)?;
            ensure!(rate.returned > 100 * rate.lost, "{target}: {rate:?}");
            rate.per_second
        }
        None => f64::NAN,
    };
    Ok(Figures {
        datagrams,
        down_gbit: rate("down"),
        up_gbit: rate("up"),
        connections,
        requests,
        p50_us,
        p99_us,
        worst_us,
        cpu_us: spent_us / (requests * f64::from(options.seconds)),
    })
}

/// Requests per second, and the time that half, 99 % and 99.9 % of them take, by wrk.
fn requests(
    client: &Client<'_>,
    target: SocketAddr,
    seconds: u32,
    script: &Path,
    connection: &str,
) -> Result<[f64; 4]> {
    let output = (client.command)("wrk")?
        .args(["-t1", "-c16", &format!("-d{seconds}s"), "-s"])
        .arg(script)
        .args(["-H", &format!("Connection: {connection}"), &format!("http://{target}/")])
        .output()
        .context("running wrk")?;
    let text = String::from_utf8_lossy(&output.stdout);
    let line = text.lines().find_map(|line| line.strip_prefix("FIGURES "));
    let numbers: Vec<f64> =
        line.unwrap_or("").split(' ').filter_map(|word| word.parse().ok()).collect();
    numbers
        .try_into()
        .ok()
        .with_context(|| format!("wrk said:\n{text}{}", String::from_utf8_lossy(&output.stderr)))
}

/// CPU time so far of these processes and their children, and of all children of ours that have ended.
fn cpu_us(pids: &[i32]) -> Result<f64> {
    let own = Process::read("self").context("/proc/self/stat")?;
    let mut ticks = own.ended_children_ticks;
    for pid in with_children(pids)? {
        // One that has just ended has nothing to tell.
        ticks += Process::read(&pid.to_string()).map_or(0, |process| process.ticks);
    }
    let per_second = nix::unistd::sysconf(nix::unistd::SysconfVar::CLK_TCK)?;
    Ok(ticks as f64 * 1e6 / per_second.context("the kernel's clock tick")? as f64)
}

/// These processes, and the ones that have one of them as parent.
fn with_children(pids: &[i32]) -> Result<Vec<i32>> {
    let mut all = pids.to_vec();
    for entry in fs::read_dir("/proc")? {
        let name = entry?.file_name();
        let Some(pid) = name.to_str().and_then(|name| name.parse().ok()) else { continue };
        let parent = name.to_str().and_then(Process::read).map(|process| process.parent);
        if !pids.contains(&pid) && parent.is_some_and(|parent| pids.contains(&parent)) {
            all.push(pid);
        }
    }
    Ok(all)
}

/// What `/proc` says of a process.
struct Process {
    parent: i32,
    /// CPU time of its threads.
    ticks: u64,
    /// CPU time of its children that have ended.
    ended_children_ticks: u64,
}

impl Process {
    fn read(pid: &str) -> Option<Self> {
        let text = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
        // The name, in parentheses, may contain blanks.
        let fields: Vec<&str> = text.rsplit_once(')')?.1.split_whitespace().collect();
        let number = |at: usize| fields.get(at)?.parse::<u64>().ok();
        Some(Self {
            parent: fields.get(1)?.parse().ok()?,
            ticks: number(11)? + number(12)?,
            ended_children_ticks: number(13)? + number(14)?,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_median_is_between_the_halves() {
        let check = |samples: &[f64], expected: f64| {
            let found = median(samples.iter().copied());
            assert_eq!(
                found.total_cmp(&expected),
                std::cmp::Ordering::Equal,
                "{samples:?}: {found}"
            );
        };
        check(&[], f64::NAN);
        check(&[3.0], 3.0);
        check(&[4.0, 1.0], 2.5);
        check(&[9.0, 1.0, 2.0], 2.0);
        check(&[9.0, 1.0, 4.0, 2.0], 3.0);
        check(&[5.0, 4.0, 1.0, 2.0, 3.0], 3.0);
    }
}
