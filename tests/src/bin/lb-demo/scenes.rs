//! The scenes, in order. Each shows something and says which promise it kept or broke.

use std::{collections::BTreeMap, time::Duration};

use anyhow::{Context as _, Result, ensure};
use lb_tests::{
    Container, process,
    traffic::{Load, Report, now_ms},
};
use nix::sys::signal::Signal;

use crate::{
    printer::Printer,
    stage::{self, Stage},
};

/// Requests per second while things happen.
const RATE: u32 = 200;
/// Longest time after a container's death in which requests may still fail.
const FAILURES_MS_MAX: f64 = 250.0;

/// Plays everything.
pub(crate) fn play(stage: &mut Stage, printer: &mut Printer) -> Result<()> {
    stage::require_unserved(stage)?;
    let webs = containers(stage, printer)?;
    spread(stage, printer, &webs)?;
    tables(stage, printer)?;
    kill_container(stage, printer, &webs[1])?;
    let streams = stage.client.streams(stage.vip, 20)?;
    join(stage, printer)?;
    kill_agent(stage, printer)?;
    let report = streams.finish()?;
    let summary = report.summary()?;
    printer.promise(
        summary.failed == 0 && summary.round_trips > 1000,
        &format!(
            "20 long-lived connections through the last two scenes: {} broken, {} messages \
             checked, the slowest took {:.0} ms",
            summary.failed, summary.round_trips, summary.worst_ms
        ),
    );
    for failure in report.failures.iter().take(5) {
        printer.line(&format!("{} ({})", failure.error, failure.name));
    }
    tables_after(stage, printer)
}

fn containers(stage: &mut Stage, printer: &mut Printer) -> Result<Vec<Container>> {
    printer.scene("Three containers of one Compose service, and the agent");
    let network = format!("--network {}", stage.network());
    // As the examples of the label's documentation do, with a published port, and without.
    let webs = [
        stage.start_web(1, &format!("{network} --publish 8080"))?,
        stage.start_web(2, &network)?,
        stage.start_web(3, "--publish 8080")?,
    ];
    let mut rows = vec![row(&["CONTAINER", "ADDRESS", "PUBLISHED", "LABEL"])];
    for web in &webs {
        let published = stage.docker().run(&format!("port {}", web.name()))?;
        let published = published.lines().next().unwrap_or("-").to_owned();
        let label = r#"aliyun.lb.port_8080: {{index .Config.Labels "aliyun.lb.port_8080"}}"#;
        let address = web.address()?.to_string();
        rows.push(vec![web.name().to_owned(), address, published, web.inspect(label)?]);
    }
    printer.table(&rows);
    stage.remember_state()?;
    stage.agent.start()?;
    let names: Vec<_> = webs.iter().map(Container::name).collect();
    stage.agent.wait_backends(&names)?;
    Ok(webs.into())
}

fn spread(stage: &Stage, printer: &mut Printer, webs: &[Container]) -> Result<()> {
    printer.scene(&format!("300 requests to http://{}/", stage.vip));
    let report = stage.client.fetch(stage.vip, 300)?;
    let summary = report.summary()?;
    let mut clients: BTreeMap<_, u32> = BTreeMap::new();
    for answer in &report.answers {
        *clients.entry((answer.name.clone(), answer.client.ip())).or_default() += 1;
    }
    let mut rows = vec![row(&["CONTAINER", "REQUESTS", "CLIENT AS IT SAW IT"])];
    for ((name, client), count) in &clients {
        rows.push(vec![name.clone(), count.to_string(), client.to_string()]);
    }
    printer.table(&rows);
    printer.promise(summary.ok == 300, &format!("{} of 300 answered", summary.ok));
    printer.promise(
        webs.iter().all(|web| summary.by_name.get(web.name()).is_some_and(|count| *count >= 50)),
        "spread over all containers",
    );
    let own = stage.client_address;
    let kept = clients.keys().all(|(_, client)| *client == own) && !clients.is_empty();
    printer.promise(kept, &format!("every container saw the client's own address, {own}"));

    let port = stage.docker().run(&format!("port {} 8080/tcp", webs[0].name()))?;
    let port = port.lines().next().and_then(|line| line.rsplit(':').next()?.parse().ok());
    let published = (stage.node_address, port.context("no published port")?).into();
    let by_port = stage.client.fetch_one(published).is_ok();
    let direct = (webs[0].address()?, 8080).into();
    let by_address = stage.node().fetch_one(direct).is_ok();
    printer.promise(
        by_port && by_address,
        &format!("Docker's own ways in still work: {published} (published), {direct} (direct)"),
    );
    Ok(())
}

fn tables(stage: &Stage, printer: &mut Printer) -> Result<()> {
    printer.scene("What the operator sees");
    // The agent reads its counters once in a while.
    process::wait_for("counters", Duration::from_secs(5), || {
        let backends = stage.agent.rows("backend")?;
        let flows = backends.iter().filter_map(|row| row["counters"]["flows"].as_u64());
        ensure!(flows.sum::<u64>() >= 300, "{backends:?}");
        Ok(())
    })?;
    for words in ["vip list", "service list", "backend list"] {
        stage.lbctl(words, printer)?;
    }
    Ok(())
}

/// Starts requests and waits until they flow.
fn start_requests(stage: &Stage) -> Result<Load> {
    let mut load = stage.client.requests(stage.vip, RATE)?;
    load.wait_until("the first answers", Duration::from_secs(5), |report| {
        report.answers.len() >= 100
    })?;
    Ok(load)
}

/// Milliseconds from then to the last failure, 0 when there was none.
fn last_failure_ms(report: &Report, then_ms: f64) -> f64 {
    let times = report.failures.iter().map(|failure| failure.at_ms - then_ms);
    times.fold(0.0, f64::max)
}

fn kill_container(stage: &Stage, printer: &mut Printer, victim: &Container) -> Result<()> {
    let name = victim.name();
    printer.scene(&format!("{name} is killed while {RATE} requests per second run"));
    let load = start_requests(stage)?;
    let pid = victim.pid()?;
    ensure!(pid > 1, "{name} does not run");
    let killed_ms = now_ms();
    // Not by Docker: as a crash or the out-of-memory killer would, and at a known time.
    process::kill(pid, Signal::SIGKILL);
    process::sleep(Duration::from_secs(3))?;
    let report = load.finish()?;
    let summary = report.summary()?;
    let last_ms = last_failure_ms(&report, killed_ms);
    printer.line(&format!(
        "{} requests, {} failed; the last of them was sent {last_ms:.0} ms after the kill",
        summary.sent, summary.failed
    ));
    for failure in report.failures.iter().take(5) {
        let at_ms = failure.at_ms - killed_ms;
        printer.line(&format!("  {at_ms:+.0} ms: {}", failure.error));
    }
    printer.promise(
        last_ms <= FAILURES_MS_MAX,
        &format!("no request fails that is sent more than {FAILURES_MS_MAX} ms after the death"),
    );
    let late = |answer: &&lb_tests::traffic::Answer| {
        answer.name == name && answer.at_ms > killed_ms + FAILURES_MS_MAX
    };
    printer.promise(!report.answers.iter().any(|answer| late(&answer)), "nobody reached it later");
    Ok(())
}

fn join(stage: &mut Stage, printer: &mut Printer) -> Result<()> {
    printer.scene("A new container joins while requests run");
    let mut load = start_requests(stage)?;
    let begun_ms = now_ms();
    let network = format!("--network {}", stage.network());
    let web = stage.start_web(4, &network)?;
    let started_ms = now_ms();
    let name = web.name().to_owned();
    load.wait_until("its first answer", Duration::from_secs(5), |report| {
        report.answers.iter().any(|answer| answer.name == name)
    })?;
    process::sleep(Duration::from_secs(1))?;
    let report = load.finish()?;
    let summary = report.summary()?;
    let first = report.answers.iter().find(|answer| answer.name == name);
    let first_ms = first.context("no answer")?.at_ms;
    printer.line(&format!(
        "`docker run` took {:.0} ms; {name} answered its first request {:.0} ms after that began",
        started_ms - begun_ms,
        first_ms - begun_ms
    ));
    let share = summary.by_name.get(&name).copied().unwrap_or(0);
    printer.promise(
        summary.failed == 0,
        &format!(
            "{} requests, {} failed; {name} answered {share} of them",
            summary.sent, summary.failed
        ),
    );
    Ok(())
}

fn kill_agent(stage: &mut Stage, printer: &mut Printer) -> Result<()> {
    printer.scene("The agent is killed (SIGKILL), stays away, and is started again");
    let load = start_requests(stage)?;
    stage.agent.stop(Signal::SIGKILL)?;
    printer.line("killed; nobody balances now but the kernel");
    process::sleep(Duration::from_millis(1500))?;
    let begun = std::time::Instant::now();
    stage.agent.start()?;
    let ready_ms = begun.elapsed().as_millis();
    printer.line(&format!("started again: it answers after {ready_ms} ms"));
    process::sleep(Duration::from_millis(1500))?;
    let report = load.finish()?;
    let summary = report.summary()?;
    for failure in report.failures.iter().take(5) {
        printer.line(&failure.error);
    }
    printer.promise(
        summary.failed == 0,
        &format!("{} requests meanwhile, {} failed", summary.sent, summary.failed),
    );
    Ok(())
}

fn tables_after(stage: &Stage, printer: &mut Printer) -> Result<()> {
    printer.scene("After all that");
    stage.lbctl("backend list", printer)?;
    stage.lbctl("status", printer)
}

fn row(cells: &[&str]) -> Vec<String> {
    cells.iter().map(|cell| (*cell).to_owned()).collect()
}
