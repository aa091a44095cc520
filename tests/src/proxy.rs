//! A socket between the agent and Docker that can misbehave on demand.
//!
//! Only for what a real daemon cannot be made to do: an empty listing, garbage, silence. Whatever a
//! real daemon can do (stop, restart, be killed) is done to a real daemon.

use std::{
    io::{self, Read as _, Write as _},
    net::Shutdown,
    os::unix::net::{UnixListener, UnixStream},
    path::{Path, PathBuf},
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::Duration,
};

use anyhow::Result;

/// How late the answers are of a daemon that is slow.
pub const SLOWNESS: Duration = Duration::from_secs(2);

/// How the proxy answers.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Fault {
    /// As the daemon does.
    None,
    /// Connections are closed at once.
    Refuse,
    /// `[]` for listings of containers; else as the daemon does.
    EmptyListing,
    /// Nobody is told of events; else as the daemon does.
    NoEvents,
    /// Networks are said not to masquerade; else as the daemon does.
    OpenNetworks,
    /// Something that is no HTTP.
    Garbage,
    /// HTTP around something that is no JSON.
    GarbageBody,
    /// An error of the server.
    ServerError,
    /// Nothing, for ever.
    Silence,
    /// As the daemon does, but every answer and every event comes late and in small pieces.
    Slow,
}

#[derive(Debug)]
struct Shared {
    fault: Mutex<Fault>,
    open: Mutex<Vec<UnixStream>>,
    ended: AtomicBool,
    upstream: PathBuf,
}

/// The proxy; ends on drop.
#[derive(Debug)]
pub struct Proxy {
    socket: PathBuf,
    shared: Arc<Shared>,
}

impl Proxy {
    /// Listens at `socket` for the daemon at `upstream`.
    pub fn start(socket: PathBuf, upstream: &Path) -> Result<Self> {
        let listener = UnixListener::bind(&socket)?;
        let shared = Arc::new(Shared {
            fault: Mutex::new(Fault::None),
            open: Mutex::new(Vec::new()),
            ended: AtomicBool::new(false),
            upstream: upstream.to_owned(),
        });
        let accepting = Arc::clone(&shared);
        thread::spawn(move || {
            for client in listener.incoming().map_while(Result::ok) {
                if accepting.ended.load(Ordering::Relaxed) {
                    return;
                }
                let shared = Arc::clone(&accepting);
                thread::spawn(move || {
                    let served = shared.serve(&client);
                    // `open` has another handle of it, so that dropping it would not close it.
                    drop(client.shutdown(Shutdown::Both));
                    if let Err(error) = served {
                        // Expected whenever connections are cut; shown with a failing test.
                        println!("proxy: {error}");
                    }
                });
            }
        });
        Ok(Self { socket, shared })
    }

    /// Where it listens.
    #[must_use]
    pub fn socket(&self) -> &Path {
        &self.socket
    }

    /// Misbehaves from now on; connections that are open are cut.
    pub fn set(&self, fault: Fault) {
        *self.shared.fault.lock().unwrap_or_else(PoisonError::into_inner) = fault;
        self.shared.cut();
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.shared.ended.store(true, Ordering::Relaxed);
        self.shared.cut();
        // Wakes the listener.
        drop(UnixStream::connect(&self.socket));
    }
}

impl Shared {
    fn cut(&self) {
        for stream in self.open.lock().unwrap_or_else(PoisonError::into_inner).drain(..) {
            // Closed already: fine.
            drop(stream.shutdown(Shutdown::Both));
        }
    }

    fn remember(&self, stream: &UnixStream) -> io::Result<()> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner).push(stream.try_clone()?);
        Ok(())
    }

    fn serve(&self, mut client: &UnixStream) -> io::Result<()> {
        self.remember(client)?;
        let fault = *self.fault.lock().unwrap_or_else(PoisonError::into_inner);
        let answer = match fault {
            Fault::None => return self.pass(client, &[], copy),
            Fault::Slow => return self.pass(client, &[], trickle),
            Fault::EmptyListing => return self.filter(client),
            Fault::NoEvents => return self.without_events(client),
            Fault::OpenNetworks => return self.open_networks(client),
            Fault::Refuse => return Ok(()),
            Fault::Silence => {
                thread::sleep(Duration::from_mins(10));
                return Ok(());
            }
            Fault::Garbage => b"\x16\x03\x01 this is no HTTP\r\n\r\n".to_vec(),
            Fault::GarbageBody => response("200 OK", "[{\"Id\": 17, \"Labels\": [[["),
            Fault::ServerError => {
                response("500 Internal Server Error", "{\"message\":\"out of order\"}")
            }
        };
        read_head(client)?;
        client.write_all(&answer)
    }

    /// Joins the client with the daemon, after what was read from the client already.
    fn pass(&self, client: &UnixStream, head: &[u8], answer: Answer) -> io::Result<()> {
        let mut daemon = UnixStream::connect(&self.upstream)?;
        self.remember(&daemon)?;
        daemon.write_all(head)?;
        let (mut from, mut to) = (client.try_clone()?, daemon.try_clone()?);
        let up = thread::spawn(move || {
            drop(io::copy(&mut from, &mut to));
            drop(to.shutdown(Shutdown::Write));
        });
        drop(answer(&mut daemon, &mut client.try_clone()?));
        drop(client.shutdown(Shutdown::Both));
        drop(up.join());
        Ok(())
    }

    /// One request: passed, on a connection of its own; in the answer networks do not masquerade.
    fn open_networks(&self, mut client: &UnixStream) -> io::Result<()> {
        let head = String::from_utf8_lossy(&read_head(client)?).into_owned();
        if head.contains("/events") {
            return self.pass(client, head.as_bytes(), copy);
        }
        let mut daemon = UnixStream::connect(&self.upstream)?;
        self.remember(&daemon)?;
        daemon.write_all(head.replacen("\r\n", "\r\nConnection: close\r\n", 1).as_bytes())?;
        let mut answer = Vec::new();
        daemon.read_to_end(&mut answer)?;
        let [yes, no] = MASQUERADES;
        client.write_all(String::from_utf8_lossy(&answer).replace(yes, no).as_bytes())
    }

    /// One request: passed, on a connection of its own, unless it is for events.
    fn without_events(&self, client: &UnixStream) -> io::Result<()> {
        let head = String::from_utf8_lossy(&read_head(client)?).into_owned();
        if head.contains("/events") {
            return Ok(());
        }
        let closing = head.replacen("\r\n", "\r\nConnection: close\r\n", 1);
        self.pass(client, closing.as_bytes(), copy)
    }

    /// One request: a listing is answered here, anything else passes, on a connection of its own.
    fn filter(&self, mut client: &UnixStream) -> io::Result<()> {
        let head = String::from_utf8_lossy(&read_head(client)?).into_owned();
        let line = head.lines().next().unwrap_or_default();
        if line.contains("/containers/json") {
            return client.write_all(&response("200 OK", "[]\n"));
        }
        let closing = head.replacen("\r\n", "\r\nConnection: close\r\n", 1);
        self.pass(client, closing.as_bytes(), copy)
    }
}

/// How answers get from the daemon to the client.
type Answer = fn(&mut UnixStream, &mut UnixStream) -> io::Result<()>;

fn copy(from: &mut UnixStream, to: &mut UnixStream) -> io::Result<()> {
    io::copy(from, to).map(drop)
}

fn trickle(from: &mut UnixStream, to: &mut UnixStream) -> io::Result<()> {
    const PIECE: usize = 200;
    let mut buffer = [0; 8 * 1024];
    loop {
        // A read after a pause, so that what belongs together is late once.
        from.set_nonblocking(true)?;
        let mut length = from.read(&mut buffer);
        from.set_nonblocking(false)?;
        if matches!(&length, Err(error) if error.kind() == io::ErrorKind::WouldBlock) {
            length = from.read(&mut buffer);
            thread::sleep(SLOWNESS);
        }
        let length = length?;
        if length == 0 {
            return Ok(());
        }
        for piece in buffer[..length].chunks(PIECE) {
            to.write_all(piece)?;
            thread::sleep(Duration::from_millis(1));
        }
    }
}

/// What a network that masquerades says of it, and one that does not, in as many bytes.
const MASQUERADES: [&str; 2] =
    ["bridge.enable_ip_masquerade\":\"true\"", "bridge.enable_ip_masquerade\":\"0\"   "];

fn response(status: &str, body: &str) -> Vec<u8> {
    let length = body.len();
    format!(
        "HTTP/1.1 {status}\r\nContent-Type: application/json\r\nApi-Version: 1.41\r\n\
         Connection: close\r\nContent-Length: {length}\r\n\r\n{body}"
    )
    .into_bytes()
}

/// Reads a request up to its empty line; Docker's requests that we answer have no body.
fn read_head(mut client: &UnixStream) -> io::Result<Vec<u8>> {
    let mut head = Vec::new();
    let mut byte = [0];
    while !head.ends_with(b"\r\n\r\n") && head.len() < 64 * 1024 {
        if client.read(&mut byte)? == 0 {
            break;
        }
        head.push(byte[0]);
    }
    Ok(head)
}
