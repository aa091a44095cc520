//! What a reload changes, and what the configuration comes to.

use std::{fmt::Write as _, fs};

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

/// A daemon of which nothing runs, and what it tells.
fn daemon(config: Config, config_path: Option<PathBuf>) -> (Daemon, mpsc::Receiver<Event>) {
    let (events, told) = mpsc::channel(EVENTS_MAX);
    let daemon = Daemon {
        config,
        config_path,
        fronts: Vec::new(),
        events,
        view: watch::channel(Arc::default()).1,
        docker: None,
        runs: docker::Runs::default(),
        health: tokio::spawn(std::future::pending()),
        docker_labels: LabelsConfig::default(),
        server: tokio::spawn(std::future::pending()),
        names: names::Running::default(),
        kernel_thread: oneshot::channel().1,
        stop: CancellationToken::new(),
    };
    (daemon, told)
}

#[tokio::test]
async fn reload_starts_docker_anew_only_for_other_labels() {
    let mut config = Config::default();
    config.docker.endpoint = "unix:///nonexistent/docker.sock".to_owned();
    let (mut daemon, mut events) = daemon(config, None);
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

#[tokio::test]
async fn reload_tells_which_settings_it_changes_and_why_it_changes_none() {
    let directory = tempfile::tempdir().expect("a directory");
    let path = directory.path().join("lb.toml");
    let file = |text: &str| format!("docker = {{ enabled = false }}\n{text}\n");
    fs::write(&path, file("")).expect("a file");
    let config = Config::load(&path).expect("in order");
    let (mut daemon, mut events) = daemon(config, Some(path.clone()));
    let mut told = String::new();
    for (name, text) in [
        ("a comment", "# of no meaning"),
        ("a setting", "label_vips = ['192.0.2.20']"),
        ("the same once more", "label_vips = [\"192.0.2.20\"]"),
        ("an error", "label_vips = ['192.0.2.20']\nfront = 3"),
        ("something else that waits", "label_vips = []\n[times]\nhold_seconds = 30"),
        ("while it waits", "label_vips = ['192.0.2.20']\n[times]\nhold_seconds = 30"),
    ] {
        fs::write(&path, file(text)).expect("a file");
        daemon.reload().await;
        writeln!(told, "{name}:").expect("a string");
        while let Ok(event) = events.try_recv() {
            let (what, why) = match event {
                Event::Told(draft) => (draft.what, draft.why),
                Event::Provider(ProviderEvent::Status { trouble, .. }) => {
                    ("trouble".into(), trouble)
                }
                _ => continue,
            };
            writeln!(told, "  {what} ({})", why.as_deref().unwrap_or("-")).expect("a string");
        }
    }
    daemon.halt(false).await;
    assert_snapshot!(told.replace(&path.display().to_string(), "lb.toml"), @r#"
    a comment:
      trouble (-)
    a setting:
      settings changed: label_vips from unset to ["192.0.2.20"] (-)
      trouble (-)
    the same once more:
      trouble (-)
    an error:
      trouble (lb.toml:3:9: invalid type: integer `3`, expected a sequence; what was read before stays in force)
    something else that waits:
      settings changed: label_vips from ["192.0.2.20"] to [], times.hold_seconds from unset to 30 (used after a restart of the agent only: times)
      trouble (-)
    while it waits:
      settings changed: label_vips from [] to ["192.0.2.20"] (-)
      trouble (-)
    "#);
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
