//! An agent whose kernel programs are others: what an upgrade puts in the place of the first.
//!
//! Every move of a small number into a register is made the other way that the instruction set has for
//! it. To the kernel these are other programs, verified and compiled anew; what they do is the same, and
//! so are the tables.

use std::{
    collections::BTreeMap,
    fs,
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result, ensure};
use aya::programs::{
    ProgramInfo,
    links::{FdLink, PinnedLink},
    loaded_programs,
};
use object::{Object as _, ObjectSection as _, SectionFlags};

use crate::{Agent, binaries::Binaries};

/// `BPF_ALU64 | BPF_MOV | BPF_K`.
const MOVE_64: u8 = 0xb7;
/// `BPF_ALU | BPF_MOV | BPF_K`: the upper half of the register becomes zero.
const MOVE_32: u8 = 0xb4;
const INSTRUCTION_BYTES: usize = 8;

/// A copy, in the directory, of the agent under test: the same but for its programs.
pub fn agent(directory: &Path) -> Result<PathBuf> {
    let original = &Binaries::find()?.agent;
    let mut bytes = fs::read(original).with_context(|| original.display().to_string())?;
    let object = lb_agent::datapath::embedded()?;
    let found = bytes.windows(object.len()).position(|window| window == object);
    let found = found.with_context(|| {
        format!("{} has other programs than this test: build both again", original.display())
    })?;
    let changed = change(&mut bytes[found..found + object.len()])?;
    ensure!(changed > 100, "{changed} instructions were changed");
    let path = directory.join("lb-agent-other");
    fs::write(&path, bytes)?;
    fs::set_permissions(&path, fs::Permissions::from_mode(0o755))?;
    Ok(path)
}

/// Changes the programs of an object, and says how many of their instructions.
fn change(bytes: &mut [u8]) -> Result<usize> {
    let object = object::File::parse(&*bytes)?;
    let is_code = |flags| matches!(flags, SectionFlags::Elf { sh_flags, .. } if sh_flags & u64::from(object::elf::SHF_EXECINSTR) != 0);
    let code = object.sections().filter(|section| is_code(section.flags()));
    let ranges: Vec<_> = code.filter_map(|section| section.file_range()).collect();
    let mut changed = 0;
    for (begin, size) in ranges {
        let (begin, size) = (usize::try_from(begin)?, usize::try_from(size)?);
        for instruction in bytes[begin..begin + size].chunks_exact_mut(INSTRUCTION_BYTES) {
            // A negative number would be another one in half a register.
            if instruction[0] == MOVE_64 && instruction[7] < 0x80 {
                instruction[0] = MOVE_32;
                changed += 1;
            }
        }
    }
    Ok(changed)
}

/// The tag of the program of each of an agent's pinned links.
pub fn tags(agent: &Agent) -> Result<BTreeMap<String, u64>> {
    let by_id: BTreeMap<u32, u64> = loaded_programs()
        // Others' programs may go while they are listed.
        .filter_map(|info| info.ok().map(|info: ProgramInfo| (info.id(), info.tag())))
        .collect();
    let mut tags = BTreeMap::new();
    for directory in ["links", "sockets"] {
        let directory = agent.pin_path().join(directory);
        for entry in fs::read_dir(&directory).with_context(|| directory.display().to_string())? {
            let path = entry?.path();
            let link = FdLink::from(PinnedLink::from_pin(&path)?);
            let program = link.info()?.program_id();
            let tag =
                by_id.get(&program).with_context(|| format!("{} of no program", path.display()))?;
            let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
            tags.insert(name, *tag);
        }
    }
    Ok(tags)
}
