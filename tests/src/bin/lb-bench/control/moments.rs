//! When Docker says that something happened.

use std::{
    io::{BufRead as _, BufReader},
    process::{Child, Stdio},
    sync::{Arc, Mutex, PoisonError},
    thread,
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use anyhow::{Context as _, Result};
use lb_tests::{Docker, process};

/// Follows the events of a daemon until this is dropped.
pub(super) struct Moments {
    child: Child,
    events: Arc<Mutex<Vec<Event>>>,
}

#[derive(Clone, Debug)]
struct Event {
    action: String,
    container: String,
    /// By the clock of the daemon, which is ours.
    at: Duration,
}

impl Moments {
    pub(super) fn follow(docker: &Docker) -> Result<Self> {
        let format = "{{.Action}} {{.Actor.Attributes.name}} {{.TimeNano}}";
        let mut command = docker.command();
        command.args(["events", "--filter", "type=container", "--format", format]);
        let mut child = command.stdin(Stdio::null()).stdout(Stdio::piped()).spawn()?;
        let output = child.stdout.take().context("its output")?;
        let events = Arc::new(Mutex::new(Vec::new()));
        let shared = Arc::clone(&events);
        thread::spawn(move || {
            for line in BufReader::new(output).lines().map_while(Result::ok) {
                if let Some(event) = parse(&line) {
                    shared.lock().unwrap_or_else(PoisonError::into_inner).push(event);
                }
            }
        });
        Ok(Self { child, events })
    }

    /// Forgets what has happened.
    pub(super) fn clear(&self) {
        self.events.lock().unwrap_or_else(PoisonError::into_inner).clear();
    }

    /// Waits until this has happened; when it did.
    pub(super) fn wait(&self, action: &str, container: &str) -> Result<Instant> {
        let what = format!("Docker's event `{action}` of {container}");
        let at = process::wait_for(&what, Duration::from_secs(20), || {
            let events = self.events.lock().unwrap_or_else(PoisonError::into_inner);
            let mut events = events.iter();
            let event = events.find(|it| it.action == action && it.container == container);
            event.map(|event| event.at).context("not yet")
        })?;
        let ago = wall_clock().saturating_sub(at);
        Instant::now().checked_sub(ago).context("before the machine was started")
    }
}

impl Drop for Moments {
    fn drop(&mut self) {
        self.child.kill().ok();
        self.child.wait().ok();
    }
}

fn parse(line: &str) -> Option<Event> {
    let mut words = line.split(' ');
    let (action, container) = (words.next()?.to_owned(), words.next()?.to_owned());
    Some(Event { action, container, at: Duration::from_nanos(words.next()?.parse().ok()?) })
}

fn wall_clock() -> Duration {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default()
}
