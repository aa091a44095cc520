//! Whether a name server of the agent answers: any answer counts, also that it refuses.

use std::{
    io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    time::Duration,
};

use tokio::{net::UdpSocket, time::timeout};

use crate::doctor::facts::NameFacts;

const TIMEOUT: Duration = Duration::from_secs(1);
/// Datagrams may be lost, even to oneself.
const ATTEMPTS: usize = 3;

/// A question for the address of `lb-doctor.invalid`, which never is anybody's.
const QUESTION: &[u8] = b"\x6c\x62\x00\x00\x00\x01\x00\x00\x00\x00\x00\x00\
    \x09lb-doctor\x07invalid\x00\x00\x01\x00\x01";

pub(super) async fn ask(address: SocketAddr) -> NameFacts {
    NameFacts { address, trouble: attempt(address).await.err().map(|error| error.to_string()) }
}

async fn attempt(address: SocketAddr) -> io::Result<()> {
    let any: IpAddr = match address {
        SocketAddr::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
        SocketAddr::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
    };
    let socket = UdpSocket::bind((any, 0)).await?;
    socket.connect(address).await?;
    let mut buffer = [0; 512];
    for _ in 0..ATTEMPTS {
        socket.send(QUESTION).await?;
        match timeout(TIMEOUT, socket.recv(&mut buffer)).await {
            // Its number comes back, and the bit of an answer is set.
            Ok(Ok(length))
                if length >= 12 && buffer[..2] == QUESTION[..2] && buffer[2] & 0x80 != 0 =>
            {
                return Ok(());
            }
            Ok(Ok(_)) => return Err(io::Error::other("what answers there is no name server")),
            Ok(Err(error)) => return Err(error),
            Err(_elapsed) => {}
        }
    }
    Err(io::Error::other("it does not answer"))
}
