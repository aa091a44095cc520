//! What probing costs: the prober of the agent, with thousands of targets, as processor time.
//!
//! The servers run in a process of their own, so that only the prober is counted. The kernel's work
//! on a loopback connection is done by whoever sends, which is mostly the prober.

mod figures;
mod server;

use std::{
    net::SocketAddr,
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::Result;
use clap::Args;
use lb_agent::{
    health::{
        self, HealthChannels, NoWitness, Target, Targets,
        check::{Containers, NoContainers, NodeChecks, Tls},
        stats::Stats,
        tracker::Health,
    },
    model::{HttpProbe, Probe, ProbeKind, ProbePlace, ServiceName},
    netlink::Process,
};
use lb_tests::Namespace;
use nix::sys::resource::{UsageWho, getrusage};
use tokio::sync::{mpsc, watch};

pub(crate) use self::server::{ServerOptions, serve};
use self::{
    figures::Figures,
    server::{PORT, Server},
};

/// Options of `probes`.
#[derive(Args)]
pub(crate) struct ProbesOptions {
    /// Backends that are probed.
    #[arg(long, default_value_t = 10_000)]
    targets: u32,
    /// Backends that are probed by HTTPS: a handshake takes many times what a probe by HTTP does.
    #[arg(long, default_value_t = 1000)]
    https_targets: u32,
    /// Time between two probes of one of them.
    #[arg(long, default_value_t = 2000)]
    interval_ms: u32,
    /// Time that is measured for each kind.
    #[arg(long, default_value_t = 20)]
    seconds: u64,
}

/// One row of the result.
struct Case {
    name: &'static str,
    kind: ProbeKind,
    place: ProbePlace,
    targets: u32,
    has_goal: bool,
}

/// Measures every kind.
pub(crate) fn run(options: &ProbesOptions) -> Result<()> {
    println!("every {} ms, for {} s", options.interval_ms, options.seconds);
    println!("{:<22} {:>7} {} goal", "kind", "targets", Figures::heads());
    let (tcp, http) = (ProbeKind::Tcp { port: None }, HttpProbe::default());
    let http = HttpProbe { expect_body: Some("ok".to_owned()), ..http };
    let case = |name, kind, place| {
        let is_https = matches!(kind, ProbeKind::Https(_));
        let targets = if is_https { options.https_targets } else { options.targets };
        Case { name, kind, place, targets, has_goal: !is_https }
    };
    for case in [
        case("tcp, node", tcp.clone(), ProbePlace::Node),
        case("http, node", ProbeKind::Http(http.clone()), ProbePlace::Node),
        case("tcp, in the container", tcp, ProbePlace::Container),
        case("https, node", ProbeKind::Https(http), ProbePlace::Node),
    ] {
        measure(&case, options)?;
    }
    Ok(())
}

impl Containers for One {
    fn process(&self, _instance: &str) -> Option<Arc<Process>> {
        Some(Arc::clone(&self.0))
    }
}

/// The one container that all targets are said to be.
struct One(Arc<Process>);

fn measure(case: &Case, options: &ProbesOptions) -> Result<()> {
    let (node, container) = (Namespace::new()?, Namespace::new()?);
    let is_inside = case.place == ProbePlace::Container;
    let is_tls = matches!(case.kind, ProbeKind::Https(_));
    let server = Server::start(if is_inside { &container } else { &node }, is_tls)?;
    let containers = Arc::new(One(Arc::clone(&server.process)));
    let checks = NodeChecks::new(containers, Arc::new(NoContainers), Tls::default());
    let targets = targets(case, options);
    node.enter(|| {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        runtime.block_on(probe(case, options, Arc::new(checks), targets))
    })?
}

fn targets(case: &Case, options: &ProbesOptions) -> Targets {
    let probe = Arc::new(Probe {
        kind: case.kind.clone(),
        interval_ms: options.interval_ms,
        timeout_ms: options.interval_ms,
        initial_delay_ms: 0,
        rise: 1,
        fall: 3,
        place: case.place,
    });
    let target = |number: u32| {
        let [_, high, middle, low] = (number + 1).to_be_bytes();
        Arc::new(Target {
            key: [u64::from(number), 1],
            generation: 1,
            service: ServiceName("web".into()),
            display_name: String::new(),
            address: SocketAddr::from(([127, high, middle, low], PORT)),
            // Each is a container of its own; of one only few are probed at once.
            instance: format!("{number}@1"),
            probe: Some(Arc::clone(&probe)),
            reported: None,
            assumed: Health::Healthy,
            is_watched: true,
            is_routed: false,
        })
    };
    Arc::new(vec![Arc::new((0..case.targets).map(target).collect())])
}

async fn probe(
    case: &Case,
    options: &ProbesOptions,
    checks: Arc<NodeChecks>,
    targets: Targets,
) -> Result<()> {
    let stats = Arc::new(Stats::default());
    let (_sender, receiver) = watch::channel(targets);
    let (_observer, observations) = mpsc::channel(1);
    let (changes, mut found) = mpsc::channel(1024);
    let channels = HealthChannels {
        targets: receiver,
        observations,
        witness: Arc::new(NoWitness),
        changes,
        stats: Arc::clone(&stats),
    };
    tokio::spawn(health::run(checks, health::Settings::default(), channels));
    tokio::spawn(async move { while found.recv().await.is_some() {} });

    tokio::time::sleep(Duration::from_millis(options.interval_ms.into())).await;
    let (before, used_before, begun) = (stats.total(), used()?, Instant::now());
    tokio::time::sleep(Duration::from_secs(options.seconds)).await;
    let (after, used, seconds) =
        (stats.total(), used()?.saturating_sub(used_before), begun.elapsed().as_secs_f64());
    let wanted = f64::from(case.targets) * 1e3 / f64::from(options.interval_ms);
    let figures = Figures::new([&before, &after], used, seconds, wanted);
    let verdict = if case.has_goal { figures.verdict() } else { "-".to_owned() };
    println!("{:<22} {:>7} {} {verdict}", case.name, case.targets, figures.line());
    Ok(())
}

/// Processor time of this process so far.
fn used() -> Result<Duration> {
    let usage = getrusage(UsageWho::RUSAGE_SELF)?;
    let micros = |time: nix::sys::time::TimeVal| {
        Duration::from_secs(time.tv_sec().unsigned_abs())
            + Duration::from_micros(time.tv_usec().unsigned_abs())
    };
    Ok(micros(usage.user_time()) + micros(usage.system_time()))
}
