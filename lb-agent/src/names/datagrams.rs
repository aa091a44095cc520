//! Questions in datagrams, one after the other: what is ours is answered without waiting for anything,
//! so a flood takes the time of this thread and fills the buffer of this socket, and nothing else.

use std::{
    io::{self, IoSlice, IoSliceMut},
    net::{IpAddr, SocketAddr},
    os::fd::AsRawFd as _,
    sync::Arc,
    time::Duration,
};

use nix::sys::socket::{
    ControlMessage, ControlMessageOwned, MsgFlags, SockaddrStorage, recvmsg, sendmsg, setsockopt,
    sockopt,
};
use tokio::{io::Interest, net::UdpSocket, time::sleep};

use super::{
    responder::{Outcome, Responder},
    wire::{QUESTION_BYTES_MAX, Transport},
};

/// Wait after the socket could not be read, which is not expected to happen.
const PAUSE: Duration = Duration::from_millis(100);

/// A socket that knows which of the node's addresses was asked, and answers from there: else whoever
/// asks one of several addresses of the node would be answered by another, and not listen.
#[derive(Clone, Debug)]
pub(super) struct Datagrams(Arc<UdpSocket>);

/// Who asked, and whom.
#[derive(Clone, Copy)]
struct Way {
    client: SocketAddr,
    server: Option<ServerAddress>,
}

#[derive(Clone, Copy)]
enum ServerAddress {
    V4(libc::in_pktinfo),
    V6(libc::in6_pktinfo),
}

impl Datagrams {
    pub(super) fn new(socket: UdpSocket) -> io::Result<Self> {
        if socket.local_addr()?.is_ipv4() {
            setsockopt(&socket, sockopt::Ipv4PacketInfo, &true)?;
        } else {
            setsockopt(&socket, sockopt::Ipv6RecvPacketInfo, &true)?;
        }
        Ok(Self(Arc::new(socket)))
    }

    /// Answers for ever.
    pub(super) async fn serve(self, responder: Responder) {
        let mut buffer = [0; QUESTION_BYTES_MAX];
        loop {
            let received = self.0.async_io(Interest::READABLE, || self.receive(&mut buffer)).await;
            let (length, way) = match received {
                Ok(received) => received,
                Err(error) => {
                    tracing::debug!("names: cannot read a question: {error}");
                    sleep(PAUSE).await;
                    continue;
                }
            };
            if !can_be_answered(way.client) {
                continue;
            }
            match responder.respond(&buffer[..length], way.client, Transport::Datagram) {
                Outcome::Silence => {}
                Outcome::Bytes(bytes) => self.send(&bytes, way),
                // How many wait is bounded by whoever handed it out.
                Outcome::Later(asked, waiting) => {
                    let socket = self.clone();
                    tokio::spawn(async move {
                        let reply = waiting.reply(asked.query.name()).await;
                        socket.send(&asked.answer(reply), way);
                    });
                }
            }
        }
    }

    fn receive(&self, buffer: &mut [u8]) -> io::Result<(usize, Way)> {
        let mut control = nix::cmsg_space!(libc::in6_pktinfo, libc::in_pktinfo);
        let mut parts = [IoSliceMut::new(buffer)];
        let flags = MsgFlags::MSG_DONTWAIT;
        let message =
            recvmsg::<SockaddrStorage>(self.0.as_raw_fd(), &mut parts, Some(&mut control), flags)?;
        let server = message.cmsgs()?.find_map(|message| match message {
            ControlMessageOwned::Ipv4PacketInfo(info) => {
                // Of what came before the socket was told to note it, where it was sent to is all that is
                // known; without an address the routing table would choose one.
                let is_noted = info.ipi_spec_dst.s_addr != 0;
                let ipi_spec_dst = if is_noted { info.ipi_spec_dst } else { info.ipi_addr };
                // By whichever interface the routing table says.
                Some(ServerAddress::V4(libc::in_pktinfo { ipi_ifindex: 0, ipi_spec_dst, ..info }))
            }
            ControlMessageOwned::Ipv6PacketInfo(info) => Some(ServerAddress::V6(info)),
            _ => None,
        });
        let client = message.address.as_ref().and_then(socket_address);
        // Nobody's questions have no address; they are not answered.
        let client = client.unwrap_or_else(|| SocketAddr::from(([0, 0, 0, 0], 0)));
        Ok((message.bytes, Way { client, server }))
    }

    /// An answer that the socket does not take at once is lost, like any datagram.
    fn send(&self, bytes: &[u8], way: Way) {
        let server = way.server.as_ref().map(|server| match server {
            ServerAddress::V4(info) => ControlMessage::Ipv4PacketInfo(info),
            ServerAddress::V6(info) => ControlMessage::Ipv6PacketInfo(info),
        });
        let sent = sendmsg(
            self.0.as_raw_fd(),
            &[IoSlice::new(bytes)],
            server.as_slice(),
            MsgFlags::MSG_DONTWAIT,
            Some(&SockaddrStorage::from(way.client)),
        );
        if let Err(error) = sent {
            tracing::debug!("names: no answer to {}: {error}", way.client);
        }
    }
}

pub(super) fn socket_address(address: &SockaddrStorage) -> Option<SocketAddr> {
    let v4 = address.as_sockaddr_in().map(|it| SocketAddr::V4((*it).into()));
    v4.or_else(|| address.as_sockaddr_in6().map(|it| SocketAddr::V6((*it).into())))
}

/// Some sources are made up.
fn can_be_answered(client: SocketAddr) -> bool {
    let is_one = match client.ip().to_canonical() {
        IpAddr::V4(address) => {
            !address.is_unspecified() && !address.is_broadcast() && !address.is_multicast()
        }
        IpAddr::V6(address) => !address.is_unspecified() && !address.is_multicast(),
    };
    is_one && client.port() != 0
}
