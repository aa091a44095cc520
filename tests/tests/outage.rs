//! Docker away, restarting, out of order: the data path goes on with what it knows, nothing is
//! removed, the agent says so and reconnects.

use std::time::Duration;

use anyhow::{Result, ensure};
use lb_tests::{
    Agent, World, needs, process,
    proxy::{Fault, Proxy},
};
use nix::sys::signal::Signal;

fn wait_trouble(agent: &Agent, is_expected: bool) -> Result<Option<String>> {
    process::wait_for(&format!("trouble: {is_expected}"), Duration::from_secs(40), || {
        let trouble = agent.trouble("docker")?;
        ensure!(trouble.is_some() == is_expected, "the agent says: {trouble:?}");
        Ok(trouble)
    })
}

#[test]
fn docker_that_restarts_disturbs_nobody() -> Result<()> {
    needs!(docker);
    let mut world = World::docker()?;
    world.start_webs(2)?;
    let agent = world.start_agent(&world.config())?;
    agent.wait_backends(&["web-1", "web-2"])?;
    let requests = world.client().requests(world.front(), 100)?;
    let streams = world.client().streams(world.front(), 10)?;
    for signal in [Signal::SIGTERM, Signal::SIGKILL] {
        world.docker_node()?.stop_daemon(signal);
        let trouble = wait_trouble(&agent, true)?.unwrap_or_default();
        ensure!(trouble.contains("docker"), "whose trouble? `{trouble}`");
        agent.wait_backends(&["web-1", "web-2"])?;
        world.docker_node()?.start_daemon()?;
        wait_trouble(&agent, false)?;
        agent.wait_backends(&["web-1", "web-2"])?;
    }
    requests.finish()?.check()?;
    streams.finish()?.check()?;
    // It has eyes again.
    world.web(3)?.start()?;
    agent.wait_backends(&["web-1", "web-2", "web-3"])
}

#[test]
fn agent_that_starts_before_docker_finds_it_later() -> Result<()> {
    needs!(docker);
    let mut world = World::docker()?;
    world.start_webs(1)?;
    world.docker_node()?.stop_daemon(Signal::SIGTERM);
    let agent = world.start_agent(&world.config())?;
    wait_trouble(&agent, true)?;
    world.docker_node()?.start_daemon()?;
    wait_trouble(&agent, false)?;
    agent.wait_backends(&["web-1"])?;
    world.client().fetch(world.front(), 20)?.check()?;
    Ok(())
}

#[test]
fn agent_restarted_without_docker_keeps_what_the_kernel_has() -> Result<()> {
    needs!(docker);
    let mut world = World::docker()?;
    world.start_webs(2)?;
    let mut agent = world.start_agent(&world.config())?;
    agent.wait_backends(&["web-1", "web-2"])?;
    let requests = world.client().requests(world.front(), 100)?;
    agent.stop(Signal::SIGKILL)?;
    world.docker_node()?.stop_daemon(Signal::SIGTERM);
    agent.start()?;
    wait_trouble(&agent, true)?;
    process::sleep(Duration::from_secs(3))?;
    requests.finish()?.check()?;
    world.docker_node()?.start_daemon()?;
    wait_trouble(&agent, false)?;
    agent.wait_backends(&["web-1", "web-2"])?;
    world.client().fetch(world.front(), 20)?.check()?;
    Ok(())
}

#[test]
fn stale_backend_after_a_crash_of_docker_is_found_by_listing() -> Result<()> {
    needs!(docker);
    let mut world = World::docker()?;
    let webs = world.start_webs(2)?;
    let pid = webs[0].pid()?;
    let mut agent = world.start_agent(&world.config())?;
    agent.wait_backends(&["web-1", "web-2"])?;
    // Nobody is left who could see the container's end.
    agent.stop(Signal::SIGKILL)?;
    world.docker_node()?.stop_daemon(Signal::SIGKILL);
    process::kill(pid, Signal::SIGKILL);
    agent.start()?;
    wait_trouble(&agent, true)?;
    let streams = world.client().fetch(world.front(), 60)?;
    let answered = streams.answers.iter().filter(|answer| answer.name == "web-2").count();
    ensure!(answered > 0, "who lives is served without Docker");
    world.docker_node()?.start_daemon()?;
    wait_trouble(&agent, false)?;
    agent.wait_backends(&["web-2"])?;
    let report = world.client().fetch(world.front(), 60)?;
    ensure!(report.check()?.by_name.keys().all(|name| name == "web-2"), "{:?}", report.summaries);
    Ok(())
}

#[test]
fn empty_and_broken_answers_remove_nothing() -> Result<()> {
    needs!(docker);
    let world = World::docker()?;
    let proxy =
        Proxy::start(world.directory().join("proxy.sock"), world.docker_client()?.socket())?;
    world.start_webs(2)?;
    let mut config = world.config();
    config.docker = Some(proxy.socket().to_owned());
    let agent = world.start_agent(&config)?;
    agent.wait_backends(&["web-1", "web-2"])?;
    let streams = world.client().streams(world.front(), 10)?;
    for fault in [
        Fault::EmptyListing,
        Fault::GarbageBody,
        Fault::Garbage,
        Fault::ServerError,
        Fault::Refuse,
        Fault::Silence,
    ] {
        let requests = world.client().requests(world.front(), 50)?;
        proxy.set(fault);
        let said = wait_trouble(&agent, true)
            .map_err(|error| error.context(format!("{fault:?} goes unnoticed")))?;
        // Longer than the time between two listings.
        process::sleep(Duration::from_millis(2500))?;
        agent.wait_backends(&["web-1", "web-2"])?;
        requests.finish()?.check().map_err(|error| error.context(format!("{fault:?}")))?;
        println!("{fault:?}: {}", said.unwrap_or_default());
        proxy.set(Fault::None);
        wait_trouble(&agent, false)?;
    }
    streams.finish()?.check()?;
    Ok(())
}

#[test]
fn the_last_container_may_leave() -> Result<()> {
    needs!(docker);
    let world = World::docker()?;
    let webs = world.start_webs(1)?;
    let agent = world.start_agent(&world.config())?;
    agent.wait_backends(&["web-1"])?;
    // Its death is told by an event: this is not the empty listing that is not to be believed.
    webs[0].act("rm --force")?;
    agent.wait_backends(&[])?;
    world.web(1)?.start()?;
    agent.wait_backends(&["web-1"])?;
    world.client().fetch(world.front(), 20)?.check()?;
    Ok(())
}
