//! `lbctl doctor` on a real node: what it says of it, with an agent and without.

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use lb_tests::{Agent, World, callers::Callers, needs, process, world::BALANCER};
use nix::sys::signal::Signal;
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

#[test]
fn the_doctor_sees_what_is_wrong_with_a_node() -> Result<()> {
    needs!(docker);
    let mut world = World::docker()?;
    let docker = world.docker_client()?;
    docker.run("network create other")?;
    let callers = Callers::of(&mut world)?;
    let web = docker.container("web").label("lb.visible", "all");
    let _web = web.balanced(&format!("tcp://{BALANCER}:80")).start()?;
    let stranger = docker.container("stranger").with("--network other").start()?;
    let mut config = world.config();
    config.cgroup = Some(callers.cgroup().to_owned());
    config.extra = "[names]\nlisten = ['0.0.0.0:53']\n".to_owned();
    let mut agent = world.start_agent(&config)?;
    agent.wait_backends(&["web"])?;

    // The report follows the containers that are known, which takes a moment.
    let expect = |name: &str, level: &str, words: &[&str]| -> Result<()> {
        process::wait_for(&format!("check {name}"), Duration::from_secs(10), || {
            let (found, text) = check(&doctor(&agent)?.0, name)?;
            ensure!(found == level, "{name}: {text}");
            ensure!(words.iter().all(|word| text.contains(word)), "{words:?}: {text}");
            Ok(())
        })
    };
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
    // A network namespace that Docker knows nothing of, with an interface and a raw socket.
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
