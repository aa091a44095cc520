//! An agent is replaced by one that carries other programs, and back, under every load that there is:
//! each hook gets the new program between two packets or two calls, and nothing fails.

use std::{collections::BTreeMap, path::Path};

use anyhow::{Context as _, Result, ensure};
use lb_tests::{
    Agent, World,
    binaries::Binaries,
    calling::Calling,
    eastwest::{Scene, web},
    needs, other_programs,
};
use nix::sys::signal::Signal;

/// Calls for each pair of programs, one way with a socket that is asked again and again.
const WAYS: [&str; 4] = ["tcp", "udp", "udp-unconnected", "udp-mapped"];

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
    let mut scene = Scene::with(World::docker()?, |config| {
        xdp.clone_into(&mut config.xdp);
        "tcx".clone_into(&mut config.tc);
    })?;
    let other = other_programs::agent(scene.world.directory())?;
    let original = Binaries::find()?.agent.clone();
    let target = scene.target();
    let first = other_programs::tags(&scene.agent)?;
    println!("{first:#?}");
    // The front, the two backends and nine kinds of calls.
    ensure!(first.len() >= 12, "{first:?}");

    let streams = scene.world.client().streams(target, 20)?;
    let requests = scene.world.client().requests(target, 200)?;
    let held = scene.callers.hold(&scene.world, Some(&scene.client), target, 200)?;
    let datagrams = scene.callers.hold_datagrams(&scene.world, Some(&scene.client), target, 10)?;
    let calling = Calling::start(&scene.callers, &scene.world, &scene.client, &WAYS, target)?;
    calling.goes_on()?;

    replace(&mut scene.agent, Signal::SIGTERM, &other)?;
    replaced(&first, &scene.agent).context("upgraded")?;
    calling.goes_on()?;
    // It does its work, with what the first has made.
    let third = web(&scene.world, 3)?.start()?;
    scene.agent.wait_backends(&["web-1", "web-2", third.name()])?;
    calling.goes_on()?;
    let second = other_programs::tags(&scene.agent)?;
    replace(&mut scene.agent, Signal::SIGKILL, &original)?;
    let mut last = replaced(&second, &scene.agent).context("and back")?;
    scene.agent.wait_backends(&["web-1", "web-2", third.name()])?;
    calling.goes_on()?;
    last.retain(|link, _| first.contains_key(link));
    assert_eq!(first, last);

    let calls = calling.end()?;
    let failed: Vec<_> = calls.iter().filter(|call| call.starts_with("errno=")).collect();
    ensure!(failed.is_empty(), "of {}: {failed:?}", calls.len());
    let names = calls.iter().filter(|call| call.contains("name=web-3 ")).count();
    ensure!(names > 0, "no call was led to the new backend");
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
    check("off").context("without XDP")?;
    check("auto").context("with XDP")
}
