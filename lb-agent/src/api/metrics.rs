//! The view as text for Prometheus (exposition format 0.0.4). Pure.
//!
//! Names and labels are part of the interface; `docs/metrics.md` lists them, and a test compares.
//! How many series there can be follows from the limits of `lb_common::abi`: no label has a value
//! that comes from a packet.

mod list;

use std::{
    fmt::{self, Write as _},
    ops::ControlFlow,
};

use self::list::METRICS;
use super::types::{HistogramView, View};

/// What `render` makes.
pub const CONTENT_TYPE: &str = "text/plain; version=0.0.4; charset=utf-8";

/// What there is to tell.
#[derive(Clone, Copy, Debug)]
pub struct Told<'a> {
    /// What the runtime knows.
    pub view: &'a View,
    /// Since the agent started.
    pub uptime_seconds: u64,
    /// The agent as the kernel sees it.
    pub process: Process,
}

/// The agent as the kernel sees it; what could not be read is absent.
#[derive(Clone, Copy, PartialEq, Debug, Default)]
pub struct Process {
    /// Processor time that it has used.
    pub cpu_seconds: Option<f64>,
    /// Memory that it has in RAM.
    pub resident_bytes: Option<u64>,
    /// Descriptors that it has open.
    pub open_descriptors: Option<u64>,
    /// Descriptors that it may have open.
    pub max_descriptors: Option<u64>,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Kind {
    Counter,
    Gauge,
    Histogram,
}

/// A metric.
#[derive(Clone, Copy, Debug)]
struct Metric {
    name: &'static str,
    kind: Kind,
    labels: &'static [&'static str],
    help: &'static str,
    samples: fn(&Told<'_>, &mut Samples<'_>),
}

/// Bytes of text that are given on together, about.
const PART_BYTES: usize = 64 * 1024;

/// Where parts of the text go. `Break`: nobody wants more.
pub type Give<'a> = &'a mut dyn FnMut(String) -> ControlFlow<()>;

/// All metrics, in parts: together they may be a hundred megabytes.
pub fn render(told: &Told<'_>, give: Give<'_>) {
    let mut text = String::new();
    for metric in METRICS {
        let Metric { name, kind, help, .. } = metric;
        // Writing to a string cannot fail, here and below.
        writeln!(text, "# HELP {name} {help}\n# TYPE {name} {kind}").ok();
        let mut samples = Samples { metric, text: &mut text, give, is_over: false };
        (metric.samples)(told, &mut samples);
        if samples.is_over {
            return;
        }
    }
    // The last part: whoever wants no more has got all the same.
    let _over = give(text);
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Counter => "counter",
            Self::Gauge => "gauge",
            Self::Histogram => "histogram",
        })
    }
}

/// Where a metric's samples are written.
struct Samples<'a> {
    metric: &'a Metric,
    text: &'a mut String,
    give: &'a mut dyn FnMut(String) -> ControlFlow<()>,
    /// Nobody wants more.
    is_over: bool,
}

impl Samples<'_> {
    fn add(&mut self, labels: &[&str], value: impl fmt::Display) {
        debug_assert_eq!(labels.len(), self.metric.labels.len(), "{}", self.metric.name);
        if self.is_over {
            return;
        }
        self.text.push_str(self.metric.name);
        for (index, (name, value)) in self.metric.labels.iter().zip(labels).enumerate() {
            let before = if index == 0 { '{' } else { ',' };
            write!(self.text, "{before}{name}=\"").ok();
            self.push_escaped(value);
            self.text.push('"');
        }
        if !labels.is_empty() {
            self.text.push('}');
        }
        writeln!(self.text, " {value}").ok();
        if self.text.len() >= PART_BYTES {
            let next = String::with_capacity(PART_BYTES + 1024);
            self.is_over = (self.give)(std::mem::replace(self.text, next)).is_break();
        }
    }

    /// What is not known is absent.
    fn add_known(&mut self, labels: &[&str], value: Option<impl fmt::Display>) {
        if let Some(value) = value {
            self.add(labels, value);
        }
    }

    fn add_histogram(&mut self, histogram: &HistogramView) {
        let name = self.metric.name;
        for bucket in &histogram.buckets {
            let (limit, count) = (bucket.up_to_seconds, bucket.count);
            writeln!(self.text, "{name}_bucket{{le=\"{limit}\"}} {count}").ok();
        }
        let HistogramView { count, sum_seconds, .. } = histogram;
        writeln!(self.text, "{name}_bucket{{le=\"+Inf\"}} {count}").ok();
        writeln!(self.text, "{name}_sum {sum_seconds}\n{name}_count {count}").ok();
    }

    /// A label's value: names come from labels of containers.
    fn push_escaped(&mut self, value: &str) {
        for character in value.chars() {
            match character {
                '\\' => self.text.push_str("\\\\"),
                '"' => self.text.push_str("\\\""),
                '\n' => self.text.push_str("\\n"),
                other => self.text.push(other),
            }
        }
    }
}

#[cfg(test)]
mod tests;
