//! Handles on processes. A process number says nothing once its process is gone and the number has
//! been given to another; a pidfd stays with the process that it was opened for.

use std::{
    fs, io,
    os::fd::{AsFd as _, AsRawFd as _, FromRawFd as _, OwnedFd, RawFd},
    time::Duration,
};

use nix::{
    errno::Errno,
    poll::{PollFd, PollFlags, PollTimeout, poll},
    time::{ClockId, clock_gettime},
    unistd::{SysconfVar, sysconf},
};
use tokio::io::{Interest, unix::AsyncFd};

/// A process that was alive when the handle was made. The handle never comes to mean another one.
///
/// # Minimum kernel version
///
/// Linux 5.3 (`pidfd_open`).
#[derive(Debug)]
pub struct Process {
    pid: u32,
    handle: OwnedFd,
}

impl Process {
    /// Opens the process that has this number now.
    ///
    /// `NotFound`: there is none, or it is dead and only waits to be reaped.
    pub fn open(pid: u32) -> io::Result<Self> {
        let number = libc::pid_t::try_from(pid)
            .ok()
            .filter(|number| *number > 0)
            .ok_or_else(|| gone(pid))?;
        let flags: libc::c_uint = 0;
        // SAFETY: the call takes two integers and touches no memory of ours.
        let result = unsafe { libc::syscall(libc::SYS_pidfd_open, number, flags) };
        let handle = match Errno::result(result) {
            // EINVAL: the number belongs to a thread that does not lead its process.
            Err(Errno::ESRCH | Errno::EINVAL) => return Err(gone(pid)),
            Err(errno) => return Err(errno.into()),
            Ok(raw) => RawFd::try_from(raw).map_err(io::Error::other)?,
        };
        // SAFETY: the kernel has just made this descriptor for us; nobody else owns it.
        let handle = unsafe { OwnedFd::from_raw_fd(handle) };
        let process = Self { pid, handle };
        if process.is_alive() { Ok(process) } else { Err(gone(pid)) }
    }

    /// Its number, for messages and for paths under `/proc` that are checked afterwards.
    pub fn pid(&self) -> u32 {
        self.pid
    }

    /// Whether it still runs. A process that has ended and not been reaped is not alive.
    pub fn is_alive(&self) -> bool {
        let mut polled = [PollFd::new(self.handle.as_fd(), PollFlags::POLLIN)];
        // Readable means ended. When even poll(2) fails nothing is known, and what is not known to
        // be dead is left alone.
        !matches!(poll(&mut polled, PollTimeout::ZERO), Ok(ready) if ready > 0)
    }

    /// Resolves when the process has ended.
    ///
    /// Needs a Tokio runtime with I/O enabled.
    pub async fn ended(&self) -> io::Result<()> {
        // SAFETY: the descriptor is borrowed from `self`, which owns it, keeps it open, and outlives
        // the registration, as both end with this function at the latest.
        let polled =
            unsafe { AsyncFd::register_with_interest(self.handle.as_fd(), Interest::READABLE) }?;
        polled.readable().await.map(|_guard| ())
    }

    /// Ends it, whatever it is doing.
    pub fn kill(&self) -> io::Result<()> {
        let (signal, flags): (libc::c_int, libc::c_uint) = (libc::SIGKILL, 0);
        let info = std::ptr::null::<libc::siginfo_t>();
        // SAFETY: the descriptor is ours and open, and no information is given with the signal, which
        // the kernel allows: it then makes up that of kill(2).
        let result = unsafe {
            libc::syscall(libc::SYS_pidfd_send_signal, self.handle.as_raw_fd(), signal, info, flags)
        };
        Ok(Errno::result(result).map(drop)?)
    }

    /// When it was started.
    pub fn started_at(&self) -> io::Result<BootTicks> {
        let line = fs::read(format!("/proc/{}/stat", self.pid))?;
        if !self.is_alive() {
            return Err(gone(self.pid));
        }
        // In a name may be any bytes.
        let start = parse_start(&String::from_utf8_lossy(&line));
        start.ok_or_else(|| io::Error::other(format!("/proc/{}/stat has no start", self.pid)))
    }

    /// Whether one of its control groups is named after `name` (for a container: its id).
    ///
    /// True is a proof, read while the process lived. False proves nothing: a container may have
    /// moved its processes.
    pub fn is_in_control_group_of(&self, name: &str) -> io::Result<bool> {
        let groups = fs::read(format!("/proc/{}/cgroup", self.pid))?;
        if !self.is_alive() {
            return Err(gone(self.pid));
        }
        Ok(String::from_utf8_lossy(&groups).contains(name))
    }
}

/// A moment as the kernel dates the starts of processes: in clock ticks since the machine started.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct BootTicks(pub u64);

impl BootTicks {
    /// The current tick.
    pub fn now() -> io::Result<Self> {
        Self::ago(Duration::ZERO)
    }

    /// The tick of that long ago.
    pub fn ago(span: Duration) -> io::Result<Self> {
        let since_boot = Duration::from(clock_gettime(ClockId::CLOCK_BOOTTIME)?);
        let since_boot = since_boot.saturating_sub(span);
        let second = sysconf(SysconfVar::CLK_TCK)?.and_then(|ticks| u64::try_from(ticks).ok());
        let second = second.ok_or_else(|| io::Error::other("the kernel has no clock ticks"))?;
        let nanoseconds = u128::from(second) * since_boot.as_nanos();
        let ticks = nanoseconds / Duration::from_secs(1).as_nanos();
        Ok(Self(u64::try_from(ticks).map_err(io::Error::other)?))
    }
}

/// The start in a line of `/proc/PID/stat`. The name before it may contain anything.
fn parse_start(line: &str) -> Option<BootTicks> {
    // The 22nd field; the name is the second, and the state, which follows it, the third.
    let (_, after_name) = line.rsplit_once(") ")?;
    after_name.split(' ').nth(22 - 3)?.parse().ok().map(BootTicks)
}

/// The error that says that a process is no more.
pub(super) fn gone(pid: u32) -> io::Error {
    io::Error::new(io::ErrorKind::NotFound, format!("process {pid} is gone"))
}

#[cfg(test)]
mod tests {
    use std::process::{Child, Command};

    use super::*;

    fn sleeper() -> Child {
        Command::new("sleep").arg("60").spawn().expect("`sleep` starts")
    }

    #[test]
    fn own_process_is_alive() {
        let process = Process::open(std::process::id()).expect("our own process");
        assert!(process.is_alive());
    }

    #[test]
    fn dead_process_is_not_alive_before_it_is_reaped() {
        let mut child = sleeper();
        let process = Process::open(child.id()).expect("a child that runs");
        child.kill().expect("our own child");
        // Not reaped yet: the number is still taken, the process is over all the same.
        while process.is_alive() {
            std::thread::yield_now();
        }
        let again = Process::open(child.id()).expect_err("a zombie cannot be opened");
        assert_eq!(again.kind(), io::ErrorKind::NotFound);
        child.wait().expect("our own child");
        assert!(!process.is_alive());
    }

    #[test]
    fn numbers_that_no_process_can_have() {
        for pid in [0, u32::MAX, 0x7fff_ffff] {
            let error = Process::open(pid).expect_err("no such process");
            assert_eq!(error.kind(), io::ErrorKind::NotFound, "process {pid}");
        }
    }

    #[test]
    fn control_group_of_a_dead_process_is_an_error() {
        let mut child = sleeper();
        let process = Process::open(child.id()).expect("a child that runs");
        assert!(process.is_in_control_group_of("").expect("every group contains the empty name"));
        assert!(!process.is_in_control_group_of("no-such-container").expect("readable"));
        child.kill().expect("our own child");
        child.wait().expect("our own child");
        let _gone = process.is_in_control_group_of("").expect_err("the process is gone");
    }

    #[test]
    fn start_is_between_the_moments_before_and_after() {
        let tick = Duration::from_millis(20);
        let before = BootTicks::now().expect("a clock");
        std::thread::sleep(tick);
        let mut child = sleeper();
        let started_at = Process::open(child.id()).expect("a child that runs").started_at();
        std::thread::sleep(tick);
        let after = BootTicks::now().expect("a clock");
        child.kill().expect("our own child");
        child.wait().expect("our own child");
        let started_at = started_at.expect("a start");
        assert!(before < started_at && started_at < after, "{before:?} {started_at:?} {after:?}");
    }

    #[test]
    fn a_process_may_have_a_name_that_is_no_text() {
        let mut child = crate::mangle::sleeper_without_name().expect("it starts");
        let process = Process::open(child.id()).expect("a child that runs");
        let started_at = process.started_at();
        let is_in_group = process.is_in_control_group_of("");
        child.kill().expect("our own child");
        child.wait().expect("our own child");
        assert!(started_at.expect("a start") <= BootTicks::now().expect("a clock"));
        assert!(is_in_group.expect("readable"));
    }

    #[test]
    fn start_is_found_behind_any_name() {
        let check = |line: &str, expected: Option<u64>| {
            assert_eq!(parse_start(line), expected.map(BootTicks), "{line}");
        };
        let rest = "S 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 4711 20 21";
        check(&format!("42 (sleep) {rest}"), Some(4711));
        check(&format!("42 (a) S 1 2 (b) c) {rest}"), Some(4711));
        check("42 (sleep) S 1 2", None);
        check("", None);
    }

    proptest::proptest! {
        #[test]
        fn any_line_is_read_or_not(
            line in crate::mangle::mangled_text("42 (a) b) S 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 4711 20"),
            other in crate::mangle::any_text(),
        ) {
            parse_start(&line);
            proptest::prop_assert_eq!(parse_start(&format!("1 ({other}) x")), None);
        }
    }

    #[tokio::test]
    async fn end_is_seen_at_once() {
        let mut child = sleeper();
        let process = Process::open(child.id()).expect("a child that runs");
        child.kill().expect("our own child");
        tokio::time::timeout(Duration::from_secs(10), process.ended())
            .await
            .expect("in time")
            .expect("pollable");
        assert!(!process.is_alive());
        child.wait().expect("our own child");
    }
}
