//! Both ends of a TCP connection in one test, so that either may speak at any moment: before the other
//! has, and when whatever led them to each other is no more.

use std::{
    io::{Read as _, Write as _},
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, TcpStream},
    os::fd::{AsRawFd as _, OwnedFd},
    time::Duration,
};

use anyhow::{Context as _, Result, ensure};
use nix::sys::{
    socket::{self, AddressFamily, SockFlag, SockType, SockaddrStorage, sockopt},
    time::TimeVal,
};

use crate::{namespace::Namespace, process};

/// What takes longer will not come.
pub const PATIENCE: Duration = Duration::from_secs(3);
/// Any address and port of IPv4.
pub const ANY: SocketAddr = anywhere(0);
/// Any address and port of IPv6.
pub const ANY6: SocketAddr = SocketAddr::new(IpAddr::V6(Ipv6Addr::UNSPECIFIED), 0);

/// A port at any address of IPv4.
#[must_use]
pub const fn anywhere(port: u16) -> SocketAddr {
    SocketAddr::new(IpAddr::V4(Ipv4Addr::UNSPECIFIED), port)
}

/// Both ends of a connection.
#[derive(Debug)]
pub struct Talk {
    client: TcpStream,
    server: TcpStream,
}

impl Talk {
    /// Connects from a namespace to what leads to the listener, which does not block.
    pub fn open(from: &Namespace, target: SocketAddr, listener: &TcpListener) -> Result<Self> {
        let source = if target.is_ipv4() { ANY } else { ANY6 };
        let client = from.enter(|| connect_here(source, target))??;
        Self::accept(client, listener)
    }

    /// The server's end of a connection that a client has opened.
    pub fn accept(client: TcpStream, listener: &TcpListener) -> Result<Self> {
        let (server, peer) = process::wait_for("the connection", PATIENCE, || {
            listener.accept().map_err(Into::into)
        })?;
        let local = client.local_addr()?;
        ensure!(peer == local, "the server saw {peer} instead of the client's own {local}");
        for end in [&client, &server] {
            end.set_nonblocking(false)?;
            end.set_read_timeout(Some(PATIENCE))?;
        }
        Ok(Self { client, server })
    }

    /// The server speaks, and the client hears it.
    pub fn push(&self, text: &str) -> Result<()> {
        say(&self.server, &self.client, text).context("server to client")
    }

    /// The client speaks, the server answers.
    pub fn exchange(&self) -> Result<()> {
        say(&self.client, &self.server, "question").context("client to server")?;
        self.push("answer")
    }
}

/// One end speaks, the other hears it.
pub fn say(mut from: &TcpStream, mut to: &TcpStream, text: &str) -> Result<()> {
    from.write_all(text.as_bytes())?;
    let mut heard = vec![0; text.len()];
    to.read_exact(&mut heard).with_context(|| format!("`{text}` is not heard"))?;
    ensure!(heard == text.as_bytes(), "`{text}` is heard as {heard:?}");
    Ok(())
}

/// A listener that leaves its port to others, too, in the namespace of the thread.
pub fn listen_here(at: SocketAddr) -> Result<TcpListener> {
    let socket = tcp_socket(at)?;
    socket::bind(socket.as_raw_fd(), &SockaddrStorage::from(at))?;
    socket::listen(&socket, socket::Backlog::new(16)?)?;
    Ok(TcpListener::from(socket))
}

/// Connects from an address and port of the caller's choice, in the namespace of the thread;
/// unspecified and 0 are any.
pub fn connect_here(source: SocketAddr, target: SocketAddr) -> Result<TcpStream> {
    let socket = tcp_socket(source)?;
    socket::setsockopt(&socket, sockopt::SendTimeout, &TimeVal::new(3, 0))?;
    socket::bind(socket.as_raw_fd(), &SockaddrStorage::from(source))?;
    socket::connect(socket.as_raw_fd(), &SockaddrStorage::from(target))
        .with_context(|| format!("from {source} to {target}"))?;
    Ok(TcpStream::from(socket))
}

fn tcp_socket(of: SocketAddr) -> Result<OwnedFd> {
    let family = if of.is_ipv4() { AddressFamily::Inet } else { AddressFamily::Inet6 };
    let socket = socket::socket(family, SockType::Stream, SockFlag::SOCK_CLOEXEC, None)?;
    socket::setsockopt(&socket, sockopt::ReuseAddr, &true)?;
    socket::setsockopt(&socket, sockopt::ReusePort, &true)?;
    Ok(socket)
}
