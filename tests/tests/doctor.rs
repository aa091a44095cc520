//! `lbctl doctor` on a real node: what it says of it, with an agent and without.

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use lb_tests::{
    Agent, Container, World, callers::Callers, needs, odd_programs, process, world::BALANCER,
};
use nix::sys::{
    signal::Signal,
    socket::{AddressFamily, SockFlag, SockProtocol, SockType, socket},
};
use serde_json::Value;

/// The level of the worst finding of a check, and all that it says.
fn check(report: &Value, name: &str) -> Result<(String, String)> {
    let findings = report["findings"].as_array().context("no findings")?;
    let of: Vec<_> = findings.iter().filter(|finding| finding["check"] == name).collect();
    let rank = |level: &str| ["ok", "warning", "error"].iter().position(|it| *it == level);
    let level = of.iter().filter_map(|finding| finding["level"].as_str()).max_by_key(|it| rank(it));
    let text = of.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n");
    Ok((level.with_context(|| format!("no check `{name}`: {report}"))?.to_owned(), text))
}

/// The report, and the exit code.
fn doctor(agent: &Agent) -> Result<(Value, i32)> {
    let words = format!("doctor --json --config {}", agent.config_path().display());
    let output = agent.lbctl_command(&words).output()?;
    let text = String::from_utf8_lossy(&output.stdout);
    let report = serde_json::from_str(&text).with_context(|| format!("{output:?}"))?;
    Ok((report, output.status.code().context("killed")?))
}

/// Waits until a check says this: the report follows what is known, which takes a moment.
fn wait_check(agent: &Agent, name: &str, level: &str, words: &[&str]) -> Result<()> {
    process::wait_for(&format!("check {name}"), Duration::from_secs(10), || {
        let (found, text) = check(&doctor(agent)?.0, name)?;
        ensure!(found == level, "{name}: {text}");
        ensure!(words.iter().all(|word| text.contains(word)), "{words:?}: {text}");
        Ok(())
    })
}

#[test]
fn the_doctor_sees_what_is_wrong_with_a_node() -> Result<()> {
    needs!(docker);
    let mut world = World::docker()?;
    let docker = world.docker_client()?;
    let callers = Callers::of(&mut world)?;
    let web = docker.container("web").label("lb.visible", "all");
    let _web = web.balanced(&format!("tcp://{BALANCER}:80")).start()?;
    let stranger = lb_tests::eastwest::stranger(&world, "stranger")?;
    let mut config = world.config();
    config.cgroup = Some(callers.cgroup().to_owned());
    config.extra = "[names]\nlisten = ['0.0.0.0:53']\n".to_owned();
    let mut agent = world.start_agent(&config)?;
    agent.wait_backends(&["web"])?;

    let expect = |name: &str, level: &str, words: &[&str]| wait_check(&agent, name, level, words);
    expect("agent", "ok", &["lb-agent"])?;
    expect("docker", "ok", &["Docker"])?;
    expect("front", "ok", &["TC by"])?;
    let cgroup = callers.cgroup().display().to_string();
    expect("cgroup", "ok", &[&cgroup])?;
    // Everything of this machine that is not the test's.
    expect("outside", "warning", &["not in the cgroup"])?;
    expect("callers", "ok", &["2 containers"])?;
    expect("networks", "warning", &["80 from stranger"])?;
    expect("names", "warning", &["0 containers have asked"])?;
    expect("granted", "ok", &[])?;

    let gateway = stranger.inspect("{{.NetworkSettings.Networks.other.Gateway}}")?;
    let mut ask = callers.in_container(&stranger, "busybox")?;
    // There is no such name; that it asked is what counts.
    drop(ask.args(["nslookup", "web.local", gateway.trim()]).output()?);
    expect("names", "ok", &["1 container has asked", "not yet: `web`"])?;
    raw_sockets_are_found(&agent, &world, &stranger)?;
    // A network namespace that Docker knows nothing of, with an interface.
    let mut odd = std::process::Command::new("setpriv");
    odd.args(["--pdeathsig", "KILL", "unshare", "--net", "sh", "-c"]);
    odd.arg("ip link add one type veth peer name two && exec sleep 60");
    let mut odd = odd.spawn()?;
    let result = expect("runtimes", "warning", &[&odd.id().to_string()]);
    odd.kill()?;
    odd.wait()?;
    result?;

    let (_, code) = doctor(&agent)?;
    ensure!(code == 0, "warnings are no failure: {code}");
    agent.stop(Signal::SIGKILL)?;
    let (report, code) = doctor(&agent)?;
    ensure!(code == 1 && check(&report, "agent")?.0 == "error", "{code}: {report}");
    ensure!(check(&report, "docker")?.0 == "ok" && check(&report, "kernel").is_ok(), "{report}");
    Ok(())
}

/// Whose they are, and what may be done of a container's: nothing is wrong with the node's.
fn raw_sockets_are_found(agent: &Agent, world: &World, container: &Container) -> Result<()> {
    let open = |family, kind, protocol| socket(family, kind, SockFlag::SOCK_CLOEXEC, protocol);
    let raw = |family, protocol| open(family, SockType::Raw, Some(protocol));
    let is_silent = |agent: &Agent| -> Result<()> {
        let report = doctor(agent)?.0;
        ensure!(check(&report, "raw").is_err(), "whose are they? {report}");
        Ok(())
    };
    is_silent(agent)?;
    let packets =
        world.node().enter(|| open(AddressFamily::Packet, SockType::Datagram, None))??;
    let node =
        "the node has 0 raw sockets and 1 packet socket, whose packets no hook on calls sees";
    wait_check(agent, "raw", "ok", &[node])?;
    for (family, protocol) in
        [(AddressFamily::Inet, SockProtocol::Icmp), (AddressFamily::Inet6, SockProtocol::IcmpV6)]
    {
        let held = container.enter(|| raw(family, protocol))??;
        let words = [
            node,
            "raw or packet sockets in `stranger`",
            "what they send to a virtual address is packets, and no call",
            "`--cap-drop NET_RAW`",
        ];
        wait_check(agent, "raw", "warning", &words).with_context(|| format!("{protocol:?}"))?;
        drop(held);
        wait_check(agent, "raw", "ok", &[node])?;
    }
    drop(packets);
    is_silent(agent)
}

#[test]
fn other_ways_of_packets_are_found() -> Result<()> {
    needs!(docker);
    let mut world = World::docker()?;
    let callers = Callers::of(&mut world)?;
    let _web = lb_tests::eastwest::web(&world, 1)?.start()?;
    let mut config = world.config();
    config.cgroup = Some(callers.cgroup().to_owned());
    // In the subnet of the front interface, and nobody's.
    config.balancers.push(("near".to_owned(), "192.0.2.77".to_owned()));
    let agent = world.start_agent(&config)?;
    agent.wait_backends(&["web-1"])?;
    let vip = world.front().ip();
    let expect = |name: &str, level: &str, words: &[&str]| wait_check(&agent, name, level, words);
    expect("programs", "ok", &["ours alone, on 2 interfaces"])?;
    expect("routes", "warning", &["192.0.2.77 is in 192.0.2.0/24, the subnet of `front0`"])?;
    let node = world.node();
    node.ip("addr add 192.0.2.77/32 dev lo")?;
    expect("routes", "ok", &["1 of 2 end here"])?;
    // What an agent that was killed in the wrong moment may leave behind.
    node.ip("route add unreachable 203.0.113.99 proto 108 metric 4285293056")?;
    node.ip(&format!("route add {vip} via 192.0.2.2"))?;
    expect(
        "routes",
        "warning",
        &["`203.0.113.99`", &format!("routes {vip} to 192.0.2.2 by `front0`")],
    )?;
    let held = node.enter(|| odd_programs::first_on_interface("front0"))??;
    expect("programs", "warning", &["`cil_odd` of Cilium (tcx ingress, before ours)"])?;
    drop(held);
    expect("programs", "ok", &["ours alone"])
}
