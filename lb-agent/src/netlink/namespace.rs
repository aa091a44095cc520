//! The only place that enters network namespaces.
//!
//! But for the thread of [`super::socket_worker`], work inside a namespace runs on a thread of its own that enters, works, and ends. There is no way
//! back to fail on, no thread that could be left in the wrong namespace, and the thread's own hold on
//! the namespace goes with it. Sockets that it opens belong to the namespace for life and are handed
//! out; whoever keeps one keeps the namespace alive.

use std::{
    fs::File,
    io,
    os::{fd::OwnedFd, unix::fs::MetadataExt as _},
    thread,
};

use nix::{
    sched::{CloneFlags, setns},
    sys::socket::{AddressFamily, SockFlag, SockType, socket},
};

use super::process::{Process, gone};

/// A network namespace, kept alive by this handle: drop it soon.
#[derive(Debug)]
pub struct Namespace {
    file: File,
}

impl Namespace {
    /// The namespace of the calling thread.
    pub fn own() -> io::Result<Self> {
        Ok(Self { file: File::open("/proc/thread-self/ns/net")? })
    }

    /// The namespace of a process that still lives.
    pub fn of(process: &Process) -> io::Result<Self> {
        let path = format!("/proc/{}/ns/net", process.pid());
        let file = match File::open(&path) {
            Ok(file) => file,
            Err(_) if !process.is_alive() => return Err(gone(process.pid())),
            Err(error) => return Err(io::Error::new(error.kind(), format!("{path}: {error}"))),
        };
        // The number meant our process while the file was opened only if it has not ended since.
        if process.is_alive() { Ok(Self { file }) } else { Err(gone(process.pid())) }
    }

    /// Whether both are the same namespace.
    pub fn is_same(&self, other: &Self) -> io::Result<bool> {
        let (this, that) = (self.file.metadata()?, other.file.metadata()?);
        Ok((this.dev(), this.ino()) == (that.dev(), that.ino()))
    }

    /// Does `work` inside the namespace.
    pub fn run<T: Send>(&self, work: impl FnOnce() -> io::Result<T> + Send) -> io::Result<T> {
        thread::scope(|scope| {
            thread::Builder::new()
                .name("lb-namespace".to_owned())
                .spawn_scoped(scope, || {
                    self.enter()?;
                    work()
                })?
                .join()
                .unwrap_or_else(|_panic| Err(io::Error::other("the namespace thread panicked")))
        })
    }

    /// Takes the calling thread into the namespace, for good.
    pub(super) fn enter(&self) -> io::Result<()> {
        Ok(setns(&self.file, CloneFlags::CLONE_NEWNET)?)
    }

    /// A TCP socket of the calling thread's namespace, non-blocking and not connected.
    pub(super) fn tcp_socket_here(is_v6: bool) -> io::Result<OwnedFd> {
        let family = if is_v6 { AddressFamily::Inet6 } else { AddressFamily::Inet };
        let flags = SockFlag::SOCK_NONBLOCK | SockFlag::SOCK_CLOEXEC;
        Ok(socket(family, SockType::Stream, flags, None)?)
    }

    /// The handle, for netlink attributes that name a namespace by descriptor.
    pub(super) fn file(&self) -> &File {
        &self.file
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_panic_inside_is_an_error_outside() {
        let own = Namespace::own().expect("our own namespace");
        let result: io::Result<()> = own.run(|| {
            std::panic::resume_unwind(Box::new("in the namespace"));
        });
        let _error = result.expect_err("the panic is reported");
    }
}
