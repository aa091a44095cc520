//! `/metrics` of a real agent: what it says of traffic, connections and probes, and that nothing in it
//! is undocumented.

use std::{
    collections::BTreeSet,
    io::Write as _,
    net::{SocketAddr, TcpStream},
    time::Duration,
};

use anyhow::{Result, ensure};
use lb_tests::{
    World,
    container::PORT,
    eastwest::{Scene, shares},
    exposition::{self, value},
    needs, process,
    world::{BALANCER, vip},
};
use nix::sys::signal::Signal;

/// Where the agent serves them, in the node's namespace.
const LISTEN: &str = "127.0.0.1:9432";
/// Time for what is counted in the background.
const PATIENCE: Duration = Duration::from_secs(20);
const ECONNREFUSED: i32 = 111;

#[test]
fn metrics_tell_of_traffic_connections_and_probes() -> Result<()> {
    needs!(docker);
    let world = World::docker()?;
    let mut config = world.config();
    config.extra = format!("[metrics]\nlisten = {LISTEN:?}\n");
    let mut agent = world.start_agent(&config)?;
    // The replies of the first are fixed; the second one's port is published, so its are recorded.
    let container = |name: &str, front: u16| -> Result<_> {
        let frontend = format!("tcp://{BALANCER}:{front}");
        let container = world.docker_client()?.container(name).compose("shop", name, 1);
        Ok(container
            .label(&format!("lb.{PORT}.frontend"), &frontend)
            .label("lb.probe", "tcp")
            .label("lb.probe.interval", "200ms"))
    };
    container("fixed", 80)?.start()?;
    container("published", 81)?.with(&format!("--publish 8081:{PORT}")).start()?;
    agent.wait_backends(&["fixed", "published"])?;

    let connect = |port: u16, count: usize| -> Result<Vec<TcpStream>> {
        let target = vip(port);
        let open = || -> Result<TcpStream> {
            let mut stream = TcpStream::connect_timeout(&target, Duration::from_secs(5))?;
            // More than a handshake; the rest of the request never comes.
            stream.write_all(b"GET / HTTP/1.0\r\n")?;
            Ok(stream)
        };
        world.client().enter(|| (0..count).map(|_| open()).collect())?
    };
    let kept = (connect(80, 3)?, connect(81, 5)?);
    process::wait_for("the connections to be counted", PATIENCE, || {
        let text = exposition::scrape(world.node(), LISTEN)?;
        for (backend, expected) in [("fixed", 3), ("published", 5)] {
            let label = format!("backend=\"{backend}\"");
            let found = value(&text, "lb_backend_connections", &[&label])?;
            ensure!(found == expected, "{backend}: {found} connections, expected {expected}");
        }
        Ok(())
    })?;
    drop(kept);

    let text = exposition::scrape(world.node(), LISTEN)?;
    for (backend, flows) in [("fixed", 3), ("published", 5)] {
        let label = format!("backend=\"{backend}\"");
        let get = |name, more: &str| value(&text, name, &[label.as_str(), more]);
        ensure!(get("lb_backend_flows_total", "")? == flows, "{backend}: flows");
        for way in ["direction=\"in\"", "direction=\"out\""] {
            let packets = get("lb_backend_packets_total", way)?;
            ensure!(packets >= flows, "{backend}, {way}: {packets} packets");
            ensure!(get("lb_backend_bytes_total", way)? >= packets * 40, "{backend}, {way}");
        }
        ensure!(get("lb_backend_probes_total", "result=\"passed\"")? >= 2, "{backend}: probes");
    }
    ensure!(value(&text, "lb_probe_targets", &[])? == 2, "targets");
    ensure!(value(&text, "lb_probe_duration_seconds_count", &[])? >= 4, "probes");
    ensure!(value(&text, "lb_reconcile_lag_seconds_count", &[])? >= 1, "lags");
    ensure!(value(&text, "process_resident_memory_bytes", &[])? > 1_000_000, "memory");
    ensure!(value(&text, "lb_service_panic", &["shop/fixed"])? == 0, "panic");
    exposition::check(&text)?;
    check_documented(&text);
    agent.set_quiet();
    Ok(())
}

/// Of a backend whose replies are recorded, which those of sockets are not.
#[test]
fn sockets_of_this_node_are_connections_until_they_are_closed() -> Result<()> {
    needs!(docker);
    let world = World::docker()?;
    let published = world.docker_client()?.container("published").compose("shop", "published", 1);
    let frontends = format!("tcp://{BALANCER}:81,udp://{BALANCER}:81");
    let published = published.label(&format!("lb.{PORT}.frontend"), &frontends);
    let published = published.with(&format!("--publish 8081:{PORT}")).start()?;
    let listen = format!("[metrics]\nlisten = {LISTEN:?}\n");
    let mut scene = Scene::with(world, |config| config.extra = listen)?;
    scene.agent.wait_state("published", "healthy")?;
    let wait = |scene: &Scene, what: &str, expected: u64| {
        process::wait_for(what, PATIENCE, || {
            let text = exposition::scrape(scene.world.node(), LISTEN)?;
            let label = "backend=\"published\"";
            let found = value(&text, "lb_backend_connections", &[label])?;
            ensure!(found == expected, "{found} connections, expected {expected}");
            Ok(())
        })
    };
    wait(&scene, "nobody to be counted", 0)?;
    let Scene { callers, world, client, .. } = &scene;
    let siblings = callers.hold(world, Some(client), vip(81), 40)?;
    let of_node = callers.hold(world, None, vip(81), 20)?;
    let datagrams = callers.hold_datagrams(world, Some(client), vip(81), 10)?;
    let open = || Ok(TcpStream::connect_timeout(&vip(81), Duration::from_secs(5))?);
    let outside: Vec<TcpStream> =
        world.client().enter(|| (0..5).map(|_| open()).collect::<Result<_>>())??;
    wait(&scene, "all that are open to be counted", 65)?;

    // Those that are closed again, that come by another way, and that nobody takes.
    scene.served(Some(&scene.client), "tcp", vip(81), 100)?;
    // Its ends are not seen, so it is not counted; where the kernel has none, the calls fail.
    scene.dial(Some(&scene.client), "mptcp", vip(81), 10)?;
    let moved = scene.dial(Some(&scene.client), "tcp-moved", vip(81), 10)?;
    shares(&moved, vip(80))?;
    let direct = SocketAddr::new(published.address()?, PORT);
    scene.served(Some(&scene.client), "tcp", direct, 10)?;
    scene.refused(Some(&scene.client), "tcp", vip(82), ECONNREFUSED)?;
    wait(&scene, "the same to be counted", 65)?;
    scene.agent.stop(Signal::SIGKILL)?;
    scene.agent.start()?;
    wait(&scene, "the same to be counted by the next agent", 65)?;

    siblings.all_answer()?;
    wait(&scene, "the siblings to be counted no longer", 25)?;
    of_node.all_answer()?;
    drop(outside);
    wait(&scene, "nobody to be counted any longer", 0)?;
    datagrams.all_answer()?;
    scene.agent.set_quiet();
    Ok(())
}

/// Everything that is told is documented, and the other way round.
#[track_caller]
fn check_documented(text: &str) {
    let told: BTreeSet<&str> =
        text.lines().filter_map(|line| line.strip_prefix("# TYPE ")?.split(' ').next()).collect();
    let documentation = include_str!("../../docs/metrics.md");
    let documented: BTreeSet<&str> = documentation
        .lines()
        .filter_map(|line| line.strip_prefix("| `")?.split('`').next())
        .collect();
    assert_eq!(told, documented, "docs/metrics.md");
}
