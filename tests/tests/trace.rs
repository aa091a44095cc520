//! What `lbctl` tells of single packets: `trace`, `explain`, drops, and metrics.

use std::{os::fd::AsFd as _, time::Duration};

use anyhow::{Context as _, Result, ensure};
use aya::maps::{Array, Map, MapData};
use lb_common::abi::{META_TRACES, Meta, map_names};
use lb_tests::{
    Agent, AgentConfig, RemoteHost, World, needs, process,
    tracing::Tracing,
    world::{CLIENT, FRONT, VIP, vip},
};
use serde_json::Value;

fn is_tracing(agent: &Agent) -> Result<bool> {
    let map = MapData::from_pin(agent.pin_path().join("maps").join(map_names::META))?;
    // Open, and so an array of ours.
    map.fd().as_fd();
    let meta: Meta = Array::try_from(Map::Array(map))?.get(&0, 0)?;
    Ok(meta.flags & META_TRACES != 0)
}

/// Two machines behind port 80 of the VIP, and metrics.
fn start(world: &World) -> Result<([RemoteHost; 2], Agent)> {
    let remotes = [RemoteHost::start(world.node(), 1)?, RemoteHost::start(world.node(), 2)?];
    let [one, two] = remotes.each_ref().map(|remote| remote.address);
    let mut config = AgentConfig::new(FRONT);
    config.front = [FRONT, "back1", "back2"].map(str::to_owned).to_vec();
    config.extra = format!(
        "[metrics]\nlisten = \"127.0.0.1:9432\"\n\
         [[service]]\nname = \"web\"\nfrontends = [\"tcp://{VIP}:80\"]\n\
         [[service.backend]]\naddress = \"{one}\"\n[[service.backend]]\naddress = \"{two}\"\n"
    );
    let agent = world.start_agent(&config)?;
    process::wait_for("the backends", Duration::from_secs(10), || {
        ensure!(agent.healthy_backends()?.len() == 2, "not yet");
        Ok(())
    })?;
    Ok((remotes, agent))
}

#[test]
fn packets_are_told_of_while_somebody_traces() -> Result<()> {
    needs!(namespaces);
    let world = World::plain()?;
    let (_remotes, agent) = start(&world)?;
    ensure!(!is_tracing(&agent)?, "nobody traces yet");

    let all = Tracing::start(&agent, &format!("--client {CLIENT} -o json"))?;
    let closed = Tracing::start(&agent, &format!("--dropped --vip {VIP} --count 1 -o json"))?;
    let others = Tracing::start(&agent, "--client 198.51.100.0/24 --seconds 2 -o json")?;
    ensure!(is_tracing(&agent)?);

    // A port that nobody serves.
    ensure!(world.client().fetch_one(vip(81)).is_err(), "nobody serves port 81");
    let refused = [
        ("hook", "tc_front"),
        ("verdict", "answer"),
        ("answer", "reset"),
        ("reason", "no_frontend"),
        ("kind", "S"),
        ("destination", "203.0.113.10:81"),
    ];
    all.find(&refused)?;
    closed.find(&refused)?;
    closed.ends_without_more(Duration::from_secs(5)).context("one was asked for")?;

    // A connection, both ways.
    let answer = world.client().fetch_one(vip(80))?;
    let served_by = answer.local.to_string();
    let client = answer.client.to_string();
    let syn = all.find(&[
        ("verdict", "route"),
        ("kind", "S"),
        ("source", &client),
        ("destination", "203.0.113.10:80"),
        ("to", &served_by),
    ])?;
    ensure!(syn["backend"]["name"] == *served_by, "{syn}");
    ensure!(syn["backend"]["service"] == "file/web", "{syn}");
    all.find(&[
        ("verdict", "reply"),
        ("kind", "SA"),
        ("source", &served_by),
        ("destination", &client),
        ("from", "203.0.113.10:80"),
    ])?;

    // Who is not meant is told nothing; with the last one all is switched off.
    others.ends_without_more(Duration::from_secs(5)).context("another client's")?;
    drop((all, closed, others));
    process::wait_for("the end", Duration::from_secs(5), || {
        ensure!(!is_tracing(&agent)?, "somebody still traces");
        Ok(())
    })?;
    let refusal = agent.lbctl("trace --reason nonsense").expect_err("there is no such reason");
    ensure!(format!("{refusal:#}").contains("no drop reason is called `nonsense`"), "{refusal:#}");
    Ok(())
}

#[test]
fn explanations_say_where_connections_go() -> Result<()> {
    needs!(namespaces);
    let world = World::plain()?;
    let (remotes, agent) = start(&world)?;
    let address_of = |name: &str| -> Result<String> {
        let index = usize::from(name != "remote-1");
        ensure!(name == format!("remote-{}", index + 1), "`{name}`");
        Ok(remotes[index].address.to_string())
    };
    let mut seen = std::collections::BTreeSet::new();
    for port in 20_000..20_100 {
        let explained = agent.json(&format!("explain {CLIENT}:{port} {VIP}:80"))?;
        let name = world.client().fetch_from(port, vip(80))?;
        let went_to = address_of(&name)?;
        ensure!(explained["outcome"]["to"] == *went_to, "port {port}: {name}\n{explained:#}");
        // The rest of the connection goes the same way.
        let data = agent.json(&format!("explain {CLIENT}:{port} {VIP}:80 --kind data"))?;
        ensure!(data["outcome"]["to"] == *went_to, "port {port}: {name}\n{data:#}");
        seen.insert(name);
    }
    ensure!(seen.len() == 2, "all went to {seen:?}");

    let text = agent.lbctl(&format!("explain {CLIENT}:20000 {VIP}:80"))?;
    for word in ["served by file/web", "plain, cur", "decision: route to", "replies recorded"] {
        ensure!(text.contains(word), "no `{word}` in:\n{text}");
    }
    // What the backend says comes from the VIP if the connection is one of ours.
    let from = |port: u16, kind: &str| -> Result<Value> {
        let backend = remotes[0].address;
        agent.json(&format!("explain {CLIENT}:{port} {backend} --reply --kind {kind}"))
    };
    let name = |port: u16| world.client().fetch_from(port, vip(80));
    let mut is_of_first = Vec::new();
    for port in 20_200..20_220 {
        is_of_first.push(name(port)? == "remote-1");
        let said = from(port, "fin")?;
        let verdict = if is_of_first[is_of_first.len() - 1] { "reply" } else { "pass" };
        ensure!(said["outcome"]["verdict"] == verdict, "port {port}: {said:#}");
        if verdict == "reply" {
            ensure!(said["outcome"]["from"] == format!("{VIP}:80"), "port {port}: {said:#}");
        }
    }
    ensure!(is_of_first.contains(&true) && is_of_first.contains(&false), "{is_of_first:?}");
    ensure!(from(20_300, "data")?["outcome"]["verdict"] == "pass", "nobody has that port");
    let refusal = agent.lbctl(&format!("explain {CLIENT}:1 10.99.1.77:1 --reply"));
    let refusal = format!("{:#}", refusal.expect_err("there is no such backend"));
    ensure!(refusal.contains("no backend has the address 10.99.1.77:1"), "{refusal}");

    let text = agent.lbctl(&format!("explain {CLIENT} {VIP}:81"))?;
    ensure!(text.contains("decision: answer reset, no_frontend"), "{text}");
    let text = agent.lbctl(&format!("explain {CLIENT} 203.0.113.99:80"))?;
    ensure!(text.contains("decision: pass"), "{text}");
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
