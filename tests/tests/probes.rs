//! Probes of real processes in real network namespaces and containers.

use std::{
    net::{IpAddr, Ipv4Addr, SocketAddr},
    process::{Child, Stdio},
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, ensure};
use lb_agent::{
    health::{
        Check as _, Outcome, Target,
        book::Book,
        check::{
            Command, Containers, Exited, NoContainers, NodeChecks, RunError, RunInContainer as _,
            Tls,
        },
        tracker::Health,
    },
    model::{Probe, ProbeKind, ProbePlace, ServiceName},
    netlink::Process,
    provider::docker,
};
use lb_tests::{Namespace, World, container::PORT, needs, process};

const TIMEOUT: Duration = Duration::from_millis(500);

/// A process in a namespace, as the main process of a container.
struct Container {
    process: Arc<Process>,
    child: Child,
}

impl Container {
    fn start(namespace: &Namespace) -> Result<Self> {
        let mut command = namespace.command("sleep");
        let child = command.arg("600").stdin(Stdio::null()).spawn()?;
        let process = Arc::new(Process::open(child.id())?);
        let this = Self { process, child };
        // `setpriv` and `nsenter` become `sleep` one after the other.
        let name = format!("/proc/{}/comm", this.child.id());
        process::wait_for("a process in the namespace", Duration::from_secs(5), || {
            let name = std::fs::read_to_string(&name)?;
            ensure!(name.trim() == "sleep", "it is still `{}`", name.trim());
            Ok(())
        })?;
        Ok(this)
    }
}

impl Drop for Container {
    fn drop(&mut self) {
        self.child.kill().ok();
        self.child.wait().ok();
    }
}

/// Knows one container.
struct One(Arc<Process>);

impl Containers for One {
    fn process(&self, instance: &str) -> Option<Arc<Process>> {
        (instance == "id@1").then(|| Arc::clone(&self.0))
    }
}

/// Probes once, in the namespace of the calling thread; the traffic's port is 1.
fn probe(container: &Container, place: ProbePlace, ip: Ipv4Addr, port: Option<u16>) -> String {
    let probe = Probe {
        kind: ProbeKind::Tcp { port },
        interval_ms: 1000,
        timeout_ms: 1000,
        initial_delay_ms: 0,
        rise: 1,
        fall: 1,
        place,
    };
    let target = Target {
        key: [1, 1],
        generation: 1,
        service: ServiceName("probed".into()),
        display_name: "a container".to_owned(),
        address: SocketAddr::new(IpAddr::V4(ip), 1),
        instance: "id@1".to_owned(),
        probe: Some(Arc::new(probe)),
        reported: None,
        assumed: Health::Starting,
        is_watched: true,
        is_routed: false,
    };
    let mut book = Book::new(1, 1);
    book.set_targets(&[Arc::new(vec![Arc::new(target)])], 0);
    let job = book.next_job(0).expect("it is due");
    let containers = Arc::new(One(Arc::clone(&container.process)));
    let checks = NodeChecks::new(containers, Arc::new(NoContainers), Tls::default());
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let outcome = runtime
        .expect("a runtime")
        .block_on(async { tokio::time::timeout(TIMEOUT, checks.check(&job)).await });
    match outcome {
        Ok(Outcome::Passed(text)) => format!("passed: {text}"),
        Ok(Outcome::Failed(failure)) => failure.kind.to_string(),
        Ok(Outcome::Inconclusive(text)) => format!("inconclusive: {text}"),
        Err(_elapsed) => "no answer".to_owned(),
    }
}

#[test]
fn places_that_a_probe_is_made_from() -> Result<()> {
    needs!(namespaces);
    let (node, inside) = (Namespace::new()?, Namespace::new()?);
    node.connect(("lb0", "10.77.0.1/24"), &inside, ("eth0", "10.77.0.2/24"))?;
    let address = Ipv4Addr::new(10, 77, 0, 2);
    let container = Container::start(&inside)?;
    let listen = |ip: &str| {
        inside.enter(|| std::net::TcpListener::bind(ip)).context("namespace")?.context("listener")
    };
    // One for everybody, one for the container itself only, as administration ports are.
    let (_open, _own) = (listen("0.0.0.0:9001")?, listen("127.0.0.1:9002")?);
    let (open, own, closed) = (Some(9001), Some(9002), Some(9003));
    let (auto, from_node, from_inside) =
        (ProbePlace::Auto, ProbePlace::Node, ProbePlace::Container);
    for (place, port, expected) in [
        (from_node, open, "passed: connected"),
        (from_node, own, "refused"),
        (from_inside, open, "passed: connected"),
        (from_inside, own, "passed: connected"),
        (from_inside, closed, "refused"),
        (auto, open, "passed: connected"),
        (auto, own, "passed: connected"),
        (auto, closed, "refused"),
        // The port of the traffic has to be there for the node.
        (auto, None, "refused"),
    ] {
        let outcome = node.enter(|| probe(&container, place, address, port))?;
        assert_eq!(outcome, expected, "{place:?} {port:?}");
    }
    // A network that the node is not on: only the container sees it.
    inside.ip("addr add 10.88.0.2/24 dev lo")?;
    let elsewhere = Ipv4Addr::new(10, 88, 0, 2);
    for (place, expected) in [
        (from_node, "unreachable"),
        (from_inside, "passed: connected"),
        (auto, "passed: connected"),
    ] {
        let outcome = node.enter(|| probe(&container, place, elsewhere, open))?;
        assert_eq!(outcome, expected, "{place:?}");
    }
    Ok(())
}

#[test]
fn networks_that_swallow_packets() -> Result<()> {
    needs!(namespaces);
    let (node, inside) = (Namespace::new()?, Namespace::new()?);
    node.connect(("lb0", "10.77.0.1/24"), &inside, ("eth0", "10.77.0.2/24"))?;
    let address = Ipv4Addr::new(10, 77, 0, 2);
    let container = Container::start(&inside)?;
    inside.run("nft add table ip lbtest")?;
    inside.run("nft add chain ip lbtest in { type filter hook input priority 0 ; }")?;
    inside.run("nft add rule ip lbtest in tcp dport 9001 drop")?;
    inside.run("nft add rule ip lbtest in tcp dport 9002 reject")?;
    let run = |port| node.enter(|| probe(&container, ProbePlace::Node, address, Some(port)));
    let begun = Instant::now();
    assert_eq!(run(9001)?, "no answer");
    assert!(begun.elapsed() >= TIMEOUT);
    // Port unreachable, by ICMP.
    assert_eq!(run(9002)?, "refused");
    Ok(())
}

#[test]
fn a_container_that_has_ended_says_nothing_about_health() -> Result<()> {
    needs!(namespaces);
    let node = Namespace::new()?;
    let mut container = Container::start(&node)?;
    container.child.kill()?;
    container.child.wait()?;
    let outcome = probe(&container, ProbePlace::Container, Ipv4Addr::LOCALHOST, Some(9));
    ensure!(outcome.starts_with("inconclusive: cannot look inside"), "{outcome}");
    Ok(())
}

#[test]
fn commands_in_containers() -> Result<()> {
    needs!(docker);
    let world = World::docker()?;
    let docker = world.docker_client()?;
    let container = docker.container("probed").start()?;
    let id = container.inspect("{{.Id}}")?;
    let endpoint = format!("unix://{}", docker.socket().display());
    let settings = docker::Settings::new(&endpoint, Duration::from_secs(10))?;
    let commands = docker::Commands::new(&settings);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let run = |line: &str, timeout_ms| {
        let argv: Vec<String> = line.split_whitespace().map(str::to_owned).collect();
        let instance = format!("{id}@1");
        let timeout = Duration::from_millis(timeout_ms);
        let command = Command { service: "probed", instance: &instance, argv: &argv, timeout };
        runtime.block_on(async { commands.run(command).await })
    };
    let patient_ms = 20_000;
    let testkit = "/bin/lb-testkit";

    let own = run(&format!("{testkit} fetch --target 127.0.0.1:{PORT} --count 1"), patient_ms);
    ensure!(matches!(&own, Ok(Exited { status: 0, .. })), "{own:?}");
    let refused = run(&format!("{testkit} fetch --target 127.0.0.1:9 --count 1"), patient_ms);
    ensure!(matches!(&refused, Ok(Exited { status: 1, .. })), "{refused:?}");
    let usage = run(&format!("{testkit} $(reboot) ; |"), patient_ms)?;
    ensure!(usage.status == 2, "no shell looks at it: {usage:?}");
    ensure!(usage.output.contains("$(reboot)"), "what it printed is shown: {usage:?}");

    let absent = run("/bin/no-such-program", patient_ms);
    let is_told = match &absent {
        Ok(Exited { status, output }) => *status != 0 && output.contains("no-such-program"),
        Err(RunError::Refused(text)) => text.contains("no-such-program"),
        Err(_) => false,
    };
    ensure!(is_told, "{absent:?}");

    let endless = run(&format!("{testkit} sleep --seconds 600"), 4000);
    ensure!(endless == Err(RunError::Late), "{endless:?}");
    let processes = docker.run("top probed -o pid,args")?;
    ensure!(!processes.contains("sleep"), "it was ended: {processes}");

    // Waiting for a turn is no fault of the command.
    let argv = |seconds: u32| ["sleep", "--seconds", &seconds.to_string()].map(str::to_owned);
    let slow = |seconds: u32| {
        let argv = [vec![testkit.to_owned()], argv(seconds).to_vec()].concat();
        let (commands, instance) = (commands.clone(), format!("{id}@1"));
        let timeout = Duration::from_secs(10);
        async move {
            let command = Command { service: "probed", instance: &instance, argv: &argv, timeout };
            commands.run(command).await
        }
    };
    let ended = runtime.block_on(async { tokio::join!(slow(3), slow(3), slow(8)) });
    for ended in [&ended.0, &ended.1, &ended.2] {
        ensure!(matches!(ended, Ok(Exited { status: 0, .. })), "{ended:?}");
    }

    container.act("pause")?;
    let paused = run(&format!("{testkit} sleep --seconds 0"), patient_ms);
    container.act("unpause")?;
    ensure!(
        matches!(&paused, Err(RunError::Refused(text)) if text.contains("paused")),
        "{paused:?}"
    );
    container.act("rm --force")?;
    let gone = run(&format!("{testkit} sleep --seconds 0"), patient_ms);
    ensure!(matches!(&gone, Err(RunError::NotRun(_))), "{gone:?}");
    Ok(())
}

#[test]
fn commands_that_do_not_end_leave_nothing_behind() -> Result<()> {
    needs!(docker);
    let world = World::docker()?;
    let docker = world.docker_client()?;
    docker.import_shell("shell")?;
    docker.run("run --detach --name probed shell /bin/sleep 600")?;
    let id = docker.run("inspect --format {{.Id}} probed")?.trim().to_owned();
    let endpoint = format!("unix://{}", docker.socket().display());
    let settings = docker::Settings::new(&endpoint, Duration::from_secs(10))?;
    let commands = docker::Commands::new(&settings);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let children = ["sleep 601; true", "sleep 601 & sleep 602", "(sleep 601 &) ; true"];
    for line in children {
        let argv = ["/bin/sh", "-c", line].map(str::to_owned);
        let instance = format!("{id}@1");
        let timeout = Duration::from_secs(2);
        let command = Command { service: "probed", instance: &instance, argv: &argv, timeout };
        let ended = runtime.block_on(async { commands.run(command).await });
        ensure!(ended == Err(RunError::Late), "{line}: {ended:?}");
        let processes = docker.run("top probed -o pid,args")?;
        let sleeping: Vec<&str> =
            processes.lines().filter(|process| process.contains("sleep")).collect();
        ensure!(sleeping.len() == 1 && sleeping[0].ends_with("600"), "{line}: {processes}");
    }
    Ok(())
}
