//! East-west: IPv6, calls of odd kinds, and what is told of many.

use std::{
    collections::BTreeSet,
    process::Command,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, ensure};
use lb_tests::{
    callers::Called,
    eastwest::Scene,
    needs, process, skip,
    tracing::Tracing,
    world::{vip, vip6},
};

/// Far more than anybody is told of at once.
const CALLS: usize = 40_000;

const EINVAL: i32 = 22;
const ENETUNREACH: i32 = 101;
const EHOSTUNREACH: i32 = 113;

#[test]
fn calls_by_ipv6_are_led_shown_and_refused() -> Result<()> {
    needs!(docker);
    let mut six = Scene::of_both_families(|_| {})?;
    short_addresses_are_the_kernels_to_refuse(&six).context("short addresses")?;
    senders_that_no_hook_sees_are_told_at_once(&mut six).context("senders that no hook sees")
}

fn senders_that_no_hook_sees_are_told_at_once(six: &mut Scene) -> Result<()> {
    let vip = vip6(80).ip();
    process::wait_for("the route", Duration::from_secs(5), || {
        let routes = six.world.node().run("ip -6 route show proto 108")?;
        ensure!(routes.contains(&format!("unreachable {vip}")), "{routes}");
        Ok(())
    })?;
    let node = six.world.node().path().display().to_string();
    let container = format!("/proc/{}/ns/net", six.client.pid()?);
    // What is forwarded is answered by ICMP, "no route".
    for (network, errno) in [(node, EHOSTUNREACH), (container, ENETUNREACH)] {
        let mut command = Command::new("setpriv");
        command.args(["--pdeathsig", "KILL", "nsenter", &format!("--net={network}")]);
        command.arg(six.callers.dial_path()?).args(["tcp", &vip6(80).to_string(), "1"]);
        let begun = Instant::now();
        let said = process::run(&mut command)?;
        ensure!(said.starts_with(&format!("errno={errno} ")), "{network}: {said}");
        ensure!(begun.elapsed() < Duration::from_secs(2), "after {:?}", begun.elapsed());
    }
    six.served(Some(&six.client), "tcp", vip6(80), 10)?;
    six.world.client().fetch(vip6(80), 10)?.check()?;
    // It goes with the rest, and nothing else does.
    six.agent.stop(nix::sys::signal::Signal::SIGTERM)?;
    let before = six.world.node().run("ip -6 route show")?;
    six.agent.uninstall()?;
    let after = six.world.node().run("ip -6 route show")?;
    let lost: Vec<&str> = before.lines().filter(|line| !after.contains(*line)).collect();
    ensure!(
        !lost.is_empty() && lost.iter().all(|line| line.starts_with("unreachable ")),
        "{lost:?}"
    );
    Ok(())
}

/// The kernel's own error; and an address of IPv6 without a scope is none that is short.
fn short_addresses_are_the_kernels_to_refuse(six: &Scene) -> Result<()> {
    let shorts = ["short-tcp", "short-udp", "short-udp-unconnected"];
    for from in [None, Some(&six.client)] {
        for target in [vip(80), vip6(80)] {
            for way in shorts {
                six.refused(from, way, target, EINVAL)?;
            }
        }
    }
    for way in ["old-tcp", "old-udp", "old-udp-unconnected"] {
        six.served(Some(&six.client), way, vip6(80), 4)?;
    }
    // Nobody else notices.
    six.served(Some(&six.client), "tcp", vip6(80), 10)?;
    Ok(())
}

/// To its peer a socket of multipath TCP is one of TCP, and the servers here know no other.
#[test]
fn multipath_tcp_is_led_and_refused_as_tcp_is() -> Result<()> {
    needs!(docker);
    let scene = Scene::new()?;
    let target = scene.target();
    let node = scene.world.node();
    match node.run("sysctl -n net.mptcp.enabled") {
        Ok(enabled) if enabled.trim() == "1" => {}
        Ok(enabled) => skip!("net.mptcp.enabled is {}", enabled.trim()),
        Err(_) => skip!("this kernel has no multipath TCP"),
    }
    for from in [None, Some(&scene.client)] {
        let mut names = BTreeSet::new();
        for call in scene.dial(from, "mptcp", target, 20)? {
            let Called::Answered { name, client, .. } = call else {
                anyhow::bail!("from {from:?}: {call:?}");
            };
            names.insert(name);
            if let Some(from) = from {
                ensure!(client.ip() == from.address()?, "a backend saw {client}");
            }
        }
        ensure!(names == ["web-1", "web-2"].map(str::to_owned).into(), "{names:?}");
        scene.refused(from, "mptcp", vip(81), 111)?;
    }
    Ok(())
}

/// Refused datagrams are told each: more of them than anybody can read are counted, and that is said.
#[test]
fn calls_that_are_too_many_to_tell_are_counted() -> Result<()> {
    needs!(docker);
    let scene = Scene::new()?;
    let begun = Instant::now();
    let trace = Tracing::start(&scene.agent, "--port 81 --seconds 4 -o json")?;
    let shown = Tracing::start(&scene.agent, "--port 81 --seconds 4")?;
    let calls = scene.dial(Some(&scene.client), "udp-unconnected", vip(81), CALLS)?;
    ensure!(calls.iter().all(|call| *call == Called::Failed(111)), "not all were refused");
    let took = begun.elapsed();
    let (mut told, mut lost) = (0, 0);
    for line in trace.rest() {
        let line: serde_json::Value = serde_json::from_str(&line)?;
        match line["what"].as_str() {
            Some("packet") => {
                ensure!(line["hook"] == "socket" && line["reason"] == "no_frontend", "{line}");
                told += 1;
            }
            Some("lost") => lost += line["packets"].as_u64().context("no number")? as usize,
            _ => {}
        }
    }
    println!("{told} told and {lost} lost of {CALLS} calls in {took:?}");
    assert_eq!(told + lost, CALLS, "every call is told or counted");
    // The bucket of each processor, and 5,000 more for each second.
    let cpus = std::thread::available_parallelism()?.get();
    let most = cpus * (1_000 + 5_000 * (took.as_secs() as usize + 1));
    ensure!(told >= 1_000 && told <= most, "{told} of at most {most} were told");
    let shown = shown.rest();
    let says = shown.iter().find(|line| line.contains("were too many to be shown"));
    println!("{}", says.context("nothing says that some were not told")?);
    // Afterwards there is room again.
    let trace = Tracing::start(&scene.agent, "--port 81 --seconds 5")?;
    scene.dial(Some(&scene.client), "udp-unconnected", vip(81), 3)?;
    let said = trace.rest();
    let count = said.iter().filter(|line| line.contains("drop, no_frontend")).count();
    assert_eq!(count, 3, "{said:#?}");
    Ok(())
}
