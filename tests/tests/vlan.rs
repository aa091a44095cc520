//! Clients in a VLAN whose parent is the front interface: the kernel keeps the outer tag beside the
//! packet, and containers know of none.

use std::{
    io,
    net::{SocketAddr, TcpStream},
    sync::atomic::Ordering,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, ensure};
use lb_tests::{
    World,
    datagrams::{self, Datagrams},
    needs,
    trunk::{self, Tag, Trunk},
    world::{BALANCER, BALANCER6, FRONT, vip, vip6},
};

const DOT1Q: u16 = 0x8100;
const DOT1AD: u16 = 0x88a8;

fn check(tags: &[Tag]) -> Result<()> {
    let world = World::docker()?;
    world.docker_client()?.run("network create --ipv6 --subnet fd00:77::/64 ula")?;
    let trunk = Trunk::connect(world.node(), tags)?;
    for number in 1..=2 {
        world
            .docker_client()?
            .container(&format!("web-{number}"))
            .compose("shop", "web", number)
            .with("--network ula")
            .balanced(&format!("tcp://{BALANCER}:80"))
            .port(9090)
            .label("aliyun.lb.port_9090", &format!("tcp://{BALANCER6}:80"))
            .port(9091)
            .label("aliyun.lb.port_9091", &format!("udp://{BALANCER}:53"))
            .port(9092)
            .label("aliyun.lb.port_9092", &format!("udp://{BALANCER6}:53"))
            .start()?;
    }
    let mut config = world.config_of_both_families();
    // The agent would see a VLAN interface, and leave the way to clients to the routing table; the
    // one of this test looks like any other link, and a second front interface has that effect.
    config.front = vec![trunk::FRONT.to_owned(), FRONT.to_owned()];
    let agent = world.start_agent(&config)?;
    agent
        .wait_backends(&["web-1", "web-1", "web-1", "web-1", "web-2", "web-2", "web-2", "web-2"])?;
    let host = &trunk.host;
    for front in [vip(80), vip6(80)] {
        let report = host.fetch(front, 50)?;
        ensure!(report.check().with_context(|| format!("{front}"))?.by_name.len() == 2, "{front}");
        host.bulk(front, 1 << 20)?.check().with_context(|| format!("{front}"))?;
    }
    for front in [vip(53), vip6(53)] {
        // Also in fragments.
        for bytes in [100, 4000] {
            let names = datagrams::spread(host, front, 30, bytes)?;
            ensure!(names.len() == 2, "{front}: {names:?}");
        }
    }
    ensure!(trunk.counts.routed.load(Ordering::Relaxed) > 100, "{:?}", trunk.counts);
    // Answers go back the way the question came, with its tags.
    for front in [vip(81), vip6(81)] {
        refused(&trunk, front)?;
    }
    for vip in [vip(80).ip(), vip6(80).ip()] {
        let shown = host.run(&format!("busybox ping -c 3 -i 0.1 -W 1 {vip}"))?;
        ensure!(shown.contains(" 0% packet loss"), "{shown}");
    }
    ensure!(trunk.counts.answered.load(Ordering::Relaxed) >= 8, "{:?}", trunk.counts);
    trunk::check(&trunk.counts)
}

fn refused(trunk: &Trunk, front: SocketAddr) -> Result<()> {
    let begun = Instant::now();
    let connected =
        trunk.host.enter(|| TcpStream::connect_timeout(&front, Duration::from_secs(5)))?;
    let error = connected.err().with_context(|| format!("{front} accepted"))?;
    let took = begun.elapsed();
    ensure!(error.kind() == io::ErrorKind::ConnectionRefused, "{front}: {error} after {took:?}");
    ensure!(took < Duration::from_secs(1), "{front}: told after {took:?}");
    let told = Datagrams::connect(&trunk.host, 0, front)?.refused()?;
    println!("{front}: {} after {took:?}, {} after {:?}", error, told.0, told.1);
    ensure!(told.0.kind() == io::ErrorKind::ConnectionRefused, "{front}: UDP {}", told.0);
    Ok(())
}

#[test]
fn clients_with_a_tag_beside_the_packet() -> Result<()> {
    needs!(docker);
    check(&[(DOT1Q, 100)])
}

#[test]
fn clients_with_stacked_tags() -> Result<()> {
    needs!(docker);
    check(&[(DOT1AD, 200), (DOT1Q, 100)])
}
