//! What this process was given by whoever started it: `sd_listen_fds(3)`.
//!
//! Owns the reading of `LISTEN_PID`, `LISTEN_FDS` and `LISTEN_FDNAMES`, which may say anything. They stay
//! in the environment, which nothing may change beside other threads: the agent starts no programs, those
//! would not be the process that is named there, and no descriptor would go on to them.

use std::os::fd::{FromRawFd as _, OwnedFd, RawFd};

use nix::fcntl::{FcntlArg, FdFlag, fcntl};

/// The first descriptor that is given.
const FIRST: RawFd = 3;
/// More than anybody gives: each number is looked at.
const GIVEN_MAX: usize = 1024;

/// One descriptor, and how whoever gave it calls it. Closed when it is dropped.
#[derive(Debug)]
pub struct Given {
    /// Empty: it has no name that could be repeated.
    pub(in super::super) name: String,
    pub(in super::super) socket: OwnedFd,
}

impl Given {
    /// Takes all that there is, the first time; later there is nothing.
    #[must_use]
    pub fn take_all() -> Vec<Self> {
        let variable =
            |name| std::env::var_os(name).map(|value| value.to_string_lossy().into_owned());
        let [pid, count, names] = ["LISTEN_PID", "LISTEN_FDS", "LISTEN_FDNAMES"].map(variable);
        let given =
            names_of(std::process::id(), pid.as_deref(), count.as_deref(), names.as_deref());
        let names = given.unwrap_or_else(|trouble| {
            tracing::warn!("nothing that was handed over is used: {trouble}");
            Vec::new()
        });
        let given = (FIRST..).zip(names);
        given.filter_map(|(number, name)| Some(Self { name, socket: inherited(number)? })).collect()
    }
}

/// The names of what was given to the process `own`, in the order of the descriptors. The error: how
/// many there are cannot be told.
pub(in super::super) fn names_of(
    own: u32,
    pid: Option<&str>,
    count: Option<&str>,
    names: Option<&str>,
) -> Result<Vec<String>, String> {
    let (Some(pid), Some(count)) = (pid, count) else { return Ok(Vec::new()) };
    let pid: u32 = pid.parse().map_err(|_| format!("LISTEN_PID is `{pid}`, which is no number"))?;
    if pid != own {
        // Somebody before us was meant, and has left its environment to us.
        return Ok(Vec::new());
    }
    let count: usize =
        count.parse().map_err(|_| format!("LISTEN_FDS is `{count}`, which is no number"))?;
    let count = count.min(GIVEN_MAX);
    // What a socket is it says itself. A name is there to be told to its giver again, as a line.
    let is_name = |name: &&str| !name.chars().any(char::is_control);
    let names = names.unwrap_or_default().split(':');
    let names = names.map(|name| Some(name).filter(is_name).unwrap_or_default().to_owned());
    Ok(names.chain(std::iter::repeat(String::new())).take(count).collect())
}

/// A descriptor with which this process was started.
fn inherited(number: RawFd) -> Option<OwnedFd> {
    // SAFETY: it asks about a number, which need not be one of an open file, and touches no memory.
    let flags = unsafe { libc::fcntl(number, libc::F_GETFD) };
    // With this flag it would not have come through the start of this program: this process has opened
    // it itself, or was here before.
    if flags < 0 || flags & libc::FD_CLOEXEC != 0 {
        return None;
    }
    // SAFETY: it is open, and nobody has it: whatever is opened by this program has the flag.
    let descriptor = unsafe { OwnedFd::from_raw_fd(number) };
    if let Err(error) = fcntl(&descriptor, FcntlArg::F_SETFD(FdFlag::FD_CLOEXEC)) {
        tracing::debug!("descriptor {number} will go on to other programs: {error}");
    }
    Some(descriptor)
}
