//! A container calls a service by its name, once a second: restclient calls restserver.local, with the
//! labels that such a pair has had elsewhere. Backends die and fall ill, and no call fails for longer than
//! it takes to notice, as calls show that are made far more often beside it.
//!
//! In a world of its own: a Docker daemon in namespaces, and a cgroup below which alone calls are
//! balanced.

use std::{
    collections::{BTreeMap, BTreeSet},
    io::Read as _,
    process::{Child, Command, Stdio},
    time::Duration,
};

use anyhow::{Context as _, Result, ensure};
use lb_tests::{
    Agent, Container, DockerOptions, World, callers::Callers, process, traffic::now_ms,
};
use nix::sys::signal::Signal;

use crate::printer::Printer;

/// The name that the application knows.
const NAME: &str = "restserver.local";
/// Where its addresses come from.
const POOL: &str = "203.0.113.64/26";
/// The gateway of containers, on which the agent answers for names.
const GATEWAY: &str = "172.30.0.1";
/// Port of the process that makes a server healthy.
const HEALTH: u16 = 9000;
/// Time between two calls of restclient itself, and of who measures.
const OWN_MS: u32 = 1000;
const FAST_MS: u32 = 50;
/// Longest time after something happened in which calls may still fail.
const FAILURES_MS_MAX: f64 = 250.0;

/// Longest time that the application calls, should nobody end it.
const CALLS_MAX: Duration = Duration::from_mins(2);
/// Calls after something happened that say something of it.
const CALLS_MIN: usize = 20;
/// Calls of restclient itself that show that it calls all the time.
const OWN_MIN: usize = 8;

/// Plays everything.
pub(crate) fn play(printer: &mut Printer) -> Result<()> {
    // As `"dns": ["172.30.0.1"]` in daemon.json says: whoever is started asks there.
    let dns = Some(GATEWAY);
    let mut world = World::docker_with(DockerOptions { dns, ..DockerOptions::default() })?;
    let callers = Callers::of(&mut world)?;
    printer.scene("restserver, scale 2, with probes; restclient; and the agent");
    let servers = [start_server(&world, 1)?, start_server(&world, 2)?];
    let mut healths = [make_healthy(&servers[0])?, make_healthy(&servers[1])?];
    let client = world.docker_client()?.container("restclient").start()?;
    let mut config = world.config();
    config.cgroup = Some(callers.cgroup().to_owned());
    config.keys = format!("routing_pool = \"{POOL}\"");
    config.extra = format!("[names]\nlisten = [\"{GATEWAY}:53\"]\n");
    let mut agent = world.start_agent(&config)?;
    agent.set_quiet();
    agent.wait_backends(&["restserver-1", "restserver-2"])?;
    printer.quote("lbctl vip list", &agent.lbctl("vip list")?);
    printer.line(&format!(
        "restclient asks {GATEWAY} for names, as all containers do: \"dns\": [\"{GATEWAY}\"] in \
         Docker's daemon.json (for one container: docker run --dns {GATEWAY})"
    ));
    wait_answered(&client)?;

    printer.scene(&format!("restclient calls http://{NAME}/ once a second"));
    let own = Calls::start(&client, OWN_MS)?;
    let calls = Calls::start(&client, FAST_MS)?;
    process::sleep(Duration::from_secs(3))?;
    let pid = servers[0].pid()?;
    let killed_ms = now_ms();
    printer.line("restserver-1 is killed");
    process::kill(pid, Signal::SIGKILL);
    process::sleep(Duration::from_secs(2))?;
    servers[0].act("start")?;
    healths[0].end();
    healths[0] = make_healthy(&servers[0])?;
    agent.wait_backends(&["restserver-1", "restserver-2"])?;
    printer.line("restserver-1 is back");
    process::sleep(Duration::from_secs(1))?;
    printer.line("restserver-2 falls ill: its probe fails");
    healths[1].end();
    wait_unhealthy(&agent, "restserver-2")?;
    let ill_ms = now_ms();
    process::sleep(Duration::from_secs(3))?;
    let (own, calls) = (own.end()?, calls.end()?);
    process::check_interrupt()?;
    printer.line("what restclient tells, in seconds since the kill:");
    for line in log(&own, killed_ms) {
        printer.line(&line);
    }
    show_own(printer, &own, killed_ms);
    printer.line("and another program in it, twenty times a second");
    show(printer, &calls, killed_ms, ill_ms);
    printer.quote("lbctl status", &agent.lbctl("status")?);
    healths[0].end();
    let removed = agent.stop(Signal::SIGTERM).and_then(|()| agent.uninstall());
    printer.promise(removed.is_ok(), "uninstalled, and everything is removed");
    process::check_interrupt()
}

/// A line for each call: seconds since the kill, who answered, and by which address it was asked.
fn log(calls: &[Call], killed_ms: f64) -> Vec<String> {
    let line = |call: &Call| {
        let seconds = (call.at_ms - killed_ms) / 1000.0;
        let answer = call.answer.as_deref().unwrap_or("failed");
        format!("{seconds:+7.2}  {answer}  {}", call.peer.as_deref().unwrap_or("-"))
    };
    calls.iter().map(line).collect()
}

fn show_own(printer: &mut Printer, calls: &[Call], killed_ms: f64) {
    let names: BTreeSet<&str> = calls.iter().filter_map(|call| call.answer.as_deref()).collect();
    let late = calls.iter().filter(|call| call.is_late(killed_ms)).count();
    let is_kept = late == 0 && calls.len() >= OWN_MIN && names.len() == 2;
    let text = format!(
        "{} calls, one a second, answered by both; {late} failed that were not within 250 ms of the kill",
        calls.len()
    );
    printer.promise(is_kept, &text);
}

fn show(printer: &mut Printer, calls: &[Call], killed_ms: f64, ill_ms: f64) {
    let mut shares: BTreeMap<&str, usize> = BTreeMap::new();
    for call in calls.iter().filter(|call| call.at_ms < killed_ms) {
        *shares.entry(call.answer.as_deref().unwrap_or("failed")).or_default() += 1;
    }
    let both = ["restserver-1", "restserver-2"].iter().all(|name| shares.contains_key(name));
    printer.promise(both, &format!("answers from both: {shares:?}"));
    let late = calls.iter().filter(|call| call.is_late(killed_ms)).count();
    printer.promise(
        late == 0,
        &format!("{} calls; {late} failed that were not within 250 ms of the kill", calls.len()),
    );
    let is_dead = |call: &&Call| {
        let after_ms = call.at_ms - ill_ms;
        after_ms > FAILURES_MS_MAX && call.answer.as_deref() == Some("restserver-2")
    };
    let dead = calls.iter().filter(is_dead).count();
    let after = calls.iter().filter(|call| call.at_ms > ill_ms + FAILURES_MS_MAX).count();
    printer.promise(
        dead == 0 && after >= CALLS_MIN,
        &format!("of {after} calls after that {dead} went to the one that is ill"),
    );
    let vip = calls.iter().filter(|call| call.answer.is_some()).all(|call| call.peer.is_some());
    printer.promise(vip, "restclient sees the virtual address as its peer");
}

fn start_server(world: &World, number: u32) -> Result<Container> {
    let name = format!("restserver-{number}");
    let container = world.docker_client()?.container(&name).compose("demo", "restserver", number);
    container
        .serving(80)
        .label("aliyun.routing.port_80", NAME)
        .label("aliyun.scale", "2")
        // A port of its own, so that it can fall ill while it serves.
        .label("aliyun.probe.url", &format!("http://container:{HEALTH}"))
        .label("aliyun.probe.initial_delay_seconds", "2")
        .label("aliyun.probe.timeout_seconds", "2")
        // Such labels say nothing of these.
        .label("lb.probe.interval", "100ms")
        .label("lb.probe.fall", "1")
        .label("lb.probe.rise", "1")
        .start()
}

/// A process in the container whose port its probe connects to.
struct Healthy(Child);

impl Healthy {
    fn end(&mut self) {
        process::signal(&self.0, Signal::SIGKILL);
        process::wait_child(&mut self.0, Duration::from_secs(2));
    }
}

impl Drop for Healthy {
    fn drop(&mut self) {
        self.end();
    }
}

fn make_healthy(server: &Container) -> Result<Healthy> {
    let testkit = &lb_tests::binaries::Binaries::find()?.testkit;
    let network = format!("--net=/proc/{}/ns/net", server.pid()?);
    let mut command = Command::new("setpriv");
    command.args(["--pdeathsig", "KILL", "nsenter", &network]).arg(testkit);
    command.args(["serve", "--port", &HEALTH.to_string()]);
    let quiet = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    Ok(Healthy(quiet.spawn()?))
}

fn wait_unhealthy(agent: &Agent, name: &str) -> Result<()> {
    process::wait_for(&format!("{name} to be found ill"), Duration::from_secs(5), || {
        let healthy = agent.healthy_backends()?;
        ensure!(!healthy.iter().any(|it| it == name), "{healthy:?}");
        Ok(())
    })
}

fn wait_answered(client: &Container) -> Result<()> {
    process::wait_for(NAME, Duration::from_secs(10), || {
        let words = format!("call --name {NAME}:80 --interval-ms 100 --seconds 0.3");
        process::run(&mut client.exec(&words)).map(|_| ())
    })
}

/// One call of the application.
struct Call {
    at_ms: f64,
    /// Who answered; `None`: it failed.
    answer: Option<String>,
    /// The peer, if it is of the pool.
    peer: Option<String>,
}

impl Call {
    /// It failed, and not because nobody could have noticed yet.
    fn is_late(&self, killed_ms: f64) -> bool {
        let after_ms = self.at_ms - killed_ms;
        self.answer.is_none() && !(0.0..=FAILURES_MS_MAX).contains(&after_ms)
    }
}

struct Calls(Child);

impl Calls {
    fn start(client: &Container, interval_ms: u32) -> Result<Self> {
        let seconds = CALLS_MAX.as_secs();
        let words =
            format!("call --name {NAME}:80 --interval-ms {interval_ms} --seconds {seconds}");
        let mut command = client.exec(&words);
        Ok(Self(command.stdin(Stdio::null()).stdout(Stdio::piped()).spawn()?))
    }

    fn end(mut self) -> Result<Vec<Call>> {
        let mut text = String::new();
        let mut output = self.0.stdout.take().context("no output")?;
        process::signal(&self.0, Signal::SIGKILL);
        output.read_to_string(&mut text)?;
        self.0.wait()?;
        // The last line may be half of one.
        let whole = text.rfind('\n').map_or("", |end| &text[..end]);
        whole.lines().map(parse).collect()
    }
}

fn parse(line: &str) -> Result<Call> {
    let field =
        |key: &str| line.split(' ').find_map(|word| word.strip_prefix(key)?.strip_prefix('='));
    let at_ms = field("at_ms").with_context(|| line.to_owned())?.parse()?;
    let peer = field("peer").filter(|peer| peer.starts_with("203.0.113.")).map(str::to_owned);
    Ok(Call { at_ms, answer: field("name").map(str::to_owned), peer })
}
