//! Rows of figures, for people and for programs.

use std::fs;

use anyhow::Result;
use serde_json::json;

use super::{ControlOptions, resources};

/// What was measured.
pub(super) struct Report {
    rows: Vec<Row>,
    /// What is to be known of the rows.
    notes: Vec<String>,
    is_json: bool,
    title: String,
    load_before: String,
}

struct Row {
    name: &'static str,
    unit: &'static str,
    /// What 99 of 100 samples are not to exceed.
    goal: Option<f64>,
    samples: Vec<f64>,
}

impl Report {
    pub(super) fn new(options: &ControlOptions) -> Self {
        let title = format!(
            "{} services of {} backends present; {} runs, {} restarts",
            options.services, options.backends, options.runs, options.restarts
        );
        Self {
            rows: Vec::new(),
            notes: Vec::new(),
            is_json: options.json,
            title,
            load_before: load(),
        }
    }

    /// A row; of one sample, that is all of its figures.
    pub(super) fn add(
        &mut self,
        name: &'static str,
        unit: &'static str,
        goal: Option<f64>,
        mut samples: Vec<f64>,
    ) {
        samples.sort_by(f64::total_cmp);
        let row = Row { name, unit, goal, samples };
        // It takes minutes until all are there.
        eprintln!("{}", row.line());
        self.rows.push(row);
    }

    /// Says something of the rows.
    pub(super) fn note(&mut self, text: String) {
        eprintln!("{text}");
        self.notes.push(text);
    }

    /// What a process has in RAM, in all and without the kernel's pages that it has mapped.
    pub(super) fn add_memory(&mut self, pid: u32) -> Result<()> {
        let all = resources::memory_mib(pid, "VmRSS")?;
        self.add("resident memory", "MiB", Some(64.0), vec![all]);
        let own = resources::own_memory_mib(pid)?;
        self.add("resident memory without pages of maps", "MiB", Some(64.0), vec![own]);
        Ok(())
    }

    pub(super) fn print(&self) {
        let (before, after) = (&self.load_before, load());
        if self.is_json {
            for row in &self.rows {
                println!("{}", row.json());
            }
            let cpus = std::thread::available_parallelism().map_or(0, usize::from);
            let notes = &self.notes;
            println!(
                "{}",
                json!({ "cpus": cpus, "load_before": before, "load_after": after, "notes": notes })
            );
            return;
        }
        println!("{}; load {before} before, {after} after", self.title);
        println!(
            "{:<46} {:>5} {:>9} {:>9} {:>9} {:>9} {:<4}",
            "row", "n", "p50", "p99", "max", "goal", "unit"
        );
        for row in &self.rows {
            println!("{}", row.line());
        }
        for note in &self.notes {
            println!("{note}");
        }
    }
}

impl Row {
    /// The smallest sample that so many in a hundred do not exceed.
    fn percentile(&self, percent: usize) -> f64 {
        let rank = (self.samples.len() * percent).div_ceil(100).max(1);
        self.samples.get(rank - 1).copied().unwrap_or(f64::NAN)
    }

    /// Of less than a hundred samples p99 is the largest.
    fn is_met(&self) -> Option<bool> {
        self.goal.map(|goal| self.percentile(99) <= goal)
    }

    fn line(&self) -> String {
        let goal = self.goal.map_or_else(|| "-".to_owned(), |goal| format!("{goal}"));
        let verdict = match self.is_met() {
            None => "",
            Some(true) => "met",
            Some(false) => "MISSED",
        };
        format!(
            "{:<46} {:>5} {:>9.2} {:>9.2} {:>9.2} {goal:>9} {:<4} {verdict}",
            self.name,
            self.samples.len(),
            self.percentile(50),
            self.percentile(99),
            self.percentile(100),
            self.unit,
        )
    }

    fn json(&self) -> serde_json::Value {
        json!({
            "row": self.name,
            "unit": self.unit,
            "n": self.samples.len(),
            "p50": self.percentile(50),
            "p99": self.percentile(99),
            "max": self.percentile(100),
            "goal": self.goal,
            "is_met": self.is_met(),
        })
    }
}

/// The machine's load of the latest minute.
fn load() -> String {
    let text = fs::read_to_string("/proc/loadavg").unwrap_or_default();
    text.split(' ').next().unwrap_or("?").to_owned()
}
