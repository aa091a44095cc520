//! What lb made it removes, and nothing else; pins are checked before they are adopted.

use anyhow::{Result, ensure};
use lb_tests::{Namespace, World, needs, process::run, world::FRONT};
use nix::sys::signal::Signal;

/// Installs, works, uninstalls: the node is as before. What was foreign before is still there.
fn leaves_nothing(tc: &str, prepare: impl Fn(&Namespace) -> Result<()>) -> Result<()> {
    let world = World::docker()?;
    let webs = world.start_webs(2)?;
    prepare(world.node())?;
    world.node().fetch_one((webs[0].address()?, 8080).into())?;
    let mut config = world.config();
    tc.clone_into(&mut config.tc);
    let mut agent = world.prepare_agent(&config)?;
    let before = world.snapshot()?;
    agent.start()?;
    agent.wait_backends(&["web-1", "web-2"])?;
    world.client().fetch(world.front(), 100)?.check()?;
    ensure!(!before.difference(&world.snapshot()?).is_empty(), "nothing was installed");

    agent.stop(Signal::SIGTERM)?;
    world.client().fetch(world.front(), 20)?.check()?;
    let installed = world.snapshot()?;
    let plan = run(&mut agent.command("uninstall --dry-run"))?;
    ensure!(plan.contains(FRONT), "a dry run says what it would do: {plan}");
    assert_eq!(installed.difference(&world.snapshot()?), "", "a dry run did something");

    agent.uninstall()?;
    assert_eq!(before.difference(&world.snapshot()?), "");
    let state = lb_tests::bpffs::tree(&agent.state_path());
    ensure!(state.is_empty(), "left in the state directory: {state:?}");
    ensure!(world.client().fetch_one(world.front()).is_err(), "something still balances");
    // Once more, where there is nothing to do.
    agent.uninstall()?;
    assert_eq!(before.difference(&world.snapshot()?), "");
    // And it can be installed again.
    agent.start()?;
    agent.wait_backends(&["web-1", "web-2"])?;
    world.client().fetch(world.front(), 20)?.check()?;
    Ok(())
}

/// A classic program that matches nothing, as any kernel with clsact can have it.
fn add_foreign_filter(node: &Namespace) -> Result<()> {
    let mut command = node.command("tc");
    command.args("filter add dev front0 ingress pref 7 protocol all bpf bytecode".split(' '));
    run(command.arg("1,6 0 0 0"))?;
    let filters = node.run("tc filter show dev front0 ingress")?;
    ensure!(filters.contains("pref 7"), "{filters}");
    Ok(())
}

#[test]
fn uninstall_leaves_nothing_on_tcx() -> Result<()> {
    needs!(docker);
    leaves_nothing("tcx", |_| Ok(()))
}

#[test]
fn uninstall_leaves_nothing_on_clsact() -> Result<()> {
    needs!(docker);
    leaves_nothing("clsact", |_| Ok(()))
}

#[test]
fn foreign_clsact_and_its_filter_survive() -> Result<()> {
    needs!(docker);
    leaves_nothing("clsact", |node| {
        node.run("tc qdisc add dev front0 clsact")?;
        add_foreign_filter(node)
    })
}

#[test]
fn qdisc_that_we_made_and_another_uses_survives() -> Result<()> {
    needs!(docker);
    let world = World::docker()?;
    world.start_webs(1)?;
    let mut config = world.config();
    "clsact".clone_into(&mut config.tc);
    let mut agent = world.start_agent(&config)?;
    agent.wait_backends(&["web-1"])?;
    add_foreign_filter(world.node())?;
    agent.stop(Signal::SIGTERM)?;
    agent.uninstall()?;
    let filters = world.node().run("tc filter show dev front0 ingress")?;
    ensure!(filters.contains("pref 7"), "a foreign filter is gone:\n{filters}");
    ensure!(!filters.contains("pref 100"), "ours is still there:\n{filters}");
    Ok(())
}
