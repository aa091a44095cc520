//! The service manager, as far as it keeps descriptors for those who are to come: `FDSTORE` and
//! `FDSTOREREMOVE` of `sd_notify(3)`. The crate `sd-notify` would need another one for that.

use std::{
    ffi::{OsStr, OsString},
    io::{self, IoSlice},
    os::{
        fd::{AsRawFd as _, BorrowedFd, RawFd},
        unix::{ffi::OsStrExt as _, net::UnixDatagram},
    },
};

use nix::sys::socket::{ControlMessage, MsgFlags, UnixAddr, sendmsg};

/// Where the manager is told; `None`: there is none.
#[derive(Clone, Debug, Default)]
pub(in super::super) struct Store(Option<OsString>);

impl Store {
    pub(in super::super) fn of_environment() -> Self {
        Self(std::env::var_os("NOTIFY_SOCKET"))
    }

    #[cfg(test)]
    pub(in super::super) fn at(path: &std::path::Path) -> Self {
        Self(Some(path.into()))
    }

    /// Has a descriptor handed to the next process, by this name. What is kept already stays as it is.
    /// Whether the manager was told; without one there is nothing to tell.
    pub(super) fn keep(&self, name: &str, socket: BorrowedFd<'_>) -> bool {
        // Without being asked not to, the manager watches each for errors, and a flood of questions would
        // be a flood of events in it. The next process looks at what it gets.
        let message = format!("FDSTORE=1\nFDPOLL=0\nFDNAME={name}\n");
        let told = self.tell(&message, &[socket.as_raw_fd()]).inspect_err(|error| {
            tracing::warn!(
                "names: the service manager does not keep `{name}`, so nobody listens there while the \
                 agent is restarted; it is asked again by a reload: {error}"
            );
        });
        told.is_ok()
    }

    /// No longer keeps what has this name. Whether the manager was told, as above.
    pub(super) fn forget(&self, name: &str) -> bool {
        let message = format!("FDSTOREREMOVE=1\nFDNAME={name}\n");
        let told = self.tell(&message, &[]).inspect_err(|error| {
            tracing::warn!(
                "names: the service manager goes on keeping `{name}`, and with it the port: {error}"
            );
        });
        told.is_ok()
    }

    /// Messages are taken in the order in which they were sent.
    fn tell(&self, message: &str, descriptors: &[RawFd]) -> io::Result<()> {
        let Some(address) = &self.0 else { return Ok(()) };
        let address = address_of(address)?;
        let rights = [ControlMessage::ScmRights(descriptors)];
        let rights = if descriptors.is_empty() { &rights[..0] } else { &rights };
        let socket = UnixDatagram::unbound()?;
        let (number, parts) = (socket.as_raw_fd(), [IoSlice::new(message.as_bytes())]);
        sendmsg(number, &parts, rights, MsgFlags::MSG_NOSIGNAL, Some(&address))?;
        Ok(())
    }
}

/// A path, or after an `@` a name that is in no file system.
fn address_of(address: &OsStr) -> io::Result<UnixAddr> {
    let address = match address.as_bytes().strip_prefix(b"@") {
        Some(name) => UnixAddr::new_abstract(name),
        None => UnixAddr::new(address),
    };
    Ok(address?)
}
