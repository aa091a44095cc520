//! The number by which programs know a network namespace.

use std::{
    io,
    os::fd::{AsRawFd as _, OwnedFd},
};

use nix::sys::socket::{AddressFamily, SockFlag, SockType, socket};

use super::{namespace::Namespace, process::Process};

/// The cookie of a process' network namespace; `None`: of the calling thread's. It is never given to
/// another one.
///
/// # Minimum kernel version
///
/// Linux 5.14 (`SO_NETNS_COOKIE`); before, `ENOPROTOOPT`.
pub fn namespace_cookie(process: Option<&Process>) -> io::Result<u64> {
    match process {
        Some(process) => Namespace::of(process)?.run(own),
        None => own(),
    }
}

fn own() -> io::Result<u64> {
    let any = socket(AddressFamily::Inet, SockType::Datagram, SockFlag::SOCK_CLOEXEC, None)?;
    of_socket(&any)
}

fn of_socket(socket: &OwnedFd) -> io::Result<u64> {
    let mut cookie = 0_u64;
    let mut length = libc::socklen_t::try_from(size_of::<u64>()).map_err(io::Error::other)?;
    // SAFETY: the descriptor is open, and `cookie` and `length` are of the size that is passed.
    let result = unsafe {
        libc::getsockopt(
            socket.as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_NETNS_COOKIE,
            std::ptr::from_mut(&mut cookie).cast(),
            &raw mut length,
        )
    };
    if result == 0 { Ok(cookie) } else { Err(io::Error::last_os_error()) }
}
