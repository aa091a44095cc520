//! What operators order by `lbctl backend`, what they read of it, and blue-green by weight.

use std::{
    io::{BufRead as _, BufReader},
    net::SocketAddr,
    process::Stdio,
    sync::{Arc, Mutex, PoisonError},
    thread,
    time::Duration,
};

use anyhow::{Context as _, Result, ensure};
use lb_tests::{
    Agent, World, needs,
    process::{self, wait_for},
    world::{BALANCER, vip},
};

const SOON: Duration = Duration::from_secs(20);
/// Connections by which shares are measured: of a share of a half, four standard deviations are 8 %.
const CONNECTIONS: u32 = 600;

/// Waits until `name` gets about so many percent of new connections.
fn wait_share(world: &World, address: SocketAddr, name: &str, percent: f64) -> Result<()> {
    wait_for("the share", SOON, || {
        let report = world.client().fetch(address, CONNECTIONS)?;
        let got = report.check()?.by_name.get(name).copied().unwrap_or(0);
        let got = got as f64 * 100.0 / f64::from(CONNECTIONS);
        // None and all are exact.
        let allowed = if percent % 100.0 == 0.0 { 0.0 } else { 8.0 };
        ensure!((got - percent).abs() <= allowed, "{name} gets {got} % of {address}");
        Ok(())
    })
}

/// What `lbctl event follow` has told so far.
struct Followed {
    child: std::process::Child,
    told: Arc<Mutex<String>>,
}

impl Followed {
    fn start(agent: &Agent) -> Result<Self> {
        let mut child = agent.lbctl_command("event follow").stdout(Stdio::piped()).spawn()?;
        let output = child.stdout.take().context("no output")?;
        let told = Arc::new(Mutex::new(String::new()));
        let sink = Arc::clone(&told);
        thread::spawn(move || {
            for line in BufReader::new(output).lines().map_while(Result::ok) {
                *sink.lock().unwrap_or_else(PoisonError::into_inner) += &(line + "\n");
            }
        });
        Ok(Self { child, told })
    }

    fn wait(&self, part: &str) -> Result<()> {
        wait_for("the event", SOON, || {
            let told = self.told.lock().unwrap_or_else(PoisonError::into_inner);
            ensure!(told.contains(part), "no `{part}` in\n{told}");
            Ok(())
        })
    }

    fn has_told(&self, part: &str) -> bool {
        self.told.lock().unwrap_or_else(PoisonError::into_inner).contains(part)
    }
}

impl Drop for Followed {
    fn drop(&mut self) {
        self.child.kill().ok();
        self.child.wait().ok();
    }
}

#[test]
fn operators_take_out_and_weigh_and_are_told_what_happens() -> Result<()> {
    needs!(docker);
    let world = World::docker()?;
    world.start_webs(2)?;
    let agent = world.start_agent(&world.config())?;
    agent.wait_backends(&["web-1", "web-2"])?;
    let events = Followed::start(&agent)?;
    // What it was too late for is not told by it.
    wait_for("that it follows", SOON, || {
        agent.lbctl("backend weight web-1 200")?;
        agent.lbctl("backend weight web-1 reset")?;
        ensure!(events.has_told("weight 100 -> 200"), "not yet");
        Ok(())
    })?;
    agent.lbctl("backend disable web-1")?;
    wait_share(&world, world.front(), "web-1", 0.0)?;
    events.wait("healthy -> disabled")?;
    agent.lbctl("backend enable web-1")?;
    wait_share(&world, world.front(), "web-1", 50.0)?;
    events.wait("disabled -> healthy")?;
    agent.lbctl("backend weight web-1 300")?;
    wait_share(&world, world.front(), "web-1", 75.0)?;
    events.wait("weight 100 -> 300")?;
    agent.lbctl("backend weight web-1 0")?;
    wait_share(&world, world.front(), "web-1", 0.0)?;
    agent.lbctl("backend weight web-1 reset")?;
    wait_share(&world, world.front(), "web-1", 50.0)?;
    events.wait("weight 0 -> 100")?;
    ensure!(agent.lbctl("backend weight nobody 3").is_err(), "there is no such backend");
    Ok(())
}

#[test]
fn blue_goes_and_green_comes_by_weight() -> Result<()> {
    needs!(docker);
    let world = World::docker()?;
    let docker = world.docker_client()?;
    let frontend = format!("tcp://{BALANCER}:82");
    for (name, weight) in [("blue", "100"), ("green", "0")] {
        let container = docker.container(name).compose("shop", name, 1);
        let container = container.label("lb.frontend", &frontend).label("lb.port", "8080");
        container.label("lb.share", "shop").label("lb.weight", weight).start()?;
    }
    let agent = world.start_agent(&world.config())?;
    agent.wait_backends(&["blue", "green"])?;
    wait_share(&world, vip(82), "green", 0.0)?;
    let mut streams = world.client().streams(vip(82), 20)?;
    process::sleep(Duration::from_secs(1))?;
    agent.lbctl("backend weight green 50")?;
    wait_share(&world, vip(82), "green", 33.3)?;
    agent.lbctl("backend weight blue 0")?;
    wait_share(&world, vip(82), "green", 100.0)?;
    let broken = streams.so_far()?.failures.len();
    ensure!(broken == 0, "{broken} connections of blue were broken by a weight");
    let report = streams.finish()?;
    ensure!(report.failures.is_empty(), "{:?}", report.failures.first());
    Ok(())
}

#[test]
fn conflicts_are_listed_while_they_last() -> Result<()> {
    needs!(docker);
    let world = World::docker()?;
    let docker = world.docker_client()?;
    let frontend = format!("tcp://{BALANCER}:82");
    let start = |name: &str| {
        let container = docker.container(name).compose("shop", name, 1);
        container.label("lb.frontend", &frontend).label("lb.port", "8080").start()
    };
    start("first")?;
    let agent = world.start_agent(&world.config())?;
    agent.wait_backends(&["first"])?;
    ensure!(agent.rows("conflict")?.is_empty(), "nobody is in conflict");
    start("second")?;
    let rows = || -> Result<Vec<(String, String)>> {
        let of = |row: &serde_json::Value, key: &str| row[key].as_str().unwrap_or("-").to_owned();
        let rows = agent.rows("conflict")?;
        Ok(rows.iter().map(|row| (of(row, "owner"), of(row, "contender"))).collect())
    };
    let expected = ("compose/shop/first:8080".to_owned(), "compose/shop/second:8080".to_owned());
    wait_for("the conflict", SOON, || {
        let rows = rows()?;
        ensure!(rows == [expected.clone()], "{rows:?}");
        Ok(())
    })?;
    let shown = agent.lbctl("conflict list")?;
    for part in ["compose/shop/first:8080", "compose/shop/second:8080", "82"] {
        ensure!(shown.contains(part), "no `{part}` in\n{shown}");
    }
    docker.run("rm --force first")?;
    agent.wait_backends(&["second"])?;
    wait_for("the end of the conflict", SOON, || {
        ensure!(agent.rows("conflict")?.is_empty(), "it goes on");
        Ok(())
    })
}
