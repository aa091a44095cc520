//! East-west: the programs that people run call a VIP, and see nothing of it.

use std::{
    collections::BTreeSet,
    net::SocketAddr,
    process::{Child, Command},
    time::Duration,
};

use anyhow::{Context as _, Result, ensure};
use lb_tests::{
    Container, World,
    eastwest::Scene,
    needs, process, skip,
    world::{BALANCER, FRONT_PORT, vip},
};

/// Ends with the test.
struct Server(Child);

impl Drop for Server {
    fn drop(&mut self) {
        drop(self.0.kill());
        drop(self.0.wait());
    }
}

/// A program of this machine on a container's network.
fn inside(container: &Container, program: &str) -> Result<Command> {
    let mut command = Command::new("setpriv");
    command.args(["--pdeathsig", "KILL", "nsenter"]);
    command.arg(format!("--net=/proc/{}/ns/net", container.pid()?)).arg(program);
    Ok(command)
}

#[test]
fn curl_is_served_and_refused() -> Result<()> {
    needs!(docker);
    let scene = Scene::new()?;
    let curl = |options: &[&str], target: SocketAddr| -> Result<std::process::Output> {
        let mut curl = scene.callers.in_container(&scene.client, "curl")?;
        curl.args(["--silent", "--show-error", "--max-time", "3"]).args(options);
        Ok(curl.arg(format!("http://{target}/")).output()?)
    };
    let mut names = BTreeSet::new();
    for _ in 0..20 {
        let output = String::from_utf8(curl(&[], scene.target())?.stdout)?;
        names.extend(output.split(' ').next().map(str::to_owned));
    }
    ensure!(names.len() == 2, "{names:?}");
    let fast = String::from_utf8(curl(&["--tcp-fastopen"], scene.target())?.stdout)?;
    ensure!(fast.starts_with("name=web-"), "{fast}");
    let refused = curl(&[], vip(FRONT_PORT + 1))?;
    assert_eq!(refused.status.code(), Some(7), "curl could not connect: {refused:?}");
    Ok(())
}

#[test]
fn redis_cli_talks_to_a_server() -> Result<()> {
    needs!(docker);
    let world = World::docker()?;
    let docker = world.docker_client()?;
    let redis = docker.container("redis");
    let redis = redis.label("lb.6379.frontend", &format!("tcp://{BALANCER}:6379")).start()?;
    let mut server = inside(&redis, "bash")?;
    // The tools' program is the server, by another name.
    let script = "exec -a redis-server /usr/bin/redis-check-rdb --port 6379 --save '' \
                  --protected-mode no --bind 0.0.0.0";
    server.args(["-c", script]).stdout(std::process::Stdio::null());
    let _server = Server(server.spawn()?);
    let scene = Scene::with(world, |_| {})?;
    scene.agent.wait_backends(&["redis", "web-1", "web-2"])?;
    let talk = |words: &str| -> Result<String> {
        let mut client = scene.callers.in_container(&scene.client, "redis-cli")?;
        process::run(
            client.args(["-h", &vip(0).ip().to_string(), "-p", "6379"]).args(words.split(' ')),
        )
    };
    process::wait_for("the server", Duration::from_secs(5), || {
        ensure!(talk("PING")?.trim() == "PONG");
        Ok(())
    })?;
    ensure!(talk("SET key value")?.trim() == "OK" && talk("GET key")?.trim() == "value");
    Ok(())
}

#[test]
fn resolvers_ask_by_datagrams_and_by_connections() -> Result<()> {
    needs!(docker);
    if !skip::has("dig") {
        skip!("dig is not installed");
    }
    // The responder of names stands for a name server; to its clients it is a service.
    let world = World::docker()?;
    let mut inspect = world.docker_client()?.command();
    inspect.args(["network", "inspect", "bridge", "--format"]);
    let gateway = process::run(inspect.arg("{{(index .IPAM.Config 0).Gateway}}"))?;
    let gateway = gateway.trim().to_owned();
    let address = vip(0).ip().to_string();
    let scene = Scene::with(world, |config| {
        config.extra = format!(
            "[names]\nlisten = [\"{gateway}:5353\"]\ncompose = true\n\
             [[service]]\nname = \"dns\"\nfrontends = [\"udp://{address}:53\", \"tcp://{address}:53\"]\n\
             [[service.backend]]\naddress = \"{gateway}:5353\"\n"
        );
    })?;
    let ask = |program: &str, words: &[&str]| -> Result<String> {
        let mut command = scene.callers.in_container(&scene.client, program)?;
        process::run(command.args(words))
    };
    let at = format!("@{address}");
    process::wait_for("an answer", Duration::from_secs(5), || {
        // Its own socket is connected, and it does not take answers from strangers.
        for transport in ["+notcp", "+tcp"] {
            let words = [&at, "+short", "+time=2", "+tries=1", transport, "web.shop"];
            let answer = ask("dig", &words)?;
            ensure!(answer.trim() == address, "{transport}: {answer}");
        }
        Ok(())
    })?;
    // A static program: no library stands between it and the kernel.
    let answer = ask("busybox", &["nslookup", "web.shop", &address])?;
    ensure!(answer.matches(&address).count() >= 2, "{answer}");
    Ok(())
}

#[test]
fn nginx_is_a_client_of_a_vip() -> Result<()> {
    needs!(docker);
    if !skip::has("nginx") {
        skip!("nginx is not installed");
    }
    let scene = Scene::new()?;
    let directory = scene.world.directory().display().to_string();
    let configuration = format!(
        "daemon off; master_process off; pid {directory}/nginx.pid; error_log {directory}/nginx.log;\n\
         events {{ worker_connections 64; }}\n\
         http {{ access_log off; client_body_temp_path {directory}; proxy_temp_path {directory};\n\
         fastcgi_temp_path {directory}; uwsgi_temp_path {directory}; scgi_temp_path {directory};\n\
         server {{ listen 127.0.0.1:8099; location / {{ proxy_pass http://{}; }} }} }}\n",
        scene.target()
    );
    let path = format!("{directory}/nginx.conf");
    std::fs::write(&path, configuration)?;
    let mut nginx = scene.callers.in_container(&scene.client, "nginx")?;
    nginx.args(["-c", &path, "-e", &format!("{directory}/nginx.log")]);
    let _nginx = Server(nginx.spawn()?);
    let mut names = BTreeSet::new();
    let mut fetch = || -> Result<()> {
        let mut curl = inside(&scene.client, "curl")?;
        let output = process::run(curl.args(["--silent", "--fail", "http://127.0.0.1:8099/"]))?;
        names.extend(output.split(' ').next().map(str::to_owned));
        Ok(())
    };
    process::wait_for("nginx", Duration::from_secs(5), &mut fetch)?;
    for _ in 0..20 {
        fetch()?;
    }
    ensure!(names.len() == 2, "{names:?}");
    Ok(())
}

#[test]
fn a_container_in_a_nested_cgroup_calls() -> Result<()> {
    needs!(docker);
    let mut world = World::docker()?;
    // As a rootless Docker or a slice of systemd would have it: several levels below.
    let cgroup = world.docker_node()?.cgroup().to_owned();
    let parent = format!("/{cgroup}/user/user-1000/deeper");
    let docker = world.docker_client()?;
    let nested = docker.container("nested").with(&format!("--cgroup-parent {parent}")).start()?;
    let scene = Scene::with(world, |_| {})?;
    scene.wait_known("nested")?;
    let target = scene.target();
    let output = process::run(&mut nested.exec(&format!("fetch --target {target} --count 20")))?;
    ensure!(output.contains("\"ok\":20"), "{output}");
    nested.act("rm --force").context("it goes before its cgroup does")?;
    Ok(())
}
