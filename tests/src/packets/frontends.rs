//! Frontends of the packet cases, and how they get into the kernel's tables.

use std::{
    net::{Ipv4Addr, SocketAddrV4},
    sync::atomic::Ordering,
};

use anyhow::Context as _;
use aya::{
    Ebpf,
    maps::{Array, MapData},
};
use lb_common::{
    abi::{
        FAMILY_V4, FRONTEND_BUCKETS, FrontendKeyV4, NetU16, PORT_LISTS, PROTOCOL_ANY, PROTOCOL_TCP,
        SCOPE_FRONT, VIP_FILTER_WORDS, map_names,
    },
    frontends::{Editor, FrontendMaps as _, HostMaps},
};

use super::VIP;

/// A second VIP with the same port as [`VIP`].
pub(super) const SECOND_VIP: SocketAddrV4 = SocketAddrV4::new(Ipv4Addr::new(192, 0, 2, 11), 80);
/// A VIP with the ports 8000 to 8999.
pub(super) const RANGE_VIP: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 12);
/// A VIP with all ports.
pub(super) const ALL_PORTS_VIP: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 13);

/// A TCP frontend: its first port is in the key, and its last one beside it.
#[must_use]
pub fn frontend(vip: Ipv4Addr, first: u16, last: u16, service: u32) -> (FrontendKeyV4, u16, u32) {
    (key(vip, PROTOCOL_TCP, first), last, service)
}

fn key(vip: Ipv4Addr, protocol: u8, port: u16) -> FrontendKeyV4 {
    FrontendKeyV4 { vip: vip.into(), port: NetU16::new(port), protocol, scope: SCOPE_FRONT }
}

/// Frontends of every case; all lead to service 0.
pub(super) fn of_cases() -> Vec<(FrontendKeyV4, u16, u32)> {
    vec![
        frontend(*VIP.ip(), VIP.port(), VIP.port(), 0),
        frontend(*SECOND_VIP.ip(), SECOND_VIP.port(), SECOND_VIP.port(), 0),
        frontend(RANGE_VIP, 8000, 8999, 0),
        frontend(ALL_PORTS_VIP, 1, u16::MAX, 0),
    ]
}

/// The VIPs of frontends, each once.
pub(super) fn vips(frontends: &[(FrontendKeyV4, u16, u32)]) -> Vec<FrontendKeyV4> {
    let mut vips: Vec<_> =
        frontends.iter().map(|(it, ..)| key(it.vip.into(), PROTOCOL_ANY, 0)).collect();
    vips.sort_unstable();
    vips.dedup();
    vips
}

/// Writes frontends and their VIPs to the maps of a loaded object.
pub fn publish_frontends(
    ebpf: &mut Ebpf,
    frontends: &[(FrontendKeyV4, u16, u32)],
    flags: u32,
) -> anyhow::Result<()> {
    let maps = HostMaps::<2>::new();
    let mut editor = Editor::adopt(&maps, 0, 0).map_err(|error| anyhow::anyhow!("{error}"))?;
    for (key, last, service) in frontends {
        editor
            .put_frontend(&maps, key, *last, *service, flags, 0)
            .map_err(|error| anyhow::anyhow!("{key:?}: {error}"))?;
    }
    for vip in vips(frontends) {
        editor
            .put_vip(&maps, &vip, flags, 0)
            .map_err(|error| anyhow::anyhow!("{vip:?}: {error}"))?;
    }
    let mut filter = array::<u64>(ebpf, map_names::VIP_FILTER_V4)?;
    for index in 0..VIP_FILTER_WORDS {
        let word = maps.filter(index).context("filter")?.load(Ordering::Relaxed);
        filter.set(index, word, 0)?;
    }
    let mut buckets = array::<[[u64; 2]; 4]>(ebpf, map_names::FRONTENDS_V4)?;
    for index in 0..2 * FRONTEND_BUCKETS {
        let bucket = maps.bucket(index).context("bucket")?;
        let words = bucket
            .each_ref()
            .map(|entry| entry.each_ref().map(|word| word.load(Ordering::Relaxed)));
        if words != [[0; 2]; 4] {
            buckets.set(index, words, 0)?;
        }
    }
    let mut lists = array::<[u64; 16]>(ebpf, map_names::PORT_LISTS_V4)?;
    for index in 0..PORT_LISTS {
        let list = maps.port_list(index).context("list")?;
        let words = list.each_ref().map(|word| word.load(Ordering::Relaxed));
        if words != [0; 16] {
            lists.set(index, words, 0)?;
        }
    }
    let header = maps.header().context("header")?.load(Ordering::Relaxed);
    array::<u64>(ebpf, map_names::FRONTEND_HEADERS)?.set(FAMILY_V4, header, 0)?;
    Ok(())
}

fn array<'a, V: aya::Pod>(
    ebpf: &'a mut Ebpf,
    name: &str,
) -> anyhow::Result<Array<&'a mut MapData, V>> {
    ebpf.map_mut(name).with_context(|| format!("no map {name}"))?.try_into().context("no array")
}
