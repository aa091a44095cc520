//! How many connections the sockets of a network namespace have.

use std::{io, net::SocketAddr, time::Duration};

use super::{
    namespace::Namespace,
    sock_diag::{DiagSocket, Request},
};

/// Longest wait for the kernel: somebody waits for the counts.
const TIMEOUT: Duration = Duration::from_secs(1);
/// Most connections of one namespace that are looked at: about a tenth of a second.
const SOCKETS_MAX: usize = 250_000;
/// States of TCP in which both ends, or at least the server, may still send: `TCP_ESTABLISHED` and
/// `TCP_CLOSE_WAIT`.
const STATES: u32 = 1 << 1 | 1 << 8;

/// Established TCP connections of each of these local addresses in a namespace.
pub fn established(namespace: &Namespace, addresses: &[SocketAddr]) -> io::Result<Vec<u64>> {
    let socket = namespace.run(|| DiagSocket::open(TIMEOUT))?;
    let mut counts = vec![0; addresses.len()];
    let mut seen = 0;
    // A socket of the other family may have connections of this one.
    let families: &[i32] = if addresses.iter().all(SocketAddr::is_ipv6) {
        &[libc::AF_INET6]
    } else {
        &[libc::AF_INET, libc::AF_INET6]
    };
    for family in families {
        let request = Request::new(*family, libc::IPPROTO_TCP, STATES);
        seen += socket.dump(request, &[], SOCKETS_MAX - seen, &mut |answer, _| {
            let local = answer.local();
            for (address, count) in addresses.iter().zip(&mut counts) {
                *count += u64::from(*address == local);
            }
        })?;
    }
    Ok(counts)
}

#[cfg(test)]
mod tests {
    use std::net::{TcpListener, TcpStream};

    use super::*;

    /// A listener at `bound`, two connections to it by `reached`, and how many it has then.
    #[track_caller]
    fn check(bound: &str, reached: &str) {
        let listener = TcpListener::bind((bound, 0)).expect("a listener");
        let port = listener.local_addr().expect("its address").port();
        let address = SocketAddr::new(reached.parse().expect("an address"), port);
        let other = SocketAddr::new(address.ip(), port ^ 1);
        let mut kept = Vec::new();
        for _ in 0..2 {
            kept.push(TcpStream::connect(address).expect("a connection"));
            kept.push(listener.accept().expect("its other end").0);
        }
        // Opening a namespace anew takes no privileges, entering it does.
        let own = Namespace::own().expect("our own namespace");
        if !nix::unistd::geteuid().is_root() {
            return;
        }
        match established(&own, &[address, other]) {
            Ok(counts) => assert_eq!(counts, [2, 0], "{bound} by {reached}"),
            // A kernel without inet_diag.
            Err(error) => assert_eq!(error.kind(), io::ErrorKind::NotFound, "{error}"),
        }
    }

    #[test]
    fn connections_are_counted_by_local_address() {
        check("127.0.0.1", "127.0.0.1");
        check("::1", "::1");
        check("::", "127.0.0.1");
    }
}
