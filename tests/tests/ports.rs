//! Frontends of many ports: a range, and all of them, over real connections.

use std::{
    net::SocketAddr,
    time::{Duration, Instant},
};

use anyhow::{Result, ensure};
use lb_tests::{
    AgentConfig, RemoteHost, World, needs, process,
    world::{FRONT, VIP, vip},
};
use nix::sys::signal::Signal;

#[test]
fn ranges_and_all_ports_lead_to_the_port_that_was_asked_for() -> Result<()> {
    needs!(namespaces);
    let world = World::plain()?;
    let remotes = [RemoteHost::start(world.node(), 1)?, RemoteHost::start(world.node(), 2)?];
    let [one, two] = remotes.each_ref().map(|remote| remote.address);
    // More servers on the first machine, at ports of the range.
    let first = remotes[0].namespace.serve_as("first", 9000)?;
    let last = remotes[0].namespace.serve_as("last", 9099)?;
    let outside = remotes[0].namespace.serve_as("outside", 9100)?;
    let mut config = AgentConfig::new(FRONT);
    config.front = [FRONT, "back1", "back2"].map(str::to_owned).to_vec();
    config.extra = format!(
        "[[service]]\nname = \"range\"\nfrontends = [\"tcp://{VIP}:9000-9099\"]\n\
         [[service.backend]]\naddress = \"{}\"\n\
         [[service]]\nname = \"within\"\nfrontends = [\"tcp://{VIP}:9050\"]\n\
         [[service.backend]]\naddress = \"{two}\"\n\
         [[service]]\nname = \"all\"\nfrontends = [\"tcp://{VIP}:20000-20001\", \"tcp://{VIP}:{}\"]\n\
         [[service.backend]]\naddress = \"{two}\"\n",
        one.ip(),
        two.port(),
    );
    let mut agent = world.start_agent(&config)?;
    process::wait_for("the backends", Duration::from_secs(10), || {
        ensure!(agent.healthy_backends()?.len() == 3, "not yet");
        Ok(())
    })?;
    let answers_as = |to: SocketAddr, name: &str| -> Result<()> {
        let answer = world.client().fetch_one(to)?;
        ensure!(answer.name == name, "{to}: `{}` answered instead of `{name}`", answer.name);
        Ok(())
    };
    answers_as(vip(9000), "first")?;
    answers_as(vip(9099), "last")?;
    answers_as(vip(9050), "remote-2")?;
    answers_as(vip(20_001), "remote-2")?;
    answers_as(vip(two.port()), "remote-2")?;
    // The machine itself refuses what it does not serve; what is outside the range it never sees.
    ensure!(world.client().fetch_one(vip(9001)).is_err(), "nobody serves port 9001");
    ensure!(world.client().fetch_one(vip(9100)).is_err(), "port 9100 is in no frontend");
    drop((first, last, outside));

    // The narrower frontend goes, and its port is the range's again; the range becomes all ports.
    config.extra = format!(
        "[[service]]\nname = \"range\"\nfrontends = [\"tcp://{VIP}:*\"]\n\
         [[service.backend]]\naddress = \"{}\"\n",
        one.ip(),
    );
    let low = remotes[0].namespace.serve_as("low", 9050)?;
    let high = remotes[0].namespace.serve_as("high", 65_535)?;
    agent.stop(Signal::SIGTERM)?;
    agent.configure(&config)?;
    agent.start()?;
    process::wait_for("all ports", Duration::from_secs(10), || {
        answers_as(vip(9050), "low")?;
        answers_as(vip(65_535), "high")
    })?;
    drop((low, high, agent));
    Ok(())
}

#[test]
fn a_thousand_ports_come_at_once() -> Result<()> {
    needs!(namespaces);
    let world = World::plain()?;
    let remote = RemoteHost::start(world.node(), 1)?;
    let mut config = AgentConfig::new(FRONT);
    config.front.push(remote.link.clone());
    let service = |ports: &[u16]| {
        let frontends: Vec<String> =
            ports.iter().map(|port| format!("\"tcp://{VIP}:{port}\"")).collect();
        format!(
            "[[service]]\nname = \"web\"\nfrontends = [{}]\n\
             [[service.backend]]\naddress = \"{}\"\n",
            frontends.join(", "),
            remote.address,
        )
    };
    config.extra = service(&[80]);
    let agent = world.start_agent(&config)?;
    process::wait_for("the first port", Duration::from_secs(10), || {
        world.client().fetch_one(vip(80)).map(|_| ())
    })?;
    // Every second port, so that they are no range.
    let ports: Vec<u16> = (0..1000).map(|index| 10_000 + 2 * index).collect();
    config.extra = service(&ports);
    let begun = Instant::now();
    agent.reconfigure(&config)?;
    process::wait_for("the last port", Duration::from_secs(10), || {
        world.client().fetch_one(vip(11_998)).map(|_| ())
    })?;
    println!("1,000 ports are served after {:?}", begun.elapsed());
    for port in ports.iter().step_by(40) {
        world.client().fetch_one(vip(*port))?;
        ensure!(
            world.client().fetch_one(vip(port + 1)).is_err(),
            "port {} is no frontend",
            port + 1
        );
    }
    Ok(())
}
