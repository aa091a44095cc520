//! East-west: a backend that refuses calls of containers of this node is out at once. They come to it by
//! its own address, so nobody but the reply program sees that.

use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use lb_tests::{
    World,
    callers::{Called, Callers},
    container::IDLE_PORT,
    eastwest::shares,
    needs, process,
    world::vip,
};
use nix::sys::signal::Signal;

/// Longest time to the last call that is refused, on a busy machine too. What it takes is printed. Nobody
/// has a probe here, so without a look at refusals there would be no last.
const OUT_MAX: Duration = Duration::from_secs(3);
/// Calls in a row of which none is refused, when it is out.
const CALLS: usize = 100;

#[test]
fn who_refuses_calls_is_out_at_once_and_back_when_it_serves() -> Result<()> {
    needs!(docker);
    let mut world = World::docker()?;
    let callers = Callers::of(&mut world)?;
    let webs = [1, 2].map(|number| {
        let web = world.web(number)?.serving(IDLE_PORT).start()?;
        web.begin_serving().map(|()| web)
    });
    let webs = webs.into_iter().collect::<Result<Vec<_>>>()?;
    let client = world.docker_client()?.container("client").start()?;
    let mut config = world.config();
    config.cgroup = Some(callers.cgroup().to_owned());
    let agent = world.start_agent(&config)?;
    agent.wait_backends(&["web-1", "web-2"])?;
    agent.wait_caller("client")?;
    let names = |count| -> Result<Vec<String>> {
        let calls = callers.dial(&world, Some(&client), "tcp", vip(80), count)?;
        Ok(shares(&calls, vip(80))?.into_keys().collect())
    };
    for round in 0..2 {
        process::kill(webs[0].server_pid()?, Signal::SIGKILL);
        let begun = Instant::now();
        let mut refused = 0;
        loop {
            let calls = callers.dial(&world, Some(&client), "tcp", vip(80), CALLS)?;
            let failed = calls.iter().filter(|call| matches!(call, Called::Failed(_))).count();
            if failed == 0 && refused > 0 {
                break;
            }
            refused += failed;
            ensure!(
                begun.elapsed() < OUT_MAX,
                "{refused} calls refused, the last of them just now"
            );
        }
        println!("round {round}: {refused} calls refused, none after {:?}", begun.elapsed());
        agent.wait_backends(&["web-2"])?;
        webs[0].begin_serving()?;
        agent.wait_backends(&["web-1", "web-2"])?;
        ensure!(names(CALLS)? == ["web-1", "web-2"], "it is back");
    }
    let events = agent.lbctl("event list")?;
    ensure!(events.contains("refused connections, as the data path saw"), "{events}");
    Ok(())
}

/// The probe is refused as clients are, and counts as often as `fall` says.
#[test]
fn a_probe_that_is_refused_is_one_result() -> Result<()> {
    needs!(docker);
    let world = World::docker()?;
    let web = world.web(1)?.serving(IDLE_PORT).label("lb.probe", "tcp");
    let web = web.label("lb.probe.interval", "1s").label("lb.probe.fall", "4").start()?;
    web.begin_serving()?;
    let agent = world.start_agent(&world.config())?;
    agent.wait_backends(&["web-1"])?;
    let pid = web.server_pid()?;
    let begun = Instant::now();
    process::kill(pid, Signal::SIGKILL);
    process::wait_for("it is out", Duration::from_secs(20), || {
        ensure!(agent.healthy_backends()?.is_empty());
        Ok(())
    })?;
    let took = begun.elapsed();
    // Four of them in doubt follow one another by an eighth of a second, faster than in peace.
    ensure!(took > Duration::from_millis(300), "out after {took:?}");
    let events = agent.lbctl("event list")?;
    ensure!(!events.contains("as the data path saw"), "{events}");
    Ok(())
}
