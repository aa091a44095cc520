//! What happens to containers, as clients see it.

use std::{
    io::{Read as _, Write as _},
    net::{SocketAddr, TcpListener},
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, ensure};
use lb_tests::{
    Agent, Container, World,
    callers::Callers,
    container::PORT,
    process,
    world::{BALANCER, FRONT_PORT, vip},
};
use nix::sys::signal::Signal;

use super::{
    ControlOptions, Part,
    clients::{Clients, FEW, PATIENCE},
    kernel::{Rings, Watch},
    moments::Moments,
    noise::Noise,
    passive,
    report::Report,
    resources,
    sync::Oracle,
};

/// How long connections are watched after a death, or a failed probe. Of those in the first half it is
/// known then what became of them.
const AFTERMATH: Duration = PATIENCE.saturating_mul(2);
/// Port of the service that is probed.
const PROBED_PORT: u16 = 81;
/// Port in a container at which its probe is answered by us.
const PROBE_PORT: u16 = 9999;
/// Bad probes that make a backend unhealthy.
const FALL: usize = 3;

pub(super) fn measure(options: &ControlOptions, report: &mut Report) -> Result<()> {
    let mut world = World::docker()?;
    // Socket calls are balanced, as they are by default.
    let callers = Callers::of(&mut world)?;
    world.node().ip("route add 10.128.0.0/9 via 192.0.2.2")?;
    let mut config = world.config();
    config.cgroup = Some(callers.cgroup().to_owned());
    config.resync_seconds = 30;
    config.extra = options.file_services();
    let mut agent = world.start_agent(&config)?;
    Oracle::new(&agent, options)?.wait(true)?;
    let rings = Rings::open(agent.pin_path())?;
    let before = rings.all()?;
    let webs = world.start_webs(2)?;
    let clients = Clients::start(world.client(), vip(FRONT_PORT), FEW);
    for web in &webs {
        clients.wait_served(web.name(), Instant::now())?;
    }
    let ours = rings.all()?;
    let ring = *ours.difference(&before).next().context("no ring of the containers")?;

    if options.has(Part::Deaths) {
        let watch = Watch::start(rings, ring);
        let noise = Noise::start()?;
        deaths(options, report, &world, &webs, &clients, &watch)?;
        noise.end(report)?;
    }
    drop(clients);
    if options.has(Part::Probes) {
        probes(options, report, &world)?;
    }
    if options.has(Part::Passive) {
        passive::measure(options, report, &world)?;
    }
    if options.has(Part::Idle) {
        idle(options, report, &agent)?;
    }
    if options.has(Part::Restarts) {
        restarts(options, report, &agent, &webs)?;
    }
    agent.set_quiet();
    Ok(())
}

fn ms(time: Duration) -> f64 {
    time.as_secs_f64() * 1e3
}

/// One of two containers dies and is started again.
fn deaths(
    options: &ControlOptions,
    report: &mut Report,
    world: &World,
    webs: &[Container],
    clients: &Clients,
    watch: &Watch,
) -> Result<()> {
    let [mortal, other] = webs else { anyhow::bail!("two containers") };
    let moments = Moments::follow(&world.docker_client()?)?;
    let (mut last_sent, mut out_of_ring, mut in_ring) = (Vec::new(), Vec::new(), Vec::new());
    let (mut heard_in_ring, mut first_served) = (Vec::new(), Vec::new());
    for _ in 0..options.runs {
        let pid = mortal.pid()?;
        clients.wait_served(mortal.name(), Instant::now())?;
        clients.take();
        watch.clear();
        let killed = Instant::now();
        process::kill(pid, Signal::SIGKILL);
        process::sleep(AFTERMATH)?;
        out_of_ring.push(ms(watch.wait_backends(1)?.saturating_duration_since(killed)));
        last_sent.push(ms(clients.last_not_served_by(other.name(), killed)));
        process::wait_for("the container's end", Duration::from_secs(20), || {
            ensure!(mortal.inspect("{{.State.Running}}")? == "false", "it runs");
            Ok(())
        })?;

        watch.clear();
        moments.clear();
        let called = Instant::now();
        mortal.act("start")?;
        let served = clients.wait_served(mortal.name(), called)?;
        let started = moments.wait("start", mortal.name())?;
        let published = watch.wait_backends(2)?;
        in_ring.push(ms(published.saturating_duration_since(started.said)));
        heard_in_ring.push(ms(published.saturating_duration_since(started.heard)));
        first_served.push(ms(served.ended.saturating_duration_since(started.said)));
    }
    report.add("event `start` heard -> kernel", "ms", Some(20.0), heard_in_ring);
    report.add("event `start` as Docker dates it -> kernel", "ms", None, in_ring);
    report.add("event `start` -> first connection served", "ms", None, first_served);
    report.add("SIGKILL -> last connection lost by it", "ms", Some(100.0), last_sent);
    report.add("SIGKILL -> out of the ring", "ms", None, out_of_ring);
    Ok(())
}

/// One of two containers fails its probe and passes it again.
fn probes(options: &ControlOptions, report: &mut Report, world: &World) -> Result<()> {
    let mut servers = Vec::new();
    for number in 1..=2 {
        let container = world
            .docker_client()?
            .container(&format!("probed-{number}"))
            .compose("shop", "probed", number)
            .label(&format!("lb.{PORT}.frontend"), &format!("tcp://{BALANCER}:{PROBED_PORT}"))
            .label("lb.probe", "http")
            .label("lb.probe.port", &PROBE_PORT.to_string())
            .label("lb.probe.interval", "200ms")
            .label("lb.probe.timeout", "200ms")
            .label("lb.probe.rise", "2")
            .label("lb.probe.fall", &FALL.to_string())
            .start()?;
        servers.push((ProbeServer::start(&container)?, container));
    }
    let [(server, failing), (_, other)] = &servers[..] else { anyhow::bail!("two containers") };
    let clients = Clients::start(world.client(), vip(PROBED_PORT), FEW);
    let mut last_sent = Vec::new();
    for _ in 0..options.runs {
        for name in [failing.name(), other.name()] {
            clients.wait_served(name, Instant::now())?;
        }
        clients.take();
        server.set_failing(true);
        let failed = server.wait_failures(FALL)?;
        process::sleep(AFTERMATH)?;
        last_sent.push(ms(clients.last_not_served_by(other.name(), failed)));
        server.set_failing(false);
    }
    report.add("last failed probe -> last connection sent to it", "ms", Some(100.0), last_sent);
    for (_, container) in &servers {
        container.act("rm --force")?;
    }
    Ok(())
}

/// Answers the probe of a container, from outside of it.
struct ProbeServer {
    shared: Arc<Answers>,
    address: SocketAddr,
}

#[derive(Default)]
struct Answers {
    is_failing: AtomicBool,
    is_over: AtomicBool,
    /// When a failure was answered.
    failures: Mutex<Vec<Instant>>,
}

impl ProbeServer {
    fn start(container: &Container) -> Result<Self> {
        let listener = container.enter(|| TcpListener::bind(("0.0.0.0", PROBE_PORT)))??;
        let shared = Arc::new(Answers::default());
        let theirs = Arc::clone(&shared);
        thread::spawn(move || theirs.serve(&listener));
        Ok(Self { shared, address: SocketAddr::new(container.address()?, PROBE_PORT) })
    }

    fn set_failing(&self, is_failing: bool) {
        self.shared.failures.lock().unwrap_or_else(PoisonError::into_inner).clear();
        self.shared.is_failing.store(is_failing, Ordering::Relaxed);
    }

    /// Waits for this failure since it fails; when it was answered.
    fn wait_failures(&self, count: usize) -> Result<Instant> {
        let what = format!("{count} probes at {}", self.address);
        process::wait_for(&what, Duration::from_secs(20), || {
            let failures = self.shared.failures.lock().unwrap_or_else(PoisonError::into_inner);
            failures.get(count - 1).copied().context("not yet")
        })
    }
}

impl Drop for ProbeServer {
    fn drop(&mut self) {
        // The thread ends with the next connection, or with this process.
        self.shared.is_over.store(true, Ordering::Relaxed);
    }
}

impl Answers {
    fn serve(&self, listener: &TcpListener) {
        for stream in listener.incoming() {
            if self.is_over.load(Ordering::Relaxed) {
                return;
            }
            let Ok(mut stream) = stream else { continue };
            let is_failing = self.is_failing.load(Ordering::Relaxed);
            let status = if is_failing { "500 No" } else { "200 OK" };
            let answer = format!("HTTP/1.1 {status}\r\nContent-Length: 0\r\n\r\n");
            let mut request = [0; 1024];
            let is_answered =
                stream.read(&mut request).is_ok() && stream.write_all(answer.as_bytes()).is_ok();
            if is_failing && is_answered {
                let mut failures = self.failures.lock().unwrap_or_else(PoisonError::into_inner);
                failures.push(Instant::now());
            }
        }
    }
}

/// Nothing happens.
fn idle(options: &ControlOptions, report: &mut Report, agent: &Agent) -> Result<()> {
    let pid = agent.pid().context("no agent")?;
    // What came before settles.
    process::sleep(Duration::from_secs(10))?;
    let time = Duration::from_secs(options.idle_seconds);
    let (before, begun) = (resources::cpu_time(pid)?, Instant::now());
    process::sleep(time)?;
    let used = resources::cpu_time(pid)?.saturating_sub(before);
    let percent = used.as_secs_f64() / begun.elapsed().as_secs_f64() * 100.0;
    report.add("idle", "%CPU", Some(1.0), vec![percent]);
    memory(report, pid)
}

/// What it has in RAM.
fn memory(report: &mut Report, pid: u32) -> Result<()> {
    let heap = resources::memory_mib(pid, "RssAnon")?;
    report.add("its heap and stacks", "MiB", None, vec![heap]);
    report.add_memory(pid)
}

/// Containers are restarted, two at a time.
fn restarts(
    options: &ControlOptions,
    report: &mut Report,
    agent: &Agent,
    webs: &[Container],
) -> Result<()> {
    let pid = agent.pid().context("no agent")?;
    // Connections to Docker and buffers that are kept come with the first ones.
    restart(webs, 5)?;
    let look = || -> Result<_> {
        process::sleep(Duration::from_secs(10))?;
        Ok((resources::descriptors(pid)?, resources::memory_mib(pid, "RssAnon")?))
    };
    let (descriptors, memory) = look()?;
    restart(webs, options.restarts.div_ceil(webs.len() as u32))?;
    let (descriptors_after, memory_after) = look()?;
    report.add("descriptors before the restarts", "", None, vec![descriptors]);
    let goal = Some(descriptors + 2.0);
    report.add("descriptors after the restarts", "", goal, vec![descriptors_after]);
    report.add("its heap before", "MiB", None, vec![memory]);
    report.add("its heap after", "MiB", None, vec![memory_after]);
    Ok(())
}

/// Restarts each so many times.
fn restart(webs: &[Container], times: u32) -> Result<()> {
    thread::scope(|scope| {
        let restart_one = |web: &Container| -> Result<()> {
            for _ in 0..times {
                process::check_interrupt()?;
                web.act("restart --time 0")?;
            }
            Ok(())
        };
        let threads: Vec<_> =
            webs.iter().map(|web| scope.spawn(move || restart_one(web))).collect();
        for thread in threads {
            thread.join().map_err(|_panic| anyhow::anyhow!("restarting: a panic"))??;
        }
        Ok(())
    })
}
