//! Containers that are taken out and in again by every kind of probe, with a real agent, a real Docker
//! and clients. Who fails gets nothing new and keeps what it has; the others serve all.

use std::{
    io::ErrorKind,
    net::{SocketAddr, TcpListener},
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, ensure};
use lb_tests::{
    Agent, Container, World,
    container::PORT,
    https::{HttpsServer, Identity},
    needs, process,
    world::{BALANCER, CLIENT, vip},
};

/// Port of a server that is there for probes only.
const PROBE_PORT: u16 = 9090;
/// Longest wait for a change of health to arrive, on a busy machine too.
const SOON: Duration = Duration::from_secs(20);
/// The image of containers in which commands run.
const IMAGE: &str = "commands";

/// A service of two replicas, of which the first is made to fail.
struct Probed<'a> {
    world: &'a World,
    agent: &'a Agent,
    service: &'static str,
    front: SocketAddr,
    replicas: [&'a str; 2],
}

impl<'a> Probed<'a> {
    /// The service of [`World::web`].
    fn webs(world: &'a World, agent: &'a Agent) -> Self {
        let (service, replicas) = ("compose/shop/web:8080", ["web-1", "web-2"]);
        Self { world, agent, service, front: world.front(), replicas }
    }

    /// Waits until both are served.
    fn wait_in(&self) -> Result<()> {
        self.agent.wait_backends_of(self.service, &self.replicas)?;
        let report = self.world.client().fetch(self.front, 60)?;
        ensure!(report.check()?.by_name.keys().eq(self.replicas), "{:?}", report.summaries);
        Ok(())
    }

    /// Waits until the first is out, and has been found out by a probe that said this.
    fn wait_out(&self, said: &str) -> Result<()> {
        let [failing, other] = self.replicas;
        self.agent.wait_backends_of(self.service, &[other])?;
        let rows = self.agent.rows("backend")?;
        let is_it = |row: &&serde_json::Value| {
            row["service"] == self.service && row["display_name"] == failing
        };
        let row = rows.iter().find(is_it).with_context(|| format!("no {failing}: {rows:?}"))?;
        let latest = row["probe"]["latest"].as_str().unwrap_or_default();
        ensure!(latest.contains(said), "no `{said}` in {row}");
        ensure!(row["share_percent"] == 0.0, "a part of the ring: {row}");
        let report = self.world.client().fetch(self.front, 40)?;
        ensure!(report.check()?.by_name.keys().eq([other]), "{:?}", report.summaries);
        Ok(())
    }

    /// Both serve, then one fails, then both serve. No connection breaks.
    fn check(
        &self,
        said: &str,
        fail: impl FnOnce() -> Result<()>,
        pass: impl FnOnce() -> Result<()>,
    ) -> Result<()> {
        self.wait_in()?;
        let streams = self.world.client().streams(self.front, 10)?;
        fail()?;
        self.wait_out(said)?;
        pass()?;
        self.wait_in()?;
        streams.finish()?.check()?;
        Ok(())
    }
}

/// A frontend of the balancer.
fn frontend(port: u16) -> String {
    format!("tcp://{BALANCER}:{port}")
}

/// Nobody has passed yet.
fn check_nobody(world: &World, front: SocketAddr) -> Result<()> {
    ensure!(world.client().fetch_one(front).is_err(), "{front} is served before a probe passed");
    Ok(())
}

/// One server for two services, of which the second minds whose certificate it is.
fn start_of_two_services(world: &World, number: u32) -> Result<Container> {
    let mut web = world.docker_client()?.container(&format!("web-{number}"));
    web = web.compose("shop", "web", number).port(PORT + 1);
    for (key, value) in [
        ("8080.frontend", frontend(80).as_str()),
        ("8081.frontend", frontend(81).as_str()),
        ("8081.probe.verify", "true"),
        ("8081.probe.server_name", "shop.example"),
        ("probe", "https"),
        ("probe.port", "9090"),
        ("probe.path", "/health"),
        ("probe.interval", "400ms"),
    ] {
        web = web.label(&format!("lb.{key}"), value);
    }
    web.start()
}

#[test]
fn by_https_with_and_without_a_look_at_the_certificate() -> Result<()> {
    needs!(docker);
    let world = World::docker()?;
    let webs = [start_of_two_services(&world, 1)?, start_of_two_services(&world, 2)?];
    let (trusted, stranger) = (Identity::new("shop.example")?, Identity::new("shop.example")?);
    let roots = world.directory().join("roots.pem");
    std::fs::write(&roots, &trusted.pem)?;
    let mut agent = world.prepare_agent(&world.config())?;
    agent.set_variable("SSL_CERT_FILE", roots.display().to_string());
    agent.start()?;
    let service = |service, port| {
        let replicas = ["web-1", "web-2"];
        Probed { world: &world, agent: &agent, service, front: vip(port), replicas }
    };
    let any = service("compose/shop/web:8080", 80);
    let verified = service("compose/shop/web:8081", 81);
    agent.wait_state("web-1", "unhealthy")?;
    check_nobody(&world, vip(80))?;
    check_nobody(&world, vip(81))?;

    let failing = HttpsServer::start(&webs[0], PROBE_PORT, &trusted)?;
    let _other = HttpsServer::start(&webs[1], PROBE_PORT, &trusted)?;
    verified.check(
        "no TLS connection",
        || {
            failing.set_identity(&stranger);
            Ok(())
        },
        || {
            any.wait_in().context("who does not look")?;
            failing.set_identity(&trusted);
            Ok(())
        },
    )?;
    any.check(
        "503 Service Unavailable",
        || {
            failing.set_status("503 Service Unavailable");
            Ok(())
        },
        || {
            verified.wait_out("503 Service Unavailable")?;
            failing.set_status("204 No Content");
            Ok(())
        },
    )?;
    verified.wait_in()?;
    agent.set_quiet();
    Ok(())
}

/// A file whose presence is a container's health: who gave this name to a shell would make another one.
const ODD_FILE: &str = "/tmp/well; $(>oops) `>oops` && >oops | * ~ \"'";

/// Services, their ports and replicas, and the files that they are well with.
const BY_COMMANDS: [(&str, u16, [&str; 2], &str); 5] = [
    ("compose/shop/own:8080", 80, ["own-1", "own-2"], "/tmp/aliyun"),
    ("compose/shop/own:8081", 81, ["own-1", "own-2"], ODD_FILE),
    ("compose/shop/own:8082", 82, ["own-1", "own-2"], "/tmp/own"),
    ("registrator/cmd", 83, ["theirs-1", "theirs-2"], "/tmp/cmd"),
    ("registrator/script", 84, ["theirs-1", "theirs-2"], "/tmp/script-127.0.0.1-8081"),
];

/// A container with a command for each of its three ports, and one with a command for each of two.
fn start_with_commands(world: &World, number: u32) -> Result<[Container; 2]> {
    let container = |service: &str| -> Result<Container> {
        let container = world.docker_client()?.container(&format!("{service}-{number}"));
        let container = container.image(IMAGE).compose("shop", service, number).port(PORT + 1);
        Ok(container.label("lb.probe.interval", "1s").label("lb.probe.timeout", "10s"))
    };
    let without_shell = serde_json::to_string(&["/bin/test", "-e", ODD_FILE])?;
    let own = container("own")?
        .port(PORT + 2)
        .balanced(&frontend(80))
        .label("aliyun.probe.cmd", "cd /tmp && test -e aliyun")
        .label("lb.8081.frontend", &frontend(81))
        .label("lb.8081.probe", "command")
        .label("lb.8081.probe.command", &without_shell)
        .label("lb.8082.frontend", &frontend(82))
        .label("lb.8082.probe", "command")
        .label("lb.8082.probe.command", "exit $(test -e /tmp/own; echo $?)");
    let theirs = container("theirs")?
        .option("--env=SERVICE_8080_NAME=cmd")
        .option("--env=SERVICE_8080_CHECK_CMD=! test ! -e /tmp/cmd")
        .option("--env=SERVICE_8081_NAME=script")
        .option("--env=SERVICE_8081_CHECK_SCRIPT=test -e /tmp/script-$SERVICE_IP-$SERVICE_PORT");
    Ok([own.start()?, theirs.start()?])
}

#[test]
fn by_commands_of_every_schema() -> Result<()> {
    needs!(docker);
    let world = World::docker()?;
    world.docker_client()?.import_image_with_shell(IMAGE)?;
    let first = start_with_commands(&world, 1)?;
    let second = start_with_commands(&world, 2)?;
    let run = |among: &[Container; 2], program: &str, port: u16, file: &str| {
        among[usize::from(port > 82)].run(&[program, file]).map(drop)
    };
    // The second of each is well from the beginning.
    for (_, port, _, file) in BY_COMMANDS {
        run(&second, "/bin/touch", port, file)?;
    }
    let mut config = world.config();
    let names = [("cmd", vip(83)), ("script", vip(84))];
    config.extra = names
        .map(|(name, at)| format!("[[registrator]]\nname = {name:?}\nfrontend = \"tcp://{at}\"\n"))
        .concat();
    let mut agent = world.start_agent(&config)?;
    let probed = BY_COMMANDS.map(|(service, port, replicas, _)| Probed {
        world: &world,
        agent: &agent,
        service,
        front: vip(port),
        replicas,
    });
    for service in &probed {
        service.wait_out("exit status 1").context(service.service)?;
    }
    for (_, port, _, file) in BY_COMMANDS {
        run(&first, "/bin/touch", port, file)?;
    }
    let mut streams = Vec::new();
    for service in &probed {
        service.wait_in().context(service.service)?;
        streams.push(world.client().streams(service.front, 6)?);
    }
    // One after the other: the container's other ports are well.
    for (at, (service, port, _, file)) in BY_COMMANDS.into_iter().enumerate() {
        run(&first, "/bin/rm", port, file)?;
        probed[at].wait_out("exit status 1").context(service)?;
        for other in &probed[at + 1..] {
            agent.wait_backends_of(other.service, &other.replicas)?;
        }
    }
    for streams in streams {
        streams.finish()?.check()?;
    }
    for [own, _] in [&first, &second] {
        let is_clean = own.run(&["/bin/test", "!", "-e", "oops"]);
        is_clean.with_context(|| format!("a shell has seen `{ODD_FILE}`"))?;
    }
    ensure!(agent.refusals()?.is_empty(), "{:?}", agent.refusals()?);
    agent.set_quiet();
    Ok(())
}

#[test]
fn by_the_healthcheck_of_docker() -> Result<()> {
    needs!(docker);
    let world = World::docker()?;
    world.docker_client()?.import_image_with_shell(IMAGE)?;
    let start = |number: u32| {
        let web = world.web(number)?.image(IMAGE).label("lb.probe", "docker");
        web.option("--health-cmd=/bin/test -e /tmp/well")
            .with("--health-interval 1s --health-timeout 10s --health-retries 1")
            .start()
    };
    let webs = [start(1)?, start(2)?];
    // One whose image has none is served, and told of for as long as it is there.
    let bare = world.docker_client()?.container("bare").compose("shop", "bare", 1);
    let bare = bare.balanced(&frontend(81)).label("lb.probe", "docker").start()?;
    let mut agent = world.start_agent(&world.config())?;
    agent.wait_state("bare", "healthy")?;
    ensure!(world.client().fetch_one(vip(81))?.name == "bare");
    let told =
        agent.wait_refusal(&["container `bare` lb.probe", "HEALTHCHECK", "`bare` has none"])?;
    ensure!(agent.refusals()? == [told.clone()], "only that: {:?}", agent.refusals()?);
    ensure!(agent.lbctl("status")?.contains("`bare` has none"), "{told}");
    bare.act("rm --force")?;
    process::wait_for("its end", SOON, || {
        ensure!(agent.refusals()?.is_empty(), "{:?}", agent.refusals()?);
        Ok(())
    })?;
    agent.wait_state("web-2", "unhealthy")?;
    check_nobody(&world, world.front())?;
    for web in &webs {
        web.run(&["/bin/touch", "/tmp/well"])?;
    }
    let probed = Probed::webs(&world, &agent);
    probed.check(
        "",
        || webs[0].run(&["/bin/rm", "/tmp/well"]).map(drop),
        || webs[0].run(&["/bin/touch", "/tmp/well"]).map(drop),
    )?;
    agent.set_quiet();
    Ok(())
}

#[test]
fn from_inside_where_only_the_container_itself_is_answered() -> Result<()> {
    needs!(docker);
    let world = World::docker()?;
    let start = |name: &str, number: u32, front: u16, place: &str| {
        let container = world.docker_client()?.container(&format!("{name}-{number}"));
        container
            .compose("shop", name, number)
            .label(&format!("lb.{PORT}.frontend"), &frontend(front))
            .label("lb.probe", "tcp")
            .label("lb.probe.port", &PROBE_PORT.to_string())
            .label("lb.probe.interval", "400ms")
            .label("lb.probe.place", place)
            .start()
    };
    let webs = [start("web", 1, 80, "container")?, start("web", 2, 80, "container")?];
    let outside = start("outside", 1, 81, "node")?;
    let listen = |container: &Container| -> Result<TcpListener> {
        Ok(container.enter(|| TcpListener::bind(("127.0.0.1", PROBE_PORT)))??)
    };
    let mut agent = world.start_agent(&world.config())?;
    agent.wait_state("web-1", "unhealthy")?;
    check_nobody(&world, world.front())?;
    let (mut failing, _others) = (Some(listen(&webs[0])?), [listen(&webs[1])?, listen(&outside)?]);
    let probed = Probed::webs(&world, &agent);
    let mut again = None;
    probed.check(
        "refused",
        || {
            drop(failing.take());
            Ok(())
        },
        || {
            again = Some(listen(&webs[0])?);
            Ok(())
        },
    )?;
    // The same listener, and nobody who can see it.
    let row = agent.backend("outside-1")?;
    let latest = row["probe"]["latest"].as_str().unwrap_or_default();
    ensure!(row["state"] == "unhealthy" && latest.contains("refused"), "{row}");
    check_nobody(&world, vip(81))?;
    agent.set_quiet();
    Ok(())
}

#[test]
fn a_probe_of_somebody_else_is_refused_and_nobody_is_asked() -> Result<()> {
    needs!(docker);
    let world = World::docker()?;
    let start = |name: &str, front: u16, host: &str| {
        let container = world.docker_client()?.container(name).compose("shop", name, 1);
        container
            .balanced(&frontend(front))
            .label("aliyun.probe.url", &format!("http://{host}:{PORT}/health"))
            .label("lb.probe.interval", "400ms")
            .start()
    };
    let victim = world.client().enter(|| TcpListener::bind((CLIENT, PORT)))??;
    victim.set_nonblocking(true)?;
    start("neighbour", 80, "container")?;
    let mut agent = world.start_agent(&world.config())?;
    agent.wait_backends(&["neighbour"])?;
    let requests = world.client().requests(vip(80), 100)?;
    start("stranger", 81, &CLIENT.to_string())?;
    let other = format!("would probe `{CLIENT}`");
    agent.wait_refusal(&["stranger", "aliyun.probe.url", &other, "`container`"])?;
    // A slip takes nobody down: its own port is probed instead.
    agent.wait_backends(&["neighbour", "stranger"])?;
    ensure!(world.client().fetch_one(vip(81))?.name == "stranger");
    let begun = Instant::now();
    process::wait_for("some probes", SOON, || {
        let passed = agent.backend("stranger")?["probe"]["passed"].as_u64();
        ensure!(passed >= Some(4) && begun.elapsed() > Duration::from_secs(1), "{passed:?}");
        Ok(())
    })?;
    let asked = victim.accept();
    let is_left_alone = matches!(&asked, Err(error) if error.kind() == ErrorKind::WouldBlock);
    ensure!(is_left_alone, "somebody else was probed: {asked:?}");
    ensure!(
        agent.refusals()?.iter().all(|it| !it.contains("neighbour")),
        "{:?}",
        agent.refusals()?
    );
    requests.finish()?.check()?;
    agent.set_quiet();
    Ok(())
}
