//! Names of services: who asks where, and who asks too much.

use std::{
    net::{IpAddr, Ipv4Addr, SocketAddr, UdpSocket},
    sync::atomic::{AtomicBool, Ordering},
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail, ensure};
use lb_tests::{
    Container, World,
    eastwest::{Scene, stranger},
    needs, process,
    world::vip,
};
use nix::sys::signal::Signal;

/// `web.shop A`, as it goes over the wire.
const QUESTION: &[u8] = b"\x00\x07\x01\x00\x00\x01\x00\x00\x00\x00\x00\x00\
    \x03web\x04shop\x00\x00\x01\x00\x01";
/// Questions of a flood in a second.
const QUESTIONS_PER_SECOND: u64 = 50_000;
const FLOOD_TIME: Duration = Duration::from_secs(4);

fn gateway(world: &World, network: &str) -> Result<Ipv4Addr> {
    let mut inspect = world.docker_client()?.command();
    inspect.args(["network", "inspect", network, "--format"]);
    let gateway = process::run(inspect.arg("{{(index .IPAM.Config 0).Gateway}}"))?;
    Ok(gateway.trim().parse()?)
}

fn scene(world: World) -> Result<Scene> {
    Scene::with(world, |config| {
        config.extra.push_str("[names]\nlisten = ['0.0.0.0:53', '[::]:53']\ncompose = true\n");
    })
}

/// Whether the answer comes from whoever was asked, and has the address.
fn ask(from: &Container, server: SocketAddr) -> Result<()> {
    let answer = from.enter(|| -> Result<Vec<u8>> {
        let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0))?;
        socket.set_read_timeout(Some(Duration::from_secs(1)))?;
        // It takes answers of this address only, as resolvers do.
        socket.connect(server)?;
        socket.send(QUESTION)?;
        let mut buffer = [0; 512];
        let length = socket.recv(&mut buffer)?;
        Ok(buffer[..length].to_vec())
    })??;
    let IpAddr::V4(vip) = vip(0).ip() else { bail!("no IPv4") };
    ensure!(answer.ends_with(&vip.octets()), "{answer:?}");
    Ok(())
}

#[test]
fn every_address_of_the_node_answers_for_itself() -> Result<()> {
    needs!(docker);
    let world = World::docker()?;
    let other = stranger(&world, "other")?;
    let gateways = [gateway(&world, "bridge")?, gateway(&world, "other")?];
    let scene = scene(world)?;
    for server in gateways {
        let at = SocketAddr::from((server, 53));
        for from in [&scene.client, &other] {
            process::wait_for(
                &format!("{at} from {}", from.name()),
                Duration::from_secs(5),
                || ask(from, at),
            )?;
        }
    }
    // On a network of one's own containers ask Docker's resolver, which asks the agent.
    let docker = scene.world.docker_client()?;
    let asking = docker.container("asking").with(&format!("--network other --dns {}", gateways[0]));
    let asking = asking.start()?;
    scene.wait_known("asking")?;
    let mut busybox = scene.callers.in_container(&asking, "busybox")?;
    let said = process::run(busybox.args(["nslookup", "web.shop", &gateways[0].to_string()]))?;
    ensure!(said.contains(&scene.target().ip().to_string()), "{said}");
    let words = "call --name web.shop:80 --interval-ms 100 --seconds 0.3";
    // The backends are not on this network; that the name resolves is what counts.
    let said = asking.exec(words).output()?;
    let said = String::from_utf8_lossy(&said.stdout).into_owned();
    ensure!(said.contains("No route to host"), "{said}");
    Ok(())
}

/// Asks at a bounded rate; how often, and how many answers came.
fn flood(from: &Container, server: SocketAddr, stop: &AtomicBool) -> Result<(u64, u64)> {
    from.enter(|| -> Result<(u64, u64)> {
        let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0))?;
        socket.connect(server)?;
        socket.set_nonblocking(true)?;
        let begun = Instant::now();
        let (mut asked, mut answered, mut buffer) = (0, 0, [0; 512]);
        while !stop.load(Ordering::Relaxed) && begun.elapsed() < FLOOD_TIME {
            let due = u64::try_from(begun.elapsed().as_millis())? * QUESTIONS_PER_SECOND / 1000;
            while asked < due {
                // One that the socket does not take is one that was asked in vain.
                drop(socket.send(QUESTION));
                asked += 1;
                while socket.recv(&mut buffer).is_ok() {
                    answered += 1;
                }
            }
            std::thread::sleep(Duration::from_micros(500));
        }
        Ok((asked, answered))
    })?
}

/// Kills a backend; how long afterwards the last call went wrong.
fn kill_and_call(scene: &Scene, victim: &Container) -> Result<f64> {
    let pid = victim.pid()?;
    let words = format!("call --name {} --interval-ms 5 --seconds 3", scene.target());
    let mut command = scene.client.exec(&words);
    let calls = command.stdout(std::process::Stdio::piped()).spawn()?;
    process::sleep(Duration::from_millis(500))?;
    let killed_ms = lb_tests::traffic::now_ms();
    process::kill(pid, Signal::SIGKILL);
    let output = String::from_utf8(calls.wait_with_output()?.stdout)?;
    let field = |line: &str, key: &str| -> Option<String> {
        line.split(' ').find_map(|word| Some(word.strip_prefix(key)?.strip_prefix('=')?.to_owned()))
    };
    let after_ms = |line: &str| Some(field(line, "at_ms")?.parse::<f64>().ok()? - killed_ms);
    let latest = |latest, after_ms| f64::max(latest, after_ms);
    let calls_ms: Vec<f64> = output.lines().filter_map(after_ms).collect();
    let is_around = calls_ms.iter().any(|ms| *ms < 0.0) && calls_ms.iter().any(|ms| *ms > 500.0);
    ensure!(is_around, "nobody called before it, or after it: {output}");
    let failed = output.lines().filter(|line| field(line, "name").is_none());
    Ok(failed.filter_map(after_ms).fold(0.0, latest))
}

#[test]
fn a_flood_of_questions_delays_nothing_else() -> Result<()> {
    needs!(docker);
    let scene = scene(World::docker()?)?;
    let server = SocketAddr::from((gateway(&scene.world, "bridge")?, 53));
    process::wait_for("an answer", Duration::from_secs(5), || ask(&scene.client, server))?;
    let quiet_ms = kill_and_call(&scene, &scene.webs[0])?;
    scene.webs[0].act("start")?;
    scene.agent.wait_backends(&["web-1", "web-2"])?;
    let memory_before = resident_bytes(&scene)?;

    let stop = AtomicBool::new(false);
    let (flooded_ms, asked, answered) = std::thread::scope(|scope| -> Result<_> {
        let flood = scope.spawn(|| flood(&scene.client, server, &stop));
        process::sleep(Duration::from_millis(500))?;
        let measured = kill_and_call(&scene, &scene.webs[0]);
        stop.store(true, Ordering::Relaxed);
        let (asked, answered) = flood.join().map_err(|_| anyhow::anyhow!("panic"))??;
        Ok((measured?, asked, answered))
    })?;
    let memory = resident_bytes(&scene)?;
    println!(
        "the last call failed {quiet_ms:.0} ms after the kill, and {flooded_ms:.0} ms with {asked} \
         questions, {answered} answered; {} KiB more memory",
        memory.saturating_sub(memory_before) / 1024
    );
    ensure!(answered > 3_000, "{answered} of {asked}");
    // The flood and its answers have the same cores; an agent that waited for them would be later still.
    ensure!(flooded_ms <= 750.0, "{flooded_ms}, and {quiet_ms} without the flood");
    ensure!(memory < memory_before + 32 * 1024 * 1024, "{memory_before} bytes, then {memory}");
    ask(&scene.client, server).context("after the flood")
}

fn resident_bytes(scene: &Scene) -> Result<u64> {
    let pid = scene.agent.pid().context("no agent")?;
    let status = std::fs::read_to_string(format!("/proc/{pid}/status"))?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).context("no VmRSS")?;
    Ok(line.trim().trim_end_matches(" kB").parse::<u64>()? * 1024)
}
