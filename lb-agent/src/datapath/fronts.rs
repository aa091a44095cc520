//! The front interfaces: which of them are there, what runs on them, and whether XDP does.

use std::collections::BTreeSet;

use lb_common::abi::Hook;

use super::{
    hook::{AttachError, Way, display_interface},
    hooks::{Attachment, Hooks},
    options::{FrontInterface, XdpMode},
    rtnl::Interface,
    tables::Tables,
};

/// One front interface as it is.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct FrontStatus {
    /// Its name in the configuration.
    pub name: String,
    /// Its index, where there is such an interface.
    pub ifindex: Option<u32>,
    /// How the TC program is attached.
    pub tc: Option<Way>,
    /// How XDP is attached, where it is.
    pub xdp: Option<Way>,
    /// What is not as the configuration wants it, in words.
    pub troubles: Vec<String>,
}

/// The configured front interfaces.
#[derive(Debug)]
pub(super) struct Fronts {
    configured: Vec<FrontInterface>,
    /// Interfaces on which XDP was tried because of `auto`, and is not possible.
    without_xdp: BTreeSet<u32>,
    /// Some front interface has VLAN interfaces.
    has_vlans: bool,
}

/// What a front interface should have.
struct Wanted {
    ifindex: u32,
    /// XDP in this way, if at all.
    xdp: Option<Way>,
    /// Only where it is possible.
    is_auto: bool,
}

impl Fronts {
    pub(super) fn new(configured: Vec<FrontInterface>) -> Self {
        Self { configured, without_xdp: BTreeSet::new(), has_vlans: false }
    }

    /// Whether clients may be behind VLAN interfaces of a front interface. What is sent to them leaves
    /// by these, with their tags, and never by the front interface itself.
    pub(super) fn has_vlans(&self) -> bool {
        self.has_vlans
    }

    /// Attaches what is missing, and detaches from interfaces that are no front. With `replaces`
    /// every program is replaced by ours, which an earlier agent's needs.
    pub(super) fn attach(
        &mut self,
        hooks: &mut Hooks,
        tables: &Tables,
        replaces: bool,
    ) -> Vec<FrontStatus> {
        let interfaces = match hooks.rtnl().interfaces() {
            Ok(interfaces) => interfaces,
            Err(error) => {
                let trouble = format!("the interfaces cannot be listed: {error}");
                return self.configured.iter().map(|front| status(front, &trouble)).collect();
            }
        };
        let wanted: Vec<Option<Wanted>> =
            self.configured.iter().map(|front| self.want(front, &interfaces)).collect();
        if wanted.iter().all(Option::is_none) {
            // A misspelt name must not take the programs off the interfaces that have them.
            let lost = |front| status(front, "there is no such interface");
            return self.configured.iter().map(lost).collect();
        }
        let fronts: BTreeSet<u32> = wanted.iter().flatten().map(|front| front.ifindex).collect();
        self.has_vlans =
            interfaces.iter().any(|it| it.vlan_parent.is_some_and(|it| fronts.contains(&it)));
        // No redirect to an interface that is about to lose XDP.
        let keep_xdp: Vec<u32> = xdp_interfaces(hooks)
            .into_iter()
            .filter(|ifindex| {
                wanted
                    .iter()
                    .flatten()
                    .any(|front| front.ifindex == *ifindex && front.xdp.is_some())
            })
            .collect();
        tables.set_xdp_egress(&keep_xdp);

        let mut statuses = Vec::with_capacity(self.configured.len());
        for (front, wanted) in self.configured.iter().zip(&wanted) {
            statuses.push(match wanted {
                Some(wanted) => attach_front(front, wanted, hooks, &mut self.without_xdp, replaces),
                None => status(front, "there is no such interface"),
            });
        }
        let present: Vec<u32> = wanted.iter().flatten().map(|front| front.ifindex).collect();
        detach_others(hooks, &present);
        tables.set_xdp_egress(&xdp_interfaces(hooks));
        statuses
    }

    fn want(&self, front: &FrontInterface, interfaces: &[Interface]) -> Option<Wanted> {
        let interface = interfaces.iter().find(|interface| interface.name == front.name)?;
        let xdp = match front.xdp {
            XdpMode::Native => Some(Way::XdpNative),
            XdpMode::Generic => Some(Way::XdpGeneric),
            XdpMode::Off => None,
            XdpMode::Auto => (interface.is_physical
                && !self.without_xdp.contains(&interface.index))
            .then_some(Way::XdpNative),
        };
        Some(Wanted { ifindex: interface.index, xdp, is_auto: front.xdp == XdpMode::Auto })
    }
}

fn status(front: &FrontInterface, trouble: &str) -> FrontStatus {
    FrontStatus {
        name: front.name.clone(),
        ifindex: None,
        tc: None,
        xdp: None,
        troubles: vec![format!("front interface `{}`: {trouble}", front.name)],
    }
}

fn attach_front(
    front: &FrontInterface,
    wanted: &Wanted,
    hooks: &mut Hooks,
    without_xdp: &mut BTreeSet<u32>,
    replaces: bool,
) -> FrontStatus {
    let ifindex = wanted.ifindex;
    let mut troubles = Vec::new();
    let mut trouble = |what: &str, error: &AttachError| {
        troubles.push(format!("front interface `{}`: {what}: {error}", front.name));
    };
    if (replaces || !is_there(hooks, Hook::TcFront, ifindex, None))
        && let Err(error) = hooks.attach_tc(Hook::TcFront, ifindex)
    {
        trouble("TC", &error);
    }
    let result = match wanted.xdp {
        None if hooks.way(Hook::Xdp, ifindex).is_some() => hooks.detach(Hook::Xdp, ifindex),
        None => Ok(()),
        Some(way) if !replaces && is_there(hooks, Hook::Xdp, ifindex, Some(way)) => Ok(()),
        Some(way) => hooks.attach_xdp(ifindex, way),
    };
    match result {
        Err(AttachError::Unsupported(reason) | AttachError::Refused(reason)) if wanted.is_auto => {
            tracing::info!(interface = front.name, reason, "running without XDP");
            without_xdp.insert(ifindex);
        }
        Err(error) => trouble("XDP", &error),
        Ok(()) => {}
    }
    FrontStatus {
        name: front.name.clone(),
        ifindex: Some(ifindex),
        tc: hooks.way(Hook::TcFront, ifindex),
        xdp: hooks.way(Hook::Xdp, ifindex),
        troubles,
    }
}

/// Whether a program is attached, in one way or in any.
fn is_there(hooks: &mut Hooks, hook: Hook, ifindex: u32, wanted: Option<Way>) -> bool {
    let Some(way) = hooks.way(hook, ifindex) else {
        return false;
    };
    wanted.is_none_or(|wanted| wanted == way) && hooks.is_alive(Attachment { hook, ifindex, way })
}

fn detach_others(hooks: &mut Hooks, fronts: &[u32]) {
    for Attachment { hook, ifindex, .. } in hooks.attachments() {
        if hook == Hook::TcReply || fronts.contains(&ifindex) {
            continue;
        }
        let interface = display_interface(ifindex);
        match hooks.detach(hook, ifindex) {
            Ok(()) => tracing::info!(?hook, interface, "detached: no front interface any more"),
            Err(error) => tracing::warn!(?hook, interface, %error, "cannot detach"),
        }
    }
}

fn xdp_interfaces(hooks: &Hooks) -> Vec<u32> {
    hooks
        .attachments()
        .iter()
        .filter(|attachment| attachment.hook == Hook::Xdp)
        .map(|attachment| attachment.ifindex)
        .collect()
}
