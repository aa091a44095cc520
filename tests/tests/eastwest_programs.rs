//! East-west: the programs that people run call a VIP, of either family, and see nothing of it.

use std::{
    collections::BTreeSet,
    net::SocketAddr,
    process::{Child, Command},
    time::Duration,
};

use anyhow::{Context as _, Result, ensure};
use lb_tests::{
    Container, World,
    eastwest::{GATEWAY6, Scene},
    needs, process, skip,
    skip::not_static,
    world::{BALANCER, BALANCER6, FRONT_PORT, vip, vip6},
};

/// The node, on the bridge that Docker makes by itself.
const GATEWAY: &str = "172.30.0.1";

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

/// A VIP of each family, and how backends write the client that calls there.
fn ways(scene: &Scene) -> Result<[(SocketAddr, String); 2]> {
    let client = &scene.client;
    Ok([
        (vip(FRONT_PORT), format!("client={}:", client.address()?)),
        (vip6(FRONT_PORT), format!("client=[{}]:", client.address6()?)),
    ])
}

/// Many requests are answered by both backends, which see the container itself.
fn is_served(client: &str, mut fetch: impl FnMut() -> Result<String>) -> Result<()> {
    let mut names = BTreeSet::new();
    for _ in 0..20 {
        let said = fetch()?;
        ensure!(said.contains(client), "{said} does not name {client}");
        names.extend(said.split(' ').next().map(str::to_owned));
    }
    ensure!(names == ["name=web-1", "name=web-2"].map(str::to_owned).into(), "{names:?}");
    Ok(())
}

#[test]
fn curl_is_served_and_refused() -> Result<()> {
    needs!(docker);
    needs!("curl");
    let scene = Scene::of_both_families(|_| {})?;
    let curl = |options: &[&str], target: SocketAddr| -> Result<Command> {
        let mut curl = scene.callers.in_container(&scene.client, "curl")?;
        curl.args(["--globoff", "--silent", "--show-error", "--max-time", "3"]).args(options);
        curl.arg(format!("http://{target}/"));
        Ok(curl)
    };
    for (target, client) in ways(&scene)? {
        let told = "peer=%{remote_ip}";
        let peer = format!("peer={}", target.ip());
        let fetch = || {
            let said = process::run(&mut curl(&["--fail", "--write-out", told], target)?)?;
            ensure!(said.ends_with(&peer), "{said} does not end with {peer}");
            Ok(said)
        };
        is_served(&client, fetch).with_context(|| target.to_string())?;
        let fast = process::run(&mut curl(&["--fail", "--tcp-fastopen"], target)?)?;
        ensure!(fast.starts_with("name=web-"), "{target}: {fast}");
        let closed = SocketAddr::new(target.ip(), FRONT_PORT + 1);
        let refused = curl(&[], closed)?.output()?;
        assert_eq!(refused.status.code(), Some(7), "curl could not connect: {refused:?}");
    }
    Ok(())
}

#[test]
fn redis_cli_talks_to_a_server() -> Result<()> {
    needs!(docker);
    needs!("redis-cli", "redis-check-rdb");
    let scene = Scene::of_both_families(|_| {})?;
    let redis = scene.world.docker_client()?.container("redis").with("--network both");
    let frontends = [BALANCER, BALANCER6].map(|balancer| format!("tcp://{balancer}:6379"));
    let redis = redis.label("lb.6379.frontend", &frontends.join(",")).start()?;
    let mut server = inside(&redis, "bash")?;
    // The tools' program is the server, by another name.
    let script = "exec -a redis-server \"$(command -v redis-check-rdb)\" --port 6379 --save '' \
                  --protected-mode no --bind 0.0.0.0 ::";
    server.args(["-c", script]).stdout(std::process::Stdio::null());
    let _server = Server(server.spawn()?);
    scene.agent.wait_backends(&["redis", "redis", "web-1", "web-1", "web-2", "web-2"])?;
    for address in [vip(0).ip(), vip6(0).ip()] {
        let talk = |words: &str| -> Result<String> {
            let mut client = scene.callers.in_container(&scene.client, "redis-cli")?;
            client.args(["-h", &address.to_string(), "-p", "6379"]).args(words.split(' '));
            Ok(process::run(&mut client)?.trim().to_owned())
        };
        process::wait_for("the server", Duration::from_secs(5), || {
            ensure!(talk("PING")? == "PONG");
            Ok(())
        })?;
        assert_eq!(talk(&format!("SET key {address}"))?, "OK", "{address}");
        assert_eq!(talk("GET key")?, address.to_string());
    }
    Ok(())
}

/// The responder of names stands for a name server; to its clients it is a service.
fn scene_with_names() -> Result<Scene> {
    let gateways = [GATEWAY.to_owned(), format!("[{GATEWAY6}]")].map(|it| it + ":5353");
    let [four, six] = &gateways;
    let service = |name: &str, at: SocketAddr, server: &str| {
        format!(
            "[[service]]\nname = \"{name}\"\nfrontends = [\"udp://{at}\", \"tcp://{at}\"]\n\
             [[service.backend]]\naddress = \"{server}\"\n"
        )
    };
    let services = service("dns", vip(53), four) + &service("dns6", vip6(53), six);
    let names = format!("[names]\nlisten = [\"{four}\", \"{six}\"]\ncompose = true\n");
    Scene::of_both_families(|config| config.extra = names + &services)
}

#[test]
fn dig_asks_by_datagrams_and_by_connections() -> Result<()> {
    needs!(docker);
    needs!("dig");
    let scene = scene_with_names()?;
    for (family, kind, address) in [("-4", "A", vip(0).ip()), ("-6", "AAAA", vip6(0).ip())] {
        let (at, address) = (format!("@{address}"), address.to_string());
        process::wait_for("an answer", Duration::from_secs(5), || {
            // Its own socket is connected, and it does not take answers from strangers.
            for transport in ["+notcp", "+tcp"] {
                let words = [family, &at, "+short", "+time=2", "+tries=1", transport, kind];
                let mut dig = scene.callers.in_container(&scene.client, "dig")?;
                let answer = process::run(dig.args(words).arg("web.shop"))?;
                ensure!(answer.trim() == address, "{at} {transport}: {answer}");
            }
            Ok(())
        })?;
    }
    Ok(())
}

/// No library stands between such a program and the kernel.
#[test]
fn static_programs_fetch_by_connections_and_ask_by_datagrams() -> Result<()> {
    needs!(docker);
    if let Some(why) = not_static("busybox") {
        skip!("{why}");
    }
    let scene = scene_with_names()?;
    let busybox = |words: &[&str]| -> Result<String> {
        let mut command = scene.callers.in_container(&scene.client, "busybox")?;
        process::run(command.args(words))
    };
    for (target, client) in ways(&scene)? {
        let url = format!("http://{target}/");
        // Its wget may have no time limit of its own.
        let fetch = ["timeout", "3", "busybox", "wget", "-q", "-O", "-", &url];
        is_served(&client, || busybox(&fetch)).with_context(|| target.to_string())?;
        let server = target.ip().to_string();
        process::wait_for("an answer", Duration::from_secs(5), || {
            let answer = busybox(&["nslookup", "web.shop", &server])?;
            let words: BTreeSet<&str> = answer.split_whitespace().collect();
            let all = [vip(0), vip6(0)].map(|it| it.ip().to_string());
            ensure!(all.iter().all(|it| words.contains(it.as_str())), "{server}: {answer}");
            Ok(())
        })?;
    }
    Ok(())
}

#[test]
fn nginx_is_a_client_of_a_vip() -> Result<()> {
    needs!(docker);
    needs!("nginx", "curl");
    let scene = Scene::of_both_families(|_| {})?;
    let directory = scene.world.directory().display().to_string();
    let ways = ways(&scene)?;
    let listens_at = |index: usize| format!("127.0.0.1:{}", 8099 + index);
    let servers = ways.iter().enumerate().map(|(index, (target, _))| {
        let at = listens_at(index);
        format!("server {{ listen {at}; location / {{ proxy_pass http://{target}; }} }}\n")
    });
    let servers: String = servers.collect();
    let configuration = format!(
        "daemon off; master_process off; pid {directory}/nginx.pid; error_log {directory}/nginx.log;\n\
         events {{ worker_connections 64; }}\n\
         http {{ access_log off; client_body_temp_path {directory}; proxy_temp_path {directory};\n\
         fastcgi_temp_path {directory}; uwsgi_temp_path {directory}; scgi_temp_path {directory};\n\
         {servers} }}\n"
    );
    let path = format!("{directory}/nginx.conf");
    std::fs::write(&path, configuration)?;
    let mut nginx = scene.callers.in_container(&scene.client, "nginx")?;
    nginx.args(["-c", &path, "-e", &format!("{directory}/nginx.log")]);
    let _nginx = Server(nginx.spawn()?);
    for (index, (target, client)) in ways.iter().enumerate() {
        let url = format!("http://{}/", listens_at(index));
        let fetch = || -> Result<String> {
            let mut curl = inside(&scene.client, "curl")?;
            process::run(curl.args(["--silent", "--fail", &url]))
        };
        process::wait_for("nginx", Duration::from_secs(5), || fetch().map(drop))?;
        is_served(client, fetch).with_context(|| target.to_string())?;
    }
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
