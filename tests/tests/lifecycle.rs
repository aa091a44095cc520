//! What becomes of traffic when containers are told to end, frozen, or steered by operators.

use std::{
    process::Stdio,
    time::{Duration, Instant},
};

use anyhow::{Result, ensure};
use lb_tests::{World, needs, process, world::BALANCER};

/// Longest wait for a change to arrive, on a busy machine too.
const SOON: Duration = Duration::from_secs(15);

/// Nobody but `name` answers new connections.
fn only(world: &World, name: &str) -> Result<()> {
    let report = world.client().fetch(world.front(), 50)?;
    let names = &report.check()?.by_name;
    ensure!(names.len() == 1 && names.contains_key(name), "not only {name}: {names:?}");
    Ok(())
}

#[test]
fn container_that_is_stopped_keeps_its_connections_until_it_ends() -> Result<()> {
    needs!(docker);
    let world = World::docker()?;
    for number in 1..=2 {
        // Its server has no handler, so that it lives until Docker kills it.
        world.web(number)?.with("--stop-signal SIGTERM").start()?;
    }
    let agent = world.start_agent(&world.config())?;
    agent.wait_backends(&["web-1", "web-2"])?;
    let mut streams = world.client().streams(world.front(), 20)?;
    process::sleep(Duration::from_secs(1))?;

    let begun = Instant::now();
    let mut stop = world.docker_client()?.command();
    let mut stop = stop.args(["stop", "-t", "8", "web-1"]).stdout(Stdio::null()).spawn()?;
    agent.wait_state("web-1", "draining told to end")?;
    println!("drains {:?} after docker stop", begun.elapsed());
    only(&world, "web-2")?;
    process::sleep(Duration::from_secs(4).saturating_sub(begun.elapsed()))?;
    ensure!(stop.try_wait()?.is_none(), "Docker still waits for it");
    only(&world, "web-2")?;
    let broken = streams.so_far()?.failures.len();
    ensure!(broken == 0, "{broken} connections broken by the drain");

    ensure!(stop.wait()?.success());
    agent.wait_backends(&["web-2"])?;
    let report = streams.finish()?;
    ensure!(!report.failures.is_empty(), "it had connections, and its end is their end");
    for failure in &report.failures {
        ensure!(failure.name == "web-1", "another's connection: {failure:?}");
    }
    process::wait_for("the events", Duration::from_secs(5), || {
        let told = agent.lbctl("event list")?;
        for part in ["healthy -> draining", "told to end", "its process has ended"] {
            ensure!(told.contains(part), "no `{part}` in the events:\n{told}");
        }
        Ok(())
    })
}

#[test]
fn drain_ends_at_its_deadline_and_its_clients_are_told() -> Result<()> {
    needs!(docker);
    let world = World::docker()?;
    for number in 1..=2 {
        world.web(number)?.label("lb.drain", "4s").start()?;
    }
    let mut agent = world.start_agent(&world.config())?;
    agent.wait_backends(&["web-1", "web-2"])?;
    let mut streams = world.client().streams(world.front(), 20)?;
    process::sleep(Duration::from_secs(1))?;
    let told = agent.lbctl("backend drain web-1")?;
    ensure!(told.contains("web-1 of compose/shop/web:8080: drain"), "{told}");
    only(&world, "web-2")?;
    ensure!(streams.so_far()?.failures.is_empty(), "broken by the drain");
    agent.wait_state("web-1", "gone drained by root")?;
    streams.wait_until("its clients are told", SOON, |report| !report.failures.is_empty())?;

    // An agent that is killed leaves the order.
    agent.stop(nix::sys::signal::Signal::SIGKILL)?;
    agent.start()?;
    agent.wait_state("web-1", "draining drained by root")?;
    only(&world, "web-2")?;
    agent.lbctl("backend undrain web-1")?;
    agent.wait_backends(&["web-1", "web-2"])?;
    agent.stop(nix::sys::signal::Signal::SIGTERM)?;
    agent.uninstall()?;
    ensure!(!agent.state_path().join("steering.json").exists(), "left behind");
    Ok(())
}

#[test]
fn frozen_container_gets_nothing_new_until_it_is_thawed() -> Result<()> {
    needs!(docker);
    let world = World::docker()?;
    let webs = world.start_webs(2)?;
    let agent = world.start_agent(&world.config())?;
    agent.wait_backends(&["web-1", "web-2"])?;
    webs[0].act("pause")?;
    agent.wait_state("web-1", "unhealthy paused")?;
    only(&world, "web-2")?;
    webs[0].act("unpause")?;
    agent.wait_backends(&["web-1", "web-2"])?;
    Ok(())
}

#[test]
fn renamed_container_keeps_its_connections_and_its_slots() -> Result<()> {
    needs!(docker);
    let world = World::docker()?;
    let docker = world.docker_client()?;
    // Containers of no orchestrator: their names are all there is to know them by.
    let plain =
        |name: &str| docker.container(name).balanced(&format!("http://{BALANCER}:80")).start();
    for name in ["red", "blue", "green"] {
        plain(name)?;
    }
    let mut agent = world.start_agent(&world.config())?;
    agent.wait_backends(&["blue", "green", "red"])?;
    let mut streams = world.client().streams(world.front(), 30)?;
    // Servers go on calling themselves by their first names.
    let served = || -> Result<Vec<String>> {
        (40_000..40_150).map(|port| world.client().fetch_from(port, world.front())).collect()
    };
    let before = served()?;

    docker.run("rename blue azure")?;
    agent.wait_backends(&["azure", "green", "red"])?;
    assert_eq!(served()?, before, "slots moved");
    // An agent that knows nothing but what is kept.
    agent.stop(nix::sys::signal::Signal::SIGKILL)?;
    agent.start()?;
    agent.wait_backends(&["azure", "green", "red"])?;
    assert_eq!(served()?, before, "slots moved with the start");
    ensure!(streams.so_far()?.failures.is_empty(), "connections were broken by the rename");

    // Renamed while no agent looks: its place is that of the new name, its connections are its own.
    agent.stop(nix::sys::signal::Signal::SIGKILL)?;
    docker.run("rename red crimson")?;
    agent.start()?;
    agent.wait_backends(&["azure", "crimson", "green"])?;
    // Deployed by rename: one that has run beside it bears the name now, and has the place.
    plain("indigo")?;
    agent.wait_backends(&["azure", "crimson", "green", "indigo"])?;
    docker.run("rename indigo blue")?;
    agent.wait_backends(&["azure", "blue", "crimson", "green"])?;
    process::sleep(Duration::from_secs(1))?;
    let after = served()?;
    let taken: Vec<_> = before.iter().zip(&after).filter(|(_, after)| *after == "indigo").collect();
    // At a place of its own it would have taken as much from each of the three.
    let inherited = taken.iter().filter(|(before, _)| *before == "blue").count();
    ensure!(inherited >= 10 && inherited * 3 > taken.len() * 2, "{before:?}, then {after:?}");
    let all = world.client().fetch(world.front(), 200)?;
    ensure!(all.check()?.by_name.len() == 4, "{:?}", all.summaries);
    let report = streams.finish()?;
    report.check()?;
    agent.stop(nix::sys::signal::Signal::SIGTERM)?;
    agent.uninstall()?;
    ensure!(!agent.state_path().join("places.json").exists(), "left behind");
    Ok(())
}
