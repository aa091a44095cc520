//! The pin directory: maps, programs and links, and what is compared before maps are adopted.
//!
//! ```text
//! PIN_PATH/maps/NAME         made under maps_new, renamed when META is written: whole or not there
//! PIN_PATH/programs/NAME
//! PIN_PATH/links/HOOK-WAY-IFINDEX-NAMESPACE
//! PIN_PATH/sockets/NAME
//! ```

use std::{
    collections::BTreeSet,
    fs::{self, DirBuilder},
    io,
    os::{fd::AsFd as _, unix::fs::DirBuilderExt as _},
    path::{Path, PathBuf},
};

use anyhow::{Context as _, bail, ensure};
use aya::{
    Ebpf, EbpfLoader,
    maps::{MapData, MapInfo},
};
use aya_obj::generated::bpf_map_type;
use lb_common::abi::{ABI_VERSION, Meta, map_names};

use super::{
    constants::Constants,
    mapped::MappedArray,
    object::{self, MapDefinition},
    options::Options,
};

/// What an operator can do about pins that do not fit.
const CURE: &str = "`lb-agent uninstall` clears it, and breaks the connections that it carries";

/// The pin directory.
#[derive(Clone, Debug)]
pub(super) struct PinDir {
    path: PathBuf,
}

impl PinDir {
    /// Without looking whether it is there.
    pub(super) fn at(path: &Path) -> Self {
        Self { path: path.to_path_buf() }
    }

    /// The directory itself.
    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// Pinned maps.
    pub(super) fn maps(&self) -> PathBuf {
        self.path.join("maps")
    }

    /// Maps that are being made.
    pub(super) fn maps_new(&self) -> PathBuf {
        self.path.join("maps_new")
    }

    /// Pinned programs.
    pub(super) fn programs(&self) -> PathBuf {
        self.path.join("programs")
    }

    /// Pinned links.
    pub(super) fn links(&self) -> PathBuf {
        self.path.join("links")
    }

    /// Pinned links of programs of sockets.
    pub(super) fn sockets(&self) -> PathBuf {
        self.path.join("sockets")
    }

    /// Makes the directories for programs and links.
    pub(super) fn create_directories(&self) -> anyhow::Result<()> {
        for path in [self.programs(), self.links(), self.sockets()] {
            create_directory(&path)?;
        }
        Ok(())
    }

    /// Ids of the pinned maps, as far as they can be opened.
    pub(super) fn map_ids(&self) -> BTreeSet<u32> {
        map_names::ALL
            .iter()
            .filter_map(|name| MapInfo::from_pin(self.maps().join(name)).ok())
            .map(|map| map.id())
            .collect()
    }

    /// Loads the object on the pinned maps where there are some, else on maps that it makes and
    /// pins. Says whether it made them.
    pub(super) fn load_object(
        &self,
        object: &[u8],
        options: &Options,
    ) -> anyhow::Result<(Ebpf, bool)> {
        let definitions = object::definitions(object, options)?;
        if self.maps().exists() {
            self.check_pinned(&definitions)?;
            let ebpf = load(object, options, &self.maps())?;
            return Ok((ebpf, false));
        }
        let fresh = self.maps_new();
        remove_directory(&fresh)?;
        create_directory(&fresh)?;
        let mut ebpf = load(object, options, &fresh)?;
        write_meta(&mut ebpf, options)?;
        fs::rename(&fresh, self.maps())
            .with_context(|| format!("cannot rename `{}` to `maps`", fresh.display()))?;
        Ok((ebpf, true))
    }

    /// Refuses maps that are not exactly what the object defines.
    fn check_pinned(&self, definitions: &[(&'static str, MapDefinition)]) -> anyhow::Result<()> {
        for (name, expected) in definitions {
            let path = self.maps().join(name);
            let present = match pinned_definition(&path) {
                Ok(present) => present,
                Err(error) => bail!("map `{}` cannot be opened: {error:#}; {CURE}", path.display()),
            };
            if let Some(difference) = difference(name, &present, expected) {
                bail!("map `{}` does not fit: {difference}; {CURE}", path.display());
            }
            // First of all maps, so that another version is called that and not another size.
            if *name == map_names::META {
                check_abi_version(&path)?;
            }
        }
        Ok(())
    }
}

/// Removes a directory and what is in it; a bpffs holds no directories of ours deeper than that.
pub(super) fn remove_directory(path: &Path) -> anyhow::Result<()> {
    let entries = match fs::read_dir(path) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(error).with_context(|| format!("`{}`", path.display())),
    };
    for entry in entries {
        let entry = entry?.path();
        fs::remove_file(&entry).with_context(|| format!("cannot remove `{}`", entry.display()))?;
    }
    fs::remove_dir(path).with_context(|| format!("cannot remove `{}`", path.display()))
}

fn create_directory(path: &Path) -> anyhow::Result<()> {
    match DirBuilder::new().mode(0o700).create(path) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => {
            Err(error).with_context(|| format!("cannot make `{}`", path.display()))
        }
        _ => Ok(()),
    }
}

fn load(object: &[u8], options: &Options, maps: &Path) -> anyhow::Result<Ebpf> {
    let constants = Constants::of(options);
    let mut loader = EbpfLoader::new();
    constants.set(&mut loader, options);
    for &name in map_names::ALL {
        loader.map_pin_path(name, maps.join(name));
        if let Some(entries) = object::configured_entries(name, options) {
            loader.map_max_entries(name, entries);
        }
    }
    loader.load(object).context("the kernel refuses the maps of the embedded BPF object")
}

fn write_meta(ebpf: &mut Ebpf, options: &Options) -> anyhow::Result<()> {
    let hash_seed = match options.hash_seed {
        Some(seed) => seed,
        None => random_seed()?,
    };
    let map = ebpf.map_mut(map_names::META).context("the embedded BPF object has no `META`")?;
    let mut meta = aya::maps::Array::<_, Meta>::try_from(map)?;
    let limits = options.times.limits(super::online_cpus()?);
    meta.set(0, Meta { abi_version: ABI_VERSION, flags: 0, hash_seed, limits }, 0)?;
    Ok(())
}

fn random_seed() -> io::Result<u64> {
    let mut bytes = [0; 8];
    io::Read::read_exact(&mut fs::File::open("/dev/urandom")?, &mut bytes)?;
    Ok(u64::from_ne_bytes(bytes))
}

fn pinned_definition(path: &Path) -> anyhow::Result<MapDefinition> {
    let map = MapInfo::from_pin(path)?;
    Ok(MapDefinition {
        map_type: map.map_type()? as u32,
        key_size: map.key_size(),
        value_size: map.value_size(),
        max_entries: map.max_entries(),
        flags: map.map_flags(),
    })
}

fn check_abi_version(path: &Path) -> anyhow::Result<()> {
    let map = MapData::from_pin(path)?;
    let meta = MappedArray::<Meta>::new(map.fd().as_fd(), 1)?;
    let version = meta.load(0).context("META is empty")?.abi_version;
    ensure!(
        version == ABI_VERSION,
        "the maps pinned in `{}` have ABI version {version}, and this lb-agent has {ABI_VERSION}; \
         {CURE}",
        path.parent().unwrap_or(path).display(),
    );
    Ok(())
}

/// What differs, in words.
fn difference(name: &str, present: &MapDefinition, expected: &MapDefinition) -> Option<String> {
    let type_name = |number: u32| match bpf_map_type::try_from(number) {
        Ok(map_type) => format!("{map_type:?}"),
        Err(_) => number.to_string(),
    };
    if present.map_type != expected.map_type {
        let (is, should) = (type_name(present.map_type), type_name(expected.map_type));
        return Some(format!("its type is {is}, and should be {should}"));
    }
    let numbers = [
        ("key size", present.key_size, expected.key_size),
        ("value size", present.value_size, expected.value_size),
        ("flags", present.flags, expected.flags),
    ];
    for (what, is, should) in numbers {
        if is != should {
            return Some(format!("its {what} is {is}, and should be {should}"));
        }
    }
    let (is, should) = (present.max_entries, expected.max_entries);
    if is == should {
        return None;
    }
    Some(match object::size_key(name) {
        Some(key) => format!(
            "it has {is} entries, and `{key}` asks for {should}; to keep it set `{key}` to {is}"
        ),
        None => format!("it has {is} entries, and should have {should}"),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const DEFINITION: MapDefinition =
        MapDefinition { map_type: 2, key_size: 4, value_size: 8, max_entries: 64, flags: 1024 };

    #[test]
    fn equal_maps_fit() {
        assert_eq!(difference("RINGS", &DEFINITION, &DEFINITION), None);
    }

    #[test]
    fn every_difference_is_named() {
        let check = |name, present: MapDefinition, expected: &str| {
            let words = difference(name, &present, &DEFINITION).unwrap_or_default();
            assert_eq!(words, expected);
        };
        check(
            "RINGS",
            MapDefinition { map_type: 1, ..DEFINITION },
            "its type is BPF_MAP_TYPE_HASH, and should be BPF_MAP_TYPE_ARRAY",
        );
        check(
            "RINGS",
            MapDefinition { key_size: 8, ..DEFINITION },
            "its key size is 8, and should be 4",
        );
        check(
            "RINGS",
            MapDefinition { value_size: 16, ..DEFINITION },
            "its value size is 16, and should be 8",
        );
        check(
            "RINGS",
            MapDefinition { flags: 0, ..DEFINITION },
            "its flags is 0, and should be 1024",
        );
        check(
            "RINGS",
            MapDefinition { max_entries: 65, ..DEFINITION },
            "it has 65 entries, and should have 64",
        );
        check(
            "RING_SLOTS",
            MapDefinition { max_entries: 65, ..DEFINITION },
            "it has 65 entries, and `tables.ring_slots` asks for 64; to keep it set \
             `tables.ring_slots` to 65",
        );
    }
}
