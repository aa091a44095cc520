//! A thread that makes sockets in network namespaces, thousands in a second.
//!
//! [`Namespace::run`] makes a thread for each visit, which is right for a look at a container and too
//! much for a probe of it. This one stays, and goes home before it waits, so that no namespace lives
//! on because of it. If it cannot go home it ends, and the next request starts another one.

use std::{
    io,
    os::fd::OwnedFd,
    sync::{Arc, Mutex, PoisonError},
    thread,
};

use tokio::sync::{mpsc, oneshot};

use super::{namespace::Namespace, process::Process};

/// Requests that wait; who asks for more waits to ask.
const REQUESTS_MAX: usize = 256;

/// Makes sockets in network namespaces.
#[derive(Debug, Default)]
pub struct SocketWorker {
    requests: Mutex<Option<mpsc::Sender<Request>>>,
}

#[derive(Debug)]
struct Request {
    process: Arc<Process>,
    is_v6: bool,
    answer: oneshot::Sender<io::Result<OwnedFd>>,
}

impl SocketWorker {
    /// A TCP socket that belongs to the namespace of a process, non-blocking and not connected yet:
    /// whoever connects it does so as if inside.
    pub async fn tcp_socket(&self, process: Arc<Process>, is_v6: bool) -> io::Result<OwnedFd> {
        let (answer, made) = oneshot::channel();
        let request = Request { process, is_v6, answer };
        let over = || io::Error::other("the thread that enters namespaces has ended");
        self.requests()?.send(request).await.map_err(|_request| over())?;
        made.await.map_err(|_dropped| over())?
    }

    /// Where to ask. Starts the thread where there is none.
    fn requests(&self) -> io::Result<mpsc::Sender<Request>> {
        let mut requests = self.requests.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(requests) = requests.as_ref().filter(|requests| !requests.is_closed()) {
            return Ok(requests.clone());
        }
        let (sender, receiver) = mpsc::channel(REQUESTS_MAX);
        let home = Namespace::own()?;
        thread::Builder::new()
            .name("lb-sockets".to_owned())
            .spawn(move || work(&home, receiver))?;
        *requests = Some(sender.clone());
        Ok(sender)
    }
}

/// Serves requests until nobody can make them, or the way home is lost.
fn work(home: &Namespace, mut requests: mpsc::Receiver<Request>) {
    while let Some(first) = requests.blocking_recv() {
        let mut next = Some(first);
        while let Some(Request { process, is_v6, answer }) = next {
            let made = Namespace::of(&process).and_then(|namespace| {
                namespace.enter()?;
                Namespace::tcp_socket_here(is_v6)
            });
            // Who asked may have given up.
            drop(answer.send(made));
            next = requests.try_recv().ok();
        }
        if let Err(error) = home.enter() {
            tracing::error!("cannot return to the node's network namespace: {error}");
            return;
        }
    }
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use super::*;

    #[tokio::test]
    async fn sockets_are_made_and_the_dead_are_errors() {
        let worker = SocketWorker::default();
        let mut child = Command::new("sleep").arg("60").spawn().expect("`sleep` starts");
        let process = Arc::new(Process::open(child.id()).expect("a child that runs"));
        let make = |is_v6| worker.tcp_socket(Arc::clone(&process), is_v6);
        // Entering a namespace, even one's own, takes privileges.
        if nix::unistd::geteuid().is_root() {
            make(false).await.expect("a socket");
            make(true).await.expect("a socket");
        } else {
            let _refused = make(false).await.expect_err("no privileges");
        }
        child.kill().expect("our own child");
        child.wait().expect("our own child");
        let error = make(false).await.expect_err("the process is gone");
        assert_eq!(error.kind(), io::ErrorKind::NotFound);
    }
}
