//! What programs rarely do with a socket: a line per case, `case=… ok`, or what went wrong.

use std::{
    io,
    net::{Ipv4Addr, SocketAddr, TcpStream, UdpSocket},
    os::fd::{AsRawFd, OwnedFd},
    time::Duration,
};

use anyhow::{Context as _, Result, bail, ensure};
use nix::{
    cmsg_space,
    sys::{
        socket::{
            AddressFamily, ControlMessage, ControlMessageOwned, MsgFlags, SockFlag, SockType,
            SockaddrStorage, connect, getpeername, recvmsg, sendmsg, setsockopt, socket,
            socketpair, sockopt,
        },
        wait::{WaitStatus, waitpid},
    },
    unistd::{ForkResult, fork},
};

type Case = fn(SocketAddr, SocketAddr) -> Result<()>;

const CASES: [(&str, Case); 8] = [
    ("udp-to-another", to_another),
    ("udp-disconnected", disconnected),
    ("udp-connected-and-addressed", connected_and_addressed),
    ("udp-dont-wait", dont_wait),
    ("bound-to-a-source", bound_to_a_source),
    ("v6-only", v6_only),
    ("peer-after-fork", peer_after_fork),
    ("peer-after-passing", peer_after_passing),
];

/// With an address that is answered, and the one to which it always leads.
const BEHIND: [(&str, Case); 3] = [
    ("udp-to-what-is-behind", to_what_is_behind),
    ("udp-disconnected-to-what-is-behind", disconnected_to_what_is_behind),
    ("udp-connected-to-what-is-behind", connected_to_what_is_behind),
];

/// With two addresses that always lead to the same one.
const TWINS: [(&str, Case); 2] = [
    ("udp-disconnected-to-a-twin", disconnected_to_a_twin),
    ("udp-read-after-the-end", read_after_the_end),
];

/// All of them, to two addresses that are answered, one to which the second always leads, and another one
/// that leads there, too.
pub(crate) fn run([one, other, behind, twin]: [SocketAddr; 4]) {
    let cases = CASES.map(|(name, case)| (name, case, one, other));
    let direct = BEHIND.map(|(name, case)| (name, case, other, behind));
    let twins = TWINS.map(|(name, case)| (name, case, other, twin));
    for (name, case, one, other) in cases.into_iter().chain(direct).chain(twins) {
        match case(one, other) {
            Ok(()) => println!("case={name} ok"),
            Err(error) => println!("case={name} failed: {error:#}"),
        }
    }
}

fn datagrams() -> Result<UdpSocket> {
    let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0))?;
    socket.set_read_timeout(Some(Duration::from_secs(1)))?;
    Ok(socket)
}

fn answered(socket: &UdpSocket, by: SocketAddr) -> Result<()> {
    let mut buffer = [0; 512];
    let (_, from) = socket.recv_from(&mut buffer).context("no answer")?;
    ensure!(from == by, "answered by {from} and not {by}");
    Ok(())
}

fn ask(socket: &UdpSocket, target: SocketAddr) -> Result<()> {
    socket.send(b"ask")?;
    ensure!(socket.peer_addr()? == target, "peer {}", socket.peer_addr()?);
    answered(socket, target)
}

fn to_another(one: SocketAddr, other: SocketAddr) -> Result<()> {
    let socket = datagrams()?;
    for target in [one, other, one, other] {
        socket.connect(target)?;
        ask(&socket, target)?;
    }
    Ok(())
}

/// `connect` to `AF_UNSPEC`.
pub(crate) fn disconnect(socket: &impl AsRawFd) -> io::Result<()> {
    let nobody = libc::sockaddr { sa_family: 0, sa_data: [0; 14] };
    // SAFETY: the address lives during the call, and is as long as is said.
    let result = unsafe { libc::connect(socket.as_raw_fd(), &raw const nobody, 16) };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

fn disconnected(one: SocketAddr, other: SocketAddr) -> Result<()> {
    let socket = datagrams()?;
    socket.connect(one)?;
    ask(&socket, one)?;
    disconnect(&socket)?;
    ensure!(socket.peer_addr().is_err(), "it has a peer still");
    // Its address went with the connection.
    for target in [other, one] {
        socket.send_to(b"ask", target)?;
        answered(&socket, target)?;
    }
    Ok(())
}

/// The kernel takes answers of the peer only, so both ways must lead to the same backend.
fn connected_and_addressed(one: SocketAddr, other: SocketAddr) -> Result<()> {
    for number in 0..8 {
        let socket = datagrams()?;
        socket.connect(one)?;
        socket.send_to(b"ask", one)?;
        answered(&socket, one).with_context(|| format!("socket {number}"))?;
        // To somebody else, whose answer does not come, as without us.
        socket.send_to(b"ask", other)?;
        ask(&socket, one).with_context(|| format!("socket {number}, after another"))?;
    }
    Ok(())
}

/// Whoever is asked for by its own address answers by that.
fn to_what_is_behind(vip: SocketAddr, behind: SocketAddr) -> Result<()> {
    let socket = datagrams()?;
    for target in [vip, behind, vip, behind] {
        socket.send_to(b"ask", target)?;
        answered(&socket, target)?;
    }
    Ok(())
}

fn disconnected_to_what_is_behind(vip: SocketAddr, behind: SocketAddr) -> Result<()> {
    let socket = datagrams()?;
    socket.connect(vip)?;
    ask(&socket, vip)?;
    disconnect(&socket)?;
    socket.send_to(b"ask", behind)?;
    answered(&socket, behind)
}

/// Whoever was asked last has answered.
fn disconnected_to_a_twin(one: SocketAddr, twin: SocketAddr) -> Result<()> {
    let socket = datagrams()?;
    socket.connect(one)?;
    ask(&socket, one)?;
    disconnect(&socket)?;
    for target in [twin, one, twin] {
        socket.send_to(b"ask", target)?;
        answered(&socket, target)?;
    }
    Ok(())
}

/// An answer that is read when the socket has no peer any more is of whom it had.
fn read_after_the_end(one: SocketAddr, _: SocketAddr) -> Result<()> {
    let socket = datagrams()?;
    socket.connect(one)?;
    socket.send(b"ask")?;
    socket.peek(&mut [0; 8]).context("no answer")?;
    disconnect(&socket)?;
    answered(&socket, one)
}

fn connected_to_what_is_behind(vip: SocketAddr, behind: SocketAddr) -> Result<()> {
    let socket = datagrams()?;
    socket.send_to(b"ask", vip)?;
    answered(&socket, vip)?;
    for target in [behind, vip, behind] {
        socket.connect(target)?;
        ask(&socket, target)?;
    }
    Ok(())
}

fn dont_wait(one: SocketAddr, _: SocketAddr) -> Result<()> {
    let socket = datagrams()?;
    let address = SockaddrStorage::from(one);
    for _ in 0..100 {
        let parts = [io::IoSlice::new(b"ask")];
        sendmsg(socket.as_raw_fd(), &parts, &[], MsgFlags::MSG_DONTWAIT, Some(&address))?;
        answered(&socket, one)?;
    }
    Ok(())
}

fn bound_to_a_source(one: SocketAddr, other: SocketAddr) -> Result<()> {
    let own = TcpStream::connect(one)?.local_addr()?.ip();
    let socket = UdpSocket::bind((own, 0))?;
    socket.set_read_timeout(Some(Duration::from_secs(1)))?;
    for target in [one, other] {
        socket.connect(target)?;
        ask(&socket, target)?;
    }
    let free = UdpSocket::bind((own, 0))?;
    free.set_read_timeout(Some(Duration::from_secs(1)))?;
    free.send_to(b"ask", one)?;
    answered(&free, one)
}

/// Such a socket does not speak IPv4, to whomever.
fn v6_only(one: SocketAddr, _: SocketAddr) -> Result<()> {
    let SocketAddr::V4(v4) = one else { bail!("IPv6") };
    let attempt = |address: Ipv4Addr| -> Result<nix::Result<()>> {
        let socket = socket(AddressFamily::Inet6, SockType::Stream, SockFlag::SOCK_CLOEXEC, None)?;
        setsockopt(&socket, sockopt::Ipv6V6Only, &true)?;
        let target = SocketAddr::new(address.to_ipv6_mapped().into(), v4.port());
        Ok(connect(socket.as_raw_fd(), &SockaddrStorage::from(target)))
    };
    let (ours, others) = (attempt(*v4.ip())?, attempt(Ipv4Addr::LOCALHOST)?);
    ensure!(ours.is_err() && ours == others, "{ours:?}, and for what is no VIP {others:?}");
    Ok(())
}

fn peer(fd: i32) -> Result<String> {
    Ok(getpeername::<SockaddrStorage>(fd)?.to_string())
}

fn peer_after_fork(one: SocketAddr, _: SocketAddr) -> Result<()> {
    let stream = TcpStream::connect(one)?;
    // SAFETY: this program has one thread.
    match unsafe { fork() }? {
        ForkResult::Child => {
            let is_same = peer(stream.as_raw_fd()).is_ok_and(|peer| peer == one.to_string());
            std::process::exit(i32::from(!is_same));
        }
        ForkResult::Parent { child } => {
            let status = waitpid(child, None)?;
            ensure!(matches!(status, WaitStatus::Exited(_, 0)), "{status:?}");
            Ok(())
        }
    }
}

fn peer_after_passing(one: SocketAddr, _: SocketAddr) -> Result<()> {
    let stream = TcpStream::connect(one)?;
    let (from, to) =
        socketpair(AddressFamily::Unix, SockType::Stream, None, SockFlag::SOCK_CLOEXEC)?;
    let (fds, parts) = ([stream.as_raw_fd()], [io::IoSlice::new(b"x")]);
    let rights = [ControlMessage::ScmRights(&fds)];
    sendmsg::<SockaddrStorage>(from.as_raw_fd(), &parts, &rights, MsgFlags::empty(), None)?;
    drop(stream);
    let passed = received(&to)?;
    ensure!(peer(passed)? == one.to_string(), "{}", peer(passed)?);
    Ok(())
}

fn received(from: &OwnedFd) -> Result<i32> {
    let mut control = cmsg_space!([i32; 1]);
    let mut byte = [0];
    let mut parts = [io::IoSliceMut::new(&mut byte)];
    let fd = from.as_raw_fd();
    let message =
        recvmsg::<SockaddrStorage>(fd, &mut parts, Some(&mut control), MsgFlags::empty())?;
    let passed = message.cmsgs()?.find_map(|message| match message {
        ControlMessageOwned::ScmRights(fds) => fds.first().copied(),
        _ => None,
    });
    passed.context("no descriptor came")
}
