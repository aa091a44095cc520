//! Connections on which nobody speaks for as long as they may. Two minutes of nothing but waiting:
//! `cargo xtask test` lets this run beside the other tests.

use std::time::Duration;

use anyhow::{Result, ensure};
use lb_tests::{
    Cluster, World,
    cluster::{DRAINED, ON},
    needs, process,
    world::{vip, vip6},
};

/// Longer than a tick.
const PAUSE: Duration = Duration::from_millis(1200);

/// Times are the shortest that the agent takes: records and slots 60 s, where the defaults have
/// 8400 s. 57 s without a packet are to them what 7980 s are to the defaults: the keepalive of two
/// hours with the slack of Linux' timer and some lost probes. 900 s of idling are 6.4 s here. The
/// third round trip comes when the slots have settled.
#[test]
fn idle_connections_survive_a_change_and_its_settling() -> Result<()> {
    needs!(namespaces);
    let times = "[times]\nrecord_seconds = 60\nsettle_seconds = 60\ngrace_seconds = 1\n\
                 hold_seconds = 1";
    let cluster = Cluster::start_in(World::beside_others()?, times, &[ON, ON])?;
    let client = cluster.world.client();
    let nearly_all = Duration::from_secs(57);
    let loads = [
        client.slow_streams(vip(80), 40, nearly_all)?,
        client.slow_streams(vip6(80), 40, nearly_all)?,
        client.slow_streams(vip(80), 40, Duration::from_millis(6400))?,
    ];
    process::sleep(PAUSE)?;
    cluster.set(&[DRAINED, ON])?;
    // New flows on slots that move, idle across the settling as well.
    let moving = client.slow_streams(vip(80), 40, nearly_all)?;
    process::sleep(2 * nearly_all + 2 * PAUSE)?;
    println!("{}", cluster.agent.json("status")?["records"]);
    for load in loads.into_iter().chain([moving]) {
        let report = load.finish()?;
        let summary = report.check()?;
        println!("{} round trips, {:?}", summary.round_trips, summary.by_name);
        ensure!(summary.round_trips >= 120, "too few round trips: {summary:?}");
    }
    ensure!(cluster.served_by(100)? == ["remote-2"]);
    Ok(())
}
