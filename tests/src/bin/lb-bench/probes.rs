//! What probing costs: the prober of the agent, with thousands of targets, as processor time.
//!
//! The servers run in a process of their own, so that only the prober is counted. The kernel's work
//! on a loopback connection is done by whoever sends, which is mostly the prober.

use std::{
    net::{Ipv4Addr, SocketAddr},
    process::{Child, Stdio},
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result};
use clap::Args;
use lb_agent::{
    health::{
        self, HealthChannels, NoWitness, Target, Targets,
        check::{Containers, NoContainers, NodeChecks, Tls},
        stats::{BUCKETS_MS, Histogram, Stats},
        tracker::Health,
    },
    model::{HttpProbe, Probe, ProbeKind, ProbePlace, ServiceName},
    netlink::Process,
};
use lb_tests::Namespace;
use nix::sys::resource::{UsageWho, getrusage};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpListener,
    sync::{mpsc, watch},
};

/// Port of the server.
const PORT: u16 = 9000;
/// What it answers.
const ANSWER: &[u8] = b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nok\n";

/// Options of `probes`.
#[derive(Args)]
pub(crate) struct ProbesOptions {
    /// Backends that are probed.
    #[arg(long, default_value_t = 10_000)]
    targets: u32,
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
}

/// Measures every kind.
pub(crate) fn run(options: &ProbesOptions) -> Result<()> {
    println!("{} targets, every {} ms", options.targets, options.interval_ms);
    println!(
        "{:<22} {:>9} {:>8} {:>8} {:>9} {:>11} {:>12} {:>12}",
        "kind", "probes/s", "failed", "lost", "% of core", "us/probe", "p99 time", "p99 lateness"
    );
    let tcp = || ProbeKind::Tcp { port: None };
    let http = HttpProbe { expect_body: Some("ok".to_owned()), ..HttpProbe::default() };
    for case in [
        Case { name: "tcp, node", kind: tcp(), place: ProbePlace::Node },
        Case { name: "http, node", kind: ProbeKind::Http(http), place: ProbePlace::Node },
        Case { name: "tcp, in the container", kind: tcp(), place: ProbePlace::Container },
    ] {
        measure(&case, options)?;
    }
    Ok(())
}

/// The server, in a process of its own: `lb-bench probe-server`.
pub(crate) fn serve() -> Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        let listener = TcpListener::bind((Ipv4Addr::UNSPECIFIED, PORT)).await?;
        println!("ready");
        loop {
            let (mut connection, _) = listener.accept().await?;
            tokio::spawn(async move {
                let mut request = [0; 1024];
                // Ready for another request, until the prober resets the connection.
                while let Ok(1..) = connection.read(&mut request).await {
                    let _sent = connection.write_all(ANSWER).await;
                }
            });
        }
    })
}

/// The server as a child; its process is the container's.
struct Server {
    child: Child,
    process: Arc<Process>,
}

impl Server {
    fn start(namespace: &Namespace) -> Result<Self> {
        let mut command = namespace.command(std::env::current_exe()?);
        let mut child = command.arg("probe-server").stdout(Stdio::piped()).spawn()?;
        let mut output = child.stdout.take().context("its output")?;
        std::io::Read::read_exact(&mut output, &mut [0; 5]).context("the server does not start")?;
        let process = Arc::new(Process::open(child.id())?);
        Ok(Self { child, process })
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.child.kill().ok();
        self.child.wait().ok();
    }
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
    let server = Server::start(if is_inside { &container } else { &node })?;
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
    Arc::new(vec![Arc::new((0..options.targets).map(target).collect())])
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

    let ended = |(total, _): &(health::stats::ProbeStats, _)| {
        total.passed + total.failed + total.inconclusive
    };
    let probes = ended(&after) - ended(&before);
    println!(
        "{:<22} {:>9.0} {:>8} {:>8} {:>9.1} {:>11.1} {:>12} {:>12}",
        case.name,
        probes as f64 / seconds,
        after.0.failed,
        after.0.inconclusive,
        used.as_secs_f64() / seconds * 100.0,
        used.as_secs_f64() * 1e6 / probes as f64,
        p99(&after.0.durations),
        p99(&after.1.lateness),
    );
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

/// The bucket that 99 of 100 do not exceed.
fn p99(histogram: &Histogram) -> String {
    let total: u64 = histogram.buckets.iter().sum();
    let mut sum = 0;
    for (bucket, bound) in histogram.buckets.iter().zip(BUCKETS_MS) {
        sum += bucket;
        if sum * 100 >= total * 99 {
            return format!("<= {bound} ms");
        }
    }
    "more".to_owned()
}
