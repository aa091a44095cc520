//! The text, and its documentation.

use insta::assert_snapshot;

use super::*;
use crate::{
    api::types::{
        BackendCountersView, BackendCountsView, BackendView, BucketView, DropView, PassiveView,
        ProbeView, ProviderState, ProviderView, ReplicasView, ServiceView, ServingState, TableView,
        VerdictView,
    },
    model::{BackendPath, BackendState, ServiceName},
};

fn backend(service: ServiceName) -> BackendView {
    BackendView {
        number: Some(1),
        service,
        place: "1".to_owned(),
        display_name: "shop-1".to_owned(),
        address: "172.18.0.2:80".parse().unwrap(),
        path: BackendPath::Routed,
        weight: 100,
        state: BackendState::Healthy,
        state_reason: None,
        steering: None,
        probe: Some(ProbeView { passed: 8, failed: 2, ..ProbeView::default() }),
        replies: None,
        weight_origin: crate::model::Origin::Default,
        exclusive: crate::model::Setting::default(),
        yields: false,
        share_percent: 33.333,
        counters: BackendCountersView {
            packets_in: 1,
            bytes_in: 2,
            packets_out: 3,
            bytes_out: u64::MAX,
            flows: 4,
            refusals: 5,
        },
        connections: Some(5),
        source: String::new(),
    }
}

fn view() -> View {
    let mut view = View::default();
    let service = ServiceName("compose/shop/a\"b\\c\nd:80".into());
    view.services.push(ServiceView {
        name: service.clone(),
        frontends: Vec::new(),
        protocols: Vec::new(),
        ring_size: None,
        replicas: Some(ReplicasView { expected: 3, present: 1, minimum: Some(2) }),
        backends: BackendCountsView { healthy: 1, ..BackendCountsView::default() },
        state: ServingState::Panic,
        source: "docker".to_owned(),
        counters: BackendCountersView::default(),
        connections: None,
    });
    view.backends.push(backend(service));
    view.status.version = "1.2.3".to_owned();
    view.status.abi_version = 2;
    view.status.drops = vec![DropView { reason: "no_backend".to_owned(), packets: 7 }];
    view.status.verdicts = vec![VerdictView {
        hook: "tc_front".to_owned(),
        verdict: "deliver".to_owned(),
        packets: 9,
    }];
    let table = TableView { name: "flows_v4".to_owned(), used: 3, limit: 10, trouble: None };
    view.status.tables = vec![table];
    view.status.providers = vec![ProviderView {
        name: "file".to_owned(),
        state: ProviderState::Ok,
        trouble: None,
        claims: 1,
    }];
    view.status.reconcile.rounds = 11;
    view.status.reconcile.lags = HistogramView {
        buckets: vec![
            BucketView { up_to_seconds: 0.00025, count: 0 },
            BucketView { up_to_seconds: 0.01, count: 6 },
        ],
        count: 7,
        sum_seconds: 0.0625,
    };
    let sign = "silent".to_owned();
    view.status.passive = vec![PassiveView { sign, observations: 30, failures: 2, dismissed: 1 }];
    view
}

fn text() -> String {
    let process = Process {
        cpu_seconds: Some(1.5),
        resident_bytes: Some(4096),
        open_descriptors: Some(12),
        max_descriptors: Some(1024),
    };
    whole(&Told { view: &view(), uptime_seconds: 60, process })
}

/// All parts.
fn whole(told: &Told<'_>) -> String {
    let mut text = String::new();
    render(told, &mut |part| {
        text += &part;
        ControlFlow::Continue(())
    });
    text
}

#[test]
fn much_is_told_in_parts() {
    let mut view = view();
    let backend = view.backends[0].clone();
    view.backends = vec![backend; 1000];
    let told = Told { view: &view, uptime_seconds: 0, process: Process::default() };
    let mut parts = Vec::new();
    render(&told, &mut |part| {
        parts.push(part);
        ControlFlow::Continue(())
    });
    assert!(parts.len() > 2, "{}", parts.len());
    let mut given = 0;
    render(&told, &mut |_| {
        given += 1;
        ControlFlow::Break(())
    });
    assert_eq!(given, 1, "to nobody");
    for part in &parts {
        assert!(part.len() < PART_BYTES + 1024 && part.ends_with('\n'), "{}", part.len());
    }
    assert_eq!(parts.concat(), whole(&told));
}

#[test]
fn the_text() {
    let text = text();
    // What is always 0 here says nothing.
    let shown = text.lines().filter(|line| !line.starts_with('#') && !line.ends_with(" 0"));
    assert_snapshot!(shown.collect::<Vec<_>>().join("\n"), @r#"
    lb_build_info{version="1.2.3",abi="2"} 1
    lb_uptime_seconds 60
    lb_drops_total{reason="no_backend"} 7
    lb_verdicts_total{hook="tc_front",verdict="deliver"} 9
    lb_backend_packets_total{service="compose/shop/a\"b\\c\nd:80",place="1",backend="shop-1",address="172.18.0.2:80",direction="in"} 1
    lb_backend_packets_total{service="compose/shop/a\"b\\c\nd:80",place="1",backend="shop-1",address="172.18.0.2:80",direction="out"} 3
    lb_backend_bytes_total{service="compose/shop/a\"b\\c\nd:80",place="1",backend="shop-1",address="172.18.0.2:80",direction="in"} 2
    lb_backend_bytes_total{service="compose/shop/a\"b\\c\nd:80",place="1",backend="shop-1",address="172.18.0.2:80",direction="out"} 18446744073709551615
    lb_backend_flows_total{service="compose/shop/a\"b\\c\nd:80",place="1",backend="shop-1",address="172.18.0.2:80"} 4
    lb_backend_refusals_total{service="compose/shop/a\"b\\c\nd:80",place="1",backend="shop-1",address="172.18.0.2:80"} 5
    lb_backend_connections{service="compose/shop/a\"b\\c\nd:80",place="1",backend="shop-1",address="172.18.0.2:80"} 5
    lb_backend_share_ratio{service="compose/shop/a\"b\\c\nd:80",place="1",backend="shop-1",address="172.18.0.2:80"} 0.33333
    lb_backend_state{service="compose/shop/a\"b\\c\nd:80",place="1",backend="shop-1",address="172.18.0.2:80",state="healthy"} 1
    lb_backend_probes_total{service="compose/shop/a\"b\\c\nd:80",place="1",backend="shop-1",address="172.18.0.2:80",result="passed"} 8
    lb_backend_probes_total{service="compose/shop/a\"b\\c\nd:80",place="1",backend="shop-1",address="172.18.0.2:80",result="failed"} 2
    lb_service_backends{service="compose/shop/a\"b\\c\nd:80",state="healthy"} 1
    lb_service_replicas_expected{service="compose/shop/a\"b\\c\nd:80"} 3
    lb_service_replicas_minimum{service="compose/shop/a\"b\\c\nd:80"} 2
    lb_service_replicas_present{service="compose/shop/a\"b\\c\nd:80"} 1
    lb_service_panic{service="compose/shop/a\"b\\c\nd:80"} 1
    lb_passive_observations_total{sign="silent"} 30
    lb_passive_failures_total{sign="silent"} 2
    lb_passive_dismissed_total{sign="silent"} 1
    lb_table_entries{table="flows_v4"} 3
    lb_table_limit{table="flows_v4"} 10
    lb_provider_up{provider="file"} 1
    lb_reconcile_rounds_total 11
    lb_reconcile_lag_seconds_bucket{le="0.01"} 6
    lb_reconcile_lag_seconds_bucket{le="+Inf"} 7
    lb_reconcile_lag_seconds_sum 0.0625
    lb_reconcile_lag_seconds_count 7
    process_cpu_seconds_total 1.5
    process_resident_memory_bytes 4096
    process_open_fds 12
    process_max_fds 1024
    "#);
    assert_snapshot!(text.lines().take(6).collect::<Vec<_>>().join("\n"), @r#"
    # HELP lb_build_info Version of the agent and of its map layouts; always 1.
    # TYPE lb_build_info gauge
    lb_build_info{version="1.2.3",abi="2"} 1
    # HELP lb_uptime_seconds Seconds since the agent started.
    # TYPE lb_uptime_seconds gauge
    lb_uptime_seconds 60
    "#);
}

/// What is not known is no zero.
#[test]
fn unknown_values_are_absent() {
    let mut view = view();
    view.backends[0].connections = None;
    view.backends[0].probe = None;
    let text = whole(&Told { view: &view, uptime_seconds: 0, process: Process::default() });
    for name in ["lb_backend_connections", "lb_backend_probes_total", "process_open_fds"] {
        let samples = text.lines().filter(|line| line.starts_with(name)).count();
        assert_eq!(samples, 0, "{name}");
        assert!(text.contains(&format!("# TYPE {name} ")), "{name}");
    }
}

/// Name, kind and labels, as a line of the documentation has them.
type Row = (String, String, Vec<String>);

/// What the output has: every metric with the labels of its samples.
fn rows_of_output() -> Vec<Row> {
    let mut rows: Vec<Row> = Vec::new();
    let text = text();
    for line in text.lines() {
        if let Some(rest) = line.strip_prefix("# TYPE ") {
            let (name, kind) = rest.split_once(' ').expect(line);
            rows.push((name.to_owned(), kind.to_owned(), vec!["no samples".to_owned()]));
        } else if !line.starts_with('#') {
            let (_, labels) = parse(line);
            rows.last_mut().expect("a type comes first").2 =
                labels.into_iter().filter(|label| label != "le").collect();
        }
    }
    rows
}

/// The name of a sample, and those of its labels.
fn parse(line: &str) -> (String, Vec<String>) {
    let (series, value) = line.rsplit_once(' ').expect(line);
    assert!(value.parse::<f64>().is_ok(), "{line}");
    let Some((name, mut rest)) = series.split_once('{') else {
        return (series.to_owned(), Vec::new());
    };
    let mut labels = Vec::new();
    loop {
        let (label, value) = rest.split_once("=\"").expect(line);
        labels.push(label.to_owned());
        let mut is_escaped = false;
        let end = value.find(|character| {
            let is_end = character == '"' && !is_escaped;
            is_escaped = character == '\\' && !is_escaped;
            is_end
        });
        rest = &value[end.expect(line) + 1..];
        match rest.strip_prefix(',') {
            Some(more) => rest = more,
            None => break,
        }
    }
    assert_eq!(rest, "}", "{line}");
    (name.to_owned(), labels)
}

fn rows_of_documentation() -> Vec<Row> {
    let documentation = include_str!("../../../../docs/metrics.md");
    let rows = documentation.lines().filter(|line| line.starts_with("| `"));
    rows.map(|line| {
        let cells: Vec<&str> = line.split('|').map(str::trim).collect();
        let plain = |text: &str| text.trim_matches('`').to_owned();
        let labels = cells[3].split(", ").filter(|label| !label.is_empty());
        (plain(cells[1]), cells[2].to_owned(), labels.map(plain).collect())
    })
    .collect()
}

#[test]
fn documentation_and_output_have_the_same() {
    assert_eq!(rows_of_documentation(), rows_of_output(), "docs/metrics.md and the output");
    let documentation = include_str!("../../../../docs/metrics.md");
    for Metric { name, help, .. } in METRICS {
        let mut lines = documentation.lines().filter(|line| line.contains(&format!("`{name}`")));
        assert!(lines.any(|line| line.ends_with(&format!("| {help} |"))), "{name}: {help}");
    }
}

/// Each sample belongs to the metric that was announced last, and is there once.
#[test]
fn every_line_is_of_the_format() {
    let text = text();
    let (mut current, mut kind) = ("", "");
    let mut seen = std::collections::BTreeSet::new();
    for line in text.lines() {
        if let Some(rest) = line.strip_prefix("# TYPE ") {
            (current, kind) = rest.split_once(' ').expect(line);
        } else if !line.starts_with("# HELP ") {
            let (name, _) = parse(line);
            let suffixes: &[&str] =
                if kind == "histogram" { &["_bucket", "_sum", "_count"] } else { &[""] };
            assert!(suffixes.iter().any(|it| name == format!("{current}{it}")), "{line}");
            let (series, _) = line.rsplit_once(' ').expect(line);
            assert!(seen.insert(series.to_owned()), "twice: {series}");
        }
    }
}

/// What `promtool check metrics` looks for.
#[test]
fn names_follow_the_rules_of_prometheus() {
    let units = ["seconds", "bytes", "ratio"];
    let not_base = ["ms", "us", "milliseconds", "percent", "kilobytes", "kb", "mb", "minutes"];
    for Metric { name, kind, labels, help, .. } in METRICS {
        let words: Vec<&str> = name.split('_').collect();
        let is_snake = |character: char| character.is_ascii_lowercase() || character == '_';
        assert!(name.chars().all(is_snake), "{name}");
        assert_eq!(*kind == Kind::Counter, words.last() == Some(&"total"), "{name}");
        assert!(!words.iter().any(|word| not_base.contains(word)), "{name}");
        assert!(!["counter", "gauge", "histogram"].iter().any(|it| name.contains(it)), "{name}");
        let unit = words.iter().rposition(|word| units.contains(word));
        let last = words.len() - 1 - usize::from(*kind == Kind::Counter);
        assert!(unit.is_none_or(|at| at == last), "{name}: the unit comes last");
        assert!(*kind != Kind::Histogram || unit.is_some(), "{name}: of what?");
        assert!(!labels.contains(&"le") && !labels.contains(&"quantile"), "{name}");
        assert!(!help.is_empty() && !help.contains(['\\', '\n']), "{name}");
    }
}

/// What docs/metrics.md says of their number.
#[test]
fn series_are_as_many_as_documented() {
    let count = |prefix: &str, view: &View| {
        let process = Process::default();
        let text = whole(&Told { view, uptime_seconds: 0, process });
        text.lines().filter(|line| line.starts_with(prefix)).count()
    };
    let mut view = view();
    assert_eq!((count("lb_backend_", &view), count("lb_service_", &view)), (9 + 3, 7 + 3));
    view.backends[0].probe = None;
    view.services[0].replicas = None;
    assert_eq!((count("lb_backend_", &view), count("lb_service_", &view)), (9, 7));
}
