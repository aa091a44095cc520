//! The part of systemd that keeps descriptors for a service: it is told of them on `NOTIFY_SOCKET`
//! (`sd_notify(3)`), and the next process gets them (`sd_listen_fds(3)`).

use std::{
    io::IoSliceMut,
    net::Shutdown,
    os::{
        fd::{AsRawFd as _, FromRawFd as _, OwnedFd, RawFd},
        unix::net::UnixDatagram,
    },
    path::{Path, PathBuf},
    process::Command,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    thread,
};

use anyhow::{Context as _, Result};
use nix::{
    sys::{
        socket::{ControlMessageOwned, MsgFlags, UnixAddr, recvmsg},
        stat::fstat,
    },
    unistd::dup,
};

use crate::namespace::Namespace;

/// The unit that says how many are kept.
const UNIT: &str = include_str!("../../dist/lb-agent.service");

/// Runs `$@` as the process that the descriptors `$0` are for, which it has from 3 on. They are put out of
/// the way first: they may have each other's numbers.
const HANDED_OVER: &str = r#"
    numbers=()
    for given in $0; do exec {number}<&"$given" {given}<&-; numbers+=("$number"); done
    next=3
    for number in "${numbers[@]}"; do
        eval "exec $next<&$number"
        exec {number}<&-
        next=$((next + 1))
    done
    LISTEN_PID=$$ exec "$@""#;

/// Descriptors by name, in the order in which they came.
type Kept = Vec<(String, OwnedFd)>;

/// It.
#[derive(Debug)]
pub struct Manager {
    path: PathBuf,
    socket: UnixDatagram,
    kept: Arc<Mutex<Kept>>,
    /// What it has opened itself, as a socket unit does.
    units: Kept,
}

impl Manager {
    /// One that listens in this directory.
    pub fn new(directory: &Path) -> Result<Self> {
        let path = directory.join("notify");
        let socket = UnixDatagram::bind(&path).with_context(|| path.display().to_string())?;
        let kept = Arc::default();
        let (receiving, receiver) = (socket.try_clone()?, Arc::clone(&kept));
        let room = room_in_the_unit()?;
        thread::spawn(move || {
            while let Ok(Some((message, descriptors))) = receive(&receiving) {
                take(&mut lock(&receiver), room, &message, descriptors);
            }
        });
        Ok(Self { path, socket, kept, units: Vec::new() })
    }

    /// Names of what it keeps, in their order.
    #[must_use]
    pub fn names(&self) -> Vec<String> {
        let mut names: Vec<_> = lock(&self.kept).iter().map(|(name, _)| name.clone()).collect();
        names.sort();
        names
    }

    /// Keeps this, too, as if an earlier process had left it.
    pub fn keep(&self, name: &str, descriptor: impl Into<OwnedFd>) {
        lock(&self.kept).push((name.to_owned(), descriptor.into()));
    }

    /// Hands this over each time, and has nothing to forget about it.
    pub fn add_unit(&mut self, name: &str, descriptor: impl Into<OwnedFd>) {
        self.units.push((name.to_owned(), descriptor.into()));
    }

    /// Closes what it keeps, as when the service is stopped.
    pub fn discard(&self) {
        lock(&self.kept).clear();
    }

    /// What starts a program in the namespace with all that there is, which has to live until then.
    pub fn handing(&self, namespace: &Namespace) -> Result<(Command, Vec<OwnedFd>)> {
        let kept = lock(&self.kept);
        let (mut names, mut descriptors) = (Vec::new(), Vec::new());
        for (name, descriptor) in self.units.iter().chain(&*kept) {
            names.push(name.as_str());
            // It goes on to what is started, unlike the original.
            descriptors.push(dup(descriptor)?);
        }
        let numbers: Vec<_> = descriptors.iter().map(|it| it.as_raw_fd().to_string()).collect();
        let mut command = namespace.command("bash");
        command.args(["-c", HANDED_OVER]).arg(numbers.join(" ")).env("NOTIFY_SOCKET", &self.path);
        if !names.is_empty() {
            command.env("LISTEN_FDS", names.len().to_string());
            command.env("LISTEN_FDNAMES", names.join(":"));
        }
        Ok((command, descriptors))
    }
}

impl Drop for Manager {
    fn drop(&mut self) {
        // Its thread hears of it and ends.
        if let Err(error) = self.socket.shutdown(Shutdown::Both) {
            eprintln!("cannot end the thread that listens on {}: {error}", self.path.display());
        }
    }
}

fn lock(kept: &Mutex<Kept>) -> MutexGuard<'_, Kept> {
    kept.lock().unwrap_or_else(PoisonError::into_inner)
}

fn room_in_the_unit() -> Result<usize> {
    let line = UNIT.lines().find_map(|line| line.strip_prefix("FileDescriptorStoreMax="));
    Ok(line.context("the unit keeps no descriptors")?.parse()?)
}

/// One message; `None`: there will be no more.
fn receive(socket: &UnixDatagram) -> Result<Option<(String, Vec<OwnedFd>)>> {
    let mut buffer = [0; 4096];
    let mut control = nix::cmsg_space!([RawFd; 16]);
    let mut parts = [IoSliceMut::new(&mut buffer)];
    let (number, flags) = (socket.as_raw_fd(), MsgFlags::MSG_CMSG_CLOEXEC);
    let message = recvmsg::<UnixAddr>(number, &mut parts, Some(&mut control), flags)?;
    let mut descriptors = Vec::new();
    for part in message.cmsgs()? {
        if let ControlMessageOwned::ScmRights(numbers) = part {
            // SAFETY: they came with this message, so they are open and nobody else's.
            descriptors.extend(numbers.into_iter().map(|it| unsafe { OwnedFd::from_raw_fd(it) }));
        }
    }
    let length = message.bytes;
    let text = String::from_utf8_lossy(&buffer[..length]).into_owned();
    Ok((length > 0).then_some((text, descriptors)))
}

/// As systemd does it: what is kept already is not kept twice, and what there is no room for is closed.
fn take(kept: &mut Kept, room: usize, message: &str, descriptors: Vec<OwnedFd>) {
    let has = |line: &str| message.lines().any(|it| it == line);
    let name = message.lines().find_map(|line| line.strip_prefix("FDNAME="));
    if has("FDSTOREREMOVE=1") {
        kept.retain(|(kept, _)| Some(kept.as_str()) != name);
    } else if has("FDSTORE=1") {
        for descriptor in descriptors {
            let is_same = |(_, other): &(String, OwnedFd)| inode(other) == inode(&descriptor);
            if kept.len() < room && !kept.iter().any(is_same) {
                kept.push((name.unwrap_or("stored").to_owned(), descriptor));
            }
        }
    }
}

/// What two descriptors of one socket have in common.
fn inode(descriptor: &OwnedFd) -> Option<u64> {
    fstat(descriptor).ok().map(|it| it.st_ino)
}
