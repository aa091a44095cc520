//! Random packets on random tables: the host's engine and the kernel's programs must make the same of
//! them, in verdict, reason, bytes and records.
//!
//! A scenario is tables and packets, whole, so that the ones worth keeping (`tests/corpus/`) mean the
//! same whatever becomes of the generator.

mod frames;
mod random;
mod worlds;

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
};

use anyhow::{Context as _, bail, ensure};
use lb_common::abi::{NetAddr6, NetU32, Verdict};
use serde::{Deserialize, Serialize};

pub use self::{
    random::Random,
    worlds::{RECORDS_MAX, Setting},
};
use super::{Action, BedFamily, Dump, HostBed, KernelBed, Outcome, Program, World, now_tick};

/// Packets of a random scenario.
const PACKETS_PER_SCENARIO: usize = 24;
/// Scenarios in a row with the same setting.
const SCENARIOS_PER_SETTING: u64 = 32;
/// Times that a scenario is begun again because the clock went on.
const ATTEMPTS: usize = 20;

/// Tables and packets.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Scenario {
    /// What it shows, or where it comes from.
    pub about: String,
    /// The tables before.
    pub world: World,
    /// The packets, in order.
    pub packets: Vec<Arrival>,
}

/// A packet, and who gets it.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Arrival {
    /// Who.
    pub program: Program,
    /// The frame, in hexadecimal.
    pub frame: String,
}

/// What was compared.
#[derive(Clone, Default, Debug)]
pub struct Counts {
    /// Scenarios.
    pub scenarios: usize,
    /// Packets.
    pub packets: usize,
    /// Packets of which the kernel's test runs make none: too short.
    pub refused: usize,
    /// Packets by verdict; what no verdict was counted for has passed.
    pub verdicts: BTreeMap<String, usize>,
    /// Packets by the reason that was counted.
    pub reasons: BTreeMap<&'static str, usize>,
}

impl Counts {
    fn count(&mut self, outcome: &Outcome) {
        let verdict = outcome.verdict.unwrap_or(Verdict::Pass);
        *self.verdicts.entry(format!("{verdict:?}").to_lowercase()).or_default() += 1;
        *self.reasons.entry(outcome.reason.name()).or_default() += 1;
    }
}

impl Scenario {
    /// The random scenario of a seed.
    #[must_use]
    pub fn random(seed: u64) -> Self {
        let setting = Setting::random(&mut Random::new(seed / SCENARIOS_PER_SETTING));
        let mut random = Random::new(!seed);
        let world = setting.world(&mut random);
        let packets = (0..PACKETS_PER_SCENARIO)
            .map(|_| {
                let (program, bytes) = frames::frame(setting.net(), &world, &mut random);
                Arrival { program, frame: to_hex(&bytes) }
            })
            .collect();
        Self { about: format!("seed {seed}"), world, packets }
    }

    /// Runs it on both beds and compares.
    pub fn compare(&self, bed: &mut KernelBed, counts: &mut Counts) -> anyhow::Result<()> {
        for _ in 0..ATTEMPTS {
            let mut attempt = counts.clone();
            if self.attempt(bed, &mut attempt)? {
                *counts = attempt;
                counts.scenarios += 1;
                return Ok(());
            }
        }
        bail!("the clock went on {ATTEMPTS} times: is the machine too slow?")
    }

    /// Whether the clock stood still.
    fn attempt(&self, bed: &mut KernelBed, counts: &mut Counts) -> anyhow::Result<bool> {
        let tick = now_tick();
        bed.fill(&self.world, tick).context("filling the tables")?;
        let mut host = HostBed::new(&self.world, tick);
        for (index, arrival) in self.packets.iter().enumerate() {
            let input = from_hex(&arrival.frame).context("a frame in hexadecimal")?;
            let in_kernel = bed.send(arrival.program, &input)?;
            if now_tick() != tick {
                return Ok(false);
            }
            counts.packets += 1;
            let Some(in_kernel) = in_kernel.map(Outcome::seen) else {
                counts.refused += 1;
                continue;
            };
            let on_host = host.send(arrival.program, &input, tick).seen();
            let start = &arrival.frame[..arrival.frame.len().min(400)];
            let place = || format!("packet {index}, {:?} {start}", arrival.program);
            ensure!(
                in_kernel == on_host,
                "{}\n  kernel {}\n  host   {}",
                place(),
                describe(&in_kernel),
                describe(&on_host)
            );
            counts.count(&in_kernel);
            same_records::<NetU32>(bed, host.dump_v4()).with_context(place)?;
            same_records::<NetAddr6>(bed, host.dump_v6()).with_context(place)?;
        }
        Ok(true)
    }

    /// The same with as few packets as show a difference.
    #[must_use]
    pub fn shrunk(&self, bed: &mut KernelBed) -> Self {
        let mut smallest = self.clone();
        let mut index = 0;
        while index < smallest.packets.len() {
            let mut smaller = smallest.clone();
            smaller.packets.remove(index);
            if smaller.compare(bed, &mut Counts::default()).is_err() {
                smallest = smaller;
            } else {
                index += 1;
            }
        }
        smallest
    }

    /// The scenarios of one packet that show what the packets of this one do, by the kind of that:
    /// program, verdict and reason. Packets that show it only after others are left out.
    #[must_use]
    pub fn lessons(&self) -> Vec<(String, Self)> {
        const FRAME_DIGITS_MAX: usize = 3200;
        let mut lessons = Vec::new();
        for arrival in &self.packets {
            let Some(input) = from_hex(&arrival.frame) else { continue };
            let mut host = HostBed::new(&self.world, 100_000);
            let outcome = host.send(arrival.program, &input, 100_000);
            let Some(verdict) = outcome.verdict else { continue };
            if arrival.frame.len() > FRAME_DIGITS_MAX {
                continue;
            }
            let family = if self.world.frontends[0].vip.is_ipv6() { "v6" } else { "v4" };
            let what = format!("{:?} {verdict:?} {}", arrival.program, outcome.reason.name());
            let name = what.to_lowercase().replace([' ', '_'], "-");
            let packets = vec![arrival.clone()];
            let about = format!("{what}, from {}", self.about);
            let lesson = Self { about, world: self.world.clone(), packets };
            lessons.push((format!("{name}-{family}"), lesson));
        }
        lessons
    }

    /// Writes it for the corpus.
    pub fn write(&self, path: &Path) -> anyhow::Result<()> {
        let text = serde_json::to_string(self)?;
        std::fs::write(path, text + "\n").with_context(|| path.display().to_string())
    }
}

/// The scenarios worth keeping, by name.
pub fn corpus() -> anyhow::Result<Vec<(PathBuf, Scenario)>> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("corpus");
    let mut corpus: Vec<(PathBuf, Scenario)> = Vec::new();
    for entry in std::fs::read_dir(&folder).with_context(|| folder.display().to_string())? {
        let path = entry?.path();
        if path.extension().is_some_and(|extension| extension == "json") {
            let text = std::fs::read_to_string(&path)?;
            let scenario =
                serde_json::from_str(&text).with_context(|| path.display().to_string())?;
            corpus.push((path, scenario));
        }
    }
    // What takes long to change changes seldom.
    corpus.sort_by_cached_key(|(path, Scenario { world, .. })| {
        (world.vips(), world.frontend_flags, world.egress_mtu, path.clone())
    });
    Ok(corpus)
}

fn same_records<A: BedFamily>(bed: &mut KernelBed, mut on_host: Dump<A>) -> anyhow::Result<()> {
    let in_kernel = bed.dump::<A>()?;
    // One for both families.
    on_host.half_open = in_kernel.half_open;
    ensure!(in_kernel == on_host, "records differ\n  kernel {in_kernel:?}\n  host   {on_host:?}");
    Ok(())
}

impl Outcome {
    /// What anybody can see of it: a packet that is dropped may have been cut for its answer.
    fn seen(mut self) -> Self {
        if self.action == Action::Drop {
            self.output.clear();
        }
        self
    }
}

fn describe(outcome: &Outcome) -> String {
    let Outcome { action, verdict, reason, refusals, output } = outcome;
    let mut bytes = to_hex(output);
    bytes.truncate(400);
    let refusals = if *refusals == 0 { "" } else { " refusal" };
    format!("{action:?} {verdict:?} {reason:?}{refusals} {} bytes {bytes}", output.len())
}

fn to_hex(bytes: &[u8]) -> String {
    let digit = |value: u8| char::from_digit(u32::from(value), 16).unwrap_or('?');
    bytes.iter().flat_map(|byte| [digit(byte >> 4), digit(byte & 15)]).collect()
}

fn from_hex(text: &str) -> Option<Vec<u8>> {
    let digits: Vec<u32> = text.chars().map(|digit| digit.to_digit(16)).collect::<Option<_>>()?;
    Some(digits.chunks(2).map(|pair| (pair[0] << 4 | pair.get(1).unwrap_or(&0)) as u8).collect())
}
