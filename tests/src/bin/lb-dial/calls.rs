//! One call of each kind, and what the server answers.

use std::{
    env,
    io::{self, Read as _, Write as _},
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpStream, UdpSocket},
    os::fd::{AsRawFd as _, FromRawFd as _, IntoRawFd as _, OwnedFd},
    time::Duration,
};

use nix::{
    poll::{PollFd, PollFlags, PollTimeout, poll},
    sys::socket::{
        AddressFamily, MsgFlags, SockFlag, SockType, SockaddrStorage, bind, connect, getsockopt,
        sendto, setsockopt, socket, sockopt,
    },
};

use crate::{cut::Cut, odd::disconnect};

/// Longest wait for an answer, unless `LB_DIAL_SECONDS` says another.
const TIMEOUT: Duration = Duration::from_secs(3);
const REQUEST: &[u8] = b"GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n";

pub(crate) fn timeout() -> Duration {
    let seconds = env::var("LB_DIAL_SECONDS").ok().and_then(|word| word.parse().ok());
    seconds.map_or(TIMEOUT, Duration::from_secs)
}

/// A kind of call.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Way {
    Tcp,
    TcpNonblocking,
    TcpFastopen,
    TcpBound,
    TcpMapped,
    Udp,
    UdpUnconnected,
    UdpMapped,
    UdpMappedUnconnected,
    /// One connected socket for all calls.
    UdpAgain,
    /// A socket that was connected before, and is connected to the port below then.
    TcpMoved,
    /// A socket of multipath TCP.
    Mptcp,
    /// An address of a length of its own.
    Cut(Cut),
}

impl Way {
    pub(crate) fn parse(word: &str) -> Option<Self> {
        Some(match word {
            "tcp" => Self::Tcp,
            "tcp-nonblocking" => Self::TcpNonblocking,
            "tcp-fastopen" => Self::TcpFastopen,
            "tcp-bound" => Self::TcpBound,
            "tcp-moved" => Self::TcpMoved,
            "tcp-mapped" => Self::TcpMapped,
            "udp" => Self::Udp,
            "udp-unconnected" => Self::UdpUnconnected,
            "udp-mapped" => Self::UdpMapped,
            "udp-mapped-unconnected" => Self::UdpMappedUnconnected,
            "udp-again" => Self::UdpAgain,
            "mptcp" => Self::Mptcp,
            _ => return Cut::parse(word).map(Self::Cut),
        })
    }
}

/// Who calls, and the socket that it keeps.
pub(crate) struct Caller {
    way: Way,
    kept: Option<UdpSocket>,
}

impl Caller {
    pub(crate) fn new(way: Way) -> Self {
        Self { way, kept: None }
    }

    /// One call; what is known of it, in a line.
    pub(crate) fn call(&mut self, target: SocketAddr) -> io::Result<String> {
        match self.way {
            Way::Tcp => ask(TcpStream::connect_timeout(&target, timeout())?, true),
            Way::TcpMapped => ask(TcpStream::connect_timeout(&mapped(target), timeout())?, true),
            Way::TcpNonblocking => nonblocking(target),
            Way::TcpFastopen => fastopen(target),
            Way::TcpBound => bound(target),
            Way::TcpMoved => moved(target),
            Way::Udp => connected(target),
            Way::UdpMapped => connected(mapped(target)),
            Way::UdpUnconnected => self.unconnected(target),
            Way::UdpMappedUnconnected => self.unconnected(mapped(target)),
            Way::UdpAgain => self.again(target),
            Way::Mptcp => mptcp(target),
            Way::Cut(cut) => cut.call(target),
        }
    }

    /// The same socket for all, as resolvers have it.
    fn unconnected(&mut self, target: SocketAddr) -> io::Result<String> {
        let socket = self.socket(target)?;
        socket.send_to(b"ask", target)?;
        let mut buffer = [0; 2048];
        let (length, from) = socket.recv_from(&mut buffer)?;
        Ok(line(&buffer[..length], from, socket.local_addr()?))
    }

    fn again(&mut self, target: SocketAddr) -> io::Result<String> {
        if self.kept.is_none() {
            self.socket(target)?.connect(target)?;
        }
        let socket = self.socket(target)?;
        let result = exchange(socket);
        if result.is_err() {
            // Whoever is told that it is over connects again.
            self.kept = None;
        }
        result
    }

    fn socket(&mut self, target: SocketAddr) -> io::Result<&UdpSocket> {
        if self.kept.is_none() {
            self.kept = Some(udp_socket(target)?);
        }
        self.kept.as_ref().ok_or_else(|| io::Error::other("no socket"))
    }
}

fn mapped(target: SocketAddr) -> SocketAddr {
    match target.ip() {
        IpAddr::V4(address) => SocketAddr::new(address.to_ipv6_mapped().into(), target.port()),
        IpAddr::V6(_) => target,
    }
}

pub(crate) fn udp_socket(target: SocketAddr) -> io::Result<UdpSocket> {
    let any: IpAddr = match target {
        SocketAddr::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
        SocketAddr::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
    };
    let socket = UdpSocket::bind((any, 0))?;
    socket.set_read_timeout(Some(timeout()))?;
    Ok(socket)
}

fn connected(target: SocketAddr) -> io::Result<String> {
    let socket = udp_socket(target)?;
    socket.connect(target)?;
    exchange(&socket)
}

pub(crate) fn exchange(socket: &UdpSocket) -> io::Result<String> {
    socket.send(b"ask")?;
    let mut buffer = [0; 2048];
    let (length, from) = socket.recv_from(&mut buffer)?;
    let peer = socket.peer_addr()?;
    if peer != from {
        return Err(io::Error::other(format!("peer {peer}, and the answer from {from}")));
    }
    Ok(line(&buffer[..length], peer, socket.local_addr()?))
}

pub(crate) fn ask(mut stream: TcpStream, sends: bool) -> io::Result<String> {
    stream.set_read_timeout(Some(timeout()))?;
    if sends {
        stream.write_all(REQUEST)?;
    }
    let (peer, local) = (stream.peer_addr()?, stream.local_addr()?);
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer)?;
    let body = answer.windows(4).position(|window| window == b"\r\n\r\n").map_or(0, |at| at + 4);
    Ok(line(&answer[body..], peer, local))
}

fn line(answer: &[u8], peer: SocketAddr, local: SocketAddr) -> String {
    let answer = String::from_utf8_lossy(answer);
    let peer = SocketAddr::new(peer.ip().to_canonical(), peer.port());
    format!("{} peer={peer} source={}", answer.trim(), local.port())
}

fn stream_socket(target: SocketAddr, flags: SockFlag) -> io::Result<OwnedFd> {
    let family = if target.is_ipv4() { AddressFamily::Inet } else { AddressFamily::Inet6 };
    Ok(socket(family, SockType::Stream, flags | SockFlag::SOCK_CLOEXEC, None)?)
}

pub(crate) fn stream_of(socket: OwnedFd) -> TcpStream {
    // SAFETY: the descriptor is ours, and given away.
    unsafe { TcpStream::from_raw_fd(socket.into_raw_fd()) }
}

fn nonblocking(target: SocketAddr) -> io::Result<String> {
    let socket = stream_socket(target, SockFlag::SOCK_NONBLOCK)?;
    match connect(socket.as_raw_fd(), &SockaddrStorage::from(target)) {
        Ok(()) | Err(nix::Error::EINPROGRESS) => {}
        Err(error) => return Err(error.into()),
    }
    let mut polled = [PollFd::new(std::os::fd::AsFd::as_fd(&socket), PollFlags::POLLOUT)];
    if poll(&mut polled, PollTimeout::try_from(timeout()).map_err(io::Error::other)?)? == 0 {
        return Err(io::ErrorKind::TimedOut.into());
    }
    match getsockopt(&socket, sockopt::SocketError)? {
        0 => {}
        error => return Err(io::Error::from_raw_os_error(error)),
    }
    let stream = stream_of(socket);
    stream.set_nonblocking(false)?;
    ask(stream, true)
}

fn fastopen(target: SocketAddr) -> io::Result<String> {
    let socket = stream_socket(target, SockFlag::empty())?;
    let address = SockaddrStorage::from(target);
    sendto(socket.as_raw_fd(), REQUEST, &address, MsgFlags::from_bits_retain(libc::MSG_FASTOPEN))?;
    ask(stream_of(socket), false)
}

fn bound(target: SocketAddr) -> io::Result<String> {
    let socket = stream_socket(target, SockFlag::empty())?;
    setsockopt(&socket, sockopt::ReuseAddr, &true)?;
    let any: SocketAddr = if target.is_ipv4() {
        (Ipv4Addr::UNSPECIFIED, 45_454).into()
    } else {
        (Ipv6Addr::UNSPECIFIED, 45_454).into()
    };
    bind(socket.as_raw_fd(), &SockaddrStorage::from(any))?;
    connect(socket.as_raw_fd(), &SockaddrStorage::from(target))?;
    ask(stream_of(socket), true)
}

fn moved(target: SocketAddr) -> io::Result<String> {
    let socket = stream_socket(target, SockFlag::empty())?;
    connect(socket.as_raw_fd(), &SockaddrStorage::from(target))?;
    disconnect(&socket)?;
    let below = SocketAddr::new(target.ip(), target.port() - 1);
    connect(socket.as_raw_fd(), &SockaddrStorage::from(below))?;
    ask(stream_of(socket), true)
}

/// `ENOPROTOOPT` or `EPROTONOSUPPORT` where the kernel has none.
fn mptcp(target: SocketAddr) -> io::Result<String> {
    let family = if target.is_ipv4() { libc::AF_INET } else { libc::AF_INET6 };
    let kind = libc::SOCK_STREAM | libc::SOCK_CLOEXEC;
    // SAFETY: no pointer is given.
    let socket = unsafe { libc::socket(family, kind, libc::IPPROTO_MPTCP) };
    if socket < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: a new descriptor, which is nobody else's.
    let socket = unsafe { OwnedFd::from_raw_fd(socket) };
    connect(socket.as_raw_fd(), &SockaddrStorage::from(target))?;
    ask(stream_of(socket), true)
}
