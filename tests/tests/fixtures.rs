//! The fixtures themselves, without a balancer: if these fail, no other failure means anything.

use anyhow::{Context as _, Result, ensure};
use lb_tests::{
    Docker, World,
    binaries::testkit,
    container::PORT,
    needs,
    proxy::{Fault, Proxy},
    skip::{interpreter, not_static},
    world::{CLIENT, NODE, RemoteHost},
};

#[test]
fn a_plain_world_routes_to_a_remote_host() -> Result<()> {
    needs!(namespaces);
    let world = World::plain()?;
    let remote = RemoteHost::start(world.node(), 1)?;
    let answer = world.client().fetch_one(remote.address)?;
    assert_eq!((answer.name.as_str(), answer.client.ip()), ("remote-1", CLIENT));
    world.client().bulk(remote.address, 1 << 20)?.check()?;
    Ok(())
}

#[test]
fn containers_serve_and_publish() -> Result<()> {
    needs!(docker);
    let world = World::docker()?;
    let docker = world.docker_client()?;
    let plain = docker.container("plain").start()?;
    docker.run("network create front")?;
    let published =
        docker.container("published").with("--network front --publish 18080:8080").start()?;
    for container in [&plain, &published] {
        let answer = world.node().fetch_one((container.address()?, PORT).into())?;
        assert_eq!(answer.name, container.name());
    }
    assert_eq!(world.client().fetch_one((NODE, 18080).into())?.name, "published");
    // Docker's policy: an address of a container that publishes nothing is out of reach.
    ensure!(world.client().fetch_one((plain.address()?, PORT).into()).is_err(), "FORWARD is open");

    let streams = world.client().streams((NODE, 18080).into(), 5)?;
    let requests = world.client().requests((NODE, 18080).into(), 100)?;
    std::thread::sleep(std::time::Duration::from_secs(1));
    ensure!(requests.finish()?.check()?.ok > 50);
    ensure!(streams.finish()?.check()?.round_trips > 50);
    Ok(())
}

#[test]
fn a_snapshot_sees_what_changes_and_nothing_else() -> Result<()> {
    needs!(namespaces);
    let world = World::plain()?;
    let before = world.snapshot()?;
    // Refused, after an exchange of packets.
    ensure!(world.client().fetch_one((NODE, 1).into()).is_err());
    assert_eq!(before.difference(&world.snapshot()?), "");
    for (what, change) in [
        ("addresses", "ip addr add 10.1.2.3/32 dev lo"),
        ("qdiscs", "tc qdisc add dev front0 clsact"),
        ("sysctls", "sysctl -qw net.ipv4.conf.front0.rp_filter=2"),
        ("links", "ip link set front0 mtu 1400"),
        ("nft list ruleset", "nft add table inet foreign"),
    ] {
        let before = world.snapshot()?;
        world.node().run(change)?;
        let difference = before.difference(&world.snapshot()?);
        ensure!(difference.contains(what), "{change}: {difference}");
    }
    Ok(())
}

#[test]
fn a_source_port_can_be_used_again_at_once() -> Result<()> {
    needs!(namespaces);
    let world = World::plain()?;
    let remote = RemoteHost::start(world.node(), 1)?;
    for port in [40000, 40001, 40000, 40000, 40001] {
        assert_eq!(world.client().fetch_from(port, remote.address)?, "remote-1");
    }
    Ok(())
}

#[test]
fn a_proxy_misbehaves_on_demand() -> Result<()> {
    needs!(docker);
    let world = World::docker()?;
    world.start_webs(1)?;
    let socket = world.directory().join("proxy.sock");
    let proxy = Proxy::start(socket, world.docker_client()?.socket())?;
    let docker = Docker::at(proxy.socket());
    for _ in 0..2 {
        assert_eq!(docker.run("ps --format {{.Names}}")?, "web-1");
        proxy.set(Fault::EmptyListing);
        assert_eq!(docker.run("ps --format {{.Names}}")?, "");
        assert_eq!(docker.run("inspect --format {{.Name}} web-1")?, "/web-1");
        for fault in [Fault::Garbage, Fault::GarbageBody, Fault::Refuse, Fault::ServerError] {
            proxy.set(fault);
            ensure!(docker.run("ps").is_err(), "{fault:?}");
        }
        proxy.set(Fault::None);
    }
    Ok(())
}

#[test]
fn a_test_knows_its_name() {
    assert_eq!(lb_tests::test_name!(), "a_test_knows_its_name");
}

#[test]
fn programs_that_stand_alone_are_told_from_others() -> Result<()> {
    let own = std::env::current_exe()?;
    let loader = interpreter(&own)?.context("this test has no loader")?;
    ensure!(loader.starts_with("/lib") && !loader.contains('\0'), "`{loader}`");
    ensure!(interpreter(testkit()?.as_path())?.is_none(), "containers have no libraries");
    let why = not_static("bash").context("bash needs no library")?;
    ensure!(why.contains("needs a static bash, and /") && why.contains(&loader), "{why}");
    ensure!(interpreter("/etc/passwd".as_ref()).is_err(), "it is no program");
    Ok(())
}
