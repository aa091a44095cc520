//! East-west: backends come and go, and whoever is on another network hears so, from the first call on.

use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

use anyhow::{Result, ensure};
use lb_tests::{
    Container, World,
    calling::Calling,
    eastwest::{Scene, stranger, web},
    needs, process,
};
use nix::sys::signal::Signal;

const ECONNREFUSED: &str = "111";
const EHOSTUNREACH: &str = "113";

fn start(scene: &Scene, from: &Container) -> Result<Calling> {
    let Scene { callers, world, .. } = scene;
    Calling::start(callers, world, from, &["tcp", "udp"], scene.target())
}

/// How many calls ended in each way: by the number of the error, or `answered`.
fn ends(calling: Calling) -> Result<BTreeMap<String, usize>> {
    let mut ends = BTreeMap::new();
    for line in calling.end()? {
        let errno = line.strip_prefix("errno=").and_then(|rest| rest.split(' ').next());
        *ends.entry(errno.unwrap_or("answered").to_owned()).or_insert(0) += 1;
    }
    println!("{ends:?}");
    Ok(ends)
}

/// None was answered, and none waited: each heard one of these errors.
fn only(ends: &BTreeMap<String, usize>, errors: &[&str]) -> Result<()> {
    ensure!(ends.values().sum::<usize>() >= 200, "hardly any calls: {ends:?}");
    ensure!(ends.keys().all(|it| errors.contains(&it.as_str())), "{ends:?}");
    Ok(())
}

fn scene() -> Result<(Scene, Container)> {
    let world = World::docker()?;
    let stranger = stranger(&world, "stranger")?;
    let scene = Scene::with(world, |_| {})?;
    scene.wait_known("stranger")?;
    Ok((scene, stranger))
}

/// On which network a backend is comes with it, so there is no moment in which everybody is led to it.
#[test]
fn who_is_on_another_network_is_told_while_backends_come_and_go() -> Result<()> {
    needs!(docker);
    let (scene, stranger) = scene()?;
    let calling = start(&scene, &stranger)?;
    let begun = Instant::now();
    for round in 3..6 {
        // In the same place, by another number, and one more of them.
        for web in &scene.webs {
            web.act("restart --time 0")?;
        }
        let further = web(&scene.world, round)?.start()?;
        scene.agent.wait_backends(&["web-1", "web-2", further.name()])?;
        calling.goes_on()?;
        further.act("rm --force")?;
    }
    println!("9 came in {:?}", begun.elapsed());
    let ends = ends(calling)?;
    // For a moment there was none at all.
    only(&ends, &[EHOSTUNREACH, ECONNREFUSED])?;
    ensure!(ends.contains_key(EHOSTUNREACH), "{ends:?}");
    scene.served(Some(&scene.client), "tcp", scene.target(), 10)?;
    Ok(())
}

/// What the next agent finds in the tables counts until it knows better.
#[test]
fn who_is_on_another_network_is_told_while_the_agent_is_restarted() -> Result<()> {
    needs!(docker);
    let (mut scene, stranger) = scene()?;
    let networks = |scene: &Scene| -> Result<Vec<u64>> {
        let path = scene.agent.pin_path().join("maps/BACKEND_NETWORKS");
        let map = aya::maps::Map::Array(aya::maps::MapData::from_pin(path)?);
        let map = aya::maps::Array::<_, u64>::try_from(map)?;
        let all = (1..64).map(|number| map.get(&number, 0)).collect::<Result<Vec<_>, _>>()?;
        Ok(all.into_iter().filter(|network| *network != 0).collect())
    };
    let before = networks(&scene)?;
    ensure!(before.len() == 2 && before[0] == before[1], "{before:?}");
    let calling = start(&scene, &stranger)?;
    for signal in [Signal::SIGKILL, Signal::SIGTERM] {
        scene.agent.stop(signal)?;
        calling.goes_on()?;
        scene.agent.start()?;
        assert_eq!(networks(&scene)?, before, "right after the start");
        scene.agent.wait_backends(&["web-1", "web-2"])?;
        calling.goes_on()?;
    }
    // Without Docker nobody claims the backends, which live and are kept.
    scene.agent.stop(Signal::SIGKILL)?;
    scene.world.docker_node()?.stop_daemon(Signal::SIGKILL);
    scene.agent.start()?;
    process::sleep(Duration::from_secs(4))?;
    calling.goes_on()?;
    assert_eq!(networks(&scene)?, before, "without Docker");
    scene.world.docker_node()?.start_daemon()?;
    scene.agent.wait_backends(&["web-1", "web-2"])?;
    scene.wait_known("stranger")?;
    only(&ends(calling)?, &[EHOSTUNREACH])?;
    scene.served(Some(&scene.client), "tcp", scene.target(), 10)?;
    Ok(())
}
