//! The Docker provider against a real daemon and the real kernel: which containers are served, where,
//! and how soon it is known that one is dead.

mod provider;

use std::time::{Duration, SystemTime};

use anyhow::{Context as _, Result, bail, ensure};
use lb_agent::{
    model::{Backend, BackendPath, Refusal, ReportedHealth, WaysIn},
    netlink,
};
use lb_tests::{
    docker::{Docker, DockerNode, DockerOptions, IMAGE},
    names,
    namespace::Namespace,
    needs, process,
};
use nix::sys::signal::Signal;

use self::provider::Provider;

const BALANCER: &str = "slb_test";
/// Short, so that a test sees several.
const RESYNC: Duration = Duration::from_secs(2);
/// Within this everything must have been seen, on a busy machine too.
const SOON: Duration = Duration::from_secs(20);

/// Starts a container with a label that asks for a port of the balancer.
fn start(docker: &Docker, name: &str, options: &str) -> Result<()> {
    docker.container(name).with(options).balanced(&format!("tcp://{BALANCER}:80")).start()?;
    Ok(())
}

fn pid(docker: &Docker, name: &str) -> Result<i32> {
    Ok(docker.run(&format!("inspect --format {{{{.State.Pid}}}} {name}"))?.parse()?)
}

/// Its address in one network, as Docker has it.
fn address(docker: &Docker, name: &str, network: &str) -> Result<String> {
    let template = format!("{{{{(index .NetworkSettings.Networks \"{network}\").IPAddress}}}}");
    let mut command = docker.command();
    Ok(process::run(command.args(["inspect", "--format", &template, name]))?.trim().to_owned())
}

/// Checks a backend against what Docker and `ip` say: its address, and that the node's interface with
/// its index is the other end of the container's interface with that address.
fn check_backend(node: &DockerNode, backend: &Backend, network: &str) -> Result<()> {
    let (docker, name) = (node.docker(), &backend.display_name);
    let expected = address(docker, name, network)?;
    ensure!(backend.address.ip().to_string() == expected, "{backend:?} is not at {expected}");
    let BackendPath::Local { ifindex } = backend.path else { bail!("{name} is not local") };

    let inside = ["--target".to_owned(), pid(docker, name)?.to_string(), "--net".to_owned()];
    let mut command = std::process::Command::new("nsenter");
    let inside = process::run(command.args(inside).args(["ip", "-o", "addr"]))?;
    let line = inside.lines().find(|line| line.contains(&format!(" {expected}/")));
    let line = line.with_context(|| format!("{expected} in {inside}"))?;
    let index = line.split(':').next().context("an index")?;

    let outside = node.namespace().ip("-o link")?;
    let other_end = format!("@if{index}:");
    let line = outside.lines().find(|line| line.starts_with(&format!("{ifindex}: ")));
    let line = line.with_context(|| format!("no link {ifindex} in {outside}"))?;
    ensure!(line.contains(&other_end), "link {ifindex} is not the end of {index}: {line}");
    Ok(())
}

#[test]
fn each_network_gets_its_answer() -> Result<()> {
    needs!(docker);
    let node = DockerNode::start(DockerOptions::default())?;
    let docker = node.docker();
    node.namespace().ip("link add parent0 type veth peer name parent1")?;
    // No ipvlan: many kernels are built without it.
    for network in [
        "front",
        "back",
        "--internal inside",
        "--driver macvlan --subnet 10.123.0.0/24 --opt parent=parent0 mac",
    ] {
        docker.run(&format!("network create {network}"))?;
    }
    // Some are there before the provider, some come later.
    start(docker, "on-bridge", "")?;
    start(docker, "on-user-bridge", "--network front")?;
    start(docker, "on-host", "--network host")?;
    start(docker, "on-none", "--network none")?;
    docker.container("unlabelled").start()?;
    let mut provider = Provider::start(&node)?;
    provider.wait("the first claims", |provider| provider.claims.is_some())?;
    ensure!(provider.names() == ["on-bridge", "on-user-bridge"], "{:?}", provider.names());

    start(docker, "on-internal", "--network inside")?;
    start(docker, "on-macvlan", "--network mac")?;
    // Not by the fixture, which names hosts: this one shares its host name with the other.
    docker.run(&format!(
        "run --detach --name on-other --network container:on-user-bridge \
         --label aliyun.lb.port_8081=tcp://{BALANCER}:81 {IMAGE} serve --port 8081"
    ))?;
    start(docker, "on-two", "--network back")?;
    docker.run("network connect inside on-two")?;
    start(docker, "on-internal-first", "--network inside")?;
    docker.run("network connect back on-internal-first")?;
    let served = ["on-bridge", "on-internal-first", "on-other", "on-two", "on-user-bridge"];
    provider.wait("all that can be served", |provider| provider.names() == served)?;
    check_backend(&node, provider.backend("on-bridge")?, "bridge")?;
    check_backend(&node, provider.backend("on-user-bridge")?, "front")?;
    check_backend(&node, provider.backend("on-two")?, "back")?;
    check_backend(&node, provider.backend("on-internal-first")?, "back")?;
    ensure!(provider.backend("on-other")?.path == provider.backend("on-user-bridge")?.path);

    for (name, part) in [
        ("on-host", "uses the network of the host"),
        ("on-none", "has no network"),
        ("on-internal", "`internal`"),
        ("on-macvlan", "is a `macvlan` interface"),
    ] {
        let object = format!("container `{name}`");
        let is_it = |refusal: &Refusal| {
            refusal.object == object
                && refusal.key.as_deref() == Some("aliyun.lb.port_8080")
                && refusal.message.contains(part)
        };
        provider.wait(name, |provider| provider.refusals.iter().any(is_it))?;
    }
    ensure!(provider.refusals.len() == 4, "{:?}", provider.refusals);
    Ok(())
}

#[test]
fn ways_in_are_told() -> Result<()> {
    needs!(docker);
    let node = DockerNode::start(DockerOptions::default())?;
    let option = "com.docker.network.bridge.enable_ip_masquerade=false";
    node.docker().run(&format!("network create --opt {option} routed"))?;
    node.docker().run("network create front")?;
    let cases = [
        ("hidden", "", WaysIn::OnlyOurs),
        ("hidden-too", "--network front", WaysIn::OnlyOurs),
        ("exposed", "--expose 8080", WaysIn::OnlyOurs),
        ("another-published", "--publish 18081:8081", WaysIn::OnlyOurs),
        ("published", "--publish 18080:8080", WaysIn::Published),
        ("all-published", "--expose 8080 --publish-all", WaysIn::Published),
        ("routed", "--network routed", WaysIn::Direct),
    ];
    for (name, options, _) in cases {
        start(node.docker(), name, options)?;
    }
    let mut provider = Provider::start(&node)?;
    provider.wait("all of them", |provider| provider.names().len() == cases.len())?;
    for (name, options, expected) in cases {
        let told = provider.backend(name)?.replies.ways_in;
        ensure!(told == expected, "{name} ({options}): {told:?}");
    }
    Ok(())
}

#[test]
fn networks_change_under_a_container() -> Result<()> {
    needs!(docker);
    let node = DockerNode::start(DockerOptions::default())?;
    let docker = node.docker();
    docker.run("network create front")?;
    docker.run("network create back")?;
    start(docker, "web", "--network front")?;
    let mut provider = Provider::start(&node)?;
    provider.wait("web", |provider| provider.names() == ["web"])?;
    let first = provider.backend("web")?.clone();

    docker.run("network connect back web")?;
    docker.run("network disconnect front web")?;
    let moved = |provider: &Provider| {
        provider.backend("web").is_ok_and(|backend| backend.address != first.address)
    };
    provider.wait("its new address", moved)?;
    let second = provider.backend("web")?;
    check_backend(&node, second, "back")?;
    ensure!(second.instance == first.instance, "the same run of it");

    docker.run("network disconnect back web")?;
    provider.wait("its refusal", |provider| provider.refusals.len() == 1)?;
    ensure!(provider.names().is_empty());
    docker.run("network connect front web")?;
    provider.wait("web again", |provider| provider.names() == ["web"])?;
    check_backend(&node, provider.backend("web")?, "front")?;

    docker.run("rename web api")?;
    provider.wait("its new name", |provider| provider.names() == ["api"])?;
    Ok(())
}

/// When Docker itself told that a container died. Docker counts in whole seconds where past events
/// end, so that the latest are not told at once.
fn die_event(docker: &Docker, name: &str) -> Result<SystemTime> {
    let line = format!(
        "events --since 1m --until 0s --filter event=die --filter container={name} \
         --format {{{{.TimeNano}}}}"
    );
    process::wait_for("die event", Duration::from_secs(5), || {
        let nanoseconds = docker.run(&line)?.lines().last().context("no event yet")?.parse()?;
        Ok(SystemTime::UNIX_EPOCH + Duration::from_nanos(nanoseconds))
    })
}

#[test]
fn killed_container_is_known_to_be_dead_within_milliseconds() -> Result<()> {
    needs!(docker);
    let node = DockerNode::start(DockerOptions::default())?;
    let docker = node.docker();
    let names: Vec<String> = (0..10).map(|number| format!("web-{number}")).collect();
    for name in &names {
        start(docker, name, "")?;
    }
    let mut provider = Provider::start(&node)?;
    provider.wait("all", |provider| provider.names().len() == names.len())?;
    let mut kills = Vec::new();
    for (killed, name) in names.iter().enumerate() {
        let instance = provider.backend(name)?.instance.clone();
        let pid = pid(docker, name)?;
        let killed_at = SystemTime::now();
        process::kill(pid, Signal::SIGKILL);
        provider.wait("its end", |provider| provider.gone.contains_key(&instance))?;
        let gone_at = provider.gone[&instance];
        let known_after = gone_at.duration_since(killed_at)?;
        let left = names.len() - killed - 1;
        provider.wait("claims without it", |provider| {
            provider.claims.as_ref().is_some_and(|claims| claims.len() == left)
        })?;
        kills.push((name, killed_at, known_after));
    }
    let mut known = Vec::new();
    for (name, killed_at, known_after) in kills {
        let told_after = die_event(docker, name)?.duration_since(killed_at)?;
        println!("{name}: known after {known_after:?}, told by Docker after {told_after:?}");
        known.push(known_after);
    }
    known.sort();
    let (usual, worst) = (known[known.len() / 2], known[known.len() - 1]);
    // Docker tidies up after one while the next is killed, and may have all processors for a while.
    ensure!(usual < Duration::from_millis(50), "usually known after {usual:?}");
    ensure!(worst < Duration::from_millis(500), "known only after {worst:?}");
    ensure!(provider.withdrawn.is_empty(), "{:?}", provider.withdrawn);
    Ok(())
}

#[test]
fn restarted_container_is_another_instance() -> Result<()> {
    needs!(docker);
    let node = DockerNode::start(DockerOptions::default())?;
    let docker = node.docker();
    start(docker, "web", "--restart always")?;
    let mut provider = Provider::start(&node)?;
    provider.wait("web", |provider| provider.names() == ["web"])?;
    let first = provider.backend("web")?.instance.clone();
    process::kill(pid(docker, "web")?, Signal::SIGKILL);
    provider.wait("its end", |provider| provider.gone.contains_key(&first))?;
    provider.wait("its return", |provider| provider.names() == ["web"])?;
    check_backend(&node, provider.backend("web")?, "bridge")?;
    docker.run("rm --force web")?;
    provider.wait("its end", |provider| provider.names().is_empty())?;
    Ok(())
}

#[test]
fn daemon_that_restarts_withdraws_nothing_that_lives() -> Result<()> {
    needs!(docker);
    let mut node =
        DockerNode::start(DockerOptions { live_restore: true, ..DockerOptions::default() })?;
    let docker = node.docker().clone();
    for name in ["web-1", "web-2", "web-3"] {
        start(&docker, name, "")?;
    }
    let mut provider = Provider::start(&node)?;
    provider.wait("all", |provider| provider.names().len() == 3)?;
    for (signal, victim) in [(Signal::SIGTERM, "web-1"), (Signal::SIGKILL, "web-2")] {
        let victim_pid = pid(&docker, victim)?;
        let instance = provider.backend(victim)?.instance.clone();
        node.stop_daemon(signal);
        provider.wait("trouble", |provider| provider.trouble.is_some())?;
        provider.pass(2 * RESYNC);
        ensure!(provider.names().contains(&victim), "{victim} lives");
        // A death while the daemon is away is known all the same.
        let killed_at = SystemTime::now();
        process::kill(victim_pid, Signal::SIGKILL);
        provider.wait("its end", |provider| provider.gone.contains_key(&instance))?;
        let known_after = provider.gone[&instance].duration_since(killed_at)?;
        println!("{victim}: known after {known_after:?}, without a daemon");
        node.start_daemon()?;
        provider.wait("the daemon", |provider| provider.trouble.is_none())?;
    }
    start(&docker, "web-4", "")?;
    provider.wait("a new one", |provider| provider.names() == ["web-3", "web-4"])?;
    ensure!(provider.withdrawn.is_empty(), "{:?}", provider.withdrawn);
    Ok(())
}

#[test]
fn daemon_that_ends_its_containers_says_so_of_each() -> Result<()> {
    needs!(docker);
    let options = DockerOptions { live_restore: false, ..DockerOptions::default() };
    let mut node = DockerNode::start(options)?;
    let docker = node.docker().clone();
    start(&docker, "web-1", "--restart always")?;
    start(&docker, "web-2", "")?;
    let mut provider = Provider::start(&node)?;
    provider.wait("all", |provider| provider.names().len() == 2)?;
    node.stop_daemon(Signal::SIGTERM);
    provider.wait("their ends", |provider| provider.gone.len() == 2)?;
    node.start_daemon()?;
    provider.wait("one", |provider| provider.names() == ["web-1"])?;
    check_backend(&node, provider.backend("web-1")?, "bridge")?;
    ensure!(provider.withdrawn.is_empty(), "{:?}", provider.withdrawn);
    Ok(())
}

#[test]
fn node_tells_its_default_route_and_links() -> Result<()> {
    needs!(namespaces);
    let namespace = Namespace::new()?;
    let name = names::unique();
    for line in [
        "link add wan0 type veth peer name wan1",
        "link add lan0 type veth peer name lan1",
        "link set wan0 up",
        "link set wan1 up",
        "link set lan0 up",
        "link set lan1 up",
        "addr add 192.0.2.2/24 dev wan0",
        "addr add 198.51.100.2/24 dev lan0",
    ] {
        namespace.ip(line)?;
    }
    let interfaces =
        || -> Result<Vec<String>> { Ok(namespace.enter(netlink::default_route_interfaces)??) };
    ensure!(interfaces()?.is_empty(), "no default route yet");
    namespace.ip("route add default via 198.51.100.1 dev lan0 metric 100")?;
    ensure!(interfaces()? == ["lan0"]);
    namespace.ip("route add default via 192.0.2.1 dev wan0 metric 50")?;
    ensure!(interfaces()? == ["wan0"]);
    namespace.ip("route add default via 192.0.2.1 dev wan0 table 100 metric 1")?;
    namespace.ip("route add unreachable default metric 10")?;
    ensure!(interfaces()? == ["wan0"], "other tables and refusals do not count");
    namespace.ip(
        "route add default metric 5 nexthop via 192.0.2.1 dev wan0 nexthop via 198.51.100.1 dev lan0",
    )?;
    ensure!(interfaces()? == ["wan0", "lan0"], "two ways");

    let index = namespace.enter(|| netlink::link_index("wan0"))??;
    let shown = namespace.ip("-o link show dev wan0")?;
    let expected = shown.split(':').next().context("an index")?.parse()?;
    ensure!(index == Some(expected), "{index:?} is not that of {shown}");
    ensure!(namespace.enter(|| netlink::link_index(&name))??.is_none());
    for (value, expected) in [("0", false), ("1", true)] {
        namespace.sysctl(&format!("net.ipv4.conf.wan0.forwarding={value}"))?;
        ensure!(namespace.enter(|| netlink::forwarding_enabled("wan0"))?? == expected);
    }
    Ok(())
}

#[test]
fn state_of_a_healthcheck_is_told_as_it_changes() -> Result<()> {
    needs!(docker);
    let node = DockerNode::start(DockerOptions::default())?;
    let docker = node.docker();
    docker.container("plain").start()?;
    // Healthy is who listens at a second port.
    let check = r#"HEALTHCHECK --interval=1s --timeout=5s --retries=1 CMD ["/bin/lb-testkit", "fetch", "--count", "1", "--target", "127.0.0.1:9090"]"#;
    process::run(docker.command().args(["commit", "--change", check, "plain", "checked"]))?;
    docker.container("web").image("checked").balanced(&format!("tcp://{BALANCER}:80")).start()?;
    start(docker, "unchecked", "")?;

    let mut provider = Provider::start(&node)?;
    let reported =
        |provider: &Provider, name: &str| provider.backend(name).ok().map(|it| it.reported);
    provider.wait("the failed check", |it| {
        reported(it, "web") == Some(Some(ReportedHealth::Unhealthy))
    })?;
    let serve = ["exec", "--detach", "web", "/bin/lb-testkit", "serve", "--port", "9090"];
    process::run(docker.command().args(serve))?;
    provider.wait("the check that passed", |it| {
        reported(it, "web") == Some(Some(ReportedHealth::Healthy))
    })?;
    provider.wait("the container without a check", |it| reported(it, "unchecked") == Some(None))
}
