//! Every metric.

use lb_common::abi::{DropReason, Hook, Verdict};

use super::{Kind, Metric, Samples, Told};
use crate::api::types::{BackendView, PassiveView, ProviderState, RefusedBy, ServingState};

const BACKEND: &[&str] = &["service", "place", "backend", "address"];
const BACKEND_DIRECTION: &[&str] = &["service", "place", "backend", "address", "direction"];
const BACKEND_STATE: &[&str] = &["service", "place", "backend", "address", "state"];
const BACKEND_RESULT: &[&str] = &["service", "place", "backend", "address", "result"];

macro_rules! metrics {
    ($($name:literal $kind:ident $labels:expr, $help:literal, $samples:expr;)*) => {
        /// All metrics, in the order of the output.
        pub(super) const METRICS: &[Metric] = &[$(Metric {
            name: $name,
            kind: Kind::$kind,
            labels: $labels,
            help: $help,
            samples: $samples,
        },)*];
    };
}

metrics! {
    "lb_build_info" Gauge &["version", "abi"],
        "Version of the agent and of its map layouts; always 1.",
        |told, samples| {
            let status = &told.view.status;
            samples.add(&[&status.version, &status.abi_version.to_string()], 1);
        };
    "lb_uptime_seconds" Gauge &[],
        "Seconds since the agent started.",
        |told, samples| samples.add(&[], told.uptime_seconds);
    "lb_drops_total" Counter &["reason"],
        "Packets to a VIP that were not forwarded, by reason (docs/drop-reasons.md).",
        drops;
    "lb_verdicts_total" Counter &["hook", "verdict"],
        "Packets by hook and by what was decided on them.",
        verdicts;
    "lb_backend_packets_total" Counter BACKEND_DIRECTION,
        "Packets to (in) and from (out) a backend.",
        |told, samples| each_backend(told, |backend, [service, place, name, address]| {
            let counters = &backend.counters;
            for (way, count) in [("in", counters.packets_in), ("out", counters.packets_out)] {
                samples.add(&[service, place, name, address, way], count);
            }
        });
    "lb_backend_bytes_total" Counter BACKEND_DIRECTION,
        "Bytes to (in) and from (out) a backend, link layer included.",
        |told, samples| each_backend(told, |backend, [service, place, name, address]| {
            let counters = &backend.counters;
            for (way, count) in [("in", counters.bytes_in), ("out", counters.bytes_out)] {
                samples.add(&[service, place, name, address, way], count);
            }
        });
    "lb_backend_flows_total" Counter BACKEND,
        "Connections given to a backend.",
        |told, samples| each_backend(told, |backend, labels| {
            samples.add(labels, backend.counters.flows);
        });
    "lb_backend_refusals_total" Counter BACKEND,
        "Connections that a backend refused: resets in answer to a SYN.",
        |told, samples| each_backend(told, |backend, labels| {
            samples.add(labels, backend.counters.refusals);
        });
    "lb_backend_connections" Gauge BACKEND,
        "Established connections of a backend, where they are counted (see below).",
        |told, samples| each_backend(told, |backend, labels| {
            samples.add_known(labels, backend.connections);
        });
    "lb_backend_share_ratio" Gauge BACKEND,
        "Share of its service's new connections that a backend gets, from 0 to 1.",
        |told, samples| each_backend(told, |backend, labels| {
            // Shares are rounded to a thousandth of a percent.
            samples.add(labels, (backend.share_percent * 1000.0).round() / 100_000.0);
        });
    "lb_backend_state" Gauge BACKEND_STATE,
        "The state of a backend, as a label; always 1.",
        |told, samples| each_backend(told, |backend, [service, place, name, address]| {
            samples.add(&[service, place, name, address, &backend.state.to_string()], 1);
        });
    "lb_backend_probes_total" Counter BACKEND_RESULT,
        "Probes of a backend by result, since the agent knows it.",
        |told, samples| each_backend(told, |backend, [service, place, name, address]| {
            let Some(probe) = &backend.probe else { return };
            for (result, count) in results(probe.passed, probe.failed, probe.inconclusive) {
                samples.add(&[service, place, name, address, result], count);
            }
        });
    "lb_service_backends" Gauge &["service", "state"],
        "Backends of a service by state.",
        services;
    "lb_service_replicas_expected" Gauge &["service"],
        "Replicas that the labels of a service expect, where they do.",
        |told, samples| for service in &told.view.services {
            samples.add_known(&[&service.name.0], service.replicas.map(|it| it.expected));
        };
    "lb_service_replicas_minimum" Gauge &["service"],
        "Replicas that an update of such a service leaves, where its labels say how many it replaces at a time.",
        |told, samples| for service in &told.view.services {
            let minimum = service.replicas.and_then(|it| it.minimum);
            samples.add_known(&[&service.name.0], minimum);
        };
    "lb_service_replicas_present" Gauge &["service"],
        "Replicas of such a service that are not leaving.",
        |told, samples| for service in &told.view.services {
            samples.add_known(&[&service.name.0], service.replicas.map(|it| it.present));
        };
    "lb_service_panic" Gauge &["service"],
        "Whether a service is in panic: nearly all of its backends fail their probes, and get new connections all the same.",
        |told, samples| for service in &told.view.services {
            let is_panic = service.state == ServingState::Panic;
            samples.add(&[&service.name.0], u8::from(is_panic));
        };
    "lb_probes_total" Counter &["result"],
        "Probes by result, of all backends that there ever were.",
        |told, samples| {
            let probes = &told.view.status.probes;
            for (result, count) in results(probes.passed, probes.failed, probes.inconclusive) {
                samples.add(&[result], count);
            }
        };
    "lb_probe_duration_seconds" Histogram &[],
        "Durations of probes that passed or failed.",
        |told, samples| samples.add_histogram(&told.view.status.probes.durations);
    "lb_probe_lateness_seconds" Histogram &[],
        "How much later than due probes were begun.",
        |told, samples| samples.add_histogram(&told.view.status.probes.lateness);
    "lb_probe_state_changes_total" Counter &[],
        "Times that probes changed the state of a backend.",
        |told, samples| samples.add(&[], told.view.status.probes.changes);
    "lb_probe_targets" Gauge &[],
        "Backends that are probed.",
        |told, samples| samples.add(&[], told.view.status.probes.targets);
    "lb_probes_in_flight" Gauge &[],
        "Probes under way.",
        |told, samples| samples.add(&[], told.view.status.probes.in_flight);
    "lb_passive_observations_total" Counter &["sign"],
        "Signs of failing backends that the data path told of; it samples them.",
        |told, samples| passive(told, samples, |one| one.observations);
    "lb_passive_failures_total" Counter &["sign"],
        "Signs after which a backend was found to have failed, and was taken out.",
        |told, samples| passive(told, samples, |one| one.failures);
    "lb_passive_dismissed_total" Counter &["sign"],
        "Signs that were looked into and came to nothing.",
        |told, samples| passive(told, samples, |one| one.dismissed);
    "lb_table_entries" Gauge &["table"],
        "Entries in use in a table of the data path.",
        |told, samples| for table in &told.view.status.tables {
            samples.add(&[&table.name], table.used);
        };
    "lb_table_limit" Gauge &["table"],
        "Entries that a table of the data path has room for.",
        |told, samples| for table in &told.view.status.tables {
            samples.add(&[&table.name], table.limit);
        };
    "lb_provider_up" Gauge &["provider"],
        "Whether a source of truth is seen; what it told last stays in force.",
        |told, samples| for provider in &told.view.status.providers {
            samples.add(&[&provider.name], u8::from(provider.state == ProviderState::Ok));
        };
    "lb_refusals" Gauge &["by"],
        "What was asked for and is not granted, by who refuses it.",
        refusals;
    "lb_reconcile_rounds_total" Counter &[],
        "Comparisons of what is wanted with what the kernel holds, since the agent started.",
        |told, samples| samples.add(&[], told.view.status.reconcile.rounds);
    "lb_reconcile_actions_total" Counter &[],
        "Changes made to the kernel's tables since the agent started.",
        |told, samples| samples.add(&[], told.view.status.reconcile.actions);
    "lb_reconcile_failures_total" Counter &[],
        "Changes that the kernel refused since the agent started; they are tried again.",
        |told, samples| samples.add(&[], told.view.status.reconcile.failures);
    "lb_reconcile_failing_actions" Gauge &[],
        "Changes that the kernel refuses at this moment.",
        |told, samples| samples.add(&[], told.view.status.reconcile.failed_actions);
    "lb_reconcile_duration_seconds" Histogram &[],
        "Durations of comparisons, with the changes that followed but for later ones to socket calls.",
        |told, samples| samples.add_histogram(&told.view.status.reconcile.durations);
    "lb_reconcile_lag_seconds" Histogram &[],
        "How long after an event nothing was left to do about it in the tables of packets.",
        |told, samples| samples.add_histogram(&told.view.status.reconcile.lags);
    "process_cpu_seconds_total" Counter &[],
        "Processor time that the agent has used.",
        |told, samples| samples.add_known(&[], told.process.cpu_seconds);
    "process_resident_memory_bytes" Gauge &[],
        "Memory of the agent in RAM, with the parts of maps that it has mapped and touched.",
        |told, samples| samples.add_known(&[], told.process.resident_bytes);
    "process_open_fds" Gauge &[],
        "Descriptors that the agent has open.",
        |told, samples| samples.add_known(&[], told.process.open_descriptors);
    "process_max_fds" Gauge &[],
        "Descriptors that the agent may have open.",
        |told, samples| samples.add_known(&[], told.process.max_descriptors);
}

/// Every backend with the values of [`BACKEND`].
fn each_backend(told: &Told<'_>, mut add: impl FnMut(&BackendView, &[&str; 4])) {
    for backend in &told.view.backends {
        let address = backend.address.to_string();
        add(backend, &[&backend.service.0, &backend.place, &backend.display_name, &address]);
    }
}

fn passive(told: &Told<'_>, samples: &mut Samples<'_>, counted: fn(&PassiveView) -> u64) {
    for one in &told.view.status.passive {
        samples.add(&[&one.sign], counted(one));
    }
}

fn results(passed: u64, failed: u64, inconclusive: u64) -> [(&'static str, u64); 3] {
    [("passed", passed), ("failed", failed), ("inconclusive", inconclusive)]
}

/// Every reason, so that a rate is known from the first packet on.
fn drops(told: &Told<'_>, samples: &mut Samples<'_>) {
    for reason in DropReason::ALL.iter().filter(|reason| **reason != DropReason::None) {
        let counted = told.view.status.drops.iter().find(|drop| drop.reason == reason.name());
        samples.add(&[reason.name()], counted.map_or(0, |drop| drop.packets));
    }
}

fn verdicts(told: &Told<'_>, samples: &mut Samples<'_>) {
    for hook in Hook::ALL {
        for verdict in Verdict::ALL {
            let (hook, verdict) = (hook.name(), verdict.name());
            let mut counted = told.view.status.verdicts.iter();
            let counted = counted.find(|one| one.hook == hook && one.verdict == verdict);
            samples.add(&[hook, verdict], counted.map_or(0, |one| one.packets));
        }
    }
}

fn services(told: &Told<'_>, samples: &mut Samples<'_>) {
    for service in &told.view.services {
        let counts = &service.backends;
        for (state, count) in [
            ("starting", counts.starting),
            ("healthy", counts.healthy),
            ("unhealthy", counts.unhealthy),
            ("draining", counts.draining),
            ("disabled", counts.disabled),
            ("gone", counts.gone),
        ] {
            samples.add(&[&service.name.0, state], count);
        }
    }
}

fn refusals(told: &Told<'_>, samples: &mut Samples<'_>) {
    for (by, name) in [
        (RefusedBy::Provider, "provider"),
        (RefusedBy::Arbiter, "arbiter"),
        (RefusedBy::Planner, "planner"),
        (RefusedBy::Kernel, "kernel"),
    ] {
        let count = told.view.status.refusals.iter().filter(|one| one.refused_by == by).count();
        samples.add(&[name], count);
    }
}
