//! Bad labels, configurations and circumstances: an exact message for each, and everything else
//! goes on.

use std::{ffi::OsStr, os::unix::ffi::OsStrExt as _};

use anyhow::{Context as _, Result, ensure};
use lb_tests::{
    World,
    docker::IMAGE,
    needs,
    process::{self, run},
    world::{BALANCER, VIP, vip},
};

const LABEL: &str = "aliyun.lb.port_8080";

#[test]
fn bad_labels_are_refused_by_name_and_others_served() -> Result<()> {
    needs!(docker);
    let world = World::docker()?;
    world.start_webs(1)?;
    let docker = world.docker_client()?;
    // Container, label key, value, part of the message.
    let cases = [
        ("no-scheme", LABEL, "slb_test:81", "scheme"),
        ("bad-scheme", LABEL, "ftp://slb_test:81", "ftp"),
        ("unknown-balancer", LABEL, "tcp://nobody:81", "nobody"),
        ("port-range", LABEL, "tcp://slb_test:65536", "65536"),
        ("port-zero", LABEL, "tcp://slb_test:0", "1 to 65535"),
        ("no-port", LABEL, "tcp://slb_test", "port"),
        ("key-range", "aliyun.lb.port_70000", "tcp://slb_test:81", "70000"),
        ("no-space", "aliyun.lb.port_80:tcp://slb_test:81", "", "space"),
    ];
    for (name, key, value, _) in cases {
        docker.container(name).label(key, value).start()?;
    }
    let agent = world.start_agent(&world.config())?;
    for (name, key, _, part) in cases {
        let key = key.split("tcp:").next().unwrap_or(key).trim_end_matches(':');
        agent.wait_refusal(&[name, key, part])?;
    }
    agent.wait_backends(&["web-1"])?;
    world.client().fetch(world.front(), 20)?.check()?;
    Ok(())
}

#[test]
fn labels_that_are_no_text_are_refused_by_name() -> Result<()> {
    needs!(docker);
    let world = World::docker()?;
    let docker = world.docker_client()?;
    let mut command = docker.command();
    command.args(["run", "--detach", "--name", "odd"]);
    for (option, bytes) in [
        ("--label", &b"lb.8080.frontend=tcp://\xff\xfe:80"[..]),
        ("--label", b"aliyun.lb.port_\xff=tcp://slb_test:81"),
        ("--label", b"lb.\xc3\x28=1"),
        ("--env", b"SERVICE_NAME=\xf0\x28\x8c"),
        ("--env", b"SERVICE_8080_NAME=other"),
        ("--env", b"SERVICE_8080_CHECK_TCP=yes"),
        ("--env", b"SERVICE_8080_CHECK_INTERVAL=\xf0\x28\x8c"),
    ] {
        command.arg(option).arg(OsStr::from_bytes(bytes));
    }
    run(command.args([IMAGE, "serve", "--port", "8080"]))?;
    world.start_webs(1)?;
    let mut config = world.config();
    // So that variables are read, too.
    config.extra = format!("[[registrator]]\nname = \"other\"\nfrontend = \"tcp://{}\"\n", vip(90));
    let agent = world.start_agent(&config)?;
    agent.wait_backends(&["odd", "web-1"])?;
    // What is no text Docker's client replaces before anybody sees it. A name is a name then, and another
    // than any that the configuration has; an interval is none.
    let seen = docker.run("inspect --format {{.Config.Env}} odd")?;
    ensure!(seen.contains("SERVICE_NAME=\u{fffd}(\u{fffd}"), "Docker says {seen}");
    let refused = [
        "SERVICE_8080_CHECK_INTERVAL: the value `\u{fffd}(\u{fffd}` is no duration; write it like 30s, \
         500ms or 1m30s",
        "aliyun.lb.port_\u{fffd}: the key has the container port `\u{fffd}`, which is no port number; \
         write it like aliyun.lb.port_6379: tcp://slb_redis_app:6379",
        "lb.8080.frontend: no balancer has the name or id `\u{fffd}\u{fffd}`; the config has: slb_test. \
         Correct the label, or add a [[balancer]] to the config",
        "lb.\u{fffd}(: there is no such label; docs/labels.md has all",
    ];
    let refused = refused.map(|it| format!("container `odd` {it}"));
    assert_eq!(agent.refusals()?, refused);
    world.client().fetch(world.front(), 20)?.check()?;
    // By the name that is in order it is served all the same.
    world.client().fetch(vip(90), 20)?.check()?;
    assert_eq!(agent.trouble("docker")?, None);
    Ok(())
}

#[test]
fn networks_that_cannot_be_served_are_refused_by_name() -> Result<()> {
    needs!(docker);
    let world = World::docker()?;
    world.start_webs(1)?;
    let docker = world.docker_client()?;
    docker.run("network create --internal inside")?;
    docker
        .run("network create --driver macvlan --subnet 10.123.0.0/24 --opt parent=front0 vlan")?;
    let networks = [
        ("on-internal", "inside", "internal"),
        ("on-macvlan", "vlan", "macvlan"),
        ("on-host", "host", "host"),
        ("on-none", "none", "none"),
    ];
    for (name, network, _) in networks {
        docker
            .container(name)
            .with(&format!("--network {network}"))
            .balanced(&format!("tcp://{BALANCER}:81"))
            .start()?;
    }
    let agent = world.start_agent(&world.config())?;
    for (name, _, reason) in networks {
        agent.wait_refusal(&[name, reason])?;
    }
    agent.wait_backends(&["web-1"])?;
    world.client().fetch(world.front(), 20)?.check()?;
    Ok(())
}

#[test]
fn the_older_of_two_services_keeps_the_frontend() -> Result<()> {
    needs!(docker);
    let world = World::docker()?;
    world.start_webs(2)?;
    let docker = world.docker_client()?;
    let agent = world.start_agent(&world.config())?;
    agent.wait_backends(&["web-1", "web-2"])?;
    docker
        .container("intruder")
        .compose("shop", "api", 1)
        .balanced(&format!("http://{BALANCER}:80"))
        // Of the same container another label is granted.
        .label("aliyun.lb.port_9090", &format!("http://{BALANCER}:81"))
        .port(9090)
        .start()?;
    agent.wait_refusal(&["intruder", "web"])?;
    let report = world.client().fetch(world.front(), 100)?;
    let names: Vec<_> = report.check()?.by_name.keys().cloned().collect();
    assert_eq!(names, ["web-1", "web-2"]);
    assert_eq!(world.client().fetch_one(vip(81))?.name, "intruder");
    Ok(())
}

#[test]
fn bad_configurations_are_refused_with_their_place() -> Result<()> {
    needs!(namespaces);
    let world = World::plain()?;
    let agent = world.prepare_agent(&world.config())?;
    // Text of the file, and what the message says.
    let cases = [
        ("front = [\"front0\"]\nfornt = 1\n", vec![":2:1", "fornt"]),
        ("[[balancer]]\nname = \"a\"\nvip = \"192.0.2\"\n", vec![":3:", "192.0.2"]),
        ("[[balancer]]\nname = \"a\"\nvip = \"not an address\"\n", vec![":3:", "not an address"]),
        ("[xdp]\nmode = \"fast\"\n", vec![":2:", "fast", "native"]),
        ("front = [\"front0\"\n", vec![":1:"]),
        ("[[service]]\nname = \"a\"\nfrontends = [\"tcp://192.0.2.10:70000\"]\n", vec![":3:"]),
    ];
    for (text, parts) in cases {
        std::fs::write(agent.config_path(), text)?;
        for subcommand in ["check", "run"] {
            let error = run(&mut agent.command(subcommand));
            let error = error.err().with_context(|| format!("`{subcommand}` took {text}"))?;
            let message = format!("{error:#}");
            for part in &parts {
                ensure!(message.contains(part), "no `{part}` for {text}:\n{message}");
            }
        }
    }
    Ok(())
}

#[test]
fn a_front_that_is_not_there_is_named() -> Result<()> {
    needs!(namespaces);
    let world = World::plain()?;
    let mut config = world.config();
    config.front = vec!["front7".to_owned()];
    let mut agent = world.prepare_agent(&config)?;
    agent.launch()?;
    agent.wait_log("front7")
}

#[test]
fn lbctl_without_an_agent_says_so() -> Result<()> {
    needs!(namespaces);
    let world = World::plain()?;
    let agent = world.prepare_agent(&world.config())?;
    let error = agent.lbctl("vip list").err().context("there is no agent")?;
    let message = format!("{error:#}");
    ensure!(message.contains("api.sock") && message.contains("lb-agent"), "{message}");
    Ok(())
}

#[test]
fn lbctl_shows_what_is_served() -> Result<()> {
    needs!(docker);
    let world = World::docker()?;
    world.start_webs(2)?;
    let agent = world.start_agent(&world.config())?;
    agent.wait_backends(&["web-1", "web-2"])?;
    world.client().fetch(world.front(), 50)?.check()?;
    let table = agent.lbctl("backend list")?;
    for part in ["web-1", "web-2", ":8080", "healthy"] {
        ensure!(table.contains(part), "no `{part}` in\n{table}");
    }
    let vips = agent.rows("vip")?;
    ensure!(vips.iter().any(|row| row["vip"] == VIP.to_string()), "{vips:?}");
    let services = agent.rows("service")?;
    assert_eq!(services.len(), 1, "{services:?}");
    // Counted packets appear.
    process::wait_for("counters", std::time::Duration::from_secs(10), || {
        let rows = agent.rows("backend")?;
        let packets = rows.iter().filter_map(|row| row["counters"]["packets_in"].as_u64());
        ensure!(packets.sum::<u64>() >= 50, "{rows:?}");
        Ok(())
    })
}

#[test]
fn a_service_from_the_file_works_without_docker() -> Result<()> {
    needs!(namespaces);
    let world = World::plain()?;
    let remote = lb_tests::RemoteHost::start(world.node(), 1)?;
    let mut config = world.config();
    config.front.push(remote.link.clone());
    // The second backend has no weight: it takes nothing.
    config.extra = format!(
        "[[service]]\nname = \"web\"\nfrontends = [\"tcp://{}\"]\nring_size = 1021\n\
         [[service.backend]]\naddress = \"{}\"\n\
         [[service.backend]]\naddress = \"10.99.1.77:8080\"\nweight = 0\n",
        vip(80),
        remote.address
    );
    let agent = world.start_agent(&config)?;
    process::wait_for("the service", std::time::Duration::from_secs(10), || {
        world.client().fetch_one(vip(80)).map(|_| ())
    })?;
    let report = world.client().fetch(vip(80), 100)?;
    assert_eq!(report.check()?.by_name.get("remote-1"), Some(&100));
    let services = agent.rows("service")?;
    assert_eq!(services[0]["ring_size"], 1021);
    Ok(())
}

#[test]
fn services_that_depend_on_each_other_are_told_and_served() -> Result<()> {
    needs!(docker);
    let world = World::docker()?;
    world.start_webs(1)?;
    let docker = world.docker_client()?;
    // Service, what it depends on, port, what is said of it.
    let services = [
        ("api", "bill,db", 81, "circle, api -> bill -> cart -> api"),
        ("bill", "cart", 82, ""),
        ("cart", "web,api", 83, ""),
        ("self", "self", 84, "depends on itself, self -> self"),
        ("line", "api", 85, ""),
    ];
    for (name, depends, port, _) in services {
        docker
            .container(name)
            .compose("shop", name, 1)
            .label(LABEL, &format!("tcp://{BALANCER}:{port}"))
            .label("aliyun.depends", depends)
            .start()?;
    }
    let agent = world.start_agent(&world.config())?;
    agent.wait_backends(&["web-1", "api", "bill", "cart", "self", "line"])?;
    agent.wait_refusal(&["api", "aliyun.depends", services[0].3])?;
    agent.wait_refusal(&["self", "aliyun.depends", services[3].3])?;
    assert_eq!(agent.refusals()?.len(), 2, "one for each circle");
    for (name, _, port, _) in services {
        assert_eq!(world.client().fetch_one(vip(port))?.name, name);
    }
    // Whoever breaks the circle is not told any more.
    docker.run("rm --force cart")?;
    process::wait_for("the circle's end", std::time::Duration::from_secs(10), || {
        let refusals = agent.refusals()?;
        ensure!(refusals.len() == 1, "{refusals:?}");
        Ok(())
    })?;
    world.client().fetch(world.front(), 20)?.check()?;
    Ok(())
}

#[test]
fn ten_thousand_labels_of_one_container_harm_nobody() -> Result<()> {
    needs!(docker);
    let world = World::docker()?;
    let docker = world.docker_client()?;
    let labels = world.directory().join("labels");
    let line = |number: u32| match number % 4 {
        0 => format!("lb.{number}.frontend=tcp://nobody:{number}\n"),
        1 => format!("aliyun.lb.port_{number}=tcp://nobody:{number}\n"),
        2 => format!("lb.{number}.wieght={}\n", "9".repeat(200)),
        _ => format!("SERVICE_{number}_NAME={}\n", "$(reboot);".repeat(20)),
    };
    std::fs::write(&labels, (1..=10_000).map(line).collect::<String>())?;
    let mut command = docker.command();
    command.args(["run", "--detach", "--name", "many", "--label-file"]).arg(&labels);
    // As long as an argument can be.
    command.arg("--label").arg(format!("lb.weight={}", "9".repeat(120_000)));
    command.arg("--env").arg(format!("SERVICE_TAGS={}", ",".repeat(120_000)));
    run(command.args([IMAGE, "serve", "--port", "8080"]))?;
    world.start_webs(1)?;
    let mut config = world.config();
    // So that variables are read, too.
    config.extra = format!("[[registrator]]\nname = \"other\"\nfrontend = \"tcp://{}\"\n", vip(90));
    let agent = world.start_agent(&config)?;
    agent.wait_backends(&["web-1"])?;
    agent.wait_refusal(&["many", "more refusals of its labels are not listed"])?;
    let refusals = agent.refusals()?;
    ensure!(refusals.len() < 1_000, "{} refusals", refusals.len());
    ensure!(refusals.iter().all(|it| it.len() < 2_000), "one of them is too long");
    world.client().fetch(world.front(), 50)?.check()?;
    assert_eq!(agent.trouble("docker")?, None);
    // What happens to others is still seen at once.
    world.web(2)?.start()?;
    agent.wait_backends(&["web-1", "web-2"])?;
    Ok(())
}
