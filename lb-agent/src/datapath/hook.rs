//! The places where programs are attached, and the ways to do it.

use std::fmt;

use lb_common::abi::{Hook, program_names};

/// How a program is attached.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Way {
    /// A TCX link.
    Tcx,
    /// A filter on the clsact qdisc.
    Clsact,
    /// A link to XDP in the driver.
    XdpNative,
    /// A link to XDP in the stack.
    XdpGeneric,
}

impl Way {
    const ALL: [Self; 4] = [Self::Tcx, Self::Clsact, Self::XdpNative, Self::XdpGeneric];

    /// As it is shown, and as it is written in the name of a pin.
    pub fn name(self) -> &'static str {
        match self {
            Self::Tcx => "tcx",
            Self::Clsact => "clsact",
            Self::XdpNative => "native",
            Self::XdpGeneric => "generic",
        }
    }

    fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|way| way.name() == name)
    }
}

impl fmt::Display for Way {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(self.name())
    }
}

/// Every hook that an interface has; those of sockets are in [`super::sockets`].
pub(super) const HOOKS: [Hook; 3] = [Hook::TcFront, Hook::TcReply, Hook::Xdp];

/// The program of a hook.
pub(super) fn program_name(hook: Hook) -> &'static str {
    match hook {
        Hook::TcFront => program_names::TC_FRONT,
        Hook::TcReply => program_names::TC_REPLY,
        Hook::Xdp => program_names::XDP_FRONT,
        Hook::Socket => program_names::CONNECT4,
    }
}

/// The hook in the name of a pin.
fn pin_word(hook: Hook) -> &'static str {
    match hook {
        Hook::TcFront => "tc_front",
        Hook::TcReply => "tc_reply",
        Hook::Xdp => "xdp_front",
        Hook::Socket => "socket",
    }
}

/// One program on one interface by a link, as the name of its pin has it. The kernel does not tell
/// of a pinned link in which namespace its interface is, so the name does.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct LinkName {
    pub(super) hook: Hook,
    pub(super) way: Way,
    pub(super) ifindex: u32,
    pub(super) netns_cookie: u64,
}

impl LinkName {
    /// `None` for a name that no agent of ours gives.
    pub(super) fn parse(name: &str) -> Option<Self> {
        let mut words = name.split('-');
        let hook = words.next()?;
        let link = Self {
            hook: HOOKS.into_iter().find(|&candidate| pin_word(candidate) == hook)?,
            way: Way::from_name(words.next()?)?,
            ifindex: words.next()?.parse().ok()?,
            netns_cookie: u64::from_str_radix(words.next()?, 16).ok()?,
        };
        // Also refuses words to spare, leading zeros and signs.
        (link.to_string() == name).then_some(link)
    }
}

impl fmt::Display for LinkName {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { hook, way, ifindex, netns_cookie } = self;
        write!(formatter, "{}-{way}-{ifindex}-{netns_cookie:x}", pin_word(*hook))
    }
}

/// Why a program could not be attached.
#[derive(Debug, thiserror::Error)]
pub(super) enum AttachError {
    /// There is no such interface, or no longer.
    #[error("the interface is gone")]
    Absent,
    /// This kernel or driver has no such way.
    #[error("{0}")]
    Unsupported(String),
    /// Anything else.
    #[error("{0}")]
    Refused(String),
}

/// Name of an interface in the calling thread's namespace; `None`: there is none.
pub(super) fn interface_name(ifindex: u32) -> Option<String> {
    let name = nix::net::if_::if_indextoname(ifindex).ok()?.into_string().ok()?;
    // What nix makes of an index that no interface has.
    (!name.is_empty()).then_some(name)
}

/// An interface in messages: by name where it has one.
pub(super) fn display_interface(ifindex: u32) -> String {
    match interface_name(ifindex) {
        Some(name) => format!("interface `{name}`"),
        None => format!("interface {ifindex} (gone)"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn link_names_are_read_back() {
        for hook in HOOKS {
            for way in Way::ALL {
                let link = LinkName { hook, way, ifindex: 42, netns_cookie: 0x1f };
                assert_eq!(LinkName::parse(&link.to_string()), Some(link));
            }
        }
    }

    proptest::proptest! {
        #[test]
        fn any_name_is_read_back_or_not_ours(
            name in proptest::prop_oneof![
                crate::mangle::any_text(),
                crate::mangle::mangled_text("tc_front-tcx-42-1f"),
            ],
        ) {
            let read = LinkName::parse(&name).map(|link| link.to_string());
            proptest::prop_assert!(read.is_none_or(|it| it == name));
        }
    }

    #[test]
    fn foreign_names_are_not_ours() {
        let check = |name: &str| assert_eq!(LinkName::parse(name), None, "{name}");
        check("");
        check("tc_front");
        check("tc_front-tcx-3");
        check("tc_front-tcx-3-1f-more");
        check("tc_front-tcx-03-1f");
        check("tc_front-tcx-+3-1f");
        check("tc_side-tcx-3-1f");
        check("tc_front-tcx-4294967296-1f");
    }
}
