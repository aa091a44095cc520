//! Clients of UDP: datagrams that `lb-testkit serve` sends back, checked byte for byte.

use std::{
    collections::BTreeMap,
    io,
    net::{Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket},
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, ensure};

use crate::namespace::Namespace;

/// An answer that takes longer will not come.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(2);

/// One answer.
#[derive(Clone, Debug)]
pub struct Echo {
    /// Who answered.
    pub name: String,
    /// The client's address as the server saw it.
    pub client: SocketAddr,
    /// Bytes that the server received.
    pub bytes: usize,
}

/// A socket that is connected to one server, so that it hears of errors.
#[derive(Debug)]
pub struct Datagrams {
    socket: UdpSocket,
    sent: u8,
}

impl Datagrams {
    /// Made in the namespace, with a source port of the caller's choice; 0: of the kernel's.
    pub fn connect(namespace: &Namespace, source_port: u16, target: SocketAddr) -> Result<Self> {
        let socket = namespace.enter(|| -> io::Result<UdpSocket> {
            let socket = if target.is_ipv4() {
                UdpSocket::bind((Ipv4Addr::UNSPECIFIED, source_port))
            } else {
                UdpSocket::bind((Ipv6Addr::UNSPECIFIED, source_port))
            }?;
            socket.set_read_timeout(Some(ANSWER_TIMEOUT))?;
            socket.connect(target)?;
            Ok(socket)
        })?;
        let socket = socket.with_context(|| format!("UDP from {source_port} to {target}"))?;
        Ok(Self { socket, sent: 0 })
    }

    /// Its own address.
    pub fn local(&self) -> Result<SocketAddr> {
        Ok(self.socket.local_addr()?)
    }

    /// Sends that many bytes and waits for them to come back: an answer with other bytes than were
    /// sent is an error, as is one that does not come.
    pub fn ask(&mut self, bytes: usize) -> Result<Echo> {
        self.sent = self.sent.wrapping_add(1);
        let out: Vec<u8> =
            (0..bytes).map(|index| (index as u8).wrapping_mul(7).wrapping_add(self.sent)).collect();
        self.socket.send(&out)?;
        let mut back = vec![0; 65_536];
        let length = self.socket.recv(&mut back)?;
        let back = &back[..length];
        let line_bytes = back.iter().position(|byte| *byte == b'\n').context("no line")? + 1;
        let line = std::str::from_utf8(&back[..line_bytes])?.trim_end();
        let field = |key: &str| {
            let found = line.split(' ').find_map(|word| word.strip_prefix(key)?.strip_prefix('='));
            found.with_context(|| format!("no {key} in `{line}`"))
        };
        let echo = Echo {
            name: field("name")?.to_owned(),
            client: field("client")?.parse()?,
            bytes: field("bytes")?.parse()?,
        };
        ensure!(echo.bytes == bytes, "the server got {} bytes of {bytes}", echo.bytes);
        let rest = out.get(line_bytes..).unwrap_or_default();
        ensure!(back[line_bytes..] == *rest, "{} came back with other bytes", echo.name);
        Ok(echo)
    }

    /// Sends something to where nobody should answer; the error that comes back, and when.
    pub fn refused(&self) -> Result<(io::Error, Duration)> {
        let begun = Instant::now();
        self.socket.send(b"anybody there?")?;
        let error = self.socket.recv(&mut [0; 64]).err().context("somebody answered")?;
        Ok((error, begun.elapsed()))
    }
}

/// What came back of a stream of datagrams.
#[derive(Clone, Copy, Debug)]
pub struct Rate {
    /// Datagrams that came back, per second.
    pub per_second: f64,
    /// Datagrams that were sent and did not come back.
    pub lost: u64,
    /// Datagrams that came back.
    pub returned: u64,
}

/// Sends small datagrams from 16 sockets for `time`, up to 16 of each under way, and counts those that
/// come back.
pub fn rate(namespace: &Namespace, target: SocketAddr, time: Duration) -> Result<Rate> {
    const SOCKETS: u64 = 16;
    const UNDER_WAY: u64 = 16;
    /// What takes longer is lost.
    const LOST_AFTER: Duration = Duration::from_millis(200);
    let connect = |_| Ok(Datagrams::connect(namespace, 0, target)?.socket);
    let sockets = (0..SOCKETS).map(connect).collect::<Result<Vec<UdpSocket>>>()?;
    for socket in &sockets {
        socket.set_read_timeout(Some(LOST_AFTER))?;
    }
    let (mut returned, mut lost) = (0, 0);
    let mut buffer = [0; 2048];
    let begun = Instant::now();
    while begun.elapsed() < time {
        for socket in &sockets {
            for _ in 0..UNDER_WAY {
                socket.send(&[0; 64])?;
            }
        }
        for socket in &sockets {
            let answers = (0..UNDER_WAY).take_while(|_| socket.recv(&mut buffer).is_ok()).count();
            returned += answers as u64;
            lost += UNDER_WAY - answers as u64;
        }
    }
    let per_second = returned as f64 / begun.elapsed().as_secs_f64();
    Ok(Rate { per_second, lost, returned })
}

/// One datagram of this size from each of `count` sockets; how many answers each server gave.
pub fn spread(
    namespace: &Namespace,
    target: SocketAddr,
    count: u32,
    bytes: usize,
) -> Result<BTreeMap<String, u32>> {
    let mut names = BTreeMap::new();
    for index in 0..count {
        let mut socket = Datagrams::connect(namespace, 0, target)?;
        let echo = socket.ask(bytes).with_context(|| format!("{index} of {count} to {target}"))?;
        ensure!(echo.client.port() == socket.local()?.port(), "the server saw {}", echo.client);
        *names.entry(echo.name).or_default() += 1;
    }
    Ok(names)
}
