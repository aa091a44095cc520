//! Programs attached by links that are pinned: TCX and XDP.
//!
//! A pinned link outlives the agent. A later agent opens the pin and gives the link its own program
//! instead, between two packets. XDP by netlink, without a link, is for kernels older than any that
//! has the helpers that we need, so it does not exist here.

use std::{
    fs, io,
    os::fd::{AsFd as _, BorrowedFd, OwnedFd},
    path::{Path, PathBuf},
};

use super::{
    hook::{AttachError, LinkName, Way, interface_name},
    state_dir::remove_if_there,
    sys::{self, AttachType},
};

/// The directory of pinned links.
#[derive(Clone, Debug)]
pub(super) struct LinkDir {
    path: PathBuf,
}

impl LinkDir {
    /// Without looking whether it is there.
    pub(super) fn at(path: &Path) -> Self {
        Self { path: path.to_path_buf() }
    }

    /// Gives a link the program, atomically where there is one and else by making it, or by taking the
    /// one that was made already.
    pub(super) fn attach(
        &self,
        link: &LinkName,
        program: BorrowedFd<'_>,
        made: Option<OwnedFd>,
    ) -> Result<(), AttachError> {
        if self.replace(link, program)? {
            return Ok(());
        }
        let (attach_type, flags) = match link.way {
            Way::Tcx => (AttachType::TcxIngress, sys::FLAG_FIRST),
            Way::XdpNative => (AttachType::Xdp, sys::FLAG_XDP_NATIVE),
            Way::XdpGeneric => (AttachType::Xdp, sys::FLAG_XDP_GENERIC),
            Way::Clsact => return Err(AttachError::Unsupported("clsact has no links".to_owned())),
        };
        let fd = match made {
            Some(fd) => fd,
            None => sys::link_create(program, link.ifindex, attach_type, flags)
                .map_err(|error| explain(link, &error))?,
        };
        let pin = self.pin(link);
        sys::pin(fd.as_fd(), &pin).map_err(|error| {
            AttachError::Refused(format!("cannot pin the link at `{}`: {error}", pin.display()))
        })
    }

    /// `Ok(false)`: there is no link, or only the remains of one whose interface is gone.
    fn replace(&self, link: &LinkName, program: BorrowedFd<'_>) -> Result<bool, AttachError> {
        let pin = self.pin(link);
        let refuse = |call: &str, error: &io::Error| {
            AttachError::Refused(format!("cannot {call} the link `{}`: {error}", pin.display()))
        };
        let fd = match sys::open_pin(&pin) {
            Ok(fd) => fd,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(false),
            Err(error) => return Err(refuse("open", &error)),
        };
        match sys::link_update(fd.as_fd(), program) {
            Ok(()) => Ok(true),
            // The interface was deleted; one that has its name or index now is another.
            Err(error) if error.raw_os_error() == Some(libc::ENOLINK) => {
                remove_if_there(&pin).map_err(|error| refuse("remove", &error))?;
                Ok(false)
            }
            Err(error) => Err(refuse("replace the program of", &error)),
        }
    }

    /// Takes the program off; a link that is not there is as good.
    pub(super) fn detach(&self, link: &LinkName) -> Result<(), AttachError> {
        let pin = self.pin(link);
        if let Ok(fd) = sys::open_pin(&pin)
            && let Err(error) = sys::link_detach(fd.as_fd())
        {
            // The pin goes all the same, and the program with it a little later.
            tracing::debug!(%link, %error, "cannot detach at once");
        }
        remove_if_there(&pin).map_err(|error| {
            AttachError::Refused(format!("cannot remove the link `{}`: {error}", pin.display()))
        })
    }

    /// Whether the link is there and its interface too.
    pub(super) fn is_alive(&self, link: &LinkName) -> bool {
        sys::open_pin(&self.pin(link))
            .and_then(|fd| sys::link_ifindex(fd.as_fd()))
            .is_ok_and(|ifindex| ifindex != 0)
    }

    /// Every link that is pinned; no directory holds none.
    pub(super) fn list(&self) -> io::Result<Vec<LinkName>> {
        let entries = match fs::read_dir(&self.path) {
            Ok(entries) => entries,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            Err(error) => return Err(error),
        };
        let mut links = Vec::new();
        for entry in entries {
            let name = entry?.file_name();
            if let Some(link) = name.to_str().and_then(LinkName::parse) {
                links.push(link);
            } else {
                tracing::warn!(?name, "not a link of ours: left as it is");
            }
        }
        links.sort_unstable_by_key(ToString::to_string);
        Ok(links)
    }

    /// Where a link is pinned.
    pub(super) fn pin(&self, link: &LinkName) -> PathBuf {
        self.path.join(link.to_string())
    }
}

fn explain(link: &LinkName, error: &io::Error) -> AttachError {
    if interface_name(link.ifindex).is_none() {
        return AttachError::Absent;
    }
    match (link.way, error.raw_os_error()) {
        (_, Some(libc::ENODEV)) => AttachError::Absent,
        (Way::Tcx, Some(libc::EINVAL | libc::EOPNOTSUPP)) => AttachError::Unsupported(
            "this kernel has no TCX (6.6 or later, with CONFIG_NET_XGRESS)".to_owned(),
        ),
        (Way::XdpNative, Some(libc::EINVAL | libc::EOPNOTSUPP)) => AttachError::Unsupported(
            "the driver has no XDP for the interface as it is (queues, MTU, offloads)".to_owned(),
        ),
        (Way::XdpNative | Way::XdpGeneric, Some(libc::EBUSY | libc::EEXIST)) => {
            AttachError::Refused("another XDP program is attached already".to_owned())
        }
        _ => AttachError::Refused(error.to_string()),
    }
}
