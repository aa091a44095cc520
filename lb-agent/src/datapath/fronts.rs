//! The front interfaces: which of them are there, what runs on them, and whether XDP does.

use std::{
    collections::{BTreeMap, BTreeSet},
    io,
};

use lb_common::abi::{Hook, MAX_XDP_IFINDEX, XdpInterface};

use super::{
    hook::{AttachError, Way, display_interface},
    hooks::{Attachment, Hooks},
    offloads,
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
    /// Why XDP does not run where the configuration leaves that to us, in words.
    pub without_xdp: Option<String>,
    /// What is not as the configuration wants it, in words.
    pub troubles: Vec<String>,
}

/// The configured front interfaces.
#[derive(Debug)]
pub(super) struct Fronts {
    configured: Vec<FrontInterface>,
    /// Interfaces on which XDP was tried because of `auto`, and is not possible; and why.
    without_xdp: BTreeMap<u32, String>,
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
    /// Why XDP must not run, although the configuration would have it.
    obstacle: Option<String>,
}

impl Fronts {
    pub(super) fn new(configured: Vec<FrontInterface>) -> Self {
        Self { configured, without_xdp: BTreeMap::new(), has_vlans: false }
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
        let mut with_xdp = xdp_interfaces(hooks);
        with_xdp.retain(|ifindex| {
            wanted.iter().flatten().any(|front| front.ifindex == *ifindex && front.xdp.is_some())
        });
        tables.set_xdp_interfaces(&seen_by_xdp(&with_xdp, &interfaces));

        let mut statuses = Vec::with_capacity(self.configured.len());
        for (front, wanted) in self.configured.iter().zip(&wanted) {
            statuses.push(match wanted {
                Some(wanted) => attach_front(front, wanted, hooks, &mut self.without_xdp, replaces),
                None => status(front, "there is no such interface"),
            });
        }
        let present: Vec<u32> = wanted.iter().flatten().map(|front| front.ifindex).collect();
        detach_others(hooks, &present);
        tables.set_xdp_interfaces(&seen_by_xdp(&xdp_interfaces(hooks), &interfaces));
        statuses
    }

    fn want(&self, front: &FrontInterface, interfaces: &[Interface]) -> Option<Wanted> {
        let interface = interfaces.iter().find(|interface| interface.name == front.name)?;
        let is_auto = front.xdp == XdpMode::Auto;
        let xdp = match front.xdp {
            XdpMode::Native => Some(Way::XdpNative),
            XdpMode::Generic => Some(Way::XdpGeneric),
            XdpMode::Off => None,
            XdpMode::Auto => interface.is_physical.then_some(Way::XdpNative),
        };
        let obstacle = xdp.and_then(|_| {
            let failed = self.without_xdp.get(&interface.index).filter(|_| is_auto);
            failed.cloned().or_else(|| obstacle(interface, interfaces, offloads::strips_tags))
        });
        let xdp = xdp.filter(|_| obstacle.is_none());
        Some(Wanted { ifindex: interface.index, xdp, is_auto, obstacle })
    }
}

/// Why XDP must not run on an interface.
fn obstacle(
    interface: &Interface,
    interfaces: &[Interface],
    strips_tags: impl Fn(&str) -> io::Result<bool>,
) -> Option<String> {
    if interface.index >= MAX_XDP_IFINDEX {
        return Some(format!(
            "its index is {}, and XDP serves interfaces below {MAX_XDP_IFINDEX}",
            interface.index,
        ));
    }
    let vlan = interfaces.iter().find(|it| it.vlan_parent == Some(interface.index))?;
    let name = &interface.name;
    let cause = match strips_tags(name) {
        Ok(false) => return None,
        Ok(true) => "it takes the tags out of frames before XDP sees them".to_owned(),
        Err(error) => format!("whether it takes the tags out of frames cannot be told: {error}"),
    };
    Some(format!(
        "the VLAN interface `{}` is on it, and {cause}; `ethtool -K {name} rxvlan off` leaves them in",
        vlan.name,
    ))
}

fn status(front: &FrontInterface, trouble: &str) -> FrontStatus {
    FrontStatus {
        name: front.name.clone(),
        ifindex: None,
        tc: None,
        xdp: None,
        without_xdp: None,
        troubles: vec![format!("front interface `{}`: {trouble}", front.name)],
    }
}

fn attach_front(
    front: &FrontInterface,
    wanted: &Wanted,
    hooks: &mut Hooks,
    without_xdp: &mut BTreeMap<u32, String>,
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
    let mut obstacle = wanted.obstacle.clone();
    let result = match wanted.xdp {
        None if hooks.way(Hook::Xdp, ifindex).is_some() => {
            tracing::info!(interface = front.name, obstacle, "running without XDP from now on");
            hooks.detach(Hook::Xdp, ifindex)
        }
        None => Ok(()),
        Some(way) if !replaces && is_there(hooks, Hook::Xdp, ifindex, Some(way)) => Ok(()),
        Some(way) => hooks.attach_xdp(ifindex, way),
    };
    match result {
        Err(AttachError::Unsupported(reason) | AttachError::Refused(reason)) if wanted.is_auto => {
            tracing::info!(interface = front.name, reason, "running without XDP");
            without_xdp.insert(ifindex, reason.clone());
            obstacle = Some(reason);
        }
        Err(error) => trouble("XDP", &error),
        Ok(()) => {}
    }
    let without_xdp = obstacle.take_if(|_| wanted.is_auto);
    troubles.extend(obstacle.map(|it| format!("front interface `{}`: XDP: {it}", front.name)));
    FrontStatus {
        name: front.name.clone(),
        ifindex: Some(ifindex),
        tc: hooks.way(Hook::TcFront, ifindex),
        xdp: hooks.way(Hook::Xdp, ifindex),
        without_xdp,
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

/// What XDP is told of interfaces when it runs on these. Of a bond the driver of each port runs it.
fn seen_by_xdp(attached: &[u32], interfaces: &[Interface]) -> BTreeMap<u32, XdpInterface> {
    let seen = |interface: &Interface| {
        let address = interface.address?;
        if attached.contains(&interface.index) {
            Some(XdpInterface::sending(address))
        } else {
            let master = interface.master.filter(|master| attached.contains(master));
            master.map(|_| XdpInterface::receiving(address))
        }
    };
    interfaces.iter().filter_map(|it| seen(it).map(|seen| (it.index, seen))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn interface(index: u32) -> Interface {
        Interface {
            index,
            name: format!("eth{index}"),
            is_physical: true,
            vlan_parent: None,
            address: Some([2, 0, 0, 0, 0, index as u8]),
            master: None,
        }
    }

    fn vlan(index: u32, parent: u32) -> Interface {
        let name = format!("eth{parent}.{index}");
        Interface { name, vlan_parent: Some(parent), is_physical: false, ..interface(index) }
    }

    #[test]
    fn hidden_tags_are_an_obstacle() {
        let check = |others: &[Interface], strips: io::Result<bool>, expected: Option<&str>| {
            let strips = strips.map_err(|error| error.kind());
            let found = obstacle(&interface(3), others, |name| {
                assert_eq!(name, "eth3");
                strips.map_err(io::Error::from)
            });
            match expected {
                Some(words) => {
                    assert!(found.as_ref().is_some_and(|it| it.contains(words)), "{found:?}");
                }
                None => assert_eq!(found, None),
            }
        };
        check(&[interface(3), vlan(7, 4)], Ok(true), None);
        check(&[interface(3), vlan(7, 3)], Ok(false), None);
        check(
            &[interface(3), vlan(7, 3)],
            Ok(true),
            Some(
                "`eth3.7` is on it, and it takes the tags out of frames before XDP sees them; `ethtool -K eth3 rxvlan off`",
            ),
        );
        check(
            &[vlan(7, 3)],
            Err(io::Error::from(io::ErrorKind::PermissionDenied)),
            Some("cannot be told: permission denied"),
        );
    }

    #[test]
    fn an_index_beyond_the_table_is_an_obstacle() {
        let far = interface(MAX_XDP_IFINDEX);
        let found = obstacle(&far, &[], |_| Ok(false));
        assert_eq!(
            found.as_deref(),
            Some("its index is 4096, and XDP serves interfaces below 4096"),
        );
        assert_eq!(obstacle(&interface(MAX_XDP_IFINDEX - 1), &[], |_| Ok(true)), None);
    }

    #[test]
    fn ports_of_a_bond_receive_and_do_not_send() {
        let port = Interface { master: Some(5), ..interface(2) };
        let others = Interface { master: Some(6), ..interface(4) };
        let tunnel = Interface { address: None, ..interface(7) };
        let seen = seen_by_xdp(&[5, 7], &[port, interface(3), others, interface(5), tunnel]);
        let expected = [
            (2, XdpInterface::receiving([2, 0, 0, 0, 0, 2])),
            (5, XdpInterface::sending([2, 0, 0, 0, 0, 5])),
        ];
        assert_eq!(seen, BTreeMap::from(expected));
    }
}
