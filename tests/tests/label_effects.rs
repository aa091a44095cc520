//! Labels of a service that change what its clients meet: each beside a service that does not say them,
//! all on one node.

use std::{
    collections::BTreeMap,
    io::ErrorKind,
    net::{TcpListener, TcpStream},
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, ensure};
use lb_tests::{
    Agent, Container, World,
    container::PORT,
    needs, process,
    traffic::{Failure, Load, now_ms},
    world::{BALANCER, vip},
};
use nix::sys::signal::Signal;

/// Port whose listener is a container's health.
const HEALTH_PORT: u16 = 9090;
/// Longest wait for something to arrive, on a busy machine too.
const SOON: Duration = Duration::from_secs(20);

/// Service, its frontend, its replicas, whether they have a probe, and the labels of a case.
type Row = (&'static str, u16, u32, bool, &'static [(&'static str, &'static str)]);

const SERVICES: [Row; 11] = [
    ("rejects", 81, 1, true, &[]),
    ("drops", 82, 1, true, &[("lb.unreachable", "drop")]),
    ("calm", 83, 2, true, &[]),
    ("anxious", 84, 2, true, &[("lb.panic", "60")]),
    ("fearless", 85, 1, true, &[("lb.panic", "0")]),
    ("short", 86, 2, true, &[("lb.unhealthy_grace", "2s")]),
    ("long", 90, 2, true, &[]),
    ("steady", 87, 2, false, &[]),
    ("slow", 88, 2, false, &[("lb.slow_start", "120s")]),
    ("brisk", 91, 2, false, &[("lb.slow_start", "3s")]),
    ("fine", 89, 2, false, &[("lb.ring_size", "4093")]),
];

/// All of them, but for the second replicas of those that are to come later.
struct Scene {
    agent: Agent,
    /// Of those who have a probe: as long as it listens they pass.
    health: BTreeMap<String, TcpListener>,
    world: World,
}

impl Scene {
    fn start() -> Result<Self> {
        let world = World::docker()?;
        let mut scene =
            Self { agent: world.start_agent(&world.config())?, health: BTreeMap::new(), world };
        // An agent gives everybody his full weight who is there when it starts.
        let rises = |service: &str| ["slow", "brisk"].contains(&service);
        scene.begin(|service, number| rises(service) && number == 1)?;
        scene.agent.wait_backends(&["brisk-1", "slow-1"])?;
        scene.agent.stop(Signal::SIGKILL)?;
        scene.agent.start()?;
        let is_late = |service: &str, number| number == 2 && service == "steady";
        scene.begin(|service, number| !rises(service) && !is_late(service, number))?;
        for name in scene.health.keys() {
            scene.agent.wait_state(name, "healthy")?;
        }
        Ok(scene)
    }

    /// Starts some of the replicas. Those that have a probe pass it, but for two of which nobody ever is
    /// there.
    fn begin(&mut self, is_meant: impl Fn(&str, u32) -> bool) -> Result<()> {
        let replicas = SERVICES.iter().flat_map(|row| (1..=row.2).map(move |it| (row, it)));
        let meant = replicas.filter(|(row, number)| is_meant(row.0, *number));
        let containers = meant.map(|(row, number)| container(&self.world, row, number));
        for container in Container::start_all(containers.collect::<Result<Vec<_>>>()?)? {
            let (service, _) = container.name().split_once('-').context("a number")?;
            let is_probed = SERVICES.iter().any(|row| row.0 == service && row.3);
            if is_probed && !["rejects", "drops"].contains(&service) {
                let listener =
                    container.enter(|| TcpListener::bind(("0.0.0.0", HEALTH_PORT)))??;
                self.health.insert(container.name().to_owned(), listener);
            }
        }
        Ok(())
    }

    /// Lets a container fail its probe.
    fn harm(&mut self, name: &str) -> Result<()> {
        self.health.remove(name).with_context(|| format!("{name} has no health"))?;
        self.agent.wait_state(name, "unhealthy")
    }

    /// How many of 300 requests each replica answers. Who is not there fails all.
    fn answers(&self, service: &str) -> Result<BTreeMap<String, u64>> {
        let report = self.world.client().fetch(vip(front(service)?), 300)?;
        let summary = report.check().with_context(|| format!("requests to {service}"))?;
        Ok(summary.by_name.clone())
    }

    /// What becomes of a connection, and how long that takes.
    fn connect(&self, service: &str) -> Result<(Option<ErrorKind>, Duration)> {
        let target = vip(front(service)?);
        let begun = Instant::now();
        let connect = || TcpStream::connect_timeout(&target, Duration::from_millis(1500));
        let result = self.world.client().enter(connect)?;
        Ok((result.err().map(|error| error.kind()), begun.elapsed()))
    }

    fn streams(&self, service: &str) -> Result<Load> {
        let target = vip(front(service)?);
        self.world.client().slow_streams(target, 16, Duration::from_millis(100))
    }
}

fn front(service: &str) -> Result<u16> {
    let row = SERVICES.iter().find(|row| row.0 == service);
    Ok(row.with_context(|| format!("no service {service}"))?.1)
}

fn container(world: &World, row: &Row, number: u32) -> Result<Container> {
    let (service, front, _, is_probed, labels) = row;
    let container = world.docker_client()?.container(&format!("{service}-{number}"));
    let container = container.compose("shop", service, number);
    let frontend = format!("tcp://{BALANCER}:{front}");
    let mut all = vec![(format!("lb.{PORT}.frontend"), frontend)];
    if *is_probed {
        let port = HEALTH_PORT.to_string();
        let probe = [("lb.probe", "tcp"), ("lb.probe.port", &port), ("lb.probe.interval", "200ms")];
        all.extend(probe.map(|(key, value)| (key.to_owned(), value.to_owned())));
    }
    all.extend(labels.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())));
    Ok(all.iter().fold(container, |it, (key, value)| it.label(key, value)))
}

/// Nobody is there for either: one says so, the other nothing.
fn unreachable(scene: &mut Scene) -> Result<()> {
    let (error, took) = scene.connect("rejects")?;
    ensure!(error == Some(ErrorKind::ConnectionRefused), "not refused: {error:?} in {took:?}");
    let (error, took) = scene.connect("drops")?;
    ensure!(error == Some(ErrorKind::TimedOut), "told after {took:?}: {error:?}");
    scene.agent.wait_drops("no_backend", 2)
}

/// One of two fails: those who panic below 60 % use it all the same.
fn panic(scene: &mut Scene) -> Result<()> {
    scene.harm("calm-1")?;
    scene.harm("anxious-1")?;
    let calm = scene.answers("calm")?;
    ensure!(calm.keys().eq(["calm-2"]), "{calm:?} by the default");
    let anxious = scene.answers("anxious")?;
    ensure!(anxious.keys().eq(["anxious-1", "anxious-2"]), "{anxious:?} in panic");
    // The last one fails, and is used, unless that is never wanted.
    scene.harm("calm-2")?;
    scene.harm("fearless-1")?;
    let calm = scene.answers("calm")?;
    ensure!(calm.keys().eq(["calm-1", "calm-2"]), "{calm:?} by the default, in panic");
    let (error, _) = scene.connect("fearless")?;
    ensure!(error == Some(ErrorKind::ConnectionRefused), "served in spite of it: {error:?}");
    Ok(())
}

/// Who fails loses its connections after two seconds, and by default not as soon.
fn unhealthy_grace(scene: &mut Scene) -> Result<()> {
    let (mut short, long) = (scene.streams("short")?, scene.streams("long")?);
    let harmed_ms = now_ms();
    scene.harm("long-1")?;
    scene.harm("short-1")?;
    short.wait_until("the end of its streams", SOON, |report| !report.failures.is_empty())?;
    scene.agent.wait_state("short-1", "gone")?;
    let ended = short.finish()?.failures;
    let is_right = |it: &Failure| it.name == "short-1" && it.at_ms >= harmed_ms + 2000.0;
    ensure!(ended.iter().all(is_right), "others, or too soon after {harmed_ms}: {ended:?}");
    let long = long.finish()?;
    ensure!(long.connected.iter().any(|name| name == "long-1"), "{:?}", long.connected);
    long.check().map(drop)
}

/// A second replica begins with a tenth of its weight, or with all of it.
fn slow_start(scene: &mut Scene) -> Result<()> {
    for (service, share) in [("steady", 110..=190), ("slow", 5..=75)] {
        scene.begin(|meant, number| meant == service && number == 2)?;
        scene.agent.wait_state(&format!("{service}-2"), "healthy")?;
        let answers = scene.answers(service)?;
        let of_second = answers.get(&format!("{service}-2")).copied().unwrap_or_default();
        ensure!(share.contains(&of_second), "{of_second} of 300 by {service}-2: {answers:?}");
    }
    // All of it after its time.
    scene.begin(|meant, number| meant == "brisk" && number == 2)?;
    process::wait_for("its full weight", SOON, || {
        let share = scene.agent.backend("brisk-2")?["share_percent"].as_f64();
        ensure!(share > Some(49.0), "{share:?} % of the ring");
        Ok(())
    })
}

/// A replica has a whole number of slots: as many 4093rds, and by default others.
fn ring_size(scene: &mut Scene) -> Result<()> {
    for (name, is_whole) in [("fine-1", true), ("fine-2", true), ("steady-1", false)] {
        let row = scene.agent.backend(name)?;
        let share = row["share_percent"].as_f64().context("no share")?;
        let slots = share / 100.0 * 4093.0;
        ensure!(((slots - slots.round()).abs() < 0.02) == is_whole, "{name}: {slots} slots");
    }
    let answers = scene.answers("fine")?;
    ensure!(answers.len() == 2, "{answers:?}");
    Ok(())
}

/// What a label does, and its absence does not.
type Check = fn(&mut Scene) -> Result<()>;

#[test]
fn labels_do_what_they_say() -> Result<()> {
    needs!(docker);
    let mut scene = Scene::start()?;
    let cases: [(&str, Check); 5] = [
        ("lb.unreachable", unreachable),
        ("lb.panic", panic),
        ("lb.unhealthy_grace", unhealthy_grace),
        ("lb.slow_start", slow_start),
        ("lb.ring_size", ring_size),
    ];
    let mut failed = Vec::new();
    for (label, check) in cases {
        if let Err(error) = check(&mut scene) {
            failed.push(format!("{label}: {error:#}"));
        }
    }
    ensure!(failed.is_empty(), "{failed:#?}");
    ensure!(scene.agent.refusals()?.is_empty(), "{:?}", scene.agent.refusals()?);
    scene.agent.set_quiet();
    Ok(())
}
