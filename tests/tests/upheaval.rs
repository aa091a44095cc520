//! What Docker does to containers that serve: networks, pauses, signals, updates. Under load, and only
//! those lose anything whose container is gone from where it was.

use std::{
    process::Stdio,
    time::{Duration, Instant},
};

use anyhow::{Result, ensure};
use lb_tests::{World, needs, process, traffic::now_ms};

/// Longest wait for a change to arrive, on a busy machine too.
const SOON: Duration = Duration::from_secs(15);

#[test]
fn network_changes_cost_only_the_connections_of_that_network() -> Result<()> {
    needs!(docker);
    let world = World::docker()?;
    let docker = world.docker_client()?;
    docker.run("network create other")?;
    let webs = world.start_webs(3)?;
    let agent = world.start_agent(&world.config())?;
    agent.wait_backends(&["web-1", "web-2", "web-3"])?;
    let streams = world.client().streams(world.front(), 20)?;
    let requests = world.client().requests(world.front(), 100)?;
    process::sleep(Duration::from_secs(1))?;
    let before = webs[0].address()?;
    // A second network, which takes the default route or does not: nobody notices either way.
    docker.run("network connect other web-1")?;
    process::sleep(Duration::from_secs(2))?;
    agent.wait_backends(&["web-1", "web-2", "web-3"])?;
    let moved_ms = now_ms();
    docker.run("network disconnect bridge web-1")?;
    agent.wait_backends(&["web-1", "web-2", "web-3"])?;
    process::sleep(Duration::from_secs(2))?;
    ensure!(webs[0].address()? != before);
    let requests = requests.finish()?;
    println!("failures: {:?}", requests.failures);
    for failure in &requests.failures {
        let after_ms = failure.at_ms - moved_ms;
        ensure!((-100.0..=3000.0).contains(&after_ms), "{after_ms} ms after: {}", failure.error);
    }
    for failure in &streams.finish()?.failures {
        ensure!(failure.name == "web-1", "another's connection: {failure:?}");
    }
    let report = world.client().fetch(world.front(), 150)?;
    ensure!(report.check()?.by_name.len() == 3, "{:?}", report.summaries);
    // Without any network it cannot serve; with one it can.
    docker.run("network disconnect other web-1")?;
    agent.wait_backends(&["web-2", "web-3"])?;
    world.client().fetch(world.front(), 50)?.check()?;
    docker.run("network connect bridge web-1")?;
    agent.wait_backends(&["web-1", "web-2", "web-3"])?;
    world.client().fetch(world.front(), 100)?.check()?;
    Ok(())
}

#[test]
fn pause_breaks_no_connection() -> Result<()> {
    needs!(docker);
    let world = World::docker()?;
    let webs = world.start_webs(3)?;
    let agent = world.start_agent(&world.config())?;
    agent.wait_backends(&["web-1", "web-2", "web-3"])?;
    let streams = world.client().streams(world.front(), 20)?;
    process::sleep(Duration::from_secs(1))?;
    for _ in 0..2 {
        webs[0].act("pause")?;
        agent.wait_state("web-1", "unhealthy")?;
        let requests = world.client().requests(world.front(), 100)?;
        process::sleep(Duration::from_secs(2))?;
        requests.finish()?.check()?;
        webs[0].act("unpause")?;
        agent.wait_state("web-1", "healthy")?;
    }
    // All at once: nobody serves, and afterwards everybody.
    for web in &webs {
        web.act("pause")?;
    }
    for web in &webs {
        web.act("unpause")?;
    }
    agent.wait_backends(&["web-1", "web-2", "web-3"])?;
    world.client().fetch(world.front(), 60)?.check()?;
    process::sleep(Duration::from_secs(1))?;
    streams.finish()?.check()?;
    Ok(())
}

#[test]
fn signals_and_updates_that_mean_nothing_change_nothing() -> Result<()> {
    needs!(docker);
    let world = World::docker()?;
    let docker = world.docker_client()?;
    // SIGQUIT asks it to end; its server minds none of the signals here.
    world.web(1)?.with("--stop-signal SIGQUIT").start()?;
    world.web(2)?.start()?;
    let agent = world.start_agent(&world.config())?;
    agent.wait_backends(&["web-1", "web-2"])?;
    let streams = world.client().streams(world.front(), 20)?;
    let requests = world.client().requests(world.front(), 100)?;
    for words in [
        "kill --signal SIGHUP web-1",
        "kill --signal SIGUSR1 web-1",
        "kill --signal SIGWINCH web-1",
        "kill --signal SIGCONT web-1",
        "update --restart on-failure web-1",
        "update --memory 512m --memory-swap 1g web-1",
        "update --cpu-shares 512 web-1",
    ] {
        docker.run(words)?;
        process::sleep(Duration::from_millis(300))?;
        agent.wait_backends(&["web-1", "web-2"])?;
    }
    let told = agent.lbctl("event list")?;
    ensure!(!told.contains("draining") && !told.contains("unhealthy"), "{told}");
    docker.run("kill --signal SIGQUIT web-1")?;
    agent.wait_state("web-1", "draining")?;
    process::sleep(Duration::from_secs(1))?;
    requests.finish()?.check()?;
    streams.finish()?.check()?;
    Ok(())
}

#[test]
fn container_recreated_at_once_with_the_same_address_is_another() -> Result<()> {
    needs!(docker);
    let world = World::docker()?;
    let webs = world.start_webs(2)?;
    let agent = world.start_agent(&world.config())?;
    agent.wait_backends(&["web-1", "web-2"])?;
    let address = webs[0].address()?;
    let mut streams = world.client().streams(world.front(), 20)?;
    let requests = world.client().requests(world.front(), 100)?;
    process::sleep(Duration::from_secs(1))?;
    let killed_ms = now_ms();
    webs[0].act("rm --force")?;
    let again = world.web(1)?.start()?;
    let started_ms = now_ms();
    again.wait_listening()?;
    ensure!(again.address()? == address, "the fixture must reuse the address");
    agent.wait_backends(&["web-1", "web-2"])?;
    // Its predecessor's connections are told that they are over: it knows nothing of them.
    let is_over = |report: &lb_tests::traffic::Report| !report.failures.is_empty();
    streams.wait_until("the clients of the first are told", SOON, is_over)?;
    process::sleep(Duration::from_secs(1))?;
    for failure in &streams.finish()?.failures {
        ensure!(failure.name == "web-1", "another's connection: {failure:?}");
    }
    for failure in &requests.finish()?.failures {
        let at_ms = failure.at_ms;
        let harms = killed_ms - 500.0..=started_ms + 1000.0;
        ensure!(harms.contains(&at_ms), "at {at_ms}, not in {harms:?}: {}", failure.error);
    }
    world.client().fetch(world.front(), 60)?.check()?;
    Ok(())
}

#[test]
fn second_agent_with_the_same_directory_is_refused_and_harms_nobody() -> Result<()> {
    needs!(docker);
    let world = World::docker()?;
    world.start_webs(2)?;
    let agent = world.start_agent(&world.config())?;
    agent.wait_backends(&["web-1", "web-2"])?;
    let requests = world.client().requests(world.front(), 100)?;
    for _ in 0..3 {
        let begun = Instant::now();
        let output = agent.command("run").stdin(Stdio::null()).output()?;
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        ensure!(!output.status.success(), "it runs beside the first");
        ensure!(said.contains("another lb-agent"), "{said}");
        ensure!(begun.elapsed() < SOON, "it took {:?} to say so", begun.elapsed());
    }
    agent.wait_backends(&["web-1", "web-2"])?;
    requests.finish()?.check()?;
    Ok(())
}
