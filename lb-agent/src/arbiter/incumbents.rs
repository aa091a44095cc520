//! Who has which frontend now, as far as arbitration asks.

use std::{collections::BTreeMap, net::IpAddr};

use ipnet::IpNet;

use crate::{
    model::{FrontendAddress, Ports, Protocol},
    plan::{KernelState, NameHash},
};

/// Who has which frontend: the hash of the service's name, [`crate::plan::service_hash`].
pub type Incumbents = BTreeMap<FrontendAddress, NameHash>;

/// What knows who has a frontend.
pub trait Holders {
    /// The hash of the name of the service that has it, [`crate::plan::service_hash`].
    fn holder(&self, frontend: &FrontendAddress) -> Option<NameHash>;

    /// Those that are held at addresses of a network, in order.
    fn within(&self, network: IpNet) -> impl Iterator<Item = (FrontendAddress, NameHash)>;
}

impl Holders for Incumbents {
    fn holder(&self, frontend: &FrontendAddress) -> Option<NameHash> {
        self.get(frontend).copied()
    }

    fn within(&self, network: IpNet) -> impl Iterator<Item = (FrontendAddress, NameHash)> {
        entries(self, network).map(|(frontend, service)| (*frontend, *service))
    }
}

/// The kernel alone outlives the agent.
impl Holders for KernelState {
    fn holder(&self, frontend: &FrontendAddress) -> Option<NameHash> {
        self.services.get(self.frontends.get(frontend)?).copied()
    }

    fn within(&self, network: IpNet) -> impl Iterator<Item = (FrontendAddress, NameHash)> {
        entries(&self.frontends, network)
            .filter_map(|(frontend, number)| Some((*frontend, *self.services.get(number)?)))
    }
}

fn entries<T>(
    frontends: &BTreeMap<FrontendAddress, T>,
    network: IpNet,
) -> impl Iterator<Item = (&FrontendAddress, &T)> {
    let at_or_behind = frontends.range(first_at(network.network(), Protocol::Tcp)..);
    at_or_behind.take_while(move |(frontend, _)| frontend.vip <= network.broadcast())
}

/// The first frontend in order that there can be for an address and a protocol.
pub(super) fn first_at(vip: IpAddr, protocol: Protocol) -> FrontendAddress {
    FrontendAddress { vip, protocol, ports: Ports::LOWEST }
}
