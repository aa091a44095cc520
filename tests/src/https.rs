//! A server of HTTPS on the test's side, in the network of a container: what it answers and who it says
//! that it is can change at any moment.

use std::{
    io::{self, ErrorKind, Read as _, Write as _},
    net::{TcpListener, TcpStream},
    process::Command,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::Duration,
};

use anyhow::{Context as _, Result};
use rcgen::{CertifiedKey, generate_simple_self_signed};
use rustls::{
    ServerConfig, ServerConnection,
    pki_types::{CertificateDer, PrivateKeyDer},
};

use crate::{container::Container, process};

/// Longest time that a client may take; they are served one after the other.
const PATIENCE: Duration = Duration::from_secs(2);
/// Time between two looks for a client.
const PAUSE: Duration = Duration::from_millis(5);

/// A name, and a key and certificate for it, signed by itself.
#[derive(Clone, Debug)]
pub struct Identity {
    config: Arc<ServerConfig>,
    /// The certificate, for whoever is to trust it.
    pub pem: String,
}

impl Identity {
    /// Of a server of this name; each is another.
    pub fn new(name: &str) -> Result<Self> {
        let CertifiedKey { cert, signing_key } = generate_simple_self_signed([name.to_owned()])?;
        let certificate = CertificateDer::from(cert.der().to_vec());
        let key = PrivateKeyDer::try_from(signing_key.serialize_der())
            .map_err(|error| anyhow::anyhow!("a key: {error}"))?;
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let config = ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()?
            .with_no_client_auth()
            .with_single_cert(vec![certificate], key)?;
        let encoded = process::run_with_input(&mut Command::new("base64"), cert.der())?;
        let pem = format!("-----BEGIN CERTIFICATE-----\n{encoded}-----END CERTIFICATE-----\n");
        Ok(Self { config: Arc::new(config), pem })
    }

    /// For a server of one's own.
    pub fn config(&self) -> Arc<ServerConfig> {
        Arc::clone(&self.config)
    }
}

/// A server; ended on drop.
#[derive(Debug)]
pub struct HttpsServer {
    shared: Arc<Shared>,
    thread: Option<thread::JoinHandle<()>>,
}

#[derive(Debug)]
struct Shared {
    manner: Mutex<(Identity, &'static str)>,
    is_over: AtomicBool,
}

impl HttpsServer {
    /// Listens at a port of a container, and answers everything by `200 OK`.
    pub fn start(container: &Container, port: u16, identity: &Identity) -> Result<Self> {
        let listener = container.enter(|| TcpListener::bind(("0.0.0.0", port)))?;
        let listener = listener.with_context(|| format!("port {port} of {}", container.name()))?;
        listener.set_nonblocking(true)?;
        let manner = Mutex::new((identity.clone(), "200 OK"));
        let shared = Arc::new(Shared { manner, is_over: AtomicBool::new(false) });
        let theirs = Arc::clone(&shared);
        let thread = Some(thread::spawn(move || theirs.serve(&listener)));
        Ok(Self { shared, thread })
    }

    /// From the next connection on it is another.
    pub fn set_identity(&self, identity: &Identity) {
        self.shared.manner.lock().unwrap_or_else(PoisonError::into_inner).0 = identity.clone();
    }

    /// From the next connection on it answers by this status.
    pub fn set_status(&self, status: &'static str) {
        self.shared.manner.lock().unwrap_or_else(PoisonError::into_inner).1 = status;
    }
}

impl Drop for HttpsServer {
    fn drop(&mut self) {
        self.shared.is_over.store(true, Ordering::Relaxed);
        if self.thread.take().is_some_and(|thread| thread.join().is_err()) {
            eprintln!("a server of HTTPS panicked");
        }
    }
}

impl Shared {
    fn serve(&self, listener: &TcpListener) {
        while !self.is_over.load(Ordering::Relaxed) {
            match listener.accept() {
                // Who does not like the certificate goes in the middle of the handshake.
                Ok((stream, _)) => drop(self.answer(stream)),
                Err(error) if error.kind() == ErrorKind::WouldBlock => thread::sleep(PAUSE),
                Err(error) => eprintln!("a server of HTTPS: {error}"),
            }
        }
    }

    fn answer(&self, mut stream: TcpStream) -> io::Result<()> {
        let (identity, status) = self.manner.lock().unwrap_or_else(PoisonError::into_inner).clone();
        stream.set_read_timeout(Some(PATIENCE))?;
        stream.set_write_timeout(Some(PATIENCE))?;
        let mut session = ServerConnection::new(identity.config).map_err(io::Error::other)?;
        let mut secure = rustls::Stream::new(&mut session, &mut stream);
        let (mut head, mut byte) = (Vec::new(), [0]);
        while !head.ends_with(b"\r\n\r\n") {
            secure.read_exact(&mut byte)?;
            head.push(byte[0]);
        }
        write!(secure, "HTTP/1.1 {status}\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")?;
        session.send_close_notify();
        session.complete_io(&mut stream).map(drop)
    }
}
