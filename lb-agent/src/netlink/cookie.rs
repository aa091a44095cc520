//! The number by which programs know a network namespace.

use std::{
    collections::hash_map::RandomState,
    hash::BuildHasher as _,
    io,
    net::{Ipv4Addr, SocketAddr, SocketAddrV4, UdpSocket},
    os::fd::{AsFd, AsRawFd as _},
};

use lb_common::socket::cookie_told;

use super::{namespace::Namespace, process::Process};

/// How namespaces are told apart.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Cookies {
    /// Before Linux 5.14 the kernel tells a cookie only to programs, so ours is asked: a call to this
    /// address is answered by the address that its socket shows as peer.
    question: Option<SocketAddrV4>,
}

impl Cookies {
    /// As this kernel needs it.
    #[must_use]
    pub fn of_this_kernel() -> Self {
        match UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0)).and_then(|socket| of_socket(&socket)) {
            Err(error) if error.raw_os_error() == Some(libc::ENOPROTOOPT) => Self::by_question(),
            _ => Self::default(),
        }
    }

    /// By the program; the address is one that nobody guesses, and whoever does learns its own cookie.
    #[must_use]
    pub fn by_question() -> Self {
        let random = RandomState::new().hash_one(0_u8).to_ne_bytes();
        let address = Ipv4Addr::new(127, 0x80 | random[0] >> 2, random[1], random[2]);
        let port = u16::from_ne_bytes([random[3], random[4]]) | 1;
        Self { question: Some(SocketAddrV4::new(address, port)) }
    }

    /// What the program is to answer.
    #[must_use]
    pub const fn question(&self) -> Option<SocketAddrV4> {
        self.question
    }

    /// The cookie of a process' network namespace; `None`: of the calling thread's. It is never given
    /// to another one.
    pub fn of(self, process: Option<&Process>) -> io::Result<u64> {
        match process {
            Some(process) => Namespace::of(process)?.run(move || self.own()),
            None => self.own(),
        }
    }

    fn own(self) -> io::Result<u64> {
        let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0))?;
        let Some(question) = self.question else { return of_socket(&socket) };
        socket.connect(question)?;
        let told = match socket.peer_addr()? {
            SocketAddr::V4(peer) if peer != question => cookie_told(peer),
            _ => None,
        };
        told.ok_or_else(|| {
            io::Error::other(
                "this kernel tells namespaces only to programs, and ours does not see the agent's \
                 own calls: run the agent in the cgroup that `path` in [cgroup] names, or leave it out",
            )
        })
    }
}

/// The cookie of a socket's network namespace (Linux 5.14).
pub(crate) fn of_socket(socket: &impl AsFd) -> io::Result<u64> {
    let mut cookie = 0_u64;
    let mut length = libc::socklen_t::try_from(size_of::<u64>()).map_err(io::Error::other)?;
    // SAFETY: the descriptor is open, and `cookie` and `length` are of the size that is passed.
    let result = unsafe {
        libc::getsockopt(
            socket.as_fd().as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_NETNS_COOKIE,
            std::ptr::from_mut(&mut cookie).cast(),
            &raw mut length,
        )
    };
    if result == 0 { Ok(cookie) } else { Err(io::Error::last_os_error()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn questions_are_for_addresses_that_no_answer_has() {
        for _ in 0..100 {
            let question = Cookies::by_question().question().expect("an address");
            assert_eq!(cookie_told(question), None, "{question}");
            assert!(question.port() != 0);
        }
    }
}
