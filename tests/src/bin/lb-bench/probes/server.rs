//! The server that is probed, in a process of its own: `lb-bench probe-server`.

use std::{
    net::Ipv4Addr,
    process::{Child, Stdio},
    sync::Arc,
};

use anyhow::{Context as _, Result};
use clap::Args;
use lb_agent::netlink::Process;
use lb_tests::{Namespace, https::Identity};
use tokio::{
    io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _},
    net::TcpListener,
};
use tokio_rustls::TlsAcceptor;

/// Its port.
pub(super) const PORT: u16 = 9000;
/// What it answers.
const ANSWER: &[u8] = b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nok\n";

/// Options of `probe-server`.
#[derive(Args)]
pub(crate) struct ServerOptions {
    /// Speak TLS.
    #[arg(long)]
    tls: bool,
}

/// Serves until it is killed.
pub(crate) fn serve(options: &ServerOptions) -> Result<()> {
    let identity = options.tls.then(|| Identity::new("probed")).transpose()?;
    let acceptor = identity.map(|identity| TlsAcceptor::from(identity.config()));
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        let listener = TcpListener::bind((Ipv4Addr::UNSPECIFIED, PORT)).await?;
        println!("ready");
        loop {
            let (connection, _) = listener.accept().await?;
            let acceptor = acceptor.clone();
            tokio::spawn(async move {
                match acceptor {
                    None => answer(connection).await,
                    // Who goes in the middle of the handshake wants no answer.
                    Some(acceptor) => {
                        if let Ok(connection) = acceptor.accept(connection).await {
                            answer(connection).await;
                        }
                    }
                }
            });
        }
    })
}

/// Ready for another request, until the prober resets the connection.
async fn answer(mut connection: impl AsyncRead + AsyncWrite + Unpin) {
    let mut request = [0; 1024];
    while let Ok(1..) = connection.read(&mut request).await {
        let is_sent = connection.write_all(ANSWER).await.is_ok();
        // TLS keeps what it could not send at once.
        if !is_sent || connection.flush().await.is_err() {
            return;
        }
    }
}

/// The server as a child; its process is the container's.
pub(super) struct Server {
    child: Child,
    pub(super) process: Arc<Process>,
}

impl Server {
    pub(super) fn start(namespace: &Namespace, is_tls: bool) -> Result<Self> {
        let mut command = namespace.command(std::env::current_exe()?);
        command.arg("probe-server").args(is_tls.then_some("--tls"));
        let mut child = command.stdout(Stdio::piped()).spawn()?;
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
