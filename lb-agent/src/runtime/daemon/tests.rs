//! What a reload changes, and what the configuration comes to.

use insta::{assert_debug_snapshot, assert_snapshot};

use super::*;
use crate::config::{Balancer, XdpMode};

/// Takes events until the claims of the file, which come last.
async fn told(events: &mut mpsc::Receiver<Event>) -> Vec<&'static str> {
    let mut told = Vec::new();
    loop {
        match events.recv().await.expect("the daemon has the sender") {
            Event::Restarting(provider) => told.push(provider),
            Event::Provider(ProviderEvent::Claims { .. }) => return told,
            _ => {}
        }
    }
}

#[tokio::test]
async fn reload_starts_docker_anew_only_for_other_labels() {
    let (sender, mut events) = mpsc::channel(EVENTS_MAX);
    let (_ended, kernel_thread) = oneshot::channel();
    let mut config = Config::default();
    config.docker.endpoint = "unix:///nonexistent/docker.sock".to_owned();
    let mut daemon = Daemon {
        config,
        config_path: None,
        fronts: Vec::new(),
        events: sender,
        view: watch::channel(Arc::default()).1,
        docker: None,
        runs: docker::Runs::default(),
        health: tokio::spawn(std::future::pending()),
        docker_labels: LabelsConfig::default(),
        server: tokio::spawn(std::future::pending()),
        names: names::Running::default(),
        kernel_thread,
        stop: CancellationToken::new(),
    };
    let id = |daemon: &Daemon| daemon.docker.as_ref().expect("it is followed").id();
    daemon.follow_sources().await.expect("an endpoint");
    assert_eq!(told(&mut events).await, [""; 0]);
    let first = id(&daemon);
    daemon.follow_sources().await.expect("an endpoint");
    assert_eq!(told(&mut events).await, [""; 0]);
    assert_eq!(id(&daemon), first);
    let vip = [192, 0, 2, 10].into();
    daemon.config.labels.balancers = vec![Balancer { name: "slb".to_owned(), id: None, vip }];
    daemon.follow_sources().await.expect("an endpoint");
    assert_eq!(told(&mut events).await, [docker::PROVIDER]);
    assert_ne!(id(&daemon), first);
    daemon.halt(false).await;
}

#[test]
fn reload_names_what_needs_a_restart() {
    let old = Config::default();
    let mut new = Config::default();
    new.labels.balancers.clear();
    assert_eq!(needs_restart(&old, &new), [""; 0]);
    new.front = vec!["eth9".to_owned()];
    new.docker.resync_seconds += 1;
    new.tables.records += 1;
    new.times.hold_seconds += 1;
    assert_debug_snapshot!(needs_restart(&old, &new), @r#"
[
    "front",
    "docker",
    "tables",
    "times",
]
"#);
}

#[test]
fn check_describes_the_configuration() {
    assert_snapshot!(describe(&Config::default()), @r#"
built-in defaults: in order
front interfaces: those of the IPv4 default route
balancers: 0
services: 0 with 0 backends
docker: unix:///var/run/docker.sock
"#);
}

#[test]
fn mode_of_an_interface_goes_before_the_general_one() {
    let mut config = Config { front: vec!["a".to_owned(), "b".to_owned()], ..Config::default() };
    config.xdp.interfaces.insert("b".to_owned(), XdpMode::Native);
    config.xdp.mode = XdpMode::Off;
    let options = datapath_options(&config, Cookies::default()).expect("interfaces are named");
    let modes: Vec<_> = options.fronts.iter().map(|front| front.xdp).collect();
    assert_eq!(modes, [XdpMode::Off, XdpMode::Native]);
}
