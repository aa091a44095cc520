//! What `lbctl` tells of single packets: `trace`, `explain`, drops, and metrics.

use std::{
    collections::BTreeSet,
    net::{IpAddr, SocketAddr},
    os::fd::AsFd as _,
    time::Duration,
};

use anyhow::{Context as _, Result, ensure};
use aya::maps::{Array, Map, MapData};
use lb_common::abi::{META_TRACES, Meta, map_names};
use lb_tests::{
    Agent, AgentConfig, RemoteHost, World, needs, process,
    tracing::Tracing,
    world::{CLIENT, CLIENT6, FRONT, vip, vip6},
};
use serde_json::Value;

fn is_tracing(agent: &Agent) -> Result<bool> {
    let map = MapData::from_pin(agent.pin_path().join("maps").join(map_names::META))?;
    // Open, and so an array of ours.
    map.fd().as_fd();
    let meta: Meta = Array::try_from(Map::Array(map))?.get(&0, 0)?;
    Ok(meta.flags & META_TRACES != 0)
}

/// What is asked by one family.
#[derive(Clone, Copy)]
struct Family {
    /// The service of the file.
    service: &'static str,
    client: IpAddr,
    at: fn(u16) -> SocketAddr,
    address: fn(&RemoteHost) -> SocketAddr,
    /// Nobody's, as the client's network goes.
    nobody: &'static str,
    /// An address that is no VIP.
    elsewhere: &'static str,
    /// Where no backend is.
    no_backend: &'static str,
}

const FAMILIES: [Family; 2] = [
    Family {
        service: "file/web",
        client: CLIENT,
        at: vip,
        address: |remote| remote.address,
        nobody: "198.51.100.0/24",
        elsewhere: "203.0.113.99:80",
        no_backend: "10.99.1.77:1",
    },
    Family {
        service: "file/web6",
        client: CLIENT6,
        at: vip6,
        address: |remote| remote.address6,
        nobody: "2001:db8:77::/48",
        elsewhere: "[2001:db8:f::99]:80",
        no_backend: "[2001:db8:99:1::77]:1",
    },
];

/// Two machines behind port 80 of both VIPs, and metrics.
fn start(world: &World) -> Result<([RemoteHost; 2], Agent)> {
    let remotes = [RemoteHost::start(world.node(), 1)?, RemoteHost::start(world.node(), 2)?];
    let mut config = AgentConfig::new(FRONT);
    config.front = [FRONT, "back1", "back2"].map(str::to_owned).to_vec();
    config.extra += "[metrics]\nlisten = \"127.0.0.1:9432\"\n";
    for Family { service, at, address, .. } in FAMILIES {
        let name = service.trim_start_matches("file/");
        let frontend = format!("name = \"{name}\"\nfrontends = [\"tcp://{}\"]\n", at(80));
        config.extra.extend(["[[service]]\n", &frontend]);
        let backend = |remote| format!("[[service.backend]]\naddress = \"{}\"\n", address(remote));
        config.extra.extend(remotes.iter().map(backend));
    }
    let agent = world.start_agent(&config)?;
    process::wait_for("the backends", Duration::from_secs(10), || {
        ensure!(agent.healthy_backends()?.len() == 4, "not yet");
        Ok(())
    })?;
    Ok((remotes, agent))
}

/// The client's address with a port.
fn from(client: IpAddr, port: u16) -> SocketAddr {
    SocketAddr::new(client, port)
}

#[test]
fn packets_are_told_of_while_somebody_traces() -> Result<()> {
    needs!(namespaces);
    let world = World::plain()?;
    let (_remotes, agent) = start(&world)?;
    for family in FAMILIES {
        packets_are_told_of(&world, &agent, family).context(family.service)?;
    }
    let refusal = agent.lbctl("trace --reason nonsense").expect_err("there is no such reason");
    ensure!(format!("{refusal:#}").contains("no drop reason is called `nonsense`"), "{refusal:#}");
    Ok(())
}

fn packets_are_told_of(world: &World, agent: &Agent, family: Family) -> Result<()> {
    let Family { service, client, at, nobody, .. } = family;
    ensure!(!is_tracing(agent)?, "nobody traces yet");

    let all = Tracing::start(agent, &format!("--client {client} -o json"))?;
    let only_one = format!("--dropped --vip {} --count 1 -o json", at(80).ip());
    let closed = Tracing::start(agent, &only_one)?;
    let others = Tracing::start(agent, &format!("--client {nobody} --seconds 2 -o json"))?;
    ensure!(is_tracing(agent)?);

    // A port that nobody serves.
    ensure!(world.client().fetch_one(at(81)).is_err(), "nobody serves port 81");
    let target = at(81).to_string();
    let refused = [
        ("hook", "tc_front"),
        ("verdict", "answer"),
        ("answer", "reset"),
        ("reason", "no_frontend"),
        ("kind", "S"),
        ("destination", &target),
    ];
    all.find(&refused)?;
    closed.find(&refused)?;
    closed.ends_without_more(Duration::from_secs(5)).context("one was asked for")?;

    // A connection, both ways.
    let answer = world.client().fetch_one(at(80))?;
    let target = at(80).to_string();
    let served_by = answer.local.to_string();
    let source = answer.client.to_string();
    let syn = all.find(&[
        ("verdict", "route"),
        ("kind", "S"),
        ("source", &source),
        ("destination", &target),
        ("to", &served_by),
    ])?;
    ensure!(syn["backend"]["name"] == *served_by, "{syn}");
    ensure!(syn["backend"]["service"] == service, "{syn}");
    all.find(&[
        ("verdict", "reply"),
        ("kind", "SA"),
        ("source", &served_by),
        ("destination", &source),
        ("from", &target),
    ])?;

    // Who is not meant is told nothing; with the last one all is switched off.
    others.ends_without_more(Duration::from_secs(5)).context("another client's")?;
    drop((all, closed, others));
    process::wait_for("the end", Duration::from_secs(5), || {
        ensure!(!is_tracing(agent)?, "somebody still traces");
        Ok(())
    })
}

#[test]
fn explanations_say_where_connections_go() -> Result<()> {
    needs!(namespaces);
    let world = World::plain()?;
    let (remotes, agent) = start(&world)?;
    for family in FAMILIES {
        connections_go_where_is_said(&world, &remotes, &agent, family).context(family.service)?;
        replies_are_explained(&world, &remotes[0], &agent, family).context(family.service)?;
        let Family { client, at, elsewhere, .. } = family;
        let text = agent.lbctl(&format!("explain {client} {}", at(81)))?;
        ensure!(text.contains("decision: answer reset, no_frontend"), "{text}");
        let text = agent.lbctl(&format!("explain {client} {elsewhere}"))?;
        ensure!(text.contains("decision: pass"), "{text}");
    }
    Ok(())
}

fn connections_go_where_is_said(
    world: &World,
    remotes: &[RemoteHost; 2],
    agent: &Agent,
    Family { service, client, at, address, .. }: Family,
) -> Result<()> {
    let mut seen = BTreeSet::new();
    for port in 20_000..20_050 {
        let call = format!("explain {} {}", from(client, port), at(80));
        let explained = agent.json(&call)?;
        let name = world.client().fetch_from(port, at(80))?;
        let index = usize::from(name != "remote-1");
        ensure!(name == format!("remote-{}", index + 1), "`{name}`");
        let went_to = address(&remotes[index]).to_string();
        ensure!(explained["outcome"]["to"] == *went_to, "port {port}: {name}\n{explained:#}");
        // The rest of the connection goes the same way.
        let data = agent.json(&format!("{call} --kind data"))?;
        ensure!(data["outcome"]["to"] == *went_to, "port {port}: {name}\n{data:#}");
        seen.insert(name);
    }
    ensure!(seen.len() == 2, "all went to {seen:?}");
    let text = agent.lbctl(&format!("explain {} {}", from(client, 20_000), at(80)))?;
    let served = format!("served by {service}");
    for word in [&served, "plain, cur", "decision: route to", "replies recorded"] {
        ensure!(text.contains(word), "no `{word}` in:\n{text}");
    }
    Ok(())
}

/// What the backend says comes from the VIP if the connection is one of ours.
fn replies_are_explained(
    world: &World,
    remote: &RemoteHost,
    agent: &Agent,
    Family { client, at, address, no_backend, .. }: Family,
) -> Result<()> {
    let explain = |port: u16, kind: &str| -> Result<Value> {
        let backend = address(remote);
        agent.json(&format!("explain {} {backend} --reply --kind {kind}", from(client, port)))
    };
    let mut is_of_first = Vec::new();
    for port in 20_200..20_220 {
        let is_ours = world.client().fetch_from(port, at(80))? == "remote-1";
        let said = explain(port, "fin")?;
        let verdict = if is_ours { "reply" } else { "pass" };
        ensure!(said["outcome"]["verdict"] == verdict, "port {port}: {said:#}");
        if is_ours {
            ensure!(said["outcome"]["from"] == at(80).to_string(), "port {port}: {said:#}");
        }
        is_of_first.push(is_ours);
    }
    ensure!(is_of_first.contains(&true) && is_of_first.contains(&false), "{is_of_first:?}");
    ensure!(explain(20_300, "data")?["outcome"]["verdict"] == "pass", "nobody has that port");
    let refusal = agent.lbctl(&format!("explain {} {no_backend} --reply", from(client, 1)));
    let refusal = format!("{:#}", refusal.expect_err("there is no such backend"));
    ensure!(refusal.contains(&format!("no backend has the address {no_backend}")), "{refusal}");
    Ok(())
}

#[test]
fn drops_are_counted_named_and_explained() -> Result<()> {
    needs!(namespaces);
    let world = World::plain()?;
    let (_remotes, agent) = start(&world)?;
    for _ in 0..3 {
        ensure!(world.client().fetch_one(vip(81)).is_err(), "nobody serves port 81");
    }
    world.client().fetch_one(vip(80))?;

    // Counters that were read just now answer further questions.
    let list = process::wait_for("the drops", Duration::from_secs(5), || {
        let list = agent.lbctl("drop list")?;
        ensure!(list.contains("no_frontend") && list.contains("`lbctl service list`"), "{list}");
        Ok(list)
    })?;
    ensure!(!list.contains("ipv6_routing_header"), "{list}");
    ensure!(agent.lbctl("drop list --all")?.contains("ipv6_routing_header"));
    let rows = agent.rows("drop")?;
    let row = rows.iter().find(|row| row["reason"] == "no_frontend").context("no row")?;
    let counted = row["packets"].as_u64().context("no number")?;
    ensure!(counted >= 3, "{row}");
    let status = agent.lbctl("status")?;
    ensure!(status.contains("HOOK") && status.contains("tc_front"), "{status}");

    let metrics = |path: &str| world.node().run(&format!("curl -s http://127.0.0.1:9432/{path}"));
    let text = metrics("metrics")?;
    for line in [
        format!("lb_drops_total{{reason=\"no_frontend\"}} {counted}"),
        "lb_drops_total{reason=\"no_backend\"} 0".to_owned(),
        format!("lb_verdicts_total{{hook=\"tc_front\",verdict=\"answer\"}} {counted}"),
        "lb_service_backends{service=\"file/web\",state=\"healthy\"} 2".to_owned(),
        "lb_table_limit{table=\"services\"} 4096".to_owned(),
        "lb_provider_up{provider=\"file\"} 1".to_owned(),
    ] {
        ensure!(text.lines().any(|found| found == line), "no `{line}` in:\n{text}");
    }
    ensure!(metrics("")?.contains("the metrics are at /metrics"));
    Ok(())
}
