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
