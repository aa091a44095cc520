//! Bytes through the VIP arrive whole, in every combination of checksum offloads, and large packets
//! stay large.

use anyhow::{Context as _, Result, ensure};
use lb_tests::{Namespace, World, needs, world::FRONT};

const MEGABYTE: u64 = 1 << 20;

/// Received packets and bytes of a link.
fn received(namespace: &Namespace, link: &str) -> Result<(f64, f64)> {
    let shown = namespace.ip(&format!("-j -s link show dev {link}"))?;
    let value: serde_json::Value = serde_json::from_str(&shown)?;
    let statistics = &value[0]["stats64"]["rx"];
    let number = |key: &str| statistics[key].as_f64().with_context(|| format!("{key}: {shown}"));
    Ok((number("packets")?, number("bytes")?))
}

#[test]
fn a_hundred_megabytes_arrive_whole_in_large_packets() -> Result<()> {
    needs!(docker);
    let world = World::docker()?;
    let webs = world.start_webs(1)?;
    let agent = world.start_agent(&world.config())?;
    agent.wait_backends(&["web-1"])?;
    let pid = webs[0].pid()?;
    let inside = || -> Result<(f64, f64)> {
        let shown = lb_tests::process::run(&mut lb_tests::process::words(&format!(
            "nsenter --target {pid} --net ip -j -s link show dev eth0"
        )))?;
        let value: serde_json::Value = serde_json::from_str(&shown)?;
        let statistics = &value[0]["stats64"]["rx"];
        let number = |key: &str| statistics[key].as_f64().context("no statistics");
        Ok((number("packets")?, number("bytes")?))
    };
    let before = (inside()?, received(world.client(), "eth0")?);
    let report = world.client().bulk(world.front(), 100 * MEGABYTE)?;
    report.check()?;
    assert_eq!(report.summaries.len(), 2, "up and down");
    let after = (inside()?, received(world.client(), "eth0")?);
    for (what, before, after) in
        [("in the container", before.0, after.0), ("at the client", before.1, after.1)]
    {
        let (packets, bytes) = (after.0 - before.0, after.1 - before.1);
        // Half of these packets are acknowledgements of the other direction.
        ensure!(bytes / packets > 3000.0, "{what}: {packets} packets of {} bytes", bytes / packets);
    }
    Ok(())
}

#[test]
fn checksums_are_right_with_and_without_offloads() -> Result<()> {
    needs!(docker);
    let world = World::docker()?;
    let webs = world.start_webs(1)?;
    let agent = world.start_agent(&world.config())?;
    agent.wait_backends(&["web-1"])?;
    let pid = webs[0].pid()?;
    let container = |setting: &str| {
        lb_tests::process::run(&mut lb_tests::process::words(&format!(
            "nsenter --target {pid} --net ethtool -K eth0 {setting}"
        )))
    };
    // The port changes from 80 to 8080 on the way in, and back on the way out. With `tx off` on a
    // sender its sums are complete and will be verified; with `tx off` on the egress device the
    // kernel completes there what the sender left partial.
    for (client, front, backend, megabytes) in [
        ("tx on", "tx on", "tx on", 5),
        ("tx on", "tx off", "tx on", 100),
        ("tx off", "tx on", "tx off", 5),
        ("tx off", "tx off", "tx off", 100),
        ("tx on", "tx off", "tx off", 5),
    ] {
        world.client().offload("eth0", client)?;
        world.node().offload(FRONT, front)?;
        container(backend)?;
        let what = format!("client {client}, front {front}, container {backend}");
        world.client().bulk(world.front(), megabytes * MEGABYTE)?.check().context(what)?;
        world.client().fetch(world.front(), 20)?.check()?;
    }
    Ok(())
}
