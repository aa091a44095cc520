//! Routes by which whoever sends packets to a virtual address without a call that we see is told so
//! at once: raw sockets, processes outside of the cgroup, containers of other runtimes.
//!
//! The route says `unreachable`, so a process of the node gets an error, and what the node forwards
//! for a container is answered by ICMP. Clients' packets are taken before anything is routed, and so
//! is what a seen call has translated. Ours carry a protocol of their own, by which they are found
//! again after a crash, and the lowest preference, so that every other route to the same address counts
//! before them.
//!
//! They stand in for the default route alone. An address in the subnet of an interface is somebody's
//! there, or its neighbours say at once that it is nobody's; and where somebody has made a route to a
//! subnet of virtual addresses, their packets are meant to go there.

use std::{
    collections::BTreeSet,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
};

use netlink_packet_core::DefaultNla;

use super::rtnl::{Rtnl, RtnlError, attribute};
use crate::model::IpPrefix;

const ROUTE_HEADER_LENGTH: usize = 12;
const ADDRESS_HEADER_LENGTH: usize = 8;
/// "l"; nobody else's in `rtnetlink.h` or `/etc/iproute2/rt_protos`.
const PROTOCOL: u8 = 0x6c;
const PREFERENCE: u32 = crate::model::UNSEEN_ROUTE_METRIC;
const MAIN_TABLE: u8 = 254;
const UNREACHABLE: u8 = 7;
const RTA_DST: u16 = 1;
const RTA_PRIORITY: u16 = 6;
const IFA_ADDRESS: u16 = 1;
/// `RTM_F_FIB_MATCH`: the route, and not what follows from it.
const FIB_MATCH: u32 = 0x2000;

/// The routes of the calling thread's network namespace.
#[derive(Debug, Default)]
pub(super) struct Unseen {
    /// What was wanted when they were last looked at, unless they may have changed since.
    settled: Option<[BTreeSet<IpAddr>; 2]>,
}

impl Unseen {
    /// Makes the routes what is wanted, as far as possible; the first refusal is told. Routes to `kept`
    /// stay where there are some.
    pub(super) fn set(
        &mut self,
        wanted: &BTreeSet<IpAddr>,
        kept: &BTreeSet<IpAddr>,
    ) -> Result<(), RtnlError> {
        let asked = [wanted.clone(), kept.clone()];
        self.settle(asked, |[wanted, kept]| set(wanted, kept))
    }

    /// Does what is asked for, unless that is done. What was refused is tried again when it is asked for
    /// again.
    fn settle<E>(
        &mut self,
        asked: [BTreeSet<IpAddr>; 2],
        set: impl FnOnce(&[BTreeSet<IpAddr>; 2]) -> Result<(), E>,
    ) -> Result<(), E> {
        if self.settled.as_ref() == Some(&asked) {
            return Ok(());
        }
        self.settled = None;
        set(&asked)?;
        self.settled = Some(asked);
        Ok(())
    }

    /// Somebody may have changed them.
    pub(super) fn set_stale(&mut self) {
        self.settled = None;
    }
}

fn set(wanted: &BTreeSet<IpAddr>, kept: &BTreeSet<IpAddr>) -> Result<(), RtnlError> {
    let mut rtnl = Rtnl::open()?;
    let held = list(&mut rtnl)?;
    let subnets = subnets(&mut rtnl)?;
    let is_ours = |vip: &&IpAddr| {
        !subnets.iter().any(|subnet| IpPrefix::of(**vip, subnet.length()) == *subnet)
    };
    let mut result = Ok(());
    let stays = |vip: &&IpAddr| (wanted.contains(*vip) || kept.contains(*vip)) && is_ours(vip);
    for vip in held.iter().filter(|vip| !stays(vip)) {
        result = result.and(delete(&mut rtnl, *vip));
    }
    for vip in wanted.difference(&held).filter(is_ours) {
        if !leads_somewhere(&mut rtnl, *vip) {
            result = result.and(add(&mut rtnl, *vip));
        }
    }
    result
}

/// Addresses with a route of ours.
pub(super) fn list(rtnl: &mut Rtnl) -> Result<BTreeSet<IpAddr>, RtnlError> {
    let mut ours = BTreeSet::new();
    for family in [libc::AF_INET, libc::AF_INET6] {
        let mut header = [0; ROUTE_HEADER_LENGTH];
        header[0] = family.to_le_bytes()[0];
        (header[4], header[5], header[7]) = (MAIN_TABLE, PROTOCOL, UNREACHABLE);
        rtnl.set_filters(true);
        let listed = rtnl.request(libc::RTM_GETROUTE, libc::NLM_F_DUMP, &header, &[]);
        rtnl.set_filters(false);
        let messages = match listed {
            // No route was ever made in this table.
            Err(error) if error.errno() == Some(libc::ENOENT) => continue,
            listed => listed?,
        };
        for message in messages.iter().filter(|message| message.kind == libc::RTM_NEWROUTE) {
            let (header, attributes) = message.split(ROUTE_HEADER_LENGTH)?;
            // An old kernel has listed all.
            let is_ours = header[5] == PROTOCOL && header[7] == UNREACHABLE;
            let address = attribute(attributes, RTA_DST).filter(|_| is_ours);
            ours.extend(address.and_then(ip));
        }
    }
    Ok(ours)
}

/// The subnets of all interfaces.
fn subnets(rtnl: &mut Rtnl) -> Result<BTreeSet<IpPrefix>, RtnlError> {
    let header = [0; ADDRESS_HEADER_LENGTH];
    let messages = rtnl.request(libc::RTM_GETADDR, libc::NLM_F_DUMP, &header, &[])?;
    let mut subnets = BTreeSet::new();
    for message in messages.iter().filter(|message| message.kind == libc::RTM_NEWADDR) {
        let (header, attributes) = message.split(ADDRESS_HEADER_LENGTH)?;
        let address = attribute(attributes, IFA_ADDRESS).and_then(ip);
        subnets.extend(address.map(|address| IpPrefix::of(address, header[1])));
    }
    Ok(subnets)
}

/// Whether another route than the default one leads to an address.
fn leads_somewhere(rtnl: &mut Rtnl, vip: IpAddr) -> bool {
    let (mut header, destination) = destination(vip);
    header[8..12].copy_from_slice(&FIB_MATCH.to_ne_bytes());
    // None is an error, too.
    let answer = rtnl.request(libc::RTM_GETROUTE, libc::NLM_F_ACK, &header, &[destination]);
    answer.unwrap_or_default().iter().any(|message| {
        let is_route = message.kind == libc::RTM_NEWROUTE;
        is_route && message.split(ROUTE_HEADER_LENGTH).is_ok_and(|(header, _)| header[1] != 0)
    })
}

fn ip(bytes: &[u8]) -> Option<IpAddr> {
    match *bytes {
        [a, b, c, d] => Some(IpAddr::V4(Ipv4Addr::new(a, b, c, d))),
        _ => <[u8; 16]>::try_from(bytes).ok().map(|bytes| Ipv6Addr::from(bytes).into()),
    }
}

/// Header and attribute of a question about an address alone.
fn destination(vip: IpAddr) -> ([u8; ROUTE_HEADER_LENGTH], DefaultNla) {
    let (family, bytes) = match vip {
        IpAddr::V4(vip) => (libc::AF_INET, vip.octets().to_vec()),
        IpAddr::V6(vip) => (libc::AF_INET6, vip.octets().to_vec()),
    };
    let mut header = [0; ROUTE_HEADER_LENGTH];
    header[0] = family.to_le_bytes()[0];
    header[1] = if vip.is_ipv4() { 32 } else { 128 };
    (header, DefaultNla::new(RTA_DST, bytes))
}

fn add(rtnl: &mut Rtnl, vip: IpAddr) -> Result<(), RtnlError> {
    let flags = libc::NLM_F_ACK | libc::NLM_F_CREATE | libc::NLM_F_EXCL;
    match change(rtnl, libc::RTM_NEWROUTE, flags, vip) {
        Err(error) if error.errno() == Some(libc::EEXIST) => Ok(()),
        result => result,
    }
}

/// Takes a route of ours away; one that is not there is as good.
pub(super) fn delete(rtnl: &mut Rtnl, vip: IpAddr) -> Result<(), RtnlError> {
    match change(rtnl, libc::RTM_DELROUTE, libc::NLM_F_ACK, vip) {
        Err(error) if error.errno() == Some(libc::ESRCH) => Ok(()),
        result => result,
    }
}

fn change(rtnl: &mut Rtnl, kind: u16, flags: libc::c_int, vip: IpAddr) -> Result<(), RtnlError> {
    let (mut header, destination) = destination(vip);
    (header[4], header[5], header[7]) = (MAIN_TABLE, PROTOCOL, UNREACHABLE);
    let preference = DefaultNla::new(RTA_PRIORITY, PREFERENCE.to_ne_bytes().to_vec());
    rtnl.request(kind, flags, &header, &[destination, preference]).map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_refused_is_tried_again_and_what_is_done_is_not() {
        let mut unseen = Unseen::default();
        let asked = |host: u8| [BTreeSet::from([[203, 0, 113, host].into()]), BTreeSet::new()];
        let (refuse, agree, unasked) = (|_: &_| Err(7), |_: &_| Ok::<(), u8>(()), |_: &_| Err(8));
        assert_eq!(unseen.settle(asked(1), refuse), Err(7));
        assert_eq!(unseen.settle(asked(1), refuse), Err(7), "it is not done");
        assert_eq!(unseen.settle(asked(1), agree), Ok(()));
        assert_eq!(unseen.settle(asked(1), unasked), Ok(()), "it is done");
        // Half of another wish may be done: neither is.
        assert_eq!(unseen.settle(asked(2), refuse), Err(7));
        assert_eq!(unseen.settle(asked(1), unasked), Err(8));
        assert_eq!(unseen.settle(asked(1), agree), Ok(()));
        unseen.set_stale();
        assert_eq!(unseen.settle(asked(1), unasked), Err(8), "it may have changed");
    }
}
