//! Clients: `lb-testkit` in a namespace, run to its end or in the background.

use std::{
    collections::BTreeMap,
    io::{BufRead as _, BufReader, Read, Write as _},
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpStream},
    os::fd::AsRawFd as _,
    process::{Child, ChildStdin, Command, Stdio},
    sync::mpsc::{self, Receiver},
    thread,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use anyhow::{Context as _, Result, bail, ensure};
use nix::sys::{
    socket::{self, AddressFamily, SockFlag, SockType, SockaddrStorage, sockopt},
    time::TimeVal,
};
use serde::Deserialize;

use crate::{binaries, namespace::Namespace, process};

/// One answered request.
#[derive(Clone, Debug, Deserialize)]
pub struct Answer {
    /// When it was sent, in milliseconds since the epoch.
    pub at_ms: f64,
    /// How long it took.
    pub took_ms: f64,
    /// Who answered.
    pub name: String,
    /// The client's address as the server saw it.
    pub client: SocketAddr,
    /// The server's own address as it saw it.
    pub local: SocketAddr,
}

/// One request, or stream, that failed.
#[derive(Clone, Debug, Deserialize)]
pub struct Failure {
    /// When the request was sent, or the stream broke, in milliseconds since the epoch.
    pub at_ms: f64,
    /// What happened.
    pub error: String,
    /// The server of a stream.
    #[serde(default)]
    pub name: String,
}

/// What a client counted. Fields that its subcommand does not have are zero.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub struct Summary {
    /// Requests sent.
    pub sent: u64,
    /// Requests answered.
    pub ok: u64,
    /// Requests, or streams, that failed.
    pub failed: u64,
    /// Requests sent late, as the machine was busy.
    pub late: u64,
    /// Median time of a request.
    pub p50_ms: f64,
    /// 99th percentile.
    pub p99_ms: f64,
    /// Slowest request or round trip.
    pub worst_ms: f64,
    /// Round trips over all streams.
    pub round_trips: u64,
    /// Requests, or streams, by who served them.
    pub by_name: BTreeMap<String, u64>,
    /// Bulk: `up` or `down`.
    pub direction: String,
    /// Bulk: bytes.
    pub bytes: u64,
    /// Bulk: rate.
    pub gbit_per_second: f64,
    /// Bulk: sum, where it arrived whole.
    pub sum: String,
    /// Bulk: what went wrong.
    pub error: String,
}

/// All that a client printed.
#[derive(Clone, Debug, Default)]
pub struct Report {
    /// Requests that were answered, with `--each`.
    pub answers: Vec<Answer>,
    /// Servers of the streams that were connected.
    pub connected: Vec<String>,
    /// Everything that failed.
    pub failures: Vec<Failure>,
    /// The figures; for bulk one for each direction.
    pub summaries: Vec<Summary>,
}

impl Report {
    /// The figures of a client that ran to its end.
    pub fn summary(&self) -> Result<&Summary> {
        self.summaries.last().context("the client ended without a summary")
    }

    /// An error that shows the first failures, if there are any.
    pub fn check(&self) -> Result<&Summary> {
        let summary = self.summary()?;
        let failed = summary.failed > 0 || self.summaries.iter().any(|part| !part.error.is_empty());
        ensure!(
            self.failures.is_empty() && !failed,
            "{} failures, the first: {:#?}\n{:#?}",
            self.failures.len(),
            &self.failures[..self.failures.len().min(5)],
            self.summaries
        );
        Ok(summary)
    }

    fn take(&mut self, line: &str) -> Result<()> {
        let value: serde_json::Value =
            serde_json::from_str(line).with_context(|| format!("client printed `{line}`"))?;
        if let Some(summary) = value.get("summary") {
            self.summaries.push(serde_json::from_value(summary.clone())?);
        } else if let Some(name) = value.get("connected") {
            self.connected.push(name.as_str().unwrap_or("?").to_owned());
        } else if value.get("error").is_some() {
            self.failures.push(serde_json::from_value(value)?);
        } else if value.get("took_ms").is_some() {
            self.answers.push(serde_json::from_value(value)?);
        }
        Ok(())
    }
}

/// Milliseconds since the epoch, as clients count.
#[must_use]
pub fn now_ms() -> f64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs_f64() * 1e3
}

/// Runs a client to its end, whatever its exit status.
pub fn run_command(mut command: Command) -> Result<Report> {
    let output = command.stdin(Stdio::null()).output()?;
    let mut report = Report::default();
    for line in String::from_utf8_lossy(&output.stdout).lines() {
        report.take(line)?;
    }
    if report.summaries.is_empty() {
        bail!("client failed: {}", String::from_utf8_lossy(&output.stderr));
    }
    Ok(report)
}

impl Namespace {
    /// `lb-testkit` with these words in the namespace.
    pub fn testkit(&self, words: &str) -> Result<Command> {
        let mut command = self.command(binaries::testkit()?);
        command.args(words.split_whitespace());
        Ok(command)
    }

    /// Requests one after the other, each reported.
    pub fn fetch(&self, target: SocketAddr, count: u32) -> Result<Report> {
        run_command(self.testkit(&format!("fetch --each --target {target} --count {count}"))?)
    }

    /// One request; who answered and what it saw.
    pub fn fetch_one(&self, target: SocketAddr) -> Result<Answer> {
        let report = self.fetch(target, 1)?;
        if let Some(failure) = report.failures.first() {
            bail!("{target}: {}", failure.error);
        }
        report.answers.into_iter().next().context("no answer and no failure")
    }

    /// One request from a source port of the caller's choice; who answered.
    pub fn fetch_from(&self, source_port: u16, target: SocketAddr) -> Result<String> {
        let answer = self.enter(|| request_from(source_port, target))?;
        let answer = answer.with_context(|| format!("from port {source_port} to {target}"))?;
        let name = answer.split_whitespace().find_map(|word| word.strip_prefix("name="));
        Ok(name.with_context(|| format!("answer `{answer}`"))?.to_owned())
    }

    /// A connection from a source port of the caller's choice.
    pub fn connect_from(&self, source_port: u16, target: SocketAddr) -> Result<TcpStream> {
        let connected = self.enter(|| connect_from(source_port, target))?;
        connected.with_context(|| format!("from port {source_port} to {target}"))
    }

    /// A server in the namespace, named after it.
    pub fn serve(&self, port: u16) -> Result<Server> {
        self.serve_as(self.name(), port)
    }

    /// A server with a name of its own.
    pub fn serve_as(&self, name: &str, port: u16) -> Result<Server> {
        let mut command = self.testkit(&format!("serve --port {port} --name {name}"))?;
        let server = command.stdin(Stdio::null()).stdout(Stdio::null()).spawn()?;
        let server = Server(server);
        let local = SocketAddr::from(([127, 0, 0, 1], port));
        process::wait_for("the server", Duration::from_secs(5), || {
            self.fetch_one(local).map(|_| ())
        })?;
        Ok(server)
    }

    /// Connections from here on come from these ports.
    pub fn choose_ports(&self, first: u16, last: u16) -> Result<()> {
        let words = format!("net.ipv4.ip_local_port_range={first} {last}");
        process::run(self.command("sysctl").args(["-qw", &words])).map(|_| ())
    }

    /// Bytes up and down, summed at the far end.
    pub fn bulk(&self, target: SocketAddr, bytes: u64) -> Result<Report> {
        run_command(self.testkit(&format!("bulk --target {target} --bytes {bytes}"))?)
    }

    /// Requests at a fixed rate until [`Load::finish`].
    pub fn requests(&self, target: SocketAddr, rate: u32) -> Result<Load> {
        let words = format!("fetch --each --until-eof --target {target} --rate {rate}");
        Load::start(self.testkit(&words)?)
    }

    /// The same by clients who wait until their second and third SYN is answered.
    pub fn patient_requests(&self, target: SocketAddr, rate: u32) -> Result<Load> {
        let words =
            format!("fetch --each --until-eof --target {target} --rate {rate} --timeout-ms 10000");
        Load::start(self.testkit(&words)?)
    }

    /// Such streams that send a frame at each interval only, all connected.
    pub fn slow_streams(
        &self,
        target: SocketAddr,
        count: usize,
        interval: Duration,
    ) -> Result<Load> {
        let interval_ms = interval.as_millis();
        let mut load = Load::start(self.testkit(&format!(
            "streams --until-eof --target {target} --count {count} --interval-ms {interval_ms}"
        ))?)?;
        load.wait_until("streams", Duration::from_secs(20), |it| it.connected.len() == count)?;
        Ok(load)
    }

    /// Checked long-lived streams until [`Load::finish`].
    pub fn streams(&self, target: SocketAddr, count: u32) -> Result<Load> {
        let words = format!("streams --until-eof --target {target} --count {count}");
        Load::start(self.testkit(&words)?)
    }
}

/// `GET /` by hand, since the source port has to be chosen before connecting.
fn request_from(source_port: u16, target: SocketAddr) -> Result<String> {
    let mut stream = connect_from(source_port, target)?;
    stream.write_all(b"GET / HTTP/1.1\r\n\r\n")?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    Ok(answer)
}

/// A connection from this port, which closes by a reset so that the port is free again at once.
fn connect_from(source_port: u16, target: SocketAddr) -> Result<TcpStream> {
    let family = if target.is_ipv4() { AddressFamily::Inet } else { AddressFamily::Inet6 };
    let socket = socket::socket(family, SockType::Stream, SockFlag::SOCK_CLOEXEC, None)?;
    let timeout = TimeVal::new(2, 0);
    socket::setsockopt(&socket, sockopt::ReuseAddr, &true)?;
    socket::setsockopt(&socket, sockopt::SendTimeout, &timeout)?;
    socket::setsockopt(&socket, sockopt::ReceiveTimeout, &timeout)?;
    let unspecified = match target {
        SocketAddr::V4(_) => IpAddr::V4(Ipv4Addr::UNSPECIFIED),
        SocketAddr::V6(_) => IpAddr::V6(Ipv6Addr::UNSPECIFIED),
    };
    let source = SockaddrStorage::from(SocketAddr::new(unspecified, source_port));
    socket::bind(socket.as_raw_fd(), &source)?;
    socket::connect(socket.as_raw_fd(), &SockaddrStorage::from(target))?;
    socket::setsockopt(&socket, sockopt::Linger, &libc::linger { l_onoff: 1, l_linger: 0 })?;
    Ok(TcpStream::from(socket))
}

/// A server in a namespace; killed on drop.
#[derive(Debug)]
pub struct Server(Child);

impl Drop for Server {
    fn drop(&mut self) {
        process::signal(&self.0, nix::sys::signal::Signal::SIGKILL);
        process::wait_child(&mut self.0, Duration::from_secs(2));
    }
}

/// A client in the background.
#[derive(Debug)]
pub struct Load {
    child: Child,
    input: Option<ChildStdin>,
    lines: Receiver<String>,
    report: Report,
}

impl Load {
    /// Starts it.
    pub fn start(mut command: Command) -> Result<Self> {
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn()?;
        let input = child.stdin.take();
        let output = child.stdout.take().context("no output")?;
        let (sender, lines) = mpsc::channel();
        thread::spawn(move || read_lines(output, &sender));
        Ok(Self { child, input, lines, report: Report::default() })
    }

    /// What it reported so far.
    pub fn so_far(&mut self) -> Result<&Report> {
        while let Ok(line) = self.lines.try_recv() {
            self.report.take(&line)?;
        }
        Ok(&self.report)
    }

    /// Waits until the reports so far satisfy the condition.
    pub fn wait_until(
        &mut self,
        what: &str,
        limit: Duration,
        is_so: impl Fn(&Report) -> bool,
    ) -> Result<()> {
        process::wait_for(what, limit, || {
            ensure!(is_so(self.so_far()?), "not yet");
            Ok(())
        })
    }

    /// Tells it to stop, and takes its report.
    pub fn finish(mut self) -> Result<Report> {
        drop(self.input.take());
        ensure!(process::wait_child(&mut self.child, Duration::from_secs(20)), "client hangs");
        while let Ok(line) = self.lines.recv_timeout(Duration::from_secs(5)) {
            self.report.take(&line)?;
        }
        Ok(std::mem::take(&mut self.report))
    }
}

fn read_lines(output: impl Read, sender: &mpsc::Sender<String>) {
    for line in BufReader::new(output).lines().map_while(Result::ok) {
        if sender.send(line).is_err() {
            return;
        }
    }
}

impl Drop for Load {
    fn drop(&mut self) {
        drop(self.input.take());
        process::wait_child(&mut self.child, Duration::from_millis(500));
    }
}
