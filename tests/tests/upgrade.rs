//! An agent is replaced by one that carries other programs, and back, under every load that there is:
//! each hook gets the new program between two packets or two calls, and nothing fails.

use std::{collections::BTreeMap, path::Path};

use anyhow::{Context as _, Result, ensure};
use lb_tests::{
    Agent, binaries::Binaries, calling::Calling, eastwest::Scene, needs, other_programs,
    world::vip6,
};
use nix::sys::signal::Signal;

/// Calls by every program that leads or answers, of sockets of both families.
const WAYS: [&str; 6] =
    ["tcp", "tcp-mapped", "udp", "udp-mapped", "udp-unconnected", "udp-mapped-unconnected"];
/// The same of the other family.
const WAYS6: [&str; 3] = ["tcp", "udp", "udp-unconnected"];

/// Another program at each hook, and no hook more or less.
fn replaced(before: &BTreeMap<String, u64>, agent: &Agent) -> Result<BTreeMap<String, u64>> {
    let now = other_programs::tags(agent)?;
    ensure!(before.keys().eq(now.keys()), "{before:?}, now {now:?}");
    let same: Vec<_> = before.iter().filter(|(link, tag)| now.get(*link) == Some(tag)).collect();
    ensure!(same.is_empty(), "not replaced: {same:?}");
    Ok(now)
}

fn replace(agent: &mut Agent, signal: Signal, program: &Path) -> Result<()> {
    agent.stop(signal)?;
    agent.set_program(program.to_owned());
    agent.start()
}

fn check(xdp: &str) -> Result<()> {
    let mut scene = Scene::of_both_families(|config| {
        xdp.clone_into(&mut config.xdp);
        "tcx".clone_into(&mut config.tc);
    })?;
    let other = other_programs::agent(scene.world.directory())?;
    let original = Binaries::find()?.agent.clone();
    let target = scene.target();
    let first = other_programs::tags(&scene.agent)?;
    // The front, with and without XDP, the two backends, and nine kinds of calls.
    assert_eq!(first.len(), if xdp == "off" { 12 } else { 13 }, "{first:?}");

    let streams = scene.world.client().streams(target, 20)?;
    let requests = scene.world.client().requests(target, 200)?;
    let held = scene.callers.hold(&scene.world, Some(&scene.client), target, 200)?;
    let datagrams = scene.callers.hold_datagrams(&scene.world, Some(&scene.client), target, 10)?;
    let call = |ways: &[&str], target| {
        Calling::start(&scene.callers, &scene.world, &scene.client, ways, target)
    };
    let calling = [call(&WAYS, target)?, call(&WAYS6, vip6(80))?];
    let go_on = || calling.iter().try_for_each(Calling::goes_on);
    go_on()?;

    replace(&mut scene.agent, Signal::SIGTERM, &other)?;
    let second = replaced(&first, &scene.agent).context("upgraded")?;
    go_on()?;
    // It does its work, with what the first has made: nobody new is led to a backend that drains.
    scene.agent.lbctl("backend drain web-1")?;
    scene.agent.wait_backends(&["web-2"; 2])?;
    let shares = scene.served(Some(&scene.client), "tcp", target, 20)?;
    assert_eq!(shares.keys().collect::<Vec<_>>(), ["web-2"]);
    go_on()?;
    scene.agent.lbctl("backend undrain web-1")?;
    scene.agent.wait_backends(&["web-1", "web-1", "web-2", "web-2"])?;
    go_on()?;
    replace(&mut scene.agent, Signal::SIGKILL, &original)?;
    let last = replaced(&second, &scene.agent).context("and back")?;
    assert_eq!(first, last);
    scene.agent.wait_backends(&["web-1", "web-1", "web-2", "web-2"])?;
    go_on()?;

    calling.into_iter().try_for_each(Calling::none_failed)?;
    held.all_answer().context("connections")?;
    datagrams.all_answer().context("connected datagrams")?;
    let requests = requests.finish()?;
    ensure!(requests.check()?.sent > 200, "{:?}", requests.summary()?);
    let streams = streams.finish()?;
    ensure!(streams.check()?.round_trips > 1_000, "{:?}", streams.summary()?);
    scene.agent.set_quiet();
    Ok(())
}

#[test]
fn an_agent_with_other_programs_takes_over_under_load() -> Result<()> {
    needs!(docker);
    for xdp in ["off", "generic"] {
        check(xdp).with_context(|| format!("XDP: {xdp}"))?;
    }
    Ok(())
}
