//! `/metrics` while others do to its listener whatever comes to their minds: who asks for the metrics
//! gets them, and what the others take is bounded.

use std::{
    fs,
    io::{ErrorKind, Read as _, Write as _},
    net::TcpStream,
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, ensure};
use lb_tests::{Agent, World, exposition, needs, process, world::vip};

/// Where the agent serves them, in the node's namespace.
const LISTEN: &str = "127.0.0.1:9432";
/// As long as Prometheus waits, unless told otherwise.
const PATIENCE: Duration = Duration::from_secs(10);
/// Connections that the agent keeps for this, and what it needs besides while it is asked.
const DESCRIPTORS_MAX: usize = 32 + 16;
/// Of all connections together, in KiB.
const MEMORY_MAX: u64 = 24 * 1024;
const REQUEST: &[u8] = b"GET /metrics HTTP/1.1\r\nHost: node\r\n\r\n";

/// What is done to a connection that has just been made. An error is the agent's answer to it.
type Harm = fn(&mut TcpStream) -> std::io::Result<()>;

/// Name, number of connections, and what is done to each at first and then every second.
const CASES: [(&str, usize, Harm, Harm); 8] = [
    ("say nothing", 100, nothing, nothing),
    ("a byte a second", 60, |it| it.write_all(b"G"), |it| it.write_all(b"E")),
    ("a head without end", 40, |it| it.write_all(b"GET /metrics HTTP/1.1\r\nX: "), long),
    ("no HTTP", 60, |it| it.write_all(&[0x16, 3, 1, 2, 0, 1, 0, 1, 0xff, b'\n']), nothing),
    ("a body without end", 40, post, long),
    ("read nothing", 60, |it| it.write_all(REQUEST), nothing),
    ("ask on and read nothing", 60, |it| it.write_all(&REQUEST.repeat(100)), again),
    ("keep what they were served by", 60, read_some, nothing),
];

fn nothing(stream: &mut TcpStream) -> std::io::Result<()> {
    stream.flush()
}

fn long(stream: &mut TcpStream) -> std::io::Result<()> {
    stream.write_all(&b"x".repeat(1 << 20))
}

fn again(stream: &mut TcpStream) -> std::io::Result<()> {
    stream.write_all(REQUEST)
}

fn post(stream: &mut TcpStream) -> std::io::Result<()> {
    stream.write_all(b"POST /metrics HTTP/1.1\r\nHost: node\r\nContent-Length: 99999999999\r\n\r\n")
}

fn read_some(stream: &mut TcpStream) -> std::io::Result<()> {
    stream.write_all(REQUEST)?;
    stream.read_exact(&mut [0; 1024])
}

/// Begins all connections of a case.
fn begin(world: &World, count: usize, first: Harm) -> Result<Vec<TcpStream>> {
    world.node().enter(|| {
        let open = || -> Result<TcpStream> {
            let mut stream = TcpStream::connect(LISTEN)?;
            stream.set_write_timeout(Some(Duration::from_millis(20)))?;
            stream.set_read_timeout(Some(Duration::from_millis(20)))?;
            // The agent may have had enough of it.
            let _refused = first(&mut stream);
            Ok(stream)
        };
        (0..count).map(|_| open()).collect()
    })?
}

/// The agent's open descriptors, and its memory of its own in KiB.
fn used(agent: &Agent) -> Result<(usize, u64)> {
    let process = format!("/proc/{}", agent.pid().context("it does not run")?);
    let status = fs::read_to_string(format!("{process}/status"))?;
    let line =
        status.lines().find_map(|line| line.strip_prefix("RssAnon:")).context("no memory")?;
    let memory = line.trim().trim_end_matches(" kB").parse()?;
    Ok((fs::read_dir(format!("{process}/fd"))?.count(), memory))
}

fn check(world: &World, agent: &Agent, before: (usize, u64)) -> Result<()> {
    let begun = Instant::now();
    let text = exposition::scrape(world.node(), LISTEN)?;
    let took = begun.elapsed();
    ensure!(took < PATIENCE, "an answer after {took:?}");
    exposition::check_format(&text)?;
    ensure!(text.ends_with('\n') && text.len() > 200_000, "{} bytes", text.len());
    let (descriptors, memory) = used(agent)?;
    println!("served in {took:?}; descriptors, KiB: {before:?} -> {:?}", (descriptors, memory));
    ensure!(descriptors <= before.0 + DESCRIPTORS_MAX, "{descriptors} descriptors, {before:?}");
    ensure!(memory <= before.1 + MEMORY_MAX, "{memory} KiB, {before:?}");
    Ok(())
}

/// Who begins to read too late gets a part, and is not told that it is all.
fn check_cut(world: &World) -> Result<()> {
    let mut late = begin(world, 1, |it| it.write_all(REQUEST))?.pop().context("a connection")?;
    process::sleep(Duration::from_secs(3))?;
    late.set_read_timeout(Some(PATIENCE))?;
    let mut text = Vec::new();
    // Whether by an end or a reset.
    let end = late.read_to_end(&mut text);
    ensure!(
        !matches!(&end, Err(error) if error.kind() == ErrorKind::WouldBlock),
        "no end: {end:?}"
    );
    ensure!(text.starts_with(b"HTTP/1.1 200 OK"), "{} bytes", text.len());
    ensure!(!text.ends_with(b"0\r\n\r\n"), "{} bytes are told to be all", text.len());
    Ok(())
}

#[test]
fn metrics_are_served_whatever_others_do_to_their_listener() -> Result<()> {
    needs!(namespaces);
    let world = World::plain()?;
    // What nobody reads waits in the agent, not in the kernel.
    for buffer in ["tcp_wmem", "tcp_rmem"] {
        let setting = format!("net.ipv4.{buffer}=4096 16384 32768");
        process::run(world.node().command("sysctl").args(["-qw", &setting]))?;
    }
    let mut config = world.config();
    config.extra = format!("[metrics]\nlisten = {LISTEN:?}\n");
    let service = |number: u16| {
        format!(
            "[[service]]\nname = \"web-{number}\"\nfrontends = [\"tcp://{}\"]\n\
             [[service.backend]]\naddress = \"192.0.2.2:{number}\"\n",
            vip(number)
        )
    };
    config.extra.extend((1..=200).map(service));
    let mut agent = world.start_agent(&config)?;
    exposition::scrape(world.node(), LISTEN)?;
    let before = used(&agent)?;
    check_cut(&world)?;
    let mut others = Vec::new();
    for (name, count, first, then) in CASES {
        println!("{count} that {name}");
        let mut streams = begin(&world, count, first)?;
        for _ in 0..2 {
            check(&world, &agent, before).with_context(|| name.to_owned())?;
            thread::sleep(Duration::from_millis(500));
            for stream in &mut streams {
                // The agent may have had enough of it.
                let _refused = then(stream);
            }
        }
        // They stay, while the next ones come.
        others.push(streams);
    }
    check(&world, &agent, before).context("all of them together")?;
    ensure!(agent.lbctl("status").is_ok(), "the API is another's business");
    agent.set_quiet();
    Ok(())
}
