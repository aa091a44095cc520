//! East-west: a backend dies, and sockets of every kind and family hear of it.

use std::{
    collections::BTreeSet,
    fs,
    net::SocketAddr,
    path::PathBuf,
    process::{Child, Stdio},
    time::Duration,
};

use anyhow::{Context as _, Result, ensure};
use lb_tests::{
    callers::{Called, Held},
    eastwest::{Scene, stranger},
    names, needs, process, traffic,
    world::{vip, vip6},
};
use nix::sys::signal::Signal;

const ECONNABORTED: i32 = 103;
const EHOSTUNREACH: i32 = 113;
/// Of each kind.
const SOCKETS: usize = 100;
/// Longest time from the death to the last of them all: what the agent finds in its first two looks, a tenth
/// of a second apart. The third comes after a second.
const LATEST_MS: f64 = 900.0;
/// Of one kind; each is led to either backend by a coin.
const ASKING_MAX: usize = 24;

/// By which both are asked, and the one by sockets of the other.
fn targets() -> Result<[SocketAddr; 3]> {
    Ok([vip(80), vip6(80), mapped(vip(80))?])
}

/// Sockets of all kinds and families, of a container and of the node, and what they are.
fn hold_all(scene: &Scene) -> Result<Vec<(String, Held)>> {
    let Scene { callers, world, client, .. } = scene;
    let mut held = Vec::new();
    for target in targets()? {
        for (whose, from) in [("a container's", Some(client)), ("the node's", None)] {
            let streams = callers.hold(world, from, target, SOCKETS).context(whose)?;
            held.push((format!("{whose} connections to {target}"), streams));
            let datagrams = callers.hold_datagrams(world, from, target, SOCKETS).context(whose)?;
            held.push((format!("{whose} datagrams to {target}"), datagrams));
        }
    }
    Ok(held)
}

/// As a socket of IPv6 names an address of IPv4.
fn mapped(target: SocketAddr) -> Result<SocketAddr> {
    let SocketAddr::V4(v4) = target else { anyhow::bail!("{target} is of IPv6") };
    Ok(SocketAddr::new(v4.ip().to_ipv6_mapped().into(), v4.port()))
}

#[test]
fn sockets_of_every_family_end_with_their_backend() -> Result<()> {
    needs!(docker);
    let mut scene = Scene::of_both_families(|_| {})?;
    let held = hold_all(&scene)?;
    // Its network goes first: nothing that it sends in the end arrives, so nobody but us tells them.
    let pid = scene.webs[0].pid()?;
    scene.webs[0].cut_off()?;
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
    scene.agent.set_quiet();
    Ok(())
}

#[test]
fn sockets_of_every_family_outlive_the_agent_and_what_it_made() -> Result<()> {
    needs!(docker);
    let mut scene = Scene::of_both_families(|_| {})?;
    let held = hold_all(&scene)?;
    let asking: Vec<Asking> = (0..4)
        .map(|_| Asking::start(&scene, "udp-unconnected", scene.target()))
        .collect::<Result<_>>()?;
    scene.agent.stop(Signal::SIGTERM)?;
    go_on(&asking, "answers without agent")?;
    let asked: Vec<Asked> = asking.into_iter().map(Asking::end).collect::<Result<_>>()?;
    ensure!(asked.iter().all(|it| it.failures.is_empty()), "{asked:?}");
    scene.agent.uninstall()?;
    for (what, held) in held {
        held.all_answer().with_context(|| what)?;
    }
    // Whoever asks for an address itself is led nowhere else, and none that is virtual is left.
    let Scene { client, webs, .. } = &scene;
    for address in [webs[0].address()?, webs[0].address6()?] {
        for way in ["tcp", "udp", "udp-unconnected"] {
            let direct = SocketAddr::new(address, 8080);
            let served = scene.served(Some(client), way, direct, 4)?;
            ensure!(served.keys().eq(["web-1"]), "{way} to {direct}: {served:?}");
        }
    }
    for target in targets()? {
        let calls = scene.dial(Some(client), "tcp", target, 1)?;
        ensure!(matches!(calls[..], [Called::Failed(_)]), "{target}: {calls:?}");
    }
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
    fn start(scene: &Scene, way: &str, target: SocketAddr) -> Result<Self> {
        let Scene { callers, world, client, .. } = scene;
        let told = world.directory().join(names::unique());
        let mut command =
            callers.in_container(client, &callers.dial_path()?.display().to_string())?;
        command.args([way, &target.to_string(), "200000"]);
        let child = command.stdout(fs::File::create(&told)?).spawn()?;
        Ok(Self { child, told })
    }

    /// Who answered first.
    fn begins_with(&self) -> Result<String> {
        process::wait_for("an answer", Duration::from_secs(5), || {
            let text = fs::read_to_string(&self.told)?;
            let name = text.split_once(' ').and_then(|(word, _)| word.strip_prefix("name="));
            Ok(name.with_context(|| text.clone())?.to_owned())
        })
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

/// Waits until each has more answers.
fn go_on(all: &[Asking], what: &str) -> Result<()> {
    let before: Vec<_> = all.iter().map(Asking::told_bytes).collect::<Result<_>>()?;
    process::wait_for(what, Duration::from_secs(10), || {
        for (asking, before) in all.iter().zip(&before) {
            // Some lines, of about sixty each.
            let more = asking.told_bytes()? - before;
            ensure!(more > 1000, "{more} bytes more in {}", asking.told.display());
        }
        Ok(())
    })
}

/// Sockets of a kind that ask, led to one backend by the first and to the other by the last of them.
fn ask_both(scene: &Scene, way: &str, target: SocketAddr) -> Result<Vec<Asking>> {
    let (mut all, mut seen) = (Vec::new(), BTreeSet::new());
    while seen.len() < 2 {
        ensure!(all.len() < ASKING_MAX, "{way} to {target}: all were led to {seen:?}");
        let asking = Asking::start(scene, way, target)?;
        seen.insert(asking.begins_with()?);
        all.push(asking);
    }
    Ok(all)
}

#[test]
fn a_socket_that_is_not_connected_moves_with_its_next_datagram() -> Result<()> {
    needs!(docker);
    let scene = Scene::of_both_families(|_| {})?;
    let [four, six, _] = targets()?;
    let kinds =
        [("udp-unconnected", four), ("udp-mapped-unconnected", four), ("udp-unconnected", six)];
    let mut all = Vec::new();
    for (way, target) in kinds {
        let of_kind = ask_both(&scene, way, target)?;
        all.extend(of_kind.into_iter().map(|asking| (format!("{way} to {target}"), asking)));
    }
    let (what, all): (Vec<_>, Vec<_>) = all.into_iter().unzip();
    go_on(&all, "answers")?;
    process::kill(scene.webs[0].pid()?, Signal::SIGKILL);
    // Whoever waits for the answer to what was under way does so for three seconds.
    go_on(&all, "answers after the kill")?;
    let all: Vec<_> = all.into_iter().map(Asking::end).collect::<Result<_>>()?;
    let mut moved = BTreeSet::new();
    for (what, Asked { names, failures }) in what.iter().zip(&all) {
        println!("{what}: {names:?} {failures:?}");
        let names: Vec<_> = names.iter().map(String::as_str).collect();
        ensure!(matches!(names[..], ["web-2"] | ["web-1", "web-2"]), "{what}: {names:?}");
        // What was under way, if anything was: nobody hears of that.
        let only = usize::from(names.len() == 2);
        ensure!(failures.len() <= only, "{what}: {failures:?}");
        ensure!(failures.iter().all(|it| it.starts_with("errno=11 ")), "{what}: {failures:?}");
        moved.extend((names.len() == 2).then_some(what));
    }
    ensure!(moved.len() == kinds.len(), "of the other kinds none had to move: {moved:?}");
    Ok(())
}

/// Of whom nobody knows yet on which networks he is, calls are led to any backend. One that he does not
/// reach never answers; he hears of it as soon as that is known, and from then on before he waits.
#[test]
fn who_was_led_astray_before_it_was_known_is_told() -> Result<()> {
    needs!(docker);
    let scene = Scene::new()?;
    let Scene { agent, callers, world, .. } = &scene;
    agent.signal(Signal::SIGSTOP)?;
    let early = stranger(world, "early")?;
    let program = callers.dial_path()?.display().to_string();
    let calls = ["tcp", "tcp-nonblocking", "tcp-mapped", "udp", "udp-mapped"].map(|way| {
        let mut command = callers.in_container(&early, &program)?;
        command.args([way, &scene.target().to_string(), "1"]).stdout(Stdio::piped());
        // Longer than an agent on a busy machine takes.
        command.env("LB_DIAL_SECONDS", "15");
        Ok((way, command.spawn()?))
    });
    let calls = calls.into_iter().collect::<Result<Vec<_>>>()?;
    let sockets = |table: &str, state: &str| -> Result<usize> {
        let table = fs::read_to_string(format!("/proc/{}/net/{table}", early.pid()?))?;
        Ok(table.lines().filter(|line| line.split_whitespace().nth(3) == Some(state)).count())
    };
    process::wait_for("calls that wait", Duration::from_secs(5), || {
        let waiting = sockets("tcp", "02")? + sockets("tcp6", "02")?;
        let asking = sockets("udp", "01")? + sockets("udp6", "01")?;
        ensure!((waiting, asking) == (3, 2), "{waiting} connect, {asking} ask");
        Ok(())
    })?;
    agent.signal(Signal::SIGCONT)?;
    for (way, call) in calls {
        let output = call.wait_with_output()?;
        let told = String::from_utf8_lossy(&output.stdout);
        // By their own timers they would hear something else.
        ensure!(told.starts_with(&format!("errno={ECONNABORTED} ")), "{way}: {told}");
    }
    for way in ["tcp", "udp"] {
        scene.refused(Some(&early), way, scene.target(), EHOSTUNREACH)?;
    }
    Ok(())
}
