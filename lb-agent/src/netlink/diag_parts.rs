//! Which parts this kernel lacks to end sockets: they are options of its build, and modules.

use std::{collections::BTreeSet, io, time::Duration};

use super::sock_diag::{DiagSocket, Request};

/// Longest wait for the kernel, which may have to load a module first.
const TIMEOUT: Duration = Duration::from_secs(2);

/// A part of the kernel without which sockets are not ended.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum DiagPart {
    /// Tells of sockets of TCP.
    Tcp,
    /// Tells of sockets of UDP.
    Udp,
    /// Ends what the others tell of.
    Destroy,
}

/// Parts that are missing. Lists and ends no socket: the kernel is asked for those that are in no state
/// at all, and to end one that nobody can have.
pub fn missing_diag_parts() -> io::Result<BTreeSet<DiagPart>> {
    let socket = DiagSocket::open(TIMEOUT)?;
    let mut missing = BTreeSet::new();
    for (protocol, part) in [(libc::IPPROTO_TCP, DiagPart::Tcp), (libc::IPPROTO_UDP, DiagPart::Udp)]
    {
        let request = Request::new(libc::AF_INET, protocol, 0);
        let listed = socket.dump(request, &[], usize::MAX, &mut |_, _| {}).map(drop);
        let ended = if listed.is_ok() { socket.destroy(request) } else { Ok(()) };
        missing.extend(judge(part, listed, ended)?);
    }
    Ok(missing)
}

/// What is missing, by what became of the list of a protocol's sockets and of the end of one.
fn judge(
    part: DiagPart,
    listed: io::Result<()>,
    ended: io::Result<()>,
) -> io::Result<Option<DiagPart>> {
    match listed {
        Err(error) if error.raw_os_error() == Some(libc::ENOENT) => return Ok(Some(part)),
        Err(error) => return Err(error),
        Ok(()) => {}
    }
    match ended {
        Err(error) if error.raw_os_error() == Some(libc::EOPNOTSUPP) => Ok(Some(DiagPart::Destroy)),
        // There is no such socket.
        Err(error) if error.raw_os_error() == Some(libc::ENOENT) => Ok(None),
        other => other.map(|()| None),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_missing_is_known_by_the_error() {
        let result = |number| {
            if number == 0 { Ok(()) } else { Err(io::Error::from_raw_os_error(number)) }
        };
        let check = |listed, ended, expected: Result<Option<DiagPart>, i32>| {
            for part in [DiagPart::Tcp, DiagPart::Udp] {
                let found = judge(part, result(listed), result(ended));
                let found = found.map_err(|error| error.raw_os_error().unwrap_or_default());
                let expected = expected.map(|it| it.map(|it| it.max(part)));
                assert_eq!(found, expected, "{listed} {ended}");
            }
        };
        check(0, libc::ENOENT, Ok(None));
        check(0, 0, Ok(None));
        check(libc::ENOENT, 0, Ok(Some(DiagPart::Tcp)));
        check(0, libc::EOPNOTSUPP, Ok(Some(DiagPart::Destroy)));
        check(0, libc::EPERM, Err(libc::EPERM));
        check(libc::EPERM, 0, Err(libc::EPERM));
    }

    /// A kernel may lack parts; asking for them is never refused, and what is told twice is the same.
    #[test]
    fn this_kernel_is_asked() {
        if !nix::unistd::geteuid().is_root() {
            return;
        }
        let missing = missing_diag_parts().expect("an answer");
        assert_eq!(missing, missing_diag_parts().expect("an answer"));
    }
}
