//! The data path outlives the agent: 200 requests per second and 20 checked streams run through
//! every way in which an agent can go and come back, and nothing fails.

use std::time::Duration;

use anyhow::{Result, ensure};
use lb_tests::{World, needs, process, world::FRONT};
use nix::sys::signal::Signal;

fn agent_comes_and_goes(tc: &str) -> Result<()> {
    let world = World::docker()?;
    world.start_webs(3)?;
    let mut config = world.config();
    tc.clone_into(&mut config.tc);
    let mut agent = world.start_agent(&config)?;
    agent.wait_backends(&["web-1", "web-2", "web-3"])?;
    assert_eq!(agent.attachment(FRONT)?.0, tc);

    let streams = world.client().streams(world.front(), 20)?;
    let requests = world.client().requests(world.front(), 200)?;
    let pause = Duration::from_millis(800);
    process::sleep(pause)?;
    for signal in [Signal::SIGTERM, Signal::SIGKILL] {
        agent.stop(signal)?;
        process::sleep(pause)?;
        agent.start()?;
        agent.wait_backends(&["web-1", "web-2", "web-3"])?;
        process::sleep(pause)?;
    }
    // Twice at once: killed while it adopts.
    agent.stop(Signal::SIGKILL)?;
    agent.launch()?;
    process::sleep(Duration::from_millis(30))?;
    agent.stop(Signal::SIGKILL)?;
    agent.start()?;
    process::sleep(pause)?;

    let requests = requests.finish()?;
    let summary = requests.check()?;
    ensure!(summary.sent > 600, "too few requests to mean anything: {summary:?}");
    let streams = streams.finish()?;
    ensure!(streams.check()?.round_trips > 5_000, "{:?}", streams.summary()?);

    // It is still an agent that does its work.
    world.web(4)?.start()?;
    agent.wait_backends(&["web-1", "web-2", "web-3", "web-4"])?;
    let names = &world.client().fetch(world.front(), 200)?;
    ensure!(names.check()?.by_name.contains_key("web-4"));
    agent.set_quiet();
    Ok(())
}

#[test]
fn agent_killed_and_restarted_on_tcx() -> Result<()> {
    needs!(docker);
    agent_comes_and_goes("tcx")
}

#[test]
fn agent_killed_and_restarted_on_clsact() -> Result<()> {
    needs!(docker);
    agent_comes_and_goes("clsact")
}

#[test]
fn what_changed_while_the_agent_was_away_is_found() -> Result<()> {
    needs!(docker);
    let world = World::docker()?;
    let webs = world.start_webs(3)?;
    let mut agent = world.start_agent(&world.config())?;
    agent.wait_backends(&["web-1", "web-2", "web-3"])?;
    let pins = lb_tests::bpffs::tree(agent.pin_path());

    agent.stop(Signal::SIGKILL)?;
    webs[0].act("rm --force")?;
    webs[1].act("rm --force")?;
    world.web(4)?.start()?;
    agent.start()?;
    agent.wait_backends(&["web-3", "web-4"])?;
    let report = world.client().fetch(world.front(), 100)?;
    let names: Vec<_> = report.check()?.by_name.keys().cloned().collect();
    assert_eq!(names, ["web-3", "web-4"]);
    // Two links went, one came; what belonged to the two is swept.
    process::wait_for("the sweep", Duration::from_secs(10), || {
        let now = lb_tests::bpffs::tree(agent.pin_path());
        ensure!(now.len() < pins.len(), "before:\n{pins:#?}\nnow:\n{now:#?}");
        Ok(())
    })
}
