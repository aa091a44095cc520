//! Both families and both protocols, in every combination: containers on IPv6 networks, remote hosts,
//! TCP and UDP.

use std::{net::SocketAddr, time::Duration};

use anyhow::{Result, ensure};
use lb_tests::{
    AgentConfig, RemoteHost, World,
    container::PORT,
    datagrams::{self, Datagrams},
    needs, process,
    world::{BALANCER, BALANCER6, CLIENT, CLIENT6, FRONT, vip, vip6},
};

const MEGABYTE: u64 = 1 << 20;

/// TCP and UDP to a frontend: all answer, all see the client, all bytes arrive.
fn check_front(world: &World, front: SocketAddr, servers: usize) -> Result<()> {
    let client = if front.is_ipv4() { CLIENT } else { CLIENT6 };
    let report = world.client().fetch(front, 100)?;
    let summary = report.check()?;
    ensure!(summary.by_name.len() == servers, "TCP {front}: {:?}", summary.by_name);
    ensure!(report.answers.iter().all(|answer| answer.client.ip() == client), "{front}: address");
    world.client().bulk(front, 5 * MEGABYTE)?.check()?;
    Ok(())
}

fn check_datagrams(world: &World, front: SocketAddr, servers: usize) -> Result<()> {
    let names = datagrams::spread(world.client(), front, 60, 1000)?;
    println!("datagrams to {front}: {names:?}");
    ensure!(names.len() == servers, "UDP {front}: {names:?}");
    let client = if front.is_ipv4() { CLIENT } else { CLIENT6 };
    let mut socket = Datagrams::connect(world.client(), 5353, front)?;
    let first = socket.ask(100)?;
    ensure!(first.client == SocketAddr::new(client, 5353), "the server saw {}", first.client);
    for _ in 0..20 {
        ensure!(socket.ask(100)?.name == first.name, "a flow went to two servers");
    }
    Ok(())
}

#[test]
fn containers_with_ula_and_with_global_addresses() -> Result<()> {
    needs!(docker);
    let world = World::docker()?;
    let docker = world.docker_client()?;
    docker.run("network create --ipv6 --subnet fd00:77::/64 ula")?;
    docker.run("network create --ipv6 --subnet 2001:db8:c::/64 global")?;
    let start = |number: u32, network: &str| {
        world
            .docker_client()?
            .container(&format!("web-{number}"))
            .compose("shop", "web", number)
            .with(&format!("--network {network}"))
            .balanced(&format!("tcp://{BALANCER6}:80"))
            .port(9090)
            .label("aliyun.lb.port_9090", &format!("udp://{BALANCER6}:53"))
            .port(9091)
            .label("aliyun.lb.port_9091", &format!("tcp://{BALANCER}:80"))
            .port(9092)
            .label("aliyun.lb.port_9092", &format!("udp://{BALANCER}:53"))
            .start()
    };
    let webs = [start(1, "ula")?, start(2, "global")?];
    let agent = world.start_agent(&world.config_of_both_families())?;
    agent
        .wait_backends(&["web-1", "web-1", "web-1", "web-1", "web-2", "web-2", "web-2", "web-2"])?;
    for front in [vip(80), vip6(80)] {
        check_front(&world, front, 2)?;
    }
    for front in [vip(53), vip6(53)] {
        check_datagrams(&world, front, 2)?;
    }
    // The ways in beside the VIP stay as they are, also at the very same moment.
    let direct = SocketAddr::new(webs[1].address6()?, PORT);
    let loads = [world.client().requests(vip6(80), 50)?, world.node().requests(direct, 50)?];
    process::sleep(Duration::from_secs(1))?;
    for load in loads {
        ensure!(load.finish()?.check()?.ok > 20);
    }
    Ok(())
}

#[test]
fn one_port_of_a_container_behind_both_families_and_both_protocols() -> Result<()> {
    needs!(docker);
    let world = World::docker()?;
    world.docker_client()?.run("network create --ipv6 --subnet fd00:77::/64 ula")?;
    let urls = [BALANCER, BALANCER6].map(|name| format!("tcp://{name}:80,udp://{name}:80"));
    let start = |number: u32| {
        let web = world.docker_client()?.container(&format!("web-{number}"));
        let web = web.compose("shop", "web", number).with("--network ula");
        web.label("lb.8080.frontend", &urls.join(",")).start()
    };
    let _first = start(1)?;
    let second = start(2)?;
    let agent = world.start_agent(&world.config_of_both_families())?;
    // One of each family.
    agent.wait_backends(&["web-1", "web-1", "web-2", "web-2"])?;
    for front in [vip(80), vip6(80)] {
        check_front(&world, front, 2)?;
        check_datagrams(&world, front, 2)?;
    }
    // One death ends both.
    second.act("kill")?;
    agent.wait_backends(&["web-1", "web-1"])?;
    for front in [vip(80), vip6(80)] {
        world.client().fetch(front, 20)?.check()?;
        ensure!(datagrams::spread(world.client(), front, 20, 100)?.len() == 1, "{front}");
    }
    Ok(())
}

#[test]
fn container_without_ipv6_is_refused_for_an_ipv6_vip_only() -> Result<()> {
    needs!(docker);
    let world = World::docker()?;
    let _web = world
        .web(1)?
        .port(9090)
        .label("aliyun.lb.port_9090", &format!("tcp://{BALANCER6}:80"))
        .start()?;
    let agent = world.start_agent(&world.config_of_both_families())?;
    agent.wait_backends(&["web-1"])?;
    agent.wait_refusal(&["web-1", "port_9090", "has no IPv6 address"])?;
    world.client().fetch(vip(80), 10)?.check()?;
    Ok(())
}

#[test]
fn one_service_of_the_file_with_both_families_and_both_protocols() -> Result<()> {
    needs!(namespaces);
    remote_hosts("off", &["tx on", "tx off"])
}

/// XDP sends only what has whole sums, and a veth takes that only where its peer polls.
#[test]
fn both_families_and_both_protocols_through_xdp() -> Result<()> {
    needs!(namespaces);
    remote_hosts("generic", &["tx off gro on"])?;
    remote_hosts("native", &["tx off gro on"])
}

fn remote_hosts(xdp: &str, offloads: &[&str]) -> Result<()> {
    let world = World::plain()?;
    let remotes = [RemoteHost::start(world.node(), 1)?, RemoteHost::start(world.node(), 2)?];
    let mut config = AgentConfig::new(FRONT);
    xdp.clone_into(&mut config.xdp);
    config.front = [FRONT, "back1", "back2"].map(str::to_owned).to_vec();
    let backends = remotes.iter().flat_map(|it| [it.address, it.address6]);
    let backends = backends.map(|it| format!("[[service.backend]]\naddress = \"{it}\"\n"));
    let backends = backends.collect::<Vec<_>>().concat();
    config.extra = format!(
        "[[service]]\nname = \"both\"\nfrontends = [\"tcp://{}\", \"udp://{}\", \"tcp://{}\", \
         \"udp://{}\"]\n{backends}",
        vip(80),
        vip(80),
        vip6(80),
        vip6(80),
    );
    let agent = world.start_agent(&config)?;
    assert_eq!(agent.attachment(FRONT)?.1, xdp);
    process::wait_for("the backends", Duration::from_secs(10), || {
        ensure!(agent.rows("backend")?.len() == 4, "not yet");
        world.client().fetch_one(vip6(80))
    })?;
    // Sums that a device finishes, and sums that it does not.
    for setting in offloads {
        world.client().offload("eth0", setting)?;
        world.node().offload(FRONT, setting)?;
        for remote in &remotes {
            remote.namespace.offload("eth0", setting)?;
            world.node().offload(&remote.link, setting)?;
        }
        for front in [vip(80), vip6(80)] {
            check_front(&world, front, 2)?;
            check_datagrams(&world, front, 2)?;
        }
    }
    Ok(())
}
