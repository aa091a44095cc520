//! The BPF object that this agent carries, and what it defines.

use anyhow::{Context as _, bail, ensure};
use lb_common::abi::map_names;

use super::options::Options;

/// What `cargo xtask build-ebpf` made, or nothing.
static OBJECT: &[u8] = aya::include_bytes_aligned!(concat!(env!("OUT_DIR"), "/lb-ebpf.o"));

/// The object.
pub fn embedded() -> anyhow::Result<&'static [u8]> {
    ensure!(
        !OBJECT.is_empty(),
        "this lb-agent was built without its BPF object: run `cargo xtask build-ebpf` and build it \
         again",
    );
    Ok(OBJECT)
}

/// What makes two maps the same to the programs and to the agent.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct MapDefinition {
    pub(super) map_type: u32,
    pub(super) key_size: u32,
    pub(super) value_size: u32,
    pub(super) max_entries: u32,
    pub(super) flags: u32,
}

/// The maps of the ABI, as the object defines them and the options size them.
pub(super) fn definitions(
    object: &[u8],
    options: &Options,
) -> anyhow::Result<Vec<(&'static str, MapDefinition)>> {
    let object = aya_obj::Object::parse(object).context("the embedded BPF object is broken")?;
    let mut definitions = Vec::with_capacity(map_names::ALL.len());
    for &name in map_names::ALL {
        let Some(map) = object.maps.get(name) else {
            bail!("the embedded BPF object has no map `{name}`: build it again");
        };
        let definition = MapDefinition {
            map_type: map.map_type(),
            key_size: map.key_size(),
            value_size: map.value_size(),
            max_entries: configured_entries(name, options).unwrap_or_else(|| map.max_entries()),
            flags: map.map_flags(),
        };
        definitions.push((name, definition));
    }
    Ok(definitions)
}

/// About as much memory as the kernel takes for maps, at so many CPUs.
pub(super) fn memory_bytes(definitions: &[(&'static str, MapDefinition)], cpus: u64) -> u64 {
    use aya_obj::generated::bpf_map_type;

    let bytes = |map: &MapDefinition| {
        let value = u64::from(map.value_size).next_multiple_of(8);
        let per_entry = match bpf_map_type::try_from(map.map_type) {
            Ok(bpf_map_type::BPF_MAP_TYPE_PERCPU_ARRAY) => value * cpus + 8,
            Ok(bpf_map_type::BPF_MAP_TYPE_ARRAY) => value,
            Ok(bpf_map_type::BPF_MAP_TYPE_RINGBUF) => 1,
            // `struct htab_elem` and, for every entry, a bucket.
            _ => value + u64::from(map.key_size).next_multiple_of(8) + 48 + 16,
        };
        u64::from(map.max_entries) * per_entry
    };
    definitions.iter().map(|(_, map)| bytes(map)).sum()
}

/// Size of a map whose size is a matter of configuration.
pub(super) fn configured_entries(name: &str, options: &Options) -> Option<u32> {
    match name {
        map_names::RING_SLOTS => Some(options.ring_slots),
        map_names::FLOWS_V4
        | map_names::FLOWS_V6
        | map_names::REPLIES_V4
        | map_names::REPLIES_V6 => Some(options.records),
        _ => None,
    }
}

/// The key of the configuration that sizes a map.
pub(super) fn size_key(name: &str) -> Option<&'static str> {
    match name {
        map_names::RING_SLOTS => Some("tables.ring_slots"),
        map_names::FLOWS_V4
        | map_names::FLOWS_V6
        | map_names::REPLIES_V4
        | map_names::REPLIES_V6 => Some("tables.records"),
        _ => None,
    }
}
