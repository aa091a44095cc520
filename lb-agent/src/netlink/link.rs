//! Links, addresses and default routes, reduced to what decisions need.

use std::{collections::BTreeMap, io, net::IpAddr, os::fd::AsRawFd as _};

use netlink_packet_route::{
    AddressFamily, RouteNetlinkMessage,
    address::{AddressAttribute, AddressHeaderFlags, AddressMessage, AddressScope},
    link::{InfoKind, LinkAttribute, LinkExtentMask, LinkInfo, LinkMessage},
    nsid::{NsidAttribute, NsidMessage},
    route::{RouteAddress, RouteAttribute, RouteHeader, RouteMessage, RouteType},
};
use nix::errno::Errno;

use super::{namespace::Namespace, socket::RouteSocket};

/// A network interface.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Link {
    /// Its index in its namespace.
    pub(super) index: u32,
    /// Its name.
    pub(super) name: String,
    /// Its driver's kind, `veth` for one; hardware and loopback have none.
    pub(super) kind: Option<String>,
    /// Index of the interface that it is bound to; for a veth its other end.
    pub(super) peer_index: Option<u32>,
    /// Which namespace that index is in, by the number that this namespace knows it by; `None`: in
    /// this one.
    pub(super) peer_namespace: Option<i32>,
    /// Index of the bridge that it is a port of.
    pub(super) bridge_index: Option<u32>,
}

/// Which addresses a question is about.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Family {
    /// IPv4.
    V4,
    /// IPv6.
    V6,
}

/// A default route: one entry per way that it has.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(super) struct DefaultRoute {
    /// Smaller wins.
    pub(super) metric: u32,
    /// Index of the interface that it leaves by.
    pub(super) interface: u32,
    /// The source address that it prefers.
    pub(super) source: Option<IpAddr>,
}

/// An address of an interface.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Address {
    /// Index of its interface.
    pub(super) interface: u32,
    /// The address.
    pub(super) address: IpAddr,
}

/// All links of the socket's namespace, by index.
pub(super) fn links(socket: &mut RouteSocket) -> io::Result<BTreeMap<u32, Link>> {
    let mut question = LinkMessage::default();
    question.attributes.push(LinkAttribute::ExtMask(vec![LinkExtentMask::SkipStats]));
    let links = socket.dump(&RouteNetlinkMessage::GetLink(question), |message| match message {
        RouteNetlinkMessage::NewLink(link) => Some(Link::from(link)),
        _ => None,
    })?;
    Ok(links.into_iter().map(|link| (link.index, link)).collect())
}

/// The bridges of the socket's namespace, by index. A bridge knows no other bridge it is a port of.
pub(super) fn bridges(socket: &mut RouteSocket) -> io::Result<BTreeMap<u32, Link>> {
    let mut question = LinkMessage::default();
    question.attributes.push(LinkAttribute::ExtMask(vec![LinkExtentMask::SkipStats]));
    question.attributes.push(LinkAttribute::LinkInfo(vec![LinkInfo::Kind(InfoKind::Bridge)]));
    let links = socket.dump(&RouteNetlinkMessage::GetLink(question), |message| match message {
        RouteNetlinkMessage::NewLink(link) => Some(Link::from(link)),
        _ => None,
    })?;
    let is_bridge = |link: &Link| link.kind.as_deref() == Some("bridge");
    Ok(links.into_iter().filter(is_bridge).map(|link| (link.index, link)).collect())
}

/// The link with this index in the socket's namespace, if there is one.
pub(super) fn link_at(socket: &mut RouteSocket, index: u32) -> io::Result<Option<Link>> {
    let mut question = LinkMessage::default();
    question.header.index = index;
    one_link(socket, question)
}

/// The link with this name in the socket's namespace, if there is one.
pub(super) fn link_named(socket: &mut RouteSocket, name: &str) -> io::Result<Option<Link>> {
    let mut question = LinkMessage::default();
    question.attributes.push(LinkAttribute::IfName(name.to_owned()));
    one_link(socket, question)
}

fn one_link(socket: &mut RouteSocket, mut question: LinkMessage) -> io::Result<Option<Link>> {
    question.attributes.push(LinkAttribute::ExtMask(vec![LinkExtentMask::SkipStats]));
    match socket.get(RouteNetlinkMessage::GetLink(question)) {
        Ok(Some(RouteNetlinkMessage::NewLink(link))) => Ok(Some(Link::from(link))),
        Ok(_) => Ok(None),
        Err(error) if error.raw_os_error() == Some(Errno::ENODEV as i32) => Ok(None),
        Err(error) => Err(error),
    }
}

/// Usable addresses of the socket's namespace: those that other links know, the primary and lasting
/// ones of an interface first.
pub(super) fn addresses(socket: &mut RouteSocket, family: Family) -> io::Result<Vec<Address>> {
    let mut question = AddressMessage::default();
    question.header.family = family.into();
    let mut found = socket.dump(&RouteNetlinkMessage::GetAddress(question), |message| {
        let RouteNetlinkMessage::NewAddress(message) = message else { return None };
        let header = &message.header;
        let has = |flag| header.flags.contains(flag);
        let is_usable = match family {
            Family::V4 => header.scope != AddressScope::Host,
            // Every link has an address of scope `link`, which the next link cannot reach.
            Family::V6 => {
                !matches!(header.scope, AddressScope::Host | AddressScope::Link)
                    && !has(AddressHeaderFlags::Dadfailed)
                    && !has(AddressHeaderFlags::Tentative)
            }
        };
        if header.family != AddressFamily::from(family) || !is_usable {
            return None;
        }
        // For IPv6 the bit of secondary addresses says that the address is a temporary one.
        let is_last_choice =
            has(AddressHeaderFlags::Secondary) || has(AddressHeaderFlags::Deprecated);
        let address = local_address(&message.attributes)?;
        Some((is_last_choice, Address { interface: header.index, address }))
    })?;
    found.sort_by_key(|(is_last_choice, _)| *is_last_choice);
    Ok(found.into_iter().map(|(_, address)| address).collect())
}

/// An address of an interface, with what else is said of it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct FullAddress {
    /// The address.
    pub(super) address: IpAddr,
    /// How many bits it has in common with its subnet.
    pub(super) prefix_length: u8,
    /// Index of its interface.
    pub(super) interface: u32,
    /// Of IPv4: there is an older one of the same subnet. Of IPv6: it is a temporary one.
    pub(super) is_secondary: bool,
    /// It has no end: nobody has leased it.
    pub(super) is_permanent: bool,
    /// No connection begins from it.
    pub(super) is_deprecated: bool,
}

/// Every address of the socket's namespace, of both families and all scopes. Those of IPv4 of one interface
/// are in the order in which the kernel chooses among them.
pub(super) fn all_addresses(socket: &mut RouteSocket) -> io::Result<Vec<FullAddress>> {
    let question = RouteNetlinkMessage::GetAddress(AddressMessage::default());
    let found = socket.dump(&question, |message| {
        let RouteNetlinkMessage::NewAddress(message) = message else { return None };
        let mut far_or_own = None;
        let mut own = None;
        for attribute in &message.attributes {
            match attribute {
                AddressAttribute::Local(address) => own = Some(*address),
                AddressAttribute::Address(address) => far_or_own = Some(*address),
                _ => {}
            }
        }
        let has = |flag| message.header.flags.contains(flag);
        Some(FullAddress {
            address: own.or(far_or_own)?,
            prefix_length: message.header.prefix_len,
            interface: message.header.index,
            is_secondary: has(AddressHeaderFlags::Secondary),
            is_permanent: has(AddressHeaderFlags::Permanent),
            is_deprecated: has(AddressHeaderFlags::Deprecated),
        })
    })?;
    Ok(found)
}

/// `IFA_LOCAL` is our end of a point-to-point link, where `IFA_ADDRESS` is the far one.
fn local_address(attributes: &[AddressAttribute]) -> Option<IpAddr> {
    let mut far_or_own = None;
    for attribute in attributes {
        match attribute {
            AddressAttribute::Local(address) => return Some(*address),
            AddressAttribute::Address(address) => far_or_own = Some(*address),
            _ => {}
        }
    }
    far_or_own
}

/// Default routes of the main table, the ones that win first.
pub(super) fn default_routes(
    socket: &mut RouteSocket,
    family: Family,
) -> io::Result<Vec<DefaultRoute>> {
    let mut question = RouteMessage::default();
    question.header.address_family = family.into();
    let mut routes: Vec<DefaultRoute> = socket
        .dump(&RouteNetlinkMessage::GetRoute(question), |message| match message {
            RouteNetlinkMessage::NewRoute(route)
                if route.header.address_family == AddressFamily::from(family) =>
            {
                Some(ways_of_default_route(&route))
            }
            _ => None,
        })?
        .into_iter()
        .flatten()
        .collect();
    // Stable: of equals the kernel's order decides, which is the order in which they are used.
    routes.sort_by_key(|route| route.metric);
    Ok(routes)
}

fn ways_of_default_route(route: &RouteMessage) -> Vec<DefaultRoute> {
    let (mut table, mut metric, mut source) = (u32::from(route.header.table), 0, None);
    let mut interfaces = Vec::new();
    for attribute in &route.attributes {
        match attribute {
            RouteAttribute::Table(number) => table = *number,
            RouteAttribute::Priority(priority) => metric = *priority,
            RouteAttribute::PrefSource(RouteAddress::Inet(address)) => {
                source = Some(IpAddr::V4(*address));
            }
            RouteAttribute::PrefSource(RouteAddress::Inet6(address)) => {
                source = Some(IpAddr::V6(*address));
            }
            RouteAttribute::Oif(index) => interfaces.push(*index),
            RouteAttribute::MultiPath(hops) => {
                interfaces.extend(hops.iter().map(|hop| hop.interface_index));
            }
            _ => {}
        }
    }
    let is_default = route.header.destination_prefix_length == 0
        && route.header.source_prefix_length == 0
        && route.header.tos == 0
        && route.header.kind == RouteType::Unicast
        && table == u32::from(RouteHeader::RT_TABLE_MAIN);
    if !is_default {
        return Vec::new();
    }
    interfaces.into_iter().map(|interface| DefaultRoute { metric, interface, source }).collect()
}

impl From<Family> for AddressFamily {
    fn from(family: Family) -> Self {
        match family {
            Family::V4 => Self::Inet,
            Family::V6 => Self::Inet6,
        }
    }
}

/// The number by which the socket's namespace knows another one; `None`: it does not.
pub(super) fn namespace_number(
    socket: &mut RouteSocket,
    other: &Namespace,
) -> io::Result<Option<i32>> {
    let descriptor = u32::try_from(other.file().as_raw_fd()).map_err(io::Error::other)?;
    let mut question = NsidMessage::default();
    question.attributes.push(NsidAttribute::Fd(descriptor));
    let Some(RouteNetlinkMessage::NewNsId(answer)) =
        socket.get(RouteNetlinkMessage::GetNsId(question))?
    else {
        return Ok(None);
    };
    Ok(answer.attributes.iter().find_map(|attribute| match attribute {
        NsidAttribute::Id(number) if *number >= 0 => Some(*number),
        _ => None,
    }))
}

impl From<LinkMessage> for Link {
    fn from(message: LinkMessage) -> Self {
        let mut link = Self {
            index: message.header.index,
            name: String::new(),
            kind: None,
            peer_index: None,
            peer_namespace: None,
            bridge_index: None,
        };
        for attribute in message.attributes {
            match attribute {
                LinkAttribute::IfName(name) => link.name = name,
                LinkAttribute::Link(index) => link.peer_index = Some(index),
                LinkAttribute::Controller(index) => link.bridge_index = Some(index),
                LinkAttribute::LinkNetNsId(number) => link.peer_namespace = Some(number),
                LinkAttribute::LinkInfo(infos) => link.kind = infos.iter().find_map(kind_of),
                _ => {}
            }
        }
        link
    }
}

fn kind_of(info: &LinkInfo) -> Option<String> {
    match info {
        LinkInfo::Kind(kind) => Some(kind.to_string()),
        _ => None,
    }
}

/// Makes of a message all that is ever made of one.
#[cfg(test)]
pub(super) fn look_at(message: RouteNetlinkMessage) {
    match message {
        RouteNetlinkMessage::NewLink(message) => drop(Link::from(message)),
        RouteNetlinkMessage::NewRoute(message) => drop(ways_of_default_route(&message)),
        RouteNetlinkMessage::NewAddress(message) => drop(local_address(&message.attributes)),
        _ => {}
    }
}
