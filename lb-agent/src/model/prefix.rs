//! Addresses that begin with the same bits, and what is known of those that are this node's.

use std::{
    collections::BTreeMap,
    fmt,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
};

use lb_common::abi::{LOCAL_CONTAINERS, LOCAL_NODE, LOCAL_PRIMARY};

/// Addresses that begin with the same bits.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct IpPrefix {
    address: IpAddr,
    length: u8,
}

impl IpPrefix {
    /// The prefix of so many bits that an address is in; all its bits if it does not have so many.
    #[must_use]
    pub fn of(address: IpAddr, length: u8) -> Self {
        match address {
            IpAddr::V4(address) => {
                let length = length.min(32);
                let mask = u32::MAX.checked_shl(32 - u32::from(length)).unwrap_or(0);
                Self { address: Ipv4Addr::from(u32::from(address) & mask).into(), length }
            }
            IpAddr::V6(address) => {
                let length = length.min(128);
                let mask = u128::MAX.checked_shl(128 - u32::from(length)).unwrap_or(0);
                Self { address: Ipv6Addr::from(u128::from(address) & mask).into(), length }
            }
        }
    }

    /// One address.
    #[must_use]
    pub fn host(address: IpAddr) -> Self {
        Self { address, length: if address.is_ipv4() { 32 } else { 128 } }
    }

    /// Its first address.
    #[must_use]
    pub fn address(&self) -> IpAddr {
        self.address
    }

    /// How many bits are the same.
    #[must_use]
    pub fn length(&self) -> u8 {
        self.length
    }
}

impl fmt::Display for IpPrefix {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{}/{}", self.address, self.length)
    }
}

/// Which destinations are this node's own: its addresses and the subnets of its containers.
pub type LocalPrefixes = BTreeMap<IpPrefix, LocalKind>;

/// In which way addresses are this node's.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum LocalKind {
    /// A subnet of containers.
    Containers,
    /// An address that the node has beside others, or for others: a virtual one, for example.
    Node,
    /// An address that only a default route could say the node calls from, where there is none. What it was
    /// before it stays; it is no kind of the tables.
    Unclear,
    /// An address that the node calls from, and is reached at. Where it is a virtual address, too, what
    /// no frontend takes is the node's.
    Primary,
}

impl LocalKind {
    /// As `LOCAL_*` have it.
    #[must_use]
    pub fn to_abi(self) -> u32 {
        match self {
            Self::Containers => LOCAL_CONTAINERS,
            Self::Node | Self::Unclear => LOCAL_NODE,
            Self::Primary => LOCAL_PRIMARY,
        }
    }

    /// From what `LOCAL_*` have. An earlier agent said of all that they are local, and no more.
    #[must_use]
    pub fn from_abi(kind: u32) -> Self {
        match kind {
            LOCAL_PRIMARY => Self::Primary,
            LOCAL_NODE => Self::Node,
            _ => Self::Containers,
        }
    }
}

impl fmt::Display for LocalKind {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(match self {
            Self::Containers => "containers",
            Self::Node => "node",
            Self::Unclear => "node, unclear",
            Self::Primary => "node, primary",
        })
    }
}
