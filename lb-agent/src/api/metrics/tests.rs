//! The text, and its documentation.

use insta::assert_snapshot;

use super::*;
use crate::{
    api::types::{
        BackendCountersView, BackendCountsView, DropView, PassiveView, ServiceView, ServingState,
        TableView, VerdictView,
    },
    model::{BackendPath, BackendState, ServiceName},
};

fn view() -> View {
    let mut view = View::default();
    let service = ServiceName("compose/shop/a\"b\\c\nd:80".to_owned());
    view.services.push(ServiceView {
        name: service.clone(),
        frontends: Vec::new(),
        protocols: Vec::new(),
        ring_size: None,
        backends: BackendCountsView { healthy: 1, ..BackendCountsView::default() },
        state: ServingState::Serving,
        source: "docker".to_owned(),
    });
    view.backends.push(BackendView {
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
        probe: None,
        replies: None,
        weight_origin: crate::model::Origin::Default,
        share_percent: 33.333,
        counters: BackendCountersView {
            packets_in: 1,
            bytes_in: 2,
            packets_out: 3,
            bytes_out: u64::MAX,
            flows: 4,
            refusals: 5,
        },
        source: String::new(),
    });
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
    let sign = "silent".to_owned();
    view.status.passive = vec![PassiveView { sign, observations: 30, failures: 2, dismissed: 1 }];
    view
}

#[test]
fn the_text() {
    // What is always 0 here says nothing.
    let text = render(&view(), 60);
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
    lb_backend_share_percent{service="compose/shop/a\"b\\c\nd:80",place="1",backend="shop-1",address="172.18.0.2:80"} 33.333
    lb_service_backends{service="compose/shop/a\"b\\c\nd:80",state="healthy"} 1
    lb_passive_observations_total{sign="silent"} 30
    lb_passive_failures_total{sign="silent"} 2
    lb_passive_dismissed_total{sign="silent"} 1
    lb_table_entries{table="flows_v4"} 3
    lb_table_limit{table="flows_v4"} 10
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

/// Every line is a comment, or a name with labels and a number.
#[test]
fn every_line_is_of_the_format() {
    let text = render(&view(), 60);
    let mut seen = std::collections::BTreeSet::new();
    for line in text.lines().filter(|line| !line.starts_with("# ")) {
        let (series, value) = line.rsplit_once(' ').expect(line);
        assert!(value.parse::<f64>().is_ok(), "{line}");
        let name = series.split('{').next().unwrap();
        assert!(METRICS.iter().any(|metric| metric.name == name), "{line}");
        assert_eq!(series.contains('{'), series.ends_with('}'), "{line}");
        assert!(seen.insert(series.to_owned()), "twice: {series}");
    }
}

#[test]
fn documentation_lists_the_same() {
    let documentation = include_str!("../../../../docs/metrics.md");
    let documented: Vec<&str> =
        documentation.lines().filter(|line| line.starts_with("| `lb_")).collect();
    let expected: Vec<String> = METRICS
        .iter()
        .map(|Metric { name, kind, labels, help, .. }| {
            let labels: Vec<String> = labels.iter().map(|label| format!("`{label}`")).collect();
            format!("| `{name}` | {kind} | {} | {help} |", labels.join(", ")).replace("|  |", "| |")
        })
        .collect();
    assert_eq!(documented, expected, "docs/metrics.md");
}
