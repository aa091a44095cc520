//! The responder's sockets while no agent runs, with the part of systemd that keeps them played by the
//! tests: who asks then is answered by the next agent, and nothing is kept that is not wanted.

use std::{
    fs::File,
    io::{Read as _, Write as _},
    net::{SocketAddr, TcpListener, TcpStream, UdpSocket},
    os::fd::OwnedFd,
    process::{Child, Stdio},
    sync::Arc,
    time::Duration,
};

use anyhow::{Context as _, Result, bail, ensure};
use lb_tests::{
    Agent, AgentConfig, Manager, Namespace, World, eastwest, needs, process, world::vip,
};
use nix::sys::signal::Signal;

/// Where the agent listens: at an address, and at all of both families.
const LISTEN: [&str; 2] = ["127.0.0.2:5353", "[::]:5354"];
/// How it has them kept.
const KEPT: [&str; 4] = [
    "names-tcp-127.0.0.2_5353",
    "names-tcp-[__]_5354",
    "names-udp-127.0.0.2_5353",
    "names-udp-[__]_5354",
];
/// Whom clients ask.
const SERVERS: [&str; 3] = ["127.0.0.2:5353", "127.0.0.3:5354", "[::1]:5354"];
/// `web.shop A`, as it goes over the wire.
const QUESTION: &[u8] = b"\x00\x07\x01\x00\x00\x01\x00\x00\x00\x00\x00\x00\
    \x03web\x04shop\x00\x00\x01\x00\x01";
/// Longer than it takes to be told that nobody is there.
const WHILE: Duration = Duration::from_millis(500);
/// Longest wait for an answer.
const PATIENCE: Duration = Duration::from_secs(10);
/// Rounds, where Docker takes longer to tell of its containers than the agent lets questions wait for that.
const ROUNDS: usize = 3;

fn listening(mut config: AgentConfig, listen: &[&str]) -> AgentConfig {
    config.extra = format!("[names]\nlisten = {listen:?}\ncompose = true\n");
    config
}

fn wait_kept(manager: &Manager, expected: &[&str]) -> Result<()> {
    process::wait_for("what is kept", Duration::from_secs(10), || {
        let names = manager.names();
        ensure!(names == expected, "{names:?} are kept, and not {expected:?}");
        Ok(())
    })
}

/// An agent whose sockets are kept.
fn start(world: &World, manager: Manager) -> Result<(Agent, Arc<Manager>)> {
    let manager = Arc::new(manager);
    let mut agent = world.prepare_agent(&listening(world.config(), &LISTEN))?;
    agent.set_manager(&manager);
    agent.start()?;
    Ok((agent, manager))
}

/// Two clients of each server by UDP and two by TCP, who ask once and wait for longer than any pause.
fn dig(node: &Namespace) -> Result<Vec<Child>> {
    let mut asking = Vec::new();
    for server in SERVERS {
        let server: SocketAddr = server.parse()?;
        let [ip, port] = [format!("@{}", server.ip()), server.port().to_string()];
        for transport in ["+notcp", "+tcp", "+notcp", "+tcp"] {
            let mut command = node.command("dig");
            command.args([&ip, "-p", &port, transport, "+time=15", "+tries=1"]);
            command.args(["+noall", "+comments", "+answer", "web.shop"]);
            let command = command.stdin(Stdio::null()).stdout(Stdio::piped());
            asking.push(command.spawn()?);
        }
    }
    Ok(asking)
}

/// What each was told; the error: nobody is there.
fn told(asking: Vec<Child>) -> Result<Vec<Result<String, String>>> {
    let outputs = asking.into_iter().map(|child| {
        let output = child.wait_with_output()?;
        let text = String::from_utf8_lossy(&output.stdout).trim().to_owned();
        Ok(if output.status.success() { Ok(text) } else { Err(text) })
    });
    outputs.collect()
}

/// Whether somebody was told the address.
fn is_answer(told: &Result<String, String>) -> bool {
    let record = format!("\tA\t{}", vip(0).ip());
    told.as_ref().is_ok_and(|text| text.lines().any(|line| line.ends_with(&record)))
}

fn are_answered(asking: Vec<Child>) -> Result<()> {
    let told = told(asking)?;
    ensure!(told.iter().all(is_answer), "{told:#?}");
    Ok(())
}

/// Who asks between an agent that ends so and the next is answered by that. Before it knows all names it
/// may only say that it cannot tell, after a while.
fn bridge(agent: &mut Agent, node: &Namespace, signal: Signal) -> Result<()> {
    for _ in 0..ROUNDS {
        agent.stop(signal)?;
        let mut asking = dig(node)?;
        process::sleep(WHILE)?;
        for child in &mut asking {
            ensure!(child.try_wait()?.is_none(), "told something after {signal}");
        }
        agent.start()?;
        let told = told(asking)?;
        if told.iter().all(is_answer) {
            return Ok(());
        }
        let cannot_tell = |it: &Result<String, String>| {
            it.as_ref().is_ok_and(|text| text.contains("status: SERVFAIL"))
        };
        ensure!(told.iter().all(|it| is_answer(it) || cannot_tell(it)), "{told:#?}");
    }
    bail!("none of {ROUNDS} agents got to know all names in time")
}

#[test]
fn who_asks_while_no_agent_runs_is_answered_by_the_next() -> Result<()> {
    needs!(docker);
    needs!("dig");
    let world = World::docker()?;
    let _web = eastwest::web(&world, 1)?.start()?;
    let (mut agent, manager) = start(&world, Manager::new(world.directory())?)?;
    let node = world.node();
    process::wait_for("answers", Duration::from_secs(40), || are_answered(dig(node)?))?;
    wait_kept(&manager, &KEPT)?;
    for signal in [Signal::SIGKILL, Signal::SIGTERM, Signal::SIGKILL] {
        bridge(&mut agent, node, signal).with_context(|| format!("asked after {signal}"))?;
        are_answered(dig(node)?).with_context(|| format!("asked of the next after {signal}"))?;
        ensure!(manager.names() == KEPT, "{:?}", manager.names());
    }
    // As when the service is stopped: nobody is there, and everybody is told.
    agent.stop(Signal::SIGTERM)?;
    manager.discard();
    let told = told(dig(node)?)?;
    ensure!(told.iter().all(Result::is_err), "{told:#?}");
    agent.start()?;
    wait_kept(&manager, &KEPT)?;
    process::wait_for("answers", Duration::from_secs(40), || are_answered(dig(node)?))
}

/// Somebody who has asked by both ways, and waits for any answer.
struct Asking {
    datagrams: UdpSocket,
    connection: TcpStream,
}

impl Asking {
    fn begin(node: &Namespace, server: &str) -> Result<Self> {
        let server: SocketAddr = server.parse()?;
        node.enter(|| -> Result<Self> {
            let own = if server.is_ipv4() { "127.0.0.1:0" } else { "[::1]:0" };
            let datagrams = UdpSocket::bind(own)?;
            datagrams.connect(server)?;
            datagrams.send(QUESTION)?;
            let mut connection = TcpStream::connect_timeout(&server, PATIENCE)?;
            connection.write_all(&u16::try_from(QUESTION.len())?.to_be_bytes())?;
            connection.write_all(QUESTION)?;
            datagrams.set_read_timeout(Some(PATIENCE))?;
            connection.set_read_timeout(Some(PATIENCE))?;
            Ok(Self { datagrams, connection })
        })?
    }

    fn answered(mut self) -> Result<()> {
        let mut answer = [0; 512];
        let length = self.datagrams.recv(&mut answer).context("by UDP")?;
        ensure!(answer[..length].starts_with(&QUESTION[..2]), "{answer:?}");
        self.connection.read_exact(&mut answer[..4]).context("by TCP")?;
        ensure!(answer[2..4] == QUESTION[..2], "{answer:?}");
        Ok(())
    }
}

/// Whether nobody listens there, in either way.
fn is_left(node: &Namespace, server: &str) -> Result<()> {
    let bound = node.enter(|| (UdpSocket::bind(server), TcpListener::bind(server)))?;
    bound.0.context("by UDP")?;
    bound.1.context("by TCP")?;
    Ok(())
}

#[test]
fn where_nobody_is_to_listen_any_more_nothing_is_kept() -> Result<()> {
    needs!(namespaces);
    let world = World::plain()?;
    let (mut agent, manager) = start(&world, Manager::new(world.directory())?)?;
    let node = world.node();
    wait_kept(&manager, &KEPT)?;
    let only_first = listening(world.config(), &LISTEN[..1]);
    let of_first = [KEPT[0], KEPT[2]];

    // By a reload what is kept changes, and not yet who answers.
    agent.reconfigure(&only_first)?;
    wait_kept(&manager, &of_first)?;
    Asking::begin(node, SERVERS[1])?.answered().context("until it ends")?;
    agent.reconfigure(&listening(world.config(), &LISTEN))?;
    wait_kept(&manager, &KEPT)?;

    // By a restart both.
    agent.stop(Signal::SIGKILL)?;
    agent.configure(&only_first)?;
    let first = Asking::begin(node, SERVERS[0])?;
    agent.start()?;
    first.answered().context("it is still wanted")?;
    wait_kept(&manager, &of_first)?;
    is_left(node, SERVERS[1])?;
    agent.stop(Signal::SIGKILL)?;
    agent.configure(&listening(world.config(), &LISTEN))?;
    agent.start()?;
    wait_kept(&manager, &KEPT)?;

    // The same address, of one family only: it is another socket.
    agent.stop(Signal::SIGKILL)?;
    agent.configure(&listening(world.config(), &[LISTEN[1], "0.0.0.0:5354"]))?;
    agent.start()?;
    for server in &SERVERS[1..] {
        process::wait_for("an answer", Duration::from_secs(10), || {
            Asking::begin(node, server)?.answered()
        })?;
    }
    is_left(node, SERVERS[0])?;
    wait_kept(&manager, &["names-tcp-0.0.0.0_5354", KEPT[1], "names-udp-0.0.0.0_5354", KEPT[3]])
}

#[test]
fn sockets_that_others_opened_are_used_where_they_fit_and_else_closed() -> Result<()> {
    needs!(namespaces);
    let world = World::plain()?;
    let node = world.node();
    let open = |at: &'static str| -> Result<[OwnedFd; 2]> {
        node.enter(|| Ok([UdpSocket::bind(at)?.into(), TcpListener::bind(at)?.into()]))?
    };
    let mut manager = Manager::new(world.directory())?;
    for socket in open(LISTEN[0])? {
        manager.add_unit("lb-agent.socket", socket);
    }
    // The name says what they are not.
    for (name, socket) in KEPT[1..].iter().zip(open("127.0.0.1:5355")?) {
        manager.keep(name, socket);
    }
    manager.keep("stored", File::open("/dev/null")?);
    let asking = Asking::begin(node, SERVERS[0])?;
    process::sleep(WHILE)?;
    let (mut agent, manager) = start(&world, manager)?;
    asking.answered().context("asked before the first agent")?;
    Asking::begin(node, SERVERS[2])?.answered().context("what it opened itself")?;
    // What others hand over each time does not have to be kept.
    wait_kept(&manager, &[KEPT[1], KEPT[3]])?;
    is_left(node, "127.0.0.1:5355")?;

    agent.stop(Signal::SIGKILL)?;
    let asking = [SERVERS[0], SERVERS[2]].map(|server| Asking::begin(node, server));
    agent.start()?;
    for asking in asking {
        asking?.answered().context("asked between two agents")?;
    }
    // What makes no sense is no reason not to start.
    agent.stop(Signal::SIGKILL)?;
    agent.set_variable("LISTEN_FDS", "many");
    agent.start()?;
    agent.wait_log("LISTEN_FDS is `many`, which is no number")
}
