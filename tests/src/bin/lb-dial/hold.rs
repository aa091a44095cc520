//! Many sockets that only wait: when and how they end, and whether the others still serve.

use std::{
    io::{self, Read as _, Write as _},
    net::{SocketAddr, TcpStream, UdpSocket},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use anyhow::{Context as _, Result};
use nix::sys::resource::{Resource, getrlimit, setrlimit};

use crate::calls;

/// How many are asked in the end.
const ASKED_MAX: usize = 200;

/// What waits.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    /// A connection.
    Stream,
    /// A connected socket of UDP.
    Datagrams,
}

enum Socket {
    Stream(TcpStream),
    Datagrams(UdpSocket),
}

/// Opens so many, says `open`, and then of each that ends how and when, until nobody writes to the
/// standard input any more; then `alive=N`, and of some of those how many answer: `answered=N`.
pub(crate) fn run(kind: Kind, target: SocketAddr, count: usize) -> Result<()> {
    let (_, hard) = getrlimit(Resource::RLIMIT_NOFILE)?;
    setrlimit(Resource::RLIMIT_NOFILE, hard, hard)?;
    let mut sockets = Vec::with_capacity(count);
    for number in 0..count {
        let socket = Socket::open(kind, target).with_context(|| format!("socket {number}"))?;
        sockets.push(socket);
    }
    println!("open");
    io::stdout().flush()?;
    let is_over = Arc::new(AtomicBool::new(false));
    let shared = Arc::clone(&is_over);
    thread::spawn(move || {
        // However the input ends, it is over.
        drop(io::copy(&mut io::stdin(), &mut io::sink()));
        shared.store(true, Ordering::Relaxed);
    });
    while !is_over.load(Ordering::Relaxed) {
        sockets.retain(|socket| match socket.end() {
            None => true,
            Some(how) => {
                println!("ended={how} at_ms={}", now_ms());
                false
            }
        });
        io::stdout().flush()?;
        thread::sleep(Duration::from_millis(5));
    }
    println!("alive={}", sockets.len());
    let answers = sockets.into_iter().take(ASKED_MAX).filter_map(|socket| socket.ask().ok());
    println!("answered={}", answers.count());
    Ok(())
}

impl Socket {
    fn open(kind: Kind, target: SocketAddr) -> io::Result<Self> {
        Ok(match kind {
            Kind::Stream => {
                let stream = TcpStream::connect(target)?;
                stream.set_nonblocking(true)?;
                Self::Stream(stream)
            }
            Kind::Datagrams => {
                let socket = calls::udp_socket(target)?;
                socket.connect(target)?;
                socket.set_nonblocking(true)?;
                Self::Datagrams(socket)
            }
        })
    }

    /// How it has ended, if it has.
    fn end(&self) -> Option<i32> {
        let mut buffer = [0; 64];
        let read = match self {
            Self::Stream(stream) => (&*stream).read(&mut buffer),
            // An empty datagram is no end.
            Self::Datagrams(socket) => socket.recv(&mut buffer).map(|length| length.max(1)),
        };
        match read {
            Ok(0) => Some(0),
            Ok(_) => None,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => None,
            Err(error) => Some(error.raw_os_error().unwrap_or(-1)),
        }
    }

    fn ask(self) -> io::Result<String> {
        match self {
            Self::Stream(stream) => {
                stream.set_nonblocking(false)?;
                let answer = calls::ask(stream, true)?;
                // A connection that ends without a word has not answered.
                if answer.contains("name=") { Ok(answer) } else { Err(io::Error::other(answer)) }
            }
            Self::Datagrams(socket) => {
                socket.set_nonblocking(false)?;
                calls::exchange(&socket)
            }
        }
    }
}

fn now_ms() -> u128 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_millis()
}
