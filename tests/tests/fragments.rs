//! Datagrams larger than the path, in fragments: all of one go to one backend, and come back.

use std::{net::SocketAddr, time::Duration};

use anyhow::{Result, ensure};
use lb_tests::{
    AgentConfig, RemoteHost, World, datagrams,
    datagrams::Datagrams,
    needs, process,
    wire::{self, RawSender},
    world::{BALANCER, BALANCER6, CLIENT, FRONT, VIP, vip, vip6},
};

/// Two fragments, three, and as many as a datagram can have.
const SIZES: [usize; 4] = [1473, 4000, 9000, 60_000];

/// Datagrams of every size from many ports: a fragment that went to another backend than the others
/// would leave both without a whole datagram, and nobody would answer.
fn check(world: &World, front: SocketAddr, servers: usize) -> Result<()> {
    for bytes in SIZES {
        let names = datagrams::spread(world.client(), front, 40, bytes)?;
        println!("{bytes} bytes to {front}: {names:?}");
        ensure!(names.len() == servers, "{bytes} bytes to {front}: {names:?}");
    }
    // Many at a time, their fragments mixed on the wire.
    let mut sockets = (0..20)
        .map(|_| Datagrams::connect(world.client(), 0, front))
        .collect::<Result<Vec<_>>>()?;
    for _ in 0..3 {
        std::thread::scope(|scope| {
            let asking: Vec<_> =
                sockets.iter_mut().map(|socket| scope.spawn(|| socket.ask(4000))).collect();
            asking.into_iter().try_for_each(|thread| match thread.join() {
                Ok(result) => result.map(|_| ()),
                Err(_) => anyhow::bail!("a thread panicked"),
            })
        })?;
    }
    Ok(())
}

#[test]
fn fragments_are_never_split_over_remote_backends() -> Result<()> {
    needs!(namespaces);
    let world = World::plain()?;
    let remotes = (1..=3)
        .map(|number| RemoteHost::start(world.node(), number))
        .collect::<Result<Vec<_>>>()?;
    let mut config = AgentConfig::new(FRONT);
    config.front = [FRONT, "back1", "back2", "back3"].map(str::to_owned).to_vec();
    let backends = remotes.iter().flat_map(|it| [it.address, it.address6]);
    let backends = backends.map(|it| format!("[[service.backend]]\naddress = \"{it}\"\n"));
    let backends = backends.collect::<Vec<_>>().concat();
    config.extra = format!(
        "[[service]]\nname = \"dns\"\nfrontends = [\"udp://{}\", \"udp://{}\"]\n{backends}",
        vip(53),
        vip6(53),
    );
    let agent = world.start_agent(&config)?;
    process::wait_for("the backends", Duration::from_secs(10), || {
        Datagrams::connect(world.client(), 0, vip(53))?.ask(10)?;
        Datagrams::connect(world.client(), 0, vip6(53))?.ask(10)
    })?;
    for front in [vip(53), vip6(53)] {
        check(&world, front, 3)?;
    }
    ensure!(agent.drops("fragment")? == 0, "{}", agent.json("status")?["drops"]);

    // A later fragment whose first was not seen could belong to any backend: none gets it.
    let from = SocketAddr::new(CLIENT, 40_000);
    let mut later = wire::udp(from, vip(53), &[0; 64]);
    later[6..8].copy_from_slice(&100_u16.to_be_bytes());
    RawSender::open(world.client())?.send(&later, VIP)?;
    agent.wait_drops("fragment", 1)
}

#[test]
fn fragments_are_never_split_over_containers() -> Result<()> {
    needs!(docker);
    let world = World::docker()?;
    world.docker_client()?.run("network create --ipv6 --subnet fd00:77::/64 ula")?;
    for number in 1..=3 {
        world
            .docker_client()?
            .container(&format!("dns-{number}"))
            .compose("shop", "dns", number)
            .with("--network ula")
            .balanced(&format!("udp://{BALANCER}:53"))
            .port(9090)
            .label("aliyun.lb.port_9090", &format!("udp://{BALANCER6}:53"))
            .start()?;
    }
    let agent = world.start_agent(&world.config_of_both_families())?;
    agent.wait_backends(&["dns-1", "dns-1", "dns-2", "dns-2", "dns-3", "dns-3"])?;
    for front in [vip(53), vip6(53)] {
        check(&world, front, 3)?;
    }
    ensure!(agent.drops("fragment")? == 0, "{}", agent.json("status")?["drops"]);
    Ok(())
}
