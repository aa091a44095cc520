//! Labels, variables and files of other systems, with real containers, and what they lead to.

use std::{collections::BTreeSet, net::SocketAddr, time::Duration};

use anyhow::{Context as _, Result, ensure};
use lb_tests::{
    World,
    datagrams::Datagrams,
    docker::{DockerOptions, IMAGE},
    needs,
    process::wait_for,
    world::{BALANCER, vip},
};
use nix::sys::signal::Signal;
use serde_json::Value;

const SOON: Duration = Duration::from_secs(20);

/// Who answers at `address`, asked so often.
fn answers(world: &World, address: SocketAddr, count: u32) -> Result<BTreeSet<String>> {
    let report = world.client().fetch(address, count)?;
    Ok(report.check()?.by_name.keys().cloned().collect())
}

/// Waits until exactly these answer at `address`.
fn wait_answers(world: &World, address: SocketAddr, expected: &[&str]) -> Result<()> {
    let expected: BTreeSet<String> = expected.iter().map(|&name| name.to_owned()).collect();
    wait_for("the answers", SOON, || {
        let answers = answers(world, address, 60)?;
        ensure!(answers == expected, "{answers:?} answer at {address}");
        Ok(())
    })
}

#[test]
fn a_name_of_the_cluster_has_an_address_and_keeps_it() -> Result<()> {
    needs!(docker);
    let world = World::docker()?;
    let docker = world.docker_client()?;
    for number in 1..=2 {
        docker
            .container(&format!("rest-{number}"))
            .compose("demo", "restserver", number)
            .label("aliyun.routing.port_8080", "restserver.local")
            .label("aliyun.scale", "2")
            .label("aliyun.rolling_updates", "true")
            .label("aliyun.depends", "store,cache")
            .label("aliyun.probe.url", "http://container:8080")
            .label("aliyun.probe.initial_delay_seconds", "2")
            .label("aliyun.probe.timeout_seconds", "2")
            .start()?;
    }
    let store = docker.container("store-1").compose("demo", "store", 1);
    store.label("aliyun.routing.port_8080", "store.local").start()?;
    docker.container("outside").label("aliyun.routing.port_8080", "www.example.com").start()?;
    let mut config = world.config();
    config.keys = "routing_pool = \"203.0.113.64/26\"".to_owned();
    let mut agent = world.start_agent(&config)?;
    agent.wait_backends(&["rest-1", "rest-2", "store-1"])?;
    agent.wait_refusal(&["outside", "www.example.com", "gateway"])?;
    let address = |agent: &lb_tests::Agent| -> Result<SocketAddr> {
        let vips = agent.rows("vip")?;
        let named = vips.iter().find(|row| row["names"][0] == "restserver.local");
        let vip = named.and_then(|row| row["vip"].as_str()).context("no restserver.local")?;
        Ok(SocketAddr::new(vip.parse()?, 80))
    };
    let first = address(&agent)?;
    wait_answers(&world, first, &["rest-1", "rest-2"])?;
    let shown = agent.lbctl("service show compose/demo/restserver:8080")?;
    for part in ["http port 8080 GET /", "`aliyun.probe.url`", "`aliyun.scale`", "rest-1"] {
        ensure!(shown.contains(part), "no `{part}` in\n{shown}");
    }
    let needed = |name: &str| {
        let line = shown.lines().find(|it| it.starts_with(name)).unwrap_or_default();
        line.split_whitespace().collect::<Vec<_>>().join(" ")
    };
    ensure!(needed("store ") == "store compose/demo/store:8080 serving", "{shown}");
    ensure!(needed("cache ") == "cache - not known here", "{shown}");
    agent.stop(Signal::SIGKILL)?;
    agent.start()?;
    agent.wait_backends(&["rest-1", "rest-2", "store-1"])?;
    assert_eq!(address(&agent)?, first);
    // One of two is a step of an update, and none is more than that.
    let wait_told = |what: &str, why: &[&str]| {
        wait_for(what, Duration::from_secs(10), || {
            let told = agent.rows("event")?;
            let is_it = |event: &Value| {
                event["what"] == what && why.contains(&event["why"].as_str().unwrap_or_default())
            };
            ensure!(told.iter().any(is_it), "{told:?}");
            Ok(())
        })
    };
    docker.run("rm --force rest-1")?;
    wait_told("1 of 2 replicas are there", &["an update may replace 1 at a time"])?;
    docker.run("rm --force rest-2")?;
    // Its process mostly ends in the moment in which Docker forgets it, and may end before.
    let either = ["its labels expected more", "its labels expect more"];
    wait_told("0 of 2 replicas are there", &either)
}

#[test]
fn registered_services_get_the_frontends_of_the_config() -> Result<()> {
    needs!(docker);
    let world = World::docker()?;
    let docker = world.docker_client()?;
    for number in 1..=2 {
        docker
            .container(&format!("server-{number}"))
            .compose("demo", &format!("test_server_{number}"), 1)
            .with("--env SERVICE_8080_NAME=test-server-http-service")
            .with(&format!("--env SERVICE_8080_TAGS=test-server-http-service-0{number}"))
            .with("--env SERVICE_8080_CHECK_INTERVAL=10s")
            .with("--env SERVICE_8080_CHECK_TIMEOUT=2s")
            .with("--env SERVICE_8080_CHECK_HTTP=/health")
            .with("--env SERVICE_25000_NAME=test-server-thrift-service")
            .with("--env SERVICE_25000_CHECK_TCP=/")
            .with("--publish 8080 --publish 25000")
            .port(25000)
            .start()?;
    }
    docker.container("ignored").with("--env SERVICE_8080_NAME=my-web-server").start()?;
    docker.container("on-host").with("--network host").start()?;
    let mut config = world.config();
    config.extra = format!(
        "[[registrator]]\nname = \"test-server-http-service\"\nfrontend = \"tcp://{}\"\n\
         [[registrator]]\nname = \"test-server-thrift-service\"\nfrontend = \"tcp://{}\"\n",
        vip(80),
        vip(25000)
    );
    let agent = world.start_agent(&config)?;
    wait_answers(&world, vip(80), &["server-1", "server-2"])?;
    wait_answers(&world, vip(25000), &["server-1", "server-2"])?;
    let shown = agent.lbctl("service show registrator/test-server-http-service")?;
    for part in ["http GET /health", "variable `SERVICE_8080_CHECK_HTTP`", "10 s"] {
        ensure!(shown.contains(part), "no `{part}` in\n{shown}");
    }
    // Containers that ask for nothing are nobody's business.
    assert_eq!(agent.refusals()?, [""; 0]);
    assert_eq!(agent.trouble("docker")?, None);
    // One that comes later is found although it has no label.
    docker
        .container("server-3")
        .with("--env SERVICE_8080_NAME=test-server-http-service --expose 8080")
        .start()?;
    wait_answers(&world, vip(80), &["server-1", "server-2", "server-3"])
}

#[test]
fn our_own_labels_weigh_and_share() -> Result<()> {
    needs!(docker);
    let world = World::docker()?;
    let docker = world.docker_client()?;
    let frontend = format!("tcp://{BALANCER}:82");
    let start = |name: &str, service: &str, more: &[(&str, &str)]| {
        let container = docker.container(name).compose("shop", service, 1);
        let container = container
            .label("lb.frontend", &frontend)
            .label("lb.port", "8080")
            .label("lb.share", "shop");
        let labelled = more.iter().fold(container, |it, (key, value)| it.label(key, value));
        labelled.start()
    };
    start("blue", "blue", &[("lb.weight", "100"), ("lb.affinity", "none"), ("lb.wieght", "1")])?;
    start("green", "green", &[("lb.weight", "0")])?;
    let agent = world.start_agent(&world.config())?;
    agent.wait_refusal(&["blue", "lb.wieght", "did you mean `lb.weight`?"])?;
    wait_answers(&world, vip(82), &["blue"])?;
    // Another container asks for the frontend without a word of sharing.
    docker.container("stranger").balanced(&format!("http://{BALANCER}:82")).start()?;
    agent.wait_refusal(&["stranger", "share/shop"])?;
    // A weight is a label, so it changes with another container.
    docker.run("rm --force green")?;
    start("green", "green", &[("lb.weight", "100")])?;
    wait_answers(&world, vip(82), &["blue", "green"])?;
    docker.run("rm --force green")?;
    start("green", "green", &[("lb.exclusive", "true")])?;
    wait_answers(&world, vip(82), &["green"])?;
    docker.run("rm --force green")?;
    wait_answers(&world, vip(82), &["blue"])?;
    let shown = agent.lbctl(&format!("service show share/shop@tcp://{}", vip(82)))?;
    let parts = [
        "label `lb.share`",
        "label `lb.affinity`",
        "label `lb.weight`",
        "container `blue`",
        "default",
    ];
    for part in parts {
        ensure!(shown.contains(part), "no `{part}` in\n{shown}");
    }
    Ok(())
}

#[test]
fn datagrams_that_only_answer_need_no_records() -> Result<()> {
    needs!(docker);
    let world = World::docker()?;
    let docker = world.docker_client()?;
    for (port, name) in [(53, "records"), (54, "answers")] {
        docker
            .container(name)
            .label("lb.8080.frontend", &format!("udp://{BALANCER}:{port}"))
            .label("lb.datagrams", name)
            .start()?;
    }
    let agent = world.start_agent(&world.config())?;
    agent.wait_backends(&["answers", "records"])?;
    for (port, name) in [(53, "records"), (54, "answers")] {
        for client_port in 0..20 {
            let client_port = 40_000 + client_port;
            let mut socket = Datagrams::connect(world.client(), client_port, vip(port))?;
            assert_eq!(socket.ask(100)?.name, name);
        }
    }
    assert_eq!(agent.backend("records")?["replies"]["by"], "recorded");
    assert_eq!(agent.backend("answers")?["replies"]["by"], "fixed");
    Ok(())
}

#[test]
fn addresses_that_nobody_gave_to_labels_are_refused() -> Result<()> {
    needs!(docker);
    let world = World::docker()?;
    let docker = world.docker_client()?;
    docker.container("thief").label("lb.8080.frontend", "tcp://203.0.113.99:80").start()?;
    let mut config = world.config();
    let agent = world.start_agent(&config)?;
    agent.wait_refusal(&["thief", "203.0.113.99", "label_vips"])?;
    // The operator allows it: the running agent reads the file again.
    config.keys = "label_vips = [\"203.0.113.96/29\"]".to_owned();
    agent.configure(&config)?;
    wait_answers(&world, "203.0.113.99:80".parse()?, &["thief"])
}

#[test]
fn the_file_is_followed_and_a_bad_one_changes_nothing() -> Result<()> {
    needs!(namespaces);
    let world = World::plain()?;
    let remote = lb_tests::RemoteHost::start(world.node(), 1)?;
    let mut config = world.config();
    config.front.push(remote.link.clone());
    let agent = world.start_agent(&config)?;
    let service = |port: u16| {
        format!(
            "[[service]]\nname = \"web\"\nfrontends = [\"tcp://{}\"]\ndrain_seconds = 7\n\
             [[service.backend]]\naddress = \"{}\"\nweight = 9\n",
            vip(port),
            remote.address
        )
    };
    config.extra = service(80);
    agent.configure(&config)?;
    wait_answers(&world, vip(80), &["remote-1"])?;
    let shown = agent.lbctl("service show file/web")?;
    for part in ["7 s", "`drain_seconds`", "`weight`", "default"] {
        ensure!(shown.contains(part), "no `{part}` in\n{shown}");
    }
    // As an editor does it: another file takes the name.
    let path = agent.config_path();
    let good = std::fs::read_to_string(&path)?;
    let beside = path.with_extension("new");
    std::fs::write(&beside, good.replace("drain_seconds = 7", "drain_secs = 7"))?;
    std::fs::rename(&beside, &path)?;
    let line = 1 + good.lines().position(|line| line == "drain_seconds = 7").context("the key")?;
    wait_for("the trouble", SOON, || {
        let trouble = agent.trouble("file")?.context("no trouble")?;
        ensure!(
            trouble.contains(&format!(":{line}:1: ")) && trouble.contains("drain_secs"),
            "{trouble}"
        );
        Ok(())
    })?;
    wait_answers(&world, vip(80), &["remote-1"])?;
    // Gone is no order to remove everything.
    std::fs::remove_file(&path)?;
    wait_for("the trouble", SOON, || {
        let trouble = agent.trouble("file")?.context("no trouble")?;
        ensure!(trouble.contains("cannot be read"), "{trouble}");
        Ok(())
    })?;
    wait_answers(&world, vip(80), &["remote-1"])?;
    config.extra = format!("[defaults]\npanic_percent = 20\n{}", service(81));
    agent.configure(&config)?;
    wait_answers(&world, vip(81), &["remote-1"])?;
    wait_for("the end of trouble", SOON, || {
        let trouble = agent.trouble("file")?;
        ensure!(trouble.is_none(), "{trouble:?}");
        Ok(())
    })?;
    let told = agent.lbctl("event list")?;
    let changed = "settings changed: defaults.panic_percent from unset to 20".to_owned();
    for part in [changed, format!(":{line}:1: "), "all is well".to_owned()] {
        ensure!(told.matches(&part).count() == 1, "`{part}` once in\n{told}");
    }
    Ok(())
}

#[test]
fn labels_of_a_swarm_service_count() -> Result<()> {
    needs!(docker);
    // A Swarm does not go with it.
    let options = DockerOptions { live_restore: false, ..DockerOptions::default() };
    let world = World::docker_with(options)?;
    let docker = world.docker_client()?;
    docker.run("swarm init --advertise-addr 192.0.2.1 --listen-addr 192.0.2.1:2377")?;
    let frontend = format!("lb.frontend=tcp://{BALANCER}:83");
    docker.run(&format!(
        "service create --detach --no-resolve-image --name web --replicas 2 --network bridge \
         --label {frontend} --label lb.port=8080 --label lb.weight=7 \
         --container-label lb.affinity=none {IMAGE} serve --port 8080"
    ))?;
    let agent = world.start_agent(&world.config())?;
    wait_for("both replicas", SOON, || {
        let backends = agent.healthy_backends()?;
        ensure!(backends.len() == 2, "{backends:?}");
        Ok(())
    })?;
    let report = world.client().fetch(vip(83), 60)?;
    assert_eq!(report.check()?.by_name.len(), 2);
    let shown = agent.lbctl("service show swarm/web:8080")?;
    for part in ["`lb.weight`", "`lb.affinity`", "web.1."] {
        ensure!(shown.contains(part), "no `{part}` in\n{shown}");
    }
    Ok(())
}
