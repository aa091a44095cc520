//! Docker away, restarting, out of order: the data path goes on with what it knows, nothing is
//! removed, the agent says so and reconnects.

use std::{
    net::TcpListener,
    time::{Duration, Instant},
};

use anyhow::{Result, ensure};
use lb_tests::{
    Agent, DockerOptions, RemoteHost, World,
    container::Container,
    exposition, needs, process,
    proxy::{Fault, Proxy, SLOWNESS},
    world::{BALANCER, vip},
};
use nix::sys::signal::Signal;

/// Longest wait for something to arrive, on a busy machine too.
const SOON: Duration = Duration::from_secs(20);

fn wait_trouble(agent: &Agent, is_expected: bool) -> Result<Option<String>> {
    process::wait_for(&format!("trouble: {is_expected}"), Duration::from_secs(40), || {
        let trouble = agent.trouble("docker")?;
        ensure!(trouble.is_some() == is_expected, "the agent says: {trouble:?}");
        Ok(trouble)
    })
}

#[test]
fn docker_that_restarts_disturbs_nobody() -> Result<()> {
    needs!(docker);
    let mut world = World::docker()?;
    world.start_webs(2)?;
    let agent = world.start_agent(&world.config())?;
    agent.wait_backends(&["web-1", "web-2"])?;
    let requests = world.client().requests(world.front(), 100)?;
    let streams = world.client().streams(world.front(), 10)?;
    for signal in [Signal::SIGTERM, Signal::SIGKILL] {
        world.docker_node()?.stop_daemon(signal);
        let trouble = wait_trouble(&agent, true)?.unwrap_or_default();
        ensure!(trouble.contains("docker"), "whose trouble? `{trouble}`");
        agent.wait_backends(&["web-1", "web-2"])?;
        world.docker_node()?.start_daemon()?;
        wait_trouble(&agent, false)?;
        agent.wait_backends(&["web-1", "web-2"])?;
    }
    requests.finish()?.check()?;
    streams.finish()?.check()?;
    // It has eyes again.
    world.web(3)?.start()?;
    agent.wait_backends(&["web-1", "web-2", "web-3"])
}

/// Where the agent serves its metrics, in the node's namespace.
const METRICS: &str = "127.0.0.1:9432";

/// Waits until the metrics say whether Docker is seen; the file always is.
fn wait_up(world: &World, is_up: bool) -> Result<()> {
    process::wait_for(&format!("lb_provider_up of docker: {is_up}"), SOON, || {
        let text = exposition::scrape(world.node(), METRICS)?;
        for (provider, expected) in [("docker", u64::from(is_up)), ("file", 1)] {
            let label = format!("provider=\"{provider}\"");
            let found = exposition::value(&text, "lb_provider_up", &[&label])?;
            ensure!(found == expected, "{provider}: {found}");
        }
        Ok(())
    })
}

/// Without live-restore: an orderly end takes all containers along, a crash leaves them until the next
/// daemon ends them; what it starts again are others, at whatever addresses.
#[test]
fn docker_that_takes_its_containers_along_brings_back_what_it_restarts() -> Result<()> {
    needs!(docker);
    let options =
        DockerOptions { forward_drop: false, live_restore: false, ..DockerOptions::default() };
    let mut world = World::docker_with(options)?;
    world.web(1)?.start()?;
    for number in 2..=3 {
        world.web(number)?.with("--restart always").start()?;
    }
    // Docker has no part in this one.
    let remote = RemoteHost::start(world.node(), 1)?;
    let mut config = world.config();
    config.front.push(remote.link.clone());
    let (beside, at) = (vip(81), remote.address);
    config.extra = format!(
        "[metrics]\nlisten = {METRICS:?}\n[[service]]\nname = \"remote\"\n\
         frontends = [\"tcp://{beside}\"]\n[[service.backend]]\naddress = \"{at}\"\n"
    );
    let agent = world.start_agent(&config)?;
    let service = "compose/shop/web:8080";
    agent.wait_backends_of(service, &["web-1", "web-2", "web-3"])?;
    let neighbour = world.client().requests(beside, 50)?;
    for (signal, served) in [(Signal::SIGTERM, &[][..]), (Signal::SIGKILL, &["web-2", "web-3"][..])]
    {
        wait_up(&world, true)?;
        let mut streams = world.client().streams(world.front(), 20)?;
        world.docker_node()?.stop_daemon(signal);
        wait_up(&world, false)?;
        agent.wait_backends_of(service, served)?;
        if served.is_empty() {
            let begun = Instant::now();
            ensure!(world.client().fetch_one(world.front()).is_err(), "{signal}: by the dead");
            ensure!(begun.elapsed() < Duration::from_secs(2), "{signal}: the client waited");
        } else {
            world.client().fetch(world.front(), 40)?.check()?;
            ensure!(streams.so_far()?.failures.is_empty(), "{signal}: its containers live");
        }
        world.docker_node()?.start_daemon()?;
        wait_trouble(&agent, false)?;
        wait_up(&world, true)?;
        agent.wait_backends_of(service, &["web-2", "web-3"])?;
        let report = world.client().fetch(world.front(), 60)?;
        ensure!(report.check()?.by_name.keys().eq(["web-2", "web-3"]), "{:?}", report.summaries);
        // Nobody waits for those that are gone.
        streams.wait_until("the end of the streams", SOON, |it| it.failures.len() == 20)?;
    }
    neighbour.finish()?.check()?;
    Ok(())
}

#[test]
fn agent_that_starts_before_docker_finds_it_later() -> Result<()> {
    needs!(docker);
    let mut world = World::docker()?;
    world.start_webs(1)?;
    world.docker_node()?.stop_daemon(Signal::SIGTERM);
    let agent = world.start_agent(&world.config())?;
    wait_trouble(&agent, true)?;
    world.docker_node()?.start_daemon()?;
    wait_trouble(&agent, false)?;
    agent.wait_backends(&["web-1"])?;
    world.client().fetch(world.front(), 20)?.check()?;
    Ok(())
}

#[test]
fn agent_restarted_without_docker_keeps_what_the_kernel_has() -> Result<()> {
    needs!(docker);
    let mut world = World::docker()?;
    world.start_webs(2)?;
    let mut agent = world.start_agent(&world.config())?;
    agent.wait_backends(&["web-1", "web-2"])?;
    let requests = world.client().requests(world.front(), 100)?;
    agent.stop(Signal::SIGKILL)?;
    world.docker_node()?.stop_daemon(Signal::SIGTERM);
    agent.start()?;
    wait_trouble(&agent, true)?;
    process::sleep(Duration::from_secs(3))?;
    requests.finish()?.check()?;
    world.docker_node()?.start_daemon()?;
    wait_trouble(&agent, false)?;
    agent.wait_backends(&["web-1", "web-2"])?;
    world.client().fetch(world.front(), 20)?.check()?;
    Ok(())
}

#[test]
fn stale_backend_after_a_crash_of_docker_is_found_by_listing() -> Result<()> {
    needs!(docker);
    let mut world = World::docker()?;
    let webs = world.start_webs(2)?;
    let pid = webs[0].pid()?;
    let mut agent = world.start_agent(&world.config())?;
    agent.wait_backends(&["web-1", "web-2"])?;
    // Nobody is left who could see the container's end: only then can one be stale.
    agent.stop(Signal::SIGKILL)?;
    world.docker_node()?.stop_daemon(Signal::SIGKILL);
    process::kill(pid, Signal::SIGKILL);
    agent.start()?;
    wait_trouble(&agent, true)?;
    let stale = world.client().fetch(world.front(), 30)?;
    ensure!(stale.summary()?.failed > 0, "nobody can know yet: {:?}", stale.summaries);
    world.docker_node()?.start_daemon()?;
    wait_trouble(&agent, false)?;
    agent.wait_backends(&["web-2"])?;
    let report = world.client().fetch(world.front(), 60)?;
    ensure!(report.check()?.by_name.keys().all(|name| name == "web-2"), "{:?}", report.summaries);
    Ok(())
}

#[test]
fn deaths_are_seen_while_docker_is_away() -> Result<()> {
    needs!(docker);
    let mut world = World::docker()?;
    let webs = world.start_webs(3)?;
    let pids = webs.iter().map(Container::pid).collect::<Result<Vec<_>>>()?;
    let mut config = world.config();
    let agent = world.start_agent(&config)?;
    agent.wait_backends(&["web-1", "web-2", "web-3"])?;
    world.docker_node()?.stop_daemon(Signal::SIGKILL);
    wait_trouble(&agent, true)?;
    process::kill(pids[0], Signal::SIGKILL);
    agent.wait_backends(&["web-2", "web-3"])?;
    // Other labels are to be read: the provider begins anew, and finds nobody to ask.
    config.balancers.push(("another".to_owned(), "192.0.2.77".to_owned()));
    agent.reconfigure(&config)?;
    agent.wait_log("is in force")?;
    agent.wait_backends(&["web-2", "web-3"])?;
    process::kill(pids[1], Signal::SIGKILL);
    agent.wait_backends(&["web-3"])?;
    let report = world.client().fetch(world.front(), 30)?;
    ensure!(report.check()?.by_name.keys().eq(["web-3"]), "{:?}", report.summaries);
    world.docker_node()?.start_daemon()?;
    wait_trouble(&agent, false)?;
    agent.wait_backends(&["web-3"])
}

#[test]
fn what_no_event_told_is_found_by_listing() -> Result<()> {
    needs!(docker);
    let world = World::docker()?;
    let docker = world.docker_client()?;
    let proxy = Proxy::start(world.directory().join("proxy.sock"), docker.socket())?;
    let webs = world.start_webs(2)?;
    let mut config = world.config();
    config.docker = Some(proxy.socket().to_owned());
    let agent = world.start_agent(&config)?;
    agent.wait_backends(&["web-1", "web-2"])?;
    proxy.set(Fault::NoEvents);
    wait_trouble(&agent, true)?;
    // It lives, so that no pidfd tells of it, and cannot be reached.
    docker.run("network disconnect bridge web-1")?;
    agent.wait_backends(&["web-2"])?;
    docker.run("network connect bridge web-1")?;
    agent.wait_backends(&["web-1", "web-2"])?;
    webs[0].act("pause")?;
    agent.wait_backends(&["web-2"])?;
    webs[0].act("unpause")?;
    agent.wait_backends(&["web-1", "web-2"])?;
    world.web(3)?.start()?;
    agent.wait_backends(&["web-1", "web-2", "web-3"])?;
    proxy.set(Fault::None);
    wait_trouble(&agent, false)?;
    Ok(())
}

#[test]
fn empty_and_broken_answers_remove_nothing() -> Result<()> {
    needs!(docker);
    let world = World::docker()?;
    let proxy =
        Proxy::start(world.directory().join("proxy.sock"), world.docker_client()?.socket())?;
    world.start_webs(2)?;
    let mut config = world.config();
    config.docker = Some(proxy.socket().to_owned());
    config.extra = format!("[metrics]\nlisten = {METRICS:?}\n");
    let agent = world.start_agent(&config)?;
    agent.wait_backends(&["web-1", "web-2"])?;
    let streams = world.client().streams(world.front(), 10)?;
    for fault in [
        Fault::EmptyListing,
        Fault::GarbageBody,
        Fault::Garbage,
        Fault::ServerError,
        Fault::Refuse,
        Fault::Silence,
    ] {
        let requests = world.client().requests(world.front(), 50)?;
        proxy.set(fault);
        let said = wait_trouble(&agent, true)
            .map_err(|error| error.context(format!("{fault:?} goes unnoticed")))?;
        wait_up(&world, false)?;
        // Longer than the time between two listings.
        process::sleep(Duration::from_millis(2500))?;
        agent.wait_backends(&["web-1", "web-2"])?;
        requests.finish()?.check().map_err(|error| error.context(format!("{fault:?}")))?;
        println!("{fault:?}: {}", said.unwrap_or_default());
        proxy.set(Fault::None);
        wait_trouble(&agent, false)?;
        wait_up(&world, true)?;
    }
    streams.finish()?.check()?;
    Ok(())
}

/// Waits for what takes Docker many answers, one after the other.
fn wait_learnt(agent: &Agent, expected: &[&str]) -> Result<()> {
    process::wait_for("what Docker has", Duration::from_mins(1), || {
        let found = agent.healthy_backends()?;
        ensure!(found == expected, "{found:?}");
        Ok(())
    })
}

/// Waits for what takes less than any answer of Docker.
fn within(what: &str, is_so: impl FnMut() -> Result<()>) -> Result<()> {
    let begun = Instant::now();
    process::wait_for(what, SOON, is_so)?;
    println!("{what}: {:?}", begun.elapsed());
    ensure!(begun.elapsed() < SLOWNESS, "{what} waits for Docker: {:?}", begun.elapsed());
    Ok(())
}

/// Nothing is said of Docker, nor of `web-1` after so many events.
fn check_quiet(agent: &Agent, events: usize) -> Result<()> {
    ensure!(agent.trouble("docker")?.is_none(), "{:?}", agent.trouble("docker")?);
    ensure!(agent.refusals()?.is_empty(), "{:?}", agent.refusals()?);
    let told = agent.rows("event")?.split_off(events);
    let flaps = told.iter().filter(|it| it.to_string().contains("web-1"));
    ensure!(flaps.count() == 0, "{told:#?}");
    Ok(())
}

/// Whatever Docker is asked for takes two seconds, from the agent's start on. What does not come from
/// Docker waits for none of it.
#[test]
fn docker_that_is_slow_but_right_is_believed_and_holds_up_nobody_else() -> Result<()> {
    const HEALTH_PORT: u16 = 9090;
    needs!(docker);
    let world = World::docker()?;
    let docker = world.docker_client()?;
    let proxy = Proxy::start(world.directory().join("proxy.sock"), docker.socket())?;
    proxy.set(Fault::Slow);
    let remote = RemoteHost::start(world.node(), 1)?;
    let webs = world.start_webs(2)?;
    let probed = docker.container("probed").balanced(&format!("tcp://{BALANCER}:81"));
    let probed = probed.label("lb.probe", "tcp").label("lb.probe.port", &HEALTH_PORT.to_string());
    let probed = probed.label("lb.probe.interval", "100ms").start()?;
    let listen = || probed.enter(|| TcpListener::bind(("0.0.0.0", HEALTH_PORT)));
    let health = listen()??;
    let mut config = world.config();
    config.docker = Some(proxy.socket().to_owned());
    config.front.push(remote.link.clone());
    let agent = world.start_agent(&config)?;
    let begun = Instant::now();
    wait_learnt(&agent, &["probed", "web-1", "web-2"])?;
    println!("all are there after {:?}", begun.elapsed());
    let streams = world.client().streams(vip(81), 5)?;
    let of_webs = world.client().slow_streams(world.front(), 20, Duration::from_millis(100))?;
    let events = agent.rows("event")?.len();

    // While Docker is asked about one that has just come.
    let begun = Instant::now();
    world.web(3)?.start()?;
    drop(health);
    within("the probe", || agent.wait_state("probed", "unhealthy"))?;
    config.extra = format!(
        "[[service]]\nname = \"beside\"\nfrontends = [\"tcp://{}\"]\n\
         [[service.backend]]\naddress = \"{}\"\n",
        vip(82),
        remote.address
    );
    agent.configure(&config)?;
    within("the file", || world.client().fetch_one(vip(82)).map(drop))?;
    let health = listen()??;
    wait_learnt(&agent, &[&remote.address.to_string(), "probed", "web-1", "web-2", "web-3"])?;
    println!("web-3 is there after {:?}", begun.elapsed());
    ensure!(begun.elapsed() >= SLOWNESS, "Docker was not slow");
    let service = "compose/shop/web:8080";
    process::kill(webs[1].pid()?, Signal::SIGKILL);
    within("a death", || agent.wait_backends_of(service, &["web-1", "web-3"]))?;
    // Longer than the time between two listings, and what they take.
    process::sleep(3 * SLOWNESS)?;
    agent.wait_backends_of(service, &["web-1", "web-3"])?;
    agent.wait_state("probed", "healthy")?;
    check_quiet(&agent, events)?;
    streams.finish()?.check()?;
    let broken = of_webs.finish()?.failures;
    ensure!(broken.iter().all(|it| it.name == "web-2"), "{broken:?}");
    drop(health);
    Ok(())
}

#[test]
fn the_last_container_may_leave() -> Result<()> {
    needs!(docker);
    let world = World::docker()?;
    let webs = world.start_webs(1)?;
    let agent = world.start_agent(&world.config())?;
    agent.wait_backends(&["web-1"])?;
    // Its death is told by an event: this is not the empty listing that is not to be believed.
    webs[0].act("rm --force")?;
    agent.wait_backends(&[])?;
    world.web(1)?.start()?.wait_listening()?;
    agent.wait_backends(&["web-1"])?;
    world.client().fetch(world.front(), 20)?.check()?;
    Ok(())
}
