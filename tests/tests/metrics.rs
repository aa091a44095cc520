//! `/metrics` of a real agent: what it says of traffic, connections and probes, and that nothing in it
//! is undocumented.

use std::{collections::BTreeSet, io::Write as _, net::TcpStream, time::Duration};

use anyhow::{Result, ensure};
use lb_tests::{
    World,
    container::PORT,
    exposition::{self, value},
    needs, process,
    world::BALANCER,
};

/// Where the agent serves them, in the node's namespace.
const LISTEN: &str = "127.0.0.1:9432";
/// Time for what is counted in the background.
const PATIENCE: Duration = Duration::from_secs(20);

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
        let target = lb_tests::world::vip(port);
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
