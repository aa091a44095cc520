//! What probes do to traffic: mostly of containers whose health is a second port that listens or does not.

use std::time::Duration;

use anyhow::{Result, ensure};
use lb_tests::{
    Cluster, Container, Docker, World,
    cluster::ON,
    needs, process,
    traffic::now_ms,
    world::{BALANCER, VIP, vip, vip6},
};
use serde_json::Value;

/// Port whose listener is the container's health.
const HEALTH_PORT: u16 = 9090;
/// Longest wait for a change of health to arrive, on a busy machine too.
const SOON: Duration = Duration::from_secs(20);

/// A replica of the service, with that as its probe.
fn start_probed(world: &World, number: u32, interval: &str) -> Result<Container> {
    let url = format!("tcp://container:{HEALTH_PORT}");
    let web = world.web(number)?.label("aliyun.probe.url", &url);
    web.label("lb.probe.interval", interval).start()
}

/// Makes a container healthy; by killing what it returns, unhealthy again.
fn heal(docker: &Docker, name: &str) -> Result<()> {
    let line = format!("exec --detach {name} /bin/lb-testkit serve --port {HEALTH_PORT}");
    docker.run(&line).map(drop)
}

fn harm(docker: &Docker, name: &str) -> Result<()> {
    let listed = docker.run(&format!("top {name} -o pid,args"))?;
    let port = HEALTH_PORT.to_string();
    for line in listed.lines().filter(|line| line.ends_with(&port)) {
        if let Some(pid) = line.split_whitespace().next() {
            process::kill(pid.parse()?, nix::sys::signal::Signal::SIGKILL);
        }
    }
    Ok(())
}

#[test]
fn who_fails_its_probe_gets_nothing_new_and_keeps_what_it_has() -> Result<()> {
    needs!(docker);
    let world = World::docker()?;
    let docker = world.docker_client()?;
    for number in 1..=2 {
        start_probed(&world, number, "500ms")?;
    }
    let agent = world.start_agent(&world.config())?;
    let state = |expected: &str| {
        process::wait_for(&format!("state {expected}"), SOON, || {
            let rows = agent.rows("service")?;
            let shown = rows.first().and_then(|row| row["state"].as_str()).unwrap_or("none");
            ensure!(shown == expected, "it is {shown}");
            Ok(())
        })
    };
    state("down")?;
    ensure!(world.client().fetch_one(world.front()).is_err(), "served before its probe passed");

    heal(&docker, "web-1")?;
    agent.wait_backends(&["web-1"])?;
    ensure!(world.client().fetch_one(world.front())?.name == "web-1");
    heal(&docker, "web-2")?;
    agent.wait_backends(&["web-1", "web-2"])?;

    let streams = world.client().streams(world.front(), 20)?;
    harm(&docker, "web-1")?;
    agent.wait_backends(&["web-2"])?;
    let report = world.client().fetch(world.front(), 50)?;
    ensure!(!report.check()?.by_name.contains_key("web-1"), "new connections to who fails");
    streams.finish()?.check()?;

    // Now all of them fail, and live: better than nothing.
    harm(&docker, "web-2")?;
    state("panic")?;
    let report = world.client().fetch(world.front(), 50)?;
    ensure!(report.check()?.by_name.len() == 2, "both serve");
    ensure!(agent.log().contains("PANIC"), "it is said loudly");
    docker.run("rm --force web-1")?;
    process::sleep(Duration::from_secs(1))?;
    let report = world.client().fetch(world.front(), 50)?;
    ensure!(report.check()?.by_name.keys().all(|name| name == "web-2"), "the gone: never");

    heal(&docker, "web-2")?;
    state("serving")
}

#[test]
fn a_rolling_update_that_fails_keeps_the_last_good_ones_while_they_answer() -> Result<()> {
    needs!(docker);
    let world = World::docker()?;
    let docker = world.docker_client()?;
    let start = |number| start_probed(&world, number, "500ms");
    for number in 1..=2 {
        start(number)?;
        heal(&docker, &format!("web-{number}"))?;
    }
    let agent = world.start_agent(&world.config())?;
    agent.wait_backends(&["web-1", "web-2"])?;
    let requests = world.client().requests(world.front(), 50)?;
    // The new one never passes its probe, and the last of the old ones fails it, too.
    let removal_ms = now_ms();
    docker.run("rm --force web-1")?;
    // Until the node hears of its death, its network namespace refuses.
    let removal_ms = removal_ms..now_ms() + 250.0;
    start(1)?;
    agent.wait_backends(&["web-2"])?;
    harm(&docker, "web-2")?;
    agent.wait_log("PANIC")?;
    let report = world.client().fetch(world.front(), 50)?;
    ensure!(report.check()?.by_name.keys().eq(["web-2"]), "{:?}", report.summaries);
    let failed = requests.finish()?.failures;
    ensure!(
        failed.iter().all(|it| it.name == "web-1" || removal_ms.contains(&it.at_ms)),
        "another than the removed one: {failed:?}"
    );
    // Nobody answers any more: the new one is no reason to let clients wait.
    docker.run("rm --force web-2")?;
    process::wait_for("nobody", SOON, || {
        let begun = std::time::Instant::now();
        ensure!(world.client().fetch_one(world.front()).is_err(), "somebody answers");
        ensure!(begun.elapsed() < Duration::from_secs(2), "the client waited");
        Ok(())
    })
}

#[test]
fn a_restarted_agent_takes_nobody_out() -> Result<()> {
    needs!(docker);
    let world = World::docker()?;
    let docker = world.docker_client()?;
    start_probed(&world, 1, "2s")?;
    let mut agent = world.start_agent(&world.config())?;
    heal(&docker, "web-1")?;
    agent.wait_backends(&["web-1"])?;
    let requests = world.client().requests(world.front(), 100)?;
    agent.stop(nix::sys::signal::Signal::SIGKILL)?;
    agent.start()?;
    agent.wait_backends(&["web-1"])?;
    process::sleep(Duration::from_secs(3))?;
    requests.finish()?.check()?;
    Ok(())
}

/// What was found of a container stays found, whatever becomes of others: no event tells of a change, and
/// no probe is begun anew.
#[test]
fn health_is_kept_across_an_unrelated_update() -> Result<()> {
    needs!(docker);
    let world = World::docker()?;
    let docker = world.docker_client()?;
    for number in 1..=2 {
        start_probed(&world, number, "500ms")?;
        heal(&docker, &format!("web-{number}"))?;
    }
    let mut config = world.config();
    let agent = world.start_agent(&config)?;
    agent.wait_backends(&["web-1", "web-2"])?;
    harm(&docker, "web-2")?;
    agent.wait_backends(&["web-1"])?;
    agent.wait_state("web-2", "unhealthy")?;
    let told = || -> Result<Vec<Value>> {
        let events = agent.rows("event")?.into_iter();
        Ok(events.filter(|it| it["object"] == "compose/shop/web:8080").collect())
    };
    let probed = || -> Result<[Option<u64>; 2]> {
        let [one, other] = [agent.backend("web-1")?, agent.backend("web-2")?];
        Ok([one["probe"]["passed"].as_u64(), other["probe"]["failed"].as_u64()])
    };
    let (before, probed_before) = (told()?, probed()?);
    ensure!(!before.is_empty() && probed_before > [Some(1), Some(2)], "{before:?}");
    let requests = world.client().requests(world.front(), 200)?;

    let other = "compose/shop/other:8080";
    let start_other = |weight: &str| {
        let container = docker.container("other-1").compose("shop", "other", 1);
        container.balanced(&format!("http://{BALANCER}:81")).label("lb.weight", weight).start()
    };
    start_other("100")?;
    agent.wait_backends_of(other, &["other-1"])?;
    docker.run("rename other-1 other-2")?;
    agent.wait_backends_of(other, &["other-2"])?;
    docker.run("rm --force other-2")?;
    start_other("50")?;
    agent.wait_backends_of(other, &["other-1"])?;
    config.extra = format!("[[service]]\nname = 'more'\nfrontends = ['tcp://{VIP}:82']\n");
    agent.reconfigure(&config)?;
    process::wait_for("the service of the file", SOON, || {
        ensure!(agent.rows("service")?.len() == 3);
        Ok(())
    })?;
    docker.run("rm --force other-1")?;
    process::wait_for("its end", SOON, || {
        ensure!(agent.rows("service")?.len() == 2);
        Ok(())
    })?;

    let report = requests.finish()?;
    ensure!(report.check()?.by_name.keys().eq(["web-1"]), "{:?}", report.summaries);
    ensure!(told()? == before, "{:?}, {before:?}", told()?);
    for (after, before) in probed()?.into_iter().zip(probed_before) {
        ensure!(after > before, "counted anew: {after:?}, {before:?} before");
    }
    Ok(())
}

#[test]
fn who_comes_back_at_the_same_address_has_to_pass_by_itself() -> Result<()> {
    needs!(docker);
    let world = World::docker()?;
    let docker = world.docker_client()?;
    let start = |number| start_probed(&world, number, "300ms");
    let webs = [start(1)?, start(2)?];
    heal(&docker, "web-1")?;
    heal(&docker, "web-2")?;
    let agent = world.start_agent(&world.config())?;
    agent.wait_backends(&["web-1", "web-2"])?;
    for _ in 0..3 {
        let address = webs[0].address()?;
        webs[0].act("rm --force")?;
        let again = start(1)?;
        // It serves from here on, where its predecessor was served, and has not been found to be well.
        let requests = world.client().requests(world.front(), 200)?;
        ensure!(again.address()? == address, "the fixture must reuse the address");
        process::wait_for("a probe that failed", SOON, || {
            let row = agent.backend("web-1")?;
            let found = (row["probe"]["failed"].as_u64(), row["probe"]["passed"].as_u64());
            ensure!(found.0 >= Some(3) && found.1 == Some(0), "{row}");
            Ok(())
        })?;
        ensure!(agent.healthy_backends()? == ["web-2"]);
        let report = requests.finish()?;
        ensure!(report.check()?.by_name.keys().eq(["web-2"]), "{:?}", report.summaries);
        heal(&docker, "web-1")?;
        agent.wait_backends(&["web-1", "web-2"])?;
        let report = world.client().fetch(world.front(), 60)?;
        ensure!(report.check()?.by_name.len() == 2, "{:?}", report.summaries);
    }
    Ok(())
}

/// Nobody calls while it fails, so only the probe can see it.
#[test]
fn a_backend_of_the_file_is_probed_like_a_container() -> Result<()> {
    needs!(namespaces);
    let probe = "[defaults.probe]\nkind = 'tcp'\ninterval_ms = 300\ntimeout_ms = 300\nrise = 2\n";
    let cluster = Cluster::start(probe, &[ON, ON])?;
    let [failing, other] = &cluster.remotes[..] else { anyhow::bail!("two remotes") };
    let wait_healthy = |count: usize| {
        process::wait_for(&format!("{count} healthy"), SOON, || {
            let rows = cluster.agent.rows("backend")?;
            // Each has an address of either family.
            let healthy = rows.iter().filter(|row| row["state"] == "healthy").count();
            ensure!(healthy == 2 * count, "{rows:?}");
            Ok(())
        })
    };
    wait_healthy(2)?;
    let streams = cluster.world.client().streams(vip(80), 20)?;
    for verdict in ["reject with tcp reset", "drop"] {
        for line in
            ["table inet probe", "chain inet probe in { type filter hook input priority 0 ; }"]
        {
            failing.namespace.run(&format!("nft add {line}"))?;
        }
        let rule = "add rule inet probe in tcp flags & ( syn | ack ) == syn";
        failing.namespace.run(&format!("nft {rule} {verdict}"))?;
        wait_healthy(1)?;
        let rows = cluster.agent.rows("backend")?;
        let is_judged = |row: &Value| {
            let is_other = row["address"] == other.address.to_string().as_str()
                || row["address"] == other.address6.to_string().as_str();
            let failed = row["probe"]["failed"].as_u64().unwrap_or_default();
            is_other || (row["state"] == "unhealthy" && failed >= 3)
        };
        ensure!(rows.iter().all(is_judged), "{rows:?}");
        for front in [vip(80), vip6(80)] {
            let report = cluster.world.client().fetch(front, 50)?;
            ensure!(report.check()?.by_name.keys().all(|name| name == "remote-2"), "{verdict}");
        }
        failing.namespace.run("nft delete table inet probe")?;
        wait_healthy(2)?;
        ensure!(cluster.served_by(100)? == ["remote-1", "remote-2"], "it is back");
    }
    streams.finish()?.check()?;
    Ok(())
}
