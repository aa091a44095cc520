//! The view as text for Prometheus (exposition format 0.0.4). Pure.
//!
//! Names and labels are part of the interface; `docs/metrics.md` lists them, and a test compares.

use std::fmt::Write as _;

use lb_common::abi::{DropReason, Hook, Verdict};

use super::types::{BackendView, PassiveView, ProviderState, RefusedBy, View};

/// What `render` makes.
pub const CONTENT_TYPE: &str = "text/plain; version=0.0.4; charset=utf-8";

/// A metric.
#[derive(Clone, Copy, Debug)]
struct Metric {
    name: &'static str,
    /// `counter` or `gauge`.
    kind: &'static str,
    labels: &'static [&'static str],
    help: &'static str,
    samples: fn(&View, &mut Samples<'_>),
}

const BACKEND: &[&str] = &["service", "place", "backend", "address"];
const BACKEND_DIRECTION: &[&str] = &["service", "place", "backend", "address", "direction"];

const PASSIVE: &[&str] = &["sign"];

const METRICS: &[Metric] = &[
    Metric {
        name: "lb_build_info",
        kind: "gauge",
        labels: &["version", "abi"],
        help: "Version of the agent and of its map layouts; always 1.",
        samples: |view, samples| {
            samples.add(&[&view.status.version, &view.status.abi_version.to_string()], 1);
        },
    },
    Metric {
        name: "lb_uptime_seconds",
        kind: "gauge",
        labels: &[],
        help: "Seconds since the agent started.",
        samples: |view, samples| samples.add(&[], view.status.uptime_seconds),
    },
    Metric {
        name: "lb_drops_total",
        kind: "counter",
        labels: &["reason"],
        help: "Packets to a VIP that were not forwarded, by reason (docs/drop-reasons.md).",
        samples: drops,
    },
    Metric {
        name: "lb_verdicts_total",
        kind: "counter",
        labels: &["hook", "verdict"],
        help: "Packets by hook and by what was decided on them.",
        samples: verdicts,
    },
    Metric {
        name: "lb_backend_packets_total",
        kind: "counter",
        labels: BACKEND_DIRECTION,
        help: "Packets to (in) and from (out) a backend.",
        samples: |view, samples| {
            each_backend(view, samples, |backend| {
                (backend.counters.packets_in, backend.counters.packets_out)
            });
        },
    },
    Metric {
        name: "lb_backend_bytes_total",
        kind: "counter",
        labels: BACKEND_DIRECTION,
        help: "Bytes to (in) and from (out) a backend, link layer included.",
        samples: |view, samples| {
            each_backend(view, samples, |backend| {
                (backend.counters.bytes_in, backend.counters.bytes_out)
            });
        },
    },
    Metric {
        name: "lb_backend_flows_total",
        kind: "counter",
        labels: BACKEND,
        help: "Connections given to a backend.",
        samples: |view, samples| {
            for backend in &view.backends {
                samples.add(&labels_of(backend).each_ref(), backend.counters.flows);
            }
        },
    },
    Metric {
        name: "lb_backend_refusals_total",
        kind: "counter",
        labels: BACKEND,
        help: "Connections that a backend refused: resets in answer to a SYN.",
        samples: |view, samples| {
            for backend in &view.backends {
                samples.add(&labels_of(backend).each_ref(), backend.counters.refusals);
            }
        },
    },
    Metric {
        name: "lb_backend_share_percent",
        kind: "gauge",
        labels: BACKEND,
        help: "Share of its service's new connections that a backend gets.",
        samples: |view, samples| {
            for backend in &view.backends {
                samples.add_float(&labels_of(backend).each_ref(), backend.share_percent);
            }
        },
    },
    Metric {
        name: "lb_service_backends",
        kind: "gauge",
        labels: &["service", "state"],
        help: "Backends of a service by state.",
        samples: services,
    },
    Metric {
        name: "lb_passive_observations_total",
        kind: "counter",
        labels: PASSIVE,
        help: "Signs of failing backends that the data path told of; it samples them.",
        samples: |view, samples| passive(view, samples, |one| one.observations),
    },
    Metric {
        name: "lb_passive_failures_total",
        kind: "counter",
        labels: PASSIVE,
        help: "Signs after which a backend was found to have failed, and was taken out.",
        samples: |view, samples| passive(view, samples, |one| one.failures),
    },
    Metric {
        name: "lb_passive_dismissed_total",
        kind: "counter",
        labels: PASSIVE,
        help: "Signs that were looked into and came to nothing.",
        samples: |view, samples| passive(view, samples, |one| one.dismissed),
    },
    Metric {
        name: "lb_table_entries",
        kind: "gauge",
        labels: &["table"],
        help: "Entries in use in a table of the data path.",
        samples: |view, samples| {
            for table in &view.status.tables {
                samples.add(&[&table.name], table.used);
            }
        },
    },
    Metric {
        name: "lb_table_limit",
        kind: "gauge",
        labels: &["table"],
        help: "Entries that a table of the data path has room for.",
        samples: |view, samples| {
            for table in &view.status.tables {
                samples.add(&[&table.name], table.limit);
            }
        },
    },
    Metric {
        name: "lb_provider_up",
        kind: "gauge",
        labels: &["provider"],
        help: "Whether a source of truth is seen; what it told last stays in force.",
        samples: |view, samples| {
            for provider in &view.status.providers {
                let is_up = provider.state == ProviderState::Ok;
                samples.add(&[&provider.name], u64::from(is_up));
            }
        },
    },
    Metric {
        name: "lb_refusals",
        kind: "gauge",
        labels: &["by"],
        help: "What was asked for and is not granted, by who refuses it.",
        samples: refusals,
    },
    Metric {
        name: "lb_reconcile_rounds_total",
        kind: "counter",
        labels: &[],
        help: "Comparisons of what is wanted with what the kernel holds, since the agent started.",
        samples: |view, samples| samples.add(&[], view.status.reconcile.rounds),
    },
    Metric {
        name: "lb_reconcile_actions_total",
        kind: "counter",
        labels: &[],
        help: "Changes made to the kernel's tables since the agent started.",
        samples: |view, samples| samples.add(&[], view.status.reconcile.actions),
    },
];

/// The metrics of a view.
#[must_use]
pub fn render(view: &View, uptime_seconds: u64) -> String {
    let mut view = view.clone();
    view.status.uptime_seconds = uptime_seconds;
    let mut text = String::new();
    for metric in METRICS {
        let Metric { name, kind, help, .. } = metric;
        // Writing to a string cannot fail, here and below.
        writeln!(text, "# HELP {name} {help}\n# TYPE {name} {kind}").ok();
        (metric.samples)(&view, &mut Samples { metric, text: &mut text });
    }
    text
}

/// Where a metric's samples are written.
struct Samples<'a> {
    metric: &'a Metric,
    text: &'a mut String,
}

impl Samples<'_> {
    fn add(&mut self, labels: &[&String], value: u64) {
        self.line(labels, &value.to_string());
    }

    fn add_float(&mut self, labels: &[&String], value: f64) {
        self.line(labels, &value.to_string());
    }

    fn line(&mut self, labels: &[&String], value: &str) {
        debug_assert_eq!(labels.len(), self.metric.labels.len(), "{}", self.metric.name);
        let pairs = self.metric.labels.iter().zip(labels);
        let pairs: Vec<String> =
            pairs.map(|(name, value)| format!("{name}=\"{}\"", escaped(value))).collect();
        self.text.push_str(self.metric.name);
        if !pairs.is_empty() {
            write!(self.text, "{{{}}}", pairs.join(",")).ok();
        }
        writeln!(self.text, " {value}").ok();
    }
}

/// A label's value: names come from labels of containers.
fn escaped(value: &str) -> String {
    value.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n")
}

fn labels_of(backend: &BackendView) -> [String; 4] {
    [
        backend.service.0.clone(),
        backend.place.clone(),
        backend.display_name.clone(),
        backend.address.to_string(),
    ]
}

fn each_backend(
    view: &View,
    samples: &mut Samples<'_>,
    counted: impl Fn(&BackendView) -> (u64, u64),
) {
    for backend in &view.backends {
        let [service, place, name, address] = labels_of(backend);
        let (packets_in, packets_out) = counted(backend);
        for (direction, count) in [("in", packets_in), ("out", packets_out)] {
            samples.add(&[&service, &place, &name, &address, &direction.to_owned()], count);
        }
    }
}

/// Every reason, so that a rate is known from the first packet on.
fn drops(view: &View, samples: &mut Samples<'_>) {
    for reason in DropReason::ALL.iter().filter(|reason| **reason != DropReason::None) {
        let counted = view.status.drops.iter().find(|drop| drop.reason == reason.name());
        samples.add(&[&reason.name().to_owned()], counted.map_or(0, |drop| drop.packets));
    }
}

fn verdicts(view: &View, samples: &mut Samples<'_>) {
    for hook in Hook::ALL {
        for verdict in Verdict::ALL {
            let (hook, verdict) = (hook.name().to_owned(), verdict.name().to_owned());
            let mut counted = view.status.verdicts.iter();
            let counted = counted.find(|one| one.hook == hook && one.verdict == verdict);
            samples.add(&[&hook, &verdict], counted.map_or(0, |one| one.packets));
        }
    }
}

fn services(view: &View, samples: &mut Samples<'_>) {
    for service in &view.services {
        let counts = &service.backends;
        for (state, count) in [
            ("starting", counts.starting),
            ("healthy", counts.healthy),
            ("unhealthy", counts.unhealthy),
            ("draining", counts.draining),
            ("disabled", counts.disabled),
        ] {
            samples.add(&[&service.name.0, &state.to_owned()], count.into());
        }
    }
}

fn passive(view: &View, samples: &mut Samples<'_>, counted: impl Fn(&PassiveView) -> u64) {
    for one in &view.status.passive {
        samples.add(&[&one.sign], counted(one));
    }
}

fn refusals(view: &View, samples: &mut Samples<'_>) {
    for (by, name) in [
        (RefusedBy::Provider, "provider"),
        (RefusedBy::Arbiter, "arbiter"),
        (RefusedBy::Planner, "planner"),
        (RefusedBy::Kernel, "kernel"),
    ] {
        let count = view.status.refusals.iter().filter(|one| one.refused_by == by).count();
        samples.add(&[&name.to_owned()], count as u64);
    }
}

#[cfg(test)]
mod tests;
