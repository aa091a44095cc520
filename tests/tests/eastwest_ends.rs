//! East-west: a backend dies, and sockets of every kind and family hear of it.

use std::{fs, net::SocketAddr, path::PathBuf, process::Child, time::Duration};

use anyhow::{Context as _, Result, ensure};
use lb_tests::{
    Agent, Container, World,
    callers::{Callers, Held},
    eastwest::Scene,
    needs, process, traffic,
    world::{BALANCER, BALANCER6, vip, vip6},
};
use nix::sys::signal::Signal;

const ECONNABORTED: i32 = 103;
/// Of each kind.
const SOCKETS: usize = 100;
/// Longest time to the last of them, of which there are thousands: the agent looks twice in the second
/// after something has gone.
const LATEST_MS: f64 = 3000.0;

/// Two backends and a caller on a network of both families.
struct Both {
    agent: Agent,
    callers: Callers,
    webs: Vec<Container>,
    client: Container,
    world: World,
}

impl Both {
    fn new() -> Result<Self> {
        let mut world = World::docker()?;
        let callers = Callers::of(&mut world)?;
        let docker = world.docker_client()?;
        docker.run("network create --ipv6 --subnet fd00:77::/64 both")?;
        let container = |name: &str| docker.container(name).with("--network both");
        let frontends = [BALANCER, BALANCER6]
            .map(|balancer| format!("tcp://{balancer}:80,udp://{balancer}:80"))
            .join(",");
        let mut webs = Vec::new();
        for number in [1, 2] {
            let web = container(&format!("web-{number}")).compose("shop", "web", number);
            webs.push(web.label("lb.8080.frontend", &frontends).start()?);
        }
        let client = container("client").start()?;
        let mut config = world.config_of_both_families();
        config.cgroup = Some(callers.cgroup().to_owned());
        let agent = world.start_agent(&config)?;
        process::wait_for("the backends", Duration::from_secs(15), || {
            let healthy = agent.healthy_backends()?;
            ensure!(healthy.iter().filter(|name| name.starts_with("web-")).count() >= 2);
            Ok(())
        })?;
        agent.wait_caller("client")?;
        Ok(Self { agent, callers, webs, client, world })
    }

    fn hold(&self, from: Option<&Container>, target: SocketAddr) -> Result<[Held; 2]> {
        let Self { callers, world, .. } = self;
        Ok([
            callers.hold(world, from, target, SOCKETS)?,
            callers.hold_datagrams(world, from, target, SOCKETS)?,
        ])
    }
}

/// As a socket of IPv6 names an address of IPv4.
fn mapped(target: SocketAddr) -> Result<SocketAddr> {
    let SocketAddr::V4(v4) = target else { anyhow::bail!("{target} is of IPv6") };
    Ok(SocketAddr::new(v4.ip().to_ipv6_mapped().into(), v4.port()))
}

#[test]
fn sockets_of_every_family_end_with_their_backend() -> Result<()> {
    needs!(docker);
    let mut both = Both::new()?;
    let targets = [vip(80), vip6(80), mapped(vip(80))?];
    let mut held = Vec::new();
    for target in targets {
        for (whose, from) in [("a container's", Some(&both.client)), ("the node's", None)] {
            let [streams, datagrams] = both.hold(from, target).context(whose)?;
            held.push((format!("{whose} connections to {target}"), streams));
            held.push((format!("{whose} datagrams to {target}"), datagrams));
        }
    }
    // Its network goes first: nothing that it sends in the end arrives, so nobody but us tells them.
    let pid = both.webs[0].pid()?;
    both.webs[0].cut_off()?;
    let killed_ms = traffic::now_ms();
    process::kill(pid, Signal::SIGKILL);
    for (what, held) in held {
        let ends = held.ends(ECONNABORTED).with_context(|| what.clone())?;
        let latest_ms = ends.iter().copied().fold(0.0, f64::max) - killed_ms;
        println!("{what}: {} ended, the last after {latest_ms:.0} ms", ends.len());
        // Six standard deviations.
        ensure!((20..=80).contains(&ends.len()), "{what}: {} ended", ends.len());
        ensure!(latest_ms < LATEST_MS, "{what}: the last ended after {latest_ms:.0} ms");
    }
    both.agent.set_quiet();
    Ok(())
}

/// A socket that asks without being connected, again and again, and where its answers are written.
struct Asking {
    child: Child,
    told: PathBuf,
}

/// What became of its questions.
#[derive(Debug)]
struct Asked {
    /// Who answered, one after the other; the same many times is said once.
    names: Vec<String>,
    /// Those that nobody answered, or that were refused.
    failures: Vec<String>,
}

impl Asking {
    fn start(scene: &Scene, number: usize, way: &str) -> Result<Self> {
        let Scene { callers, world, client, .. } = scene;
        let told = world.directory().join(format!("told-{number}"));
        let mut command =
            callers.in_container(client, &callers.dial_path()?.display().to_string())?;
        command.args([way, &scene.target().to_string(), "200000"]);
        let child = command.stdout(fs::File::create(&told)?).spawn()?;
        Ok(Self { child, told })
    }

    fn told_bytes(&self) -> Result<u64> {
        Ok(fs::metadata(&self.told)?.len())
    }

    fn end(mut self) -> Result<Asked> {
        process::signal(&self.child, Signal::SIGKILL);
        self.child.wait()?;
        let text = fs::read_to_string(&self.told)?;
        // The last line may be half of one.
        let whole = text.rsplit_once('\n').context("no answer at all")?.0;
        let mut asked = Asked { names: Vec::new(), failures: Vec::new() };
        for line in whole.lines() {
            match line.split(' ').next().and_then(|word| word.strip_prefix("name=")) {
                Some(name) => asked.names.push(name.to_owned()),
                None => asked.failures.push(line.to_owned()),
            }
        }
        asked.names.dedup();
        Ok(asked)
    }
}

#[test]
fn a_socket_that_is_not_connected_moves_with_its_next_datagram() -> Result<()> {
    needs!(docker);
    let scene = Scene::new()?;
    let ways = ["udp-unconnected", "udp-mapped-unconnected"];
    let all = (0..16).zip(ways.into_iter().cycle());
    let all = all.map(|(number, way)| Asking::start(&scene, number, way));
    let all: Vec<Asking> = all.collect::<Result<_>>()?;
    let go_on = |what: &str| {
        let before: Vec<_> = all.iter().map(Asking::told_bytes).collect::<Result<_>>()?;
        process::wait_for(what, Duration::from_secs(10), || {
            for (asking, before) in all.iter().zip(&before) {
                // Some lines, of about sixty each.
                let more = asking.told_bytes()? - before;
                ensure!(more > 1000, "{more} bytes more in {}", asking.told.display());
            }
            Ok(())
        })
    };
    go_on("answers")?;
    process::kill(scene.webs[0].pid()?, Signal::SIGKILL);
    // Whoever waits for the answer to what was under way does so for three seconds.
    go_on("answers after the kill")?;
    let all: Vec<_> = all.into_iter().map(Asking::end).collect::<Result<_>>()?;
    println!("{all:?}");
    for Asked { names, failures } in &all {
        let names: Vec<_> = names.iter().map(String::as_str).collect();
        ensure!(matches!(names[..], ["web-2"] | ["web-1", "web-2"]), "{names:?}");
        // What was under way, if anything was: nobody hears of that.
        let only = usize::from(names.len() == 2);
        ensure!(failures.len() <= only, "{failures:?}");
        ensure!(failures.iter().all(|it| it.starts_with("errno=11 ")), "{failures:?}");
    }
    let moved = all.iter().filter(|asked| asked.names[0] == "web-1").count();
    // Each of them by the same coin.
    ensure!(moved > 0, "none was led to the backend that died: {all:?}");
    Ok(())
}
