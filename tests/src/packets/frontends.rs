//! How frontends get into the kernel's tables.

use std::{collections::HashSet, net::Ipv4Addr, sync::atomic::Ordering};

use anyhow::Context as _;
use aya::{
    Ebpf,
    maps::{Array, MapData},
};
use lb_common::{
    abi::{
        FRONTEND_BUCKETS, FRONTEND_WORDS_V4, FRONTEND_WORDS_V6, FrontendKeyV4, NetAddr6, NetU16,
        NetU32, PORT_LIST_RANGES, PORT_LISTS, PROTOCOL_ANY, PROTOCOL_TCP, SCOPE_FRONT,
        VIP_FILTER_WORDS, map_names,
    },
    frontends::{Editor, FrontendMaps as _, HostMaps},
};

use super::{FrontendSpec, World, family::FrontendFamily};

/// A TCP frontend: its first port is in the key, and its last one beside it.
#[must_use]
pub fn frontend(vip: Ipv4Addr, first: u16, last: u16, service: u32) -> (FrontendKeyV4, u16, u32) {
    let port = NetU16::new(first);
    let key = FrontendKeyV4 { vip: vip.into(), port, protocol: PROTOCOL_TCP, scope: SCOPE_FRONT };
    (key, last, service)
}

/// Writes frontends and their VIPs to the maps of a loaded object.
pub fn publish_frontends(
    ebpf: &mut Ebpf,
    frontends: &[(FrontendKeyV4, u16, u32)],
    flags: u32,
) -> anyhow::Result<()> {
    publish::<NetU32, FRONTEND_WORDS_V4, 8>(ebpf, &mut Written::default(), frontends, flags)
}

/// What is not zero in the maps.
#[derive(Default)]
pub(super) struct Written {
    elements: HashSet<(&'static str, u32)>,
    world: Option<(Vec<FrontendSpec>, u32)>,
}

/// Writes the frontends of a world, over those of an earlier one.
pub(super) fn publish_world(
    ebpf: &mut Ebpf,
    written: &mut Written,
    world: &World,
) -> anyhow::Result<()> {
    let flags = world.frontend_flags;
    let wanted = Some((world.frontends.clone(), flags));
    if written.world == wanted {
        return Ok(());
    }
    publish::<NetU32, FRONTEND_WORDS_V4, 8>(ebpf, written, &keys::<NetU32, 2>(world), flags)?;
    publish::<NetAddr6, FRONTEND_WORDS_V6, 16>(ebpf, written, &keys::<NetAddr6, 4>(world), flags)?;
    written.world = wanted;
    Ok(())
}

/// The frontends of a family.
pub(super) fn keys<A: FrontendFamily<W>, const W: usize>(
    world: &World,
) -> Vec<(A::FrontendKey, u16, u32)> {
    let key = |it: &FrontendSpec| {
        let vip = A::address(it.vip)?;
        let key = A::frontend_key(vip, NetU16::new(it.first), it.protocol, SCOPE_FRONT);
        Some((key, it.last, it.service))
    };
    world.frontends.iter().filter_map(key).collect()
}

/// `WORDS` is the number of words of a bucket, `FRONTEND_WAYS * W`.
fn publish<A: FrontendFamily<W>, const W: usize, const WORDS: usize>(
    ebpf: &mut Ebpf,
    written: &mut Written,
    frontends: &[(A::FrontendKey, u16, u32)],
    flags: u32,
) -> anyhow::Result<()>
where
    [u64; WORDS]: Default + aya::Pod,
{
    use lb_common::frontends::FrontendKey as _;
    let maps = HostMaps::<W>::new();
    let mut editor = Editor::adopt(&maps, 0, 0).map_err(|error| anyhow::anyhow!("{error}"))?;
    for (key, last, service) in frontends {
        let vip = key.at(NetU16::new(0), PROTOCOL_ANY);
        editor
            .put_frontend(&maps, key, *last, *service, flags, 0)
            .and_then(|()| editor.put_vip(&maps, &vip, flags, 0))
            .map_err(|error| anyhow::anyhow!("{key:?}: {error}"))?;
    }
    let [filter_name, buckets_name, lists_name] = A::FRONTENDS;
    let mut filter = array::<u64>(ebpf, filter_name)?;
    for index in 0..VIP_FILTER_WORDS {
        let word = maps.filter(index).context("filter")?.load(Ordering::Relaxed);
        written.set(&mut filter, filter_name, index, word)?;
    }
    let mut buckets = array::<[u64; WORDS]>(ebpf, buckets_name)?;
    for index in 0..2 * FRONTEND_BUCKETS {
        let bucket = maps.bucket(index).context("bucket")?;
        let mut words = <[u64; WORDS]>::default();
        for (word, entry) in words.iter_mut().zip(bucket.iter().flatten()) {
            *word = entry.load(Ordering::Relaxed);
        }
        written.set(&mut buckets, buckets_name, index, words)?;
    }
    let mut lists = array::<[u64; PORT_LIST_RANGES]>(ebpf, lists_name)?;
    for index in 0..PORT_LISTS {
        let list = maps.port_list(index).context("list")?;
        let words = list.each_ref().map(|word| word.load(Ordering::Relaxed));
        written.set(&mut lists, lists_name, index, words)?;
    }
    let header = maps.header().context("header")?.load(Ordering::Relaxed);
    array::<u64>(ebpf, map_names::FRONTEND_HEADERS)?.set(A::NUMBER, header, 0)?;
    Ok(())
}

impl Written {
    /// Writes an element if it is not zero, or was not: nearly all are.
    fn set<V: aya::Pod + PartialEq + Default>(
        &mut self,
        array: &mut Array<&mut MapData, V>,
        name: &'static str,
        index: u32,
        value: V,
    ) -> anyhow::Result<()> {
        let was_written = if value == V::default() {
            self.elements.remove(&(name, index))
        } else {
            self.elements.insert((name, index));
            true
        };
        if was_written {
            array.set(index, value, 0)?;
        }
        Ok(())
    }
}

fn array<'a, V: aya::Pod>(
    ebpf: &'a mut Ebpf,
    name: &str,
) -> anyhow::Result<Array<&'a mut MapData, V>> {
    ebpf.map_mut(name).with_context(|| format!("no map {name}"))?.try_into().context("no array")
}
