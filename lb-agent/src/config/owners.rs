//! Which service of the file has which frontend.
//!
//! A range and a port in it may belong to two services, as may a range within a wider one: the
//! narrower wins. Ranges of two services that cross would have no reading that everybody shares.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
};

use lb_common::abi;

use super::Registration;
use crate::model::{FrontendAddress, Ports, Protocol};

/// The frontends of the services that were looked at so far.
#[derive(Default)]
pub(super) struct Owners<'a> {
    lines: BTreeMap<FrontendAddress, (usize, Option<String>)>,
    /// Frontends of containers that are named by Registrator.
    registrations: BTreeMap<(IpAddr, Protocol), Vec<&'a Registration>>,
    ranges: BTreeMap<(IpAddr, Protocol), BTreeSet<Ports>>,
    /// Lists of ranges by family.
    lists: [u32; 2],
}

impl<'a> Owners<'a> {
    /// Nobody has anything but these.
    pub(super) fn beside(registrations: &'a [Registration]) -> Self {
        let mut owners = Self::default();
        for one in registrations {
            let FrontendAddress { vip, protocol, .. } = one.frontend;
            owners.registrations.entry((vip, protocol)).or_default().push(one);
        }
        owners
    }

    /// Gives a frontend to the service of a line. The error says why it cannot have it, or what
    /// would not fit into the tables. Services that share it by one name are one there.
    pub(super) fn claim(
        &mut self,
        frontend: FrontendAddress,
        line: usize,
        share: Option<&str>,
    ) -> Result<(), String> {
        let registered = self.registrations.get(&(frontend.vip, frontend.protocol));
        let mut registered = registered.into_iter().flatten();
        if let Some(other) = registered.find(|it| it.frontend.ports.overlap(frontend.ports)) {
            return Err(format!(
                "{frontend} has ports in common with {} of the [[registrator]] `{}`, whose containers \
                 would never get anything; a frontend has one service, so choose another",
                other.frontend,
                other.name.escape_debug()
            ));
        }
        if let Some((owner, known)) = self.lines.get(&frontend)
            && share.is_some()
            && *owner != line
            && known.as_deref() == share
        {
            return Ok(());
        }
        if let Some((owner, _)) = self.lines.insert(frontend, (line, share.map(str::to_owned))) {
            return Err(format!(
                "{frontend} is already a frontend of the service of line {owner}; a frontend has \
                 one service"
            ));
        }
        if self.lines.len() == abi::MAX_FRONTENDS as usize + 1 {
            return Err(format!("more than {} frontends; remove some", abi::MAX_FRONTENDS));
        }
        if frontend.ports.is_wide() { self.claim_range(frontend, line) } else { Ok(()) }
    }

    fn claim_range(&mut self, frontend: FrontendAddress, line: usize) -> Result<(), String> {
        let FrontendAddress { vip, protocol, ports } = frontend;
        let ranges = self.ranges.entry((vip, protocol)).or_default();
        if ranges.is_empty() {
            let lists = &mut self.lists[usize::from(vip.is_ipv6())];
            *lists += 1;
            if *lists == abi::MAX_PORT_LISTS + 1 {
                return Err(format!(
                    "more than {} VIPs with ranges of ports; name single ports",
                    abi::MAX_PORT_LISTS
                ));
            }
        }
        let crossed = ranges.iter().find_map(|other| {
            let other = FrontendAddress { ports: *other, ..frontend };
            let owner = self.lines.get(&other)?.0;
            (owner != line && cross(ports, other.ports)).then_some((other, owner))
        });
        ranges.insert(ports);
        if let Some((other, owner)) = crossed {
            return Err(format!(
                "{frontend} and {other} of the service of line {owner} have some ports in common \
                 and each has others; put one range into the other, or keep them apart"
            ));
        }
        if ranges.len() == abi::PORT_LIST_RANGES + 1 {
            return Err(format!(
                "more than {} ranges of {protocol} ports at {vip}; join some",
                abi::PORT_LIST_RANGES
            ));
        }
        Ok(())
    }
}

/// Whether two ranges overlap and neither contains the other.
fn cross(one: Ports, other: Ports) -> bool {
    let contains =
        |one: Ports, other: Ports| one.first() <= other.first() && other.last() <= one.last();
    one.overlap(other) && !contains(one, other) && !contains(other, one)
}
