//! East-west: senders and sockets that are not as usual. Raw sockets, user namespaces, sockets that
//! change their minds; and what an operator is told who has made a mistake.

use std::{
    net::SocketAddr,
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, ensure};
use lb_tests::{
    World,
    eastwest::{Scene, stranger},
    needs, process,
    tracing::Tracing,
    world::vip,
};

const EHOSTUNREACH: i32 = 113;

/// A second service of both protocols at the same address, and the address of its only backend.
fn scene_with_two() -> Result<(Scene, SocketAddr)> {
    let world = World::docker()?;
    let second = world.docker_client()?.container("second").compose("shop", "second", 1);
    let address = lb_tests::world::BALANCER;
    let frontends = format!("tcp://{address}:81,udp://{address}:81,udp://{address}:82");
    let second = second.label("lb.8080.frontend", &frontends).start()?;
    let behind = SocketAddr::new(second.address()?, 8080);
    let scene = Scene::with(world, |_| {})?;
    scene.agent.wait_backends(&["second", "web-1", "web-2"])?;
    Ok((scene, behind))
}

#[test]
fn sockets_that_change_their_minds_are_served() -> Result<()> {
    needs!(docker);
    let (scene, behind) = scene_with_two()?;
    let behind = behind.to_string();
    let dial = scene.callers.dial_path()?.display().to_string();
    let [one, other, twin] = [scene.target(), vip(81), vip(82)].map(|it| it.to_string());
    let commands = [
        scene.callers.on_node(&scene.world, &dial),
        scene.callers.in_container(&scene.client, &dial)?,
    ];
    for mut command in commands {
        let said = process::run(command.args(["odd", &one, &other, &behind, &twin]))?;
        ensure!(said.lines().count() == 13, "{said}");
        ensure!(said.lines().all(|line| line.ends_with(" ok")), "{said}");
    }
    Ok(())
}

#[test]
fn senders_of_packets_are_told_and_pings_are_no_calls() -> Result<()> {
    needs!(docker);
    let scene = Scene::new()?;
    process::wait_for("the route", Duration::from_secs(5), || {
        let routes = scene.world.node().run("ip route show proto 108")?;
        ensure!(routes.contains(&vip(80).ip().to_string()), "{routes}");
        Ok(())
    })?;
    let target = vip(80).ip().to_string();
    // On the node the call itself fails; a container hears of it by ICMP.
    let busybox = |from_node: bool| -> Result<(String, Duration)> {
        let mut command = if from_node {
            scene.callers.on_node(&scene.world, "busybox")
        } else {
            scene.callers.in_container(&scene.client, "busybox")?
        };
        command.args(["timeout", "3", "busybox", "ping", "-c", "1", "-W", "2", &target]);
        let begun = Instant::now();
        let output = command.stderr(Stdio::piped()).output()?;
        let said = [output.stdout, output.stderr].concat();
        Ok((String::from_utf8_lossy(&said).into_owned(), begun.elapsed()))
    };
    let (said, took) = busybox(true)?;
    ensure!(said.contains("No route to host") && took < Duration::from_secs(2), "{took:?}: {said}");
    // It does not print such an answer; that one came is what a raw socket sees.
    let unreachable = scene.client.enter(|| raw_answer(vip(80)))??;
    ensure!(unreachable == [3, 1], "type and code of ICMP: {unreachable:?}");
    // Calls are served all the same.
    scene.served(Some(&scene.client), "tcp", scene.target(), 4)?;
    Ok(())
}

/// Sends a datagram by a raw socket; type and code of the ICMP message that comes back.
fn raw_answer(target: SocketAddr) -> Result<Vec<u8>> {
    use nix::sys::socket::{
        AddressFamily, MsgFlags, SockFlag, SockProtocol, SockType, SockaddrStorage, recv, sendto,
        setsockopt, socket, sockopt,
    };
    use std::os::fd::AsRawFd as _;
    let open = |protocol| {
        socket(AddressFamily::Inet, SockType::Raw, SockFlag::SOCK_CLOEXEC, Some(protocol))
    };
    let listener = open(SockProtocol::Icmp)?;
    let time = nix::sys::time::TimeVal::new(3, 0);
    setsockopt(&listener, sockopt::ReceiveTimeout, &time)?;
    let sender = open(SockProtocol::Udp)?;
    // Ports 40000 and 80, eight bytes, no sum.
    let datagram = [0x9c, 0x40, 0, 80, 0, 8, 0, 0];
    let address = SockaddrStorage::from(target);
    sendto(sender.as_raw_fd(), &datagram, &address, MsgFlags::empty())?;
    let mut buffer = [0; 512];
    let length = recv(listener.as_raw_fd(), &mut buffer, MsgFlags::empty()).context("silence")?;
    let header = usize::from(buffer[0] & 0xf) * 4;
    Ok(buffer[header..length.min(header + 2)].to_vec())
}

/// Ends with the test.
struct Held(Child);

impl Drop for Held {
    fn drop(&mut self) {
        drop(self.0.kill());
        drop(self.0.wait());
    }
}

/// What a rootless Docker makes: user namespaces, and network namespaces that they own.
#[test]
fn callers_in_user_namespaces_of_their_own_are_served() -> Result<()> {
    needs!(docker);
    let scene = Scene::new()?;
    let dial = scene.callers.dial_path()?.display().to_string();
    let target = scene.target().to_string();
    let unshare = ["--user", "--map-root-user", "--mount", "--pid", "--fork", "--cgroup"];
    for from in [None, Some(&scene.client)] {
        for way in ["tcp", "udp", "udp-unconnected", "tcp-mapped"] {
            let mut command = match from {
                None => scene.callers.on_node(&scene.world, "unshare"),
                Some(client) => scene.callers.in_container(client, "unshare")?,
            };
            let said = process::run(command.args(unshare).args([&dial, way, &target, "4"]))?;
            let served = said.lines().filter(|line| line.contains(&format!("peer={target}")));
            ensure!(served.count() == 4, "{way}: {said}");
        }
    }
    // A network namespace that such a user namespace owns, on Docker's bridge: of no container that
    // Docker tells of, so a container on no network.
    let mut command = scene.callers.on_node(&scene.world, "unshare");
    command.args(["--user", "--map-root-user", "--net", "sleep", "60"]);
    let held = Held(command.stdin(Stdio::null()).spawn()?);
    let pid = held.0.id();
    let node = scene.world.node();
    process::wait_for("a namespace", Duration::from_secs(5), || {
        let own = std::fs::read_link(format!("/proc/{pid}/ns/user"))?;
        ensure!(own != std::fs::read_link("/proc/self/ns/user")?, "not yet");
        node.ip(&format!("link add rootless type veth peer name eth0 netns {pid}")).map(drop)
    })?;
    node.ip("link set rootless master docker0 up")?;
    let inside = |words: &str| -> Command {
        let mut command = Command::new("nsenter");
        command
            .args([&format!("--user=/proc/{pid}/ns/user"), &format!("--net=/proc/{pid}/ns/net")]);
        command.args(["--preserve-credentials"]).args(words.split(' '));
        command
    };
    process::run(&mut inside("ip link set eth0 up"))?;
    process::run(&mut inside("ip addr add 172.30.0.200/24 dev eth0"))?;
    process::run(&mut inside("ip route add default via 172.30.0.1"))?;
    for way in ["tcp", "udp"] {
        let path = format!("--net=/proc/{pid}/ns/net");
        let mut command = scene.callers.on_node(&scene.world, "nsenter");
        command.arg(format!("--user=/proc/{pid}/ns/user")).arg(path).arg("--preserve-credentials");
        let said = process::run(command.args([&dial, way, &target, "4"]))?;
        ensure!(said.matches(&format!("peer={target}")).count() == 4, "{way}: {said}");
    }
    Ok(())
}

/// As an operator asks who has made a mistake.
#[test]
fn mistakes_are_explained_with_their_remedy() -> Result<()> {
    needs!(docker);
    let world = World::docker()?;
    let stranger = stranger(&world, "stranger")?;
    let scene = Scene::with(world, |_| {})?;
    scene.wait_known("stranger")?;
    let explain = |from: &str, at: SocketAddr, words: &[&str]| -> Result<()> {
        let said = scene.agent.lbctl(&format!("explain --from {from} {at}"))?;
        ensure!(words.iter().all(|word| said.contains(word)), "{words:?}: {said}");
        Ok(())
    };
    let wrong_port = ["no_frontend", "ECONNREFUSED", "is served at tcp/80", "udp/80; call that"];
    explain("client", vip(81), &wrong_port)?;
    explain(
        "stranger",
        vip(80),
        &["other_network", "EHOSTUNREACH", "`docker network connect bridge stranger`"],
    )?;
    scene.refused(Some(&stranger), "tcp", vip(80), EHOSTUNREACH)?;
    for web in &scene.webs {
        scene.agent.lbctl(&format!("backend drain {}", web.name()))?;
    }
    process::wait_for("no backend", Duration::from_secs(5), || {
        explain("client", vip(80), &["no_backend", "ECONNREFUSED", "`lbctl backend undrain web-1`"])
    })?;
    let unknown = scene.agent.lbctl("explain --from nobody 203.0.113.10:80").err();
    let unknown = format!("{:#}", unknown.context("nobody is explained")?);
    ensure!(unknown.contains("no container `nobody`") && unknown.contains("client"), "{unknown}");
    let trace = Tracing::start(&scene.agent, "--seconds 5")?;
    scene.dial(Some(&scene.client), "tcp", vip(80), 1)?;
    scene.dial(Some(&stranger), "tcp", vip(81), 1)?;
    let said = trace.rest().join("\n");
    ensure!(said.contains("no_backend") && said.contains("no_frontend"), "{said}");
    Ok(())
}
