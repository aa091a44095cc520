//! When Docker says that something happened, and when that is heard.
//!
//! Heard by a connection of our own to the daemon's socket, as the agent's is.

use std::{
    io::{BufRead as _, BufReader, Write as _},
    os::unix::net::UnixStream,
    sync::{Arc, Mutex, PoisonError},
    thread,
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use anyhow::{Context as _, Result};
use lb_tests::{Docker, process};
use serde_json::Value;

/// Of containers, as JSON, one a line.
const REQUEST: &str = "GET /events?filters=%7B%22type%22%3A%5B%22container%22%5D%7D HTTP/1.1\r\n\
                       host: docker\r\n\r\n";

/// Follows the events of a daemon until this is dropped.
pub(super) struct Moments {
    stream: UnixStream,
    events: Arc<Mutex<Vec<Event>>>,
}

/// When something happened.
#[derive(Clone, Copy)]
pub(super) struct Moment {
    /// As Docker dates it.
    pub(super) said: Instant,
    /// When we heard of it.
    pub(super) heard: Instant,
}

#[derive(Clone, Debug)]
struct Event {
    action: String,
    container: String,
    /// By the clock of the daemon, which is ours.
    at: Duration,
    heard: Instant,
}

impl Moments {
    pub(super) fn follow(docker: &Docker) -> Result<Self> {
        let mut stream = UnixStream::connect(docker.socket()).context("Docker's socket")?;
        stream.write_all(REQUEST.as_bytes())?;
        let input = BufReader::new(stream.try_clone()?);
        let events = Arc::new(Mutex::new(Vec::new()));
        let shared = Arc::clone(&events);
        thread::spawn(move || {
            // Lengths of chunks stand between the events.
            for line in input.lines().map_while(Result::ok) {
                let heard = Instant::now();
                if let Some(event) = parse(&line, heard) {
                    shared.lock().unwrap_or_else(PoisonError::into_inner).push(event);
                }
            }
        });
        Ok(Self { stream, events })
    }

    /// Forgets what has happened.
    pub(super) fn clear(&self) {
        self.events.lock().unwrap_or_else(PoisonError::into_inner).clear();
    }

    /// Waits until this has happened; when it did.
    pub(super) fn wait(&self, action: &str, container: &str) -> Result<Moment> {
        let what = format!("Docker's event `{action}` of {container}");
        let (at, heard) = process::wait_for(&what, Duration::from_secs(20), || {
            let events = self.events.lock().unwrap_or_else(PoisonError::into_inner);
            let mut events = events.iter();
            let event = events.find(|it| it.action == action && it.container == container);
            event.map(|event| (event.at, event.heard)).context("not yet")
        })?;
        let ago = wall_clock().saturating_sub(at);
        let said = Instant::now().checked_sub(ago).context("before the machine was started")?;
        Ok(Moment { said, heard })
    }
}

impl Drop for Moments {
    fn drop(&mut self) {
        // So that the thread ends.
        self.stream.shutdown(std::net::Shutdown::Both).ok();
    }
}

fn parse(line: &str, heard: Instant) -> Option<Event> {
    let event: Value = serde_json::from_str(line).ok()?;
    let text = |value: &Value| Some(value.as_str()?.to_owned());
    Some(Event {
        action: text(&event["Action"])?,
        container: text(&event["Actor"]["Attributes"]["name"])?,
        at: Duration::from_nanos(event["timeNano"].as_u64()?),
        heard,
    })
}

fn wall_clock() -> Duration {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default()
}
