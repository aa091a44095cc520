//! Ethernet and VLAN tags.

use super::{ETHERNET_HEADER_BYTES, IPV4_HEADER_BYTES, VLAN_TAG_BYTES};
use crate::engine::Packet;

const ETHERTYPE_IPV4: u16 = 0x0800;
const ETHERTYPE_IPV6: u16 = 0x86dd;
/// Tag of 802.1Q.
const ETHERTYPE_VLAN: u16 = 0x8100;
/// Outer tag of 802.1ad.
const ETHERTYPE_SERVICE_VLAN: u16 = 0x88a8;
/// Tags that are understood, wherever they are.
const TAGS_MAX: u32 = 2;

/// What an Ethernet frame carries.
#[repr(u32)]
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Network {
    /// Nothing that is balanced.
    Other = 0,
    /// IPv4.
    V4 = 1,
    /// IPv6.
    V6 = 2,
}

/// Where a frame's network header begins.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Link {
    /// What follows the Ethernet header.
    pub network: Network,
    /// Where it begins.
    pub l3_offset: usize,
    /// VLAN tags in the frame's bytes.
    pub tags: u32,
}

/// Parses a frame's Ethernet header. `tags_beside` is the number of VLAN tags that the kernel has
/// taken out of the bytes: in TC the outer one is metadata.
#[inline(always)]
pub fn link<P: Packet>(packet: &P, tags_beside: u32) -> Link {
    // Any frame that could be ours has an IPv4 header's length of bytes at least; asking for all of
    // them makes the next check of an untagged packet the same as this one.
    let Some(start) = packet.window::<{ ETHERNET_HEADER_BYTES + IPV4_HEADER_BYTES }>(0) else {
        return link_of(0, ETHERNET_HEADER_BYTES, 0);
    };
    let mut ethertype = u16::from_be_bytes([start[12], start[13]]);
    if ethertype == ETHERTYPE_IPV4 {
        return link_of(ethertype, ETHERNET_HEADER_BYTES, 0);
    }
    let mut tags = 0;
    if is_tag(ethertype) && tags_beside < TAGS_MAX {
        ethertype = u16::from_be_bytes([start[16], start[17]]);
        tags = 1;
        if is_tag(ethertype) && tags_beside + 1 < TAGS_MAX {
            ethertype = u16::from_be_bytes([start[20], start[21]]);
            tags = 2;
        }
    }
    link_of(ethertype, ETHERNET_HEADER_BYTES + tags as usize * VLAN_TAG_BYTES, tags)
}

#[inline(always)]
const fn is_tag(ethertype: u16) -> bool {
    ethertype == ETHERTYPE_VLAN || ethertype == ETHERTYPE_SERVICE_VLAN
}

#[inline(always)]
const fn link_of(ethertype: u16, l3_offset: usize, tags: u32) -> Link {
    let network = if ethertype == ETHERTYPE_IPV4 {
        Network::V4
    } else if ethertype == ETHERTYPE_IPV6 {
        Network::V6
    } else {
        Network::Other
    };
    Link { network, l3_offset, tags }
}
