//! For tests: a socket with nobody behind it.

use std::{os::fd::OwnedFd, path::Path};

use nix::sys::socket::{AddressFamily, SockFlag, SockType, UnixAddr, bind, socket};

/// Leaves a socket at `path` that refuses connections, as long as the result lives and afterwards.
///
/// It never listens. One that has listened and is closed may live on for a moment, in a child that
/// another test is just starting.
pub(crate) fn dead_socket(path: &Path) -> OwnedFd {
    let (family, kind) = (AddressFamily::Unix, SockType::Stream);
    let made = socket(family, kind, SockFlag::SOCK_CLOEXEC, None).expect("a socket");
    let address = UnixAddr::new(path).expect("a short path");
    bind(std::os::fd::AsRawFd::as_raw_fd(&made), &address).expect("a path that is free");
    made
}
