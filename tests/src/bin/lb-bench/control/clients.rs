//! Clients that connect all the time, and remember when and to whom.

use std::{
    io::{self, Read as _, Write as _},
    net::{SocketAddr, TcpStream},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use anyhow::{Result, ensure};
use lb_tests::{Namespace, process};
use nix::sys::socket::{setsockopt, sockopt};

/// A connection that takes longer was sent to somebody who does not answer.
pub(super) const PATIENCE: Duration = Duration::from_millis(600);
/// Clients at once, and the time between two connections of one of them.
#[derive(Clone, Copy)]
pub(super) struct Crowd {
    clients: u32,
    pause: Duration,
}

/// Enough where somebody who does not answer is rare.
pub(super) const FEW: Crowd = Crowd { clients: 6, pause: Duration::from_millis(8) };
/// As many connections, by so many that they go on coming while half of them wait for somebody who does
/// not answer.
pub(super) const MANY: Crowd = Crowd { clients: 64, pause: Duration::from_millis(100) };

/// A connection, or the attempt.
#[derive(Clone, Debug)]
pub(super) struct Attempt {
    pub(super) begun: Instant,
    pub(super) ended: Instant,
    /// Name of the container that answered; `None`: nobody did.
    pub(super) served_by: Option<String>,
}

/// Clients at work until this is dropped.
pub(super) struct Clients {
    shared: Arc<Shared>,
    threads: Vec<thread::JoinHandle<Result<()>>>,
}

#[derive(Default)]
struct Shared {
    attempts: Mutex<Vec<Attempt>>,
    is_over: AtomicBool,
}

impl Clients {
    pub(super) fn start(namespace: &Namespace, target: SocketAddr, crowd: Crowd) -> Self {
        let shared = Arc::new(Shared::default());
        let client = |number| {
            let (namespace, shared) = (namespace.borrowed(), Arc::clone(&shared));
            // One after the other, not all at once.
            let wait = crowd.pause / crowd.clients * number;
            thread::spawn(move || {
                thread::sleep(wait);
                namespace.enter(|| shared.work(target, crowd.pause))
            })
        };
        let threads = (0..crowd.clients).map(client).collect();
        Self { shared, threads }
    }

    /// What was tried since this was called last.
    pub(super) fn take(&self) -> Vec<Attempt> {
        std::mem::take(&mut self.shared.attempts())
    }

    /// Waits until somebody of this name has served a connection that began after `since`; the first
    /// one that did so.
    pub(super) fn wait_served(&self, name: &str, since: Instant) -> Result<Attempt> {
        let what = format!("a connection served by {name}");
        process::wait_for(&what, Duration::from_secs(20), || {
            let attempts = self.shared.attempts();
            let is_it = |it: &&Attempt| it.begun >= since && it.served_by.as_deref() == Some(name);
            let first = attempts.iter().filter(is_it).min_by_key(|attempt| attempt.ended).cloned();
            ensure!(first.is_some(), "the latest of {}: {:?}", attempts.len(), attempts.last());
            Ok(first)
        })?
        .ok_or_else(|| anyhow::anyhow!("nobody"))
    }

    /// How long after `moment` the last connection began that was not served by `other`: it was served
    /// by the one of the two that should get none, or by nobody; 0: there was none. What is still
    /// waiting for an answer does not count yet.
    pub(super) fn last_not_served_by(&self, other: &str, moment: Instant) -> Duration {
        let late = self.take().into_iter().filter(|attempt| {
            attempt.begun >= moment && attempt.served_by.as_deref() != Some(other)
        });
        late.map(|attempt| attempt.begun - moment).max().unwrap_or_default()
    }

    /// When connections began after `moment` that nobody answered, in order. What is still waiting for an
    /// answer does not count yet.
    pub(super) fn unanswered_since(&self, moment: Instant) -> Vec<Instant> {
        let is_it = |it: &Attempt| it.begun >= moment && it.served_by.is_none();
        let unanswered = self.take().into_iter().filter(is_it);
        let mut begun: Vec<Instant> = unanswered.map(|attempt| attempt.begun).collect();
        begun.sort();
        begun
    }
}

impl Drop for Clients {
    fn drop(&mut self) {
        self.shared.is_over.store(true, Ordering::Relaxed);
        for thread in self.threads.drain(..) {
            match thread.join() {
                Ok(Ok(())) => {}
                Ok(Err(error)) => eprintln!("a client: {error:#}"),
                Err(_panic) => eprintln!("a client panicked"),
            }
        }
    }
}

impl Shared {
    fn work(&self, target: SocketAddr, pause: Duration) {
        while !self.is_over.load(Ordering::Relaxed) {
            let begun = Instant::now();
            let served_by = fetch(target).ok().flatten();
            let ended = Instant::now();
            self.attempts().push(Attempt { begun, ended, served_by });
            thread::sleep(pause);
        }
    }

    fn attempts(&self) -> MutexGuard<'_, Vec<Attempt>> {
        self.attempts.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Who answers.
fn fetch(target: SocketAddr) -> io::Result<Option<String>> {
    let mut stream = TcpStream::connect_timeout(&target, PATIENCE)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    // Closed by RST, so that no thousands of sockets in TIME_WAIT stay behind.
    setsockopt(&stream, sockopt::Linger, &libc::linger { l_onoff: 1, l_linger: 0 })?;
    stream.write_all(b"GET / HTTP/1.0\r\n\r\n")?;
    let (mut answer, mut length) = ([0; 512], 0);
    while length < answer.len() {
        let count = stream.read(&mut answer[length..])?;
        length += count;
        let text = String::from_utf8_lossy(&answer[..length]);
        let name = text.split_once("name=").and_then(|(_, rest)| rest.split_once(' '));
        if let Some((name, _)) = name {
            return Ok(Some(name.to_owned()));
        }
        if count == 0 {
            break;
        }
    }
    Ok(None)
}
