//! The functions of a BPF object and who calls whom.

use std::collections::HashMap;

use anyhow::{Context as _, Result, bail};
use object::{
    Object as _, ObjectSection as _, ObjectSymbol as _, RelocationTarget, SectionIndex,
    SectionKind, SymbolKind,
};

const INSTRUCTION_BYTES: usize = 8;
const INSTRUCTION_BYTES_SIGNED: i64 = 8;

const OPCODE_LOAD_IMMEDIATE_64: u8 = 0x18;
const OPCODE_JUMP: u8 = 0x05;
const OPCODE_JUMP_LONG: u8 = 0x06;
const OPCODE_CALL: u8 = 0x85;
const OPCODE_CALL_POINTER: u8 = 0x8d;
const OPCODE_EXIT: u8 = 0x95;

/// Value of the source register field: the immediate counts instructions to another function.
const SOURCE_PSEUDO_CALL: u8 = 1;
/// Value of the source register field: the immediate is the address of a function.
const SOURCE_PSEUDO_FUNCTION: u8 = 4;

/// A parsed object.
pub(super) struct ObjectFile<'data> {
    /// Every function, in order of section and address.
    pub(super) functions: Vec<Function>,
    /// Contents of the section `.BTF`, or nothing.
    pub(super) btf: &'data [u8],
    /// Contents of the section `.BTF.ext`, or nothing.
    pub(super) btf_ext: &'data [u8],
}

/// A function.
pub(super) struct Function {
    /// Its name, demangled, without the hash.
    pub(super) name: String,
    /// Name of its section.
    pub(super) section: String,
    /// It is an entry point for the kernel: what is in no `.text` section.
    pub(super) is_program: bool,
    /// Number of instructions; one that takes two places counts as two, as in the kernel.
    pub(super) instructions: usize,
    pub(super) calls: Vec<Call>,
    /// Offset of the last instruction, if the function does not end there.
    pub(super) open_end: Option<u64>,
    /// Offsets of the jumps that jump to themselves.
    pub(super) endless_loops: Vec<u64>,
}

/// A call, or the address of a function taken for one.
pub(super) struct Call {
    /// Offset of the instruction in its section.
    pub(super) offset: u64,
    pub(super) callee: Callee,
}

/// What is called. Calls of kernel helpers are not recorded.
pub(super) enum Callee {
    /// Index into [`ObjectFile::functions`].
    Function(usize),
    /// A symbol that the object does not define.
    Undefined(String),
    /// Whatever a register points to.
    Pointer,
}

/// Where a function lies.
struct Extent {
    section: SectionIndex,
    start: u64,
    size: u64,
}

/// One instruction, decoded as far as is needed here.
#[derive(Clone, Copy)]
struct Instruction {
    opcode: u8,
    source: u8,
    offset: i16,
    immediate: i32,
}

impl<'data> ObjectFile<'data> {
    pub(super) fn parse(data: &'data [u8]) -> Result<Self> {
        let file = object::File::parse(data).context("not an object file")?;
        if file.architecture() != object::Architecture::Bpf {
            bail!("not a BPF object but one for {:?}", file.architecture());
        }
        let contents = |name| file.section_by_name(name).and_then(|section| section.data().ok());
        let (mut functions, extents) = find_functions(&file)?;
        for (index, extent) in extents.iter().enumerate() {
            scan(&file, &mut functions[index], extent, &extents)
                .with_context(|| format!("in the function `{}`", functions[index].name))?;
        }
        Ok(Self {
            functions,
            btf: contents(".BTF").unwrap_or_default(),
            btf_ext: contents(".BTF.ext").unwrap_or_default(),
        })
    }
}

fn find_functions(file: &object::File<'_>) -> Result<(Vec<Function>, Vec<Extent>)> {
    let mut found = Vec::new();
    for symbol in file.symbols() {
        let (SymbolKind::Text, Some(index)) = (symbol.kind(), symbol.section_index()) else {
            continue;
        };
        let section = file.section_by_index(index)?;
        if section.kind() != SectionKind::Text || symbol.size() == 0 {
            continue;
        }
        let section_name = section.name()?.to_owned();
        let function = Function {
            name: format!("{:#}", rustc_demangle::demangle(symbol.name()?)),
            // `.text.unlikely.` holds what panics call.
            is_program: !section_name.starts_with(".text"),
            section: section_name,
            instructions: 0,
            calls: Vec::new(),
            open_end: None,
            endless_loops: Vec::new(),
        };
        let extent = Extent { section: index, start: symbol.address(), size: symbol.size() };
        found.push((extent, function));
    }
    found.sort_by_key(|(extent, _)| (extent.section.0, extent.start));
    let (extents, functions) = found.into_iter().unzip();
    Ok((functions, extents))
}

/// Fills in what the code of one function tells.
fn scan(
    file: &object::File<'_>,
    function: &mut Function,
    extent: &Extent,
    extents: &[Extent],
) -> Result<()> {
    let section = file.section_by_index(extent.section)?;
    let relocations: HashMap<u64, RelocationTarget> =
        section.relocations().map(|(offset, relocation)| (offset, relocation.target())).collect();
    let start = usize::try_from(extent.start)?;
    let end = start.checked_add(usize::try_from(extent.size)?).context("it has no end")?;
    let code = section.data()?.get(start..end).context("it is longer than its section")?;
    function.instructions = code.len() / INSTRUCTION_BYTES;

    let mut last = None;
    let mut position = 0;
    while let Some(instruction) = decode(code, position) {
        let offset = extent.start + position as u64;
        let relocation = relocations.get(&offset);
        match instruction.opcode {
            OPCODE_CALL if instruction.source == SOURCE_PSEUDO_CALL || relocation.is_some() => {
                let callee = resolve_call(file, extents, extent, offset, instruction, relocation)?;
                function.calls.push(Call { offset, callee });
            }
            OPCODE_CALL_POINTER => function.calls.push(Call { offset, callee: Callee::Pointer }),
            OPCODE_LOAD_IMMEDIATE_64 => {
                if let Some(callee) = resolve_address(file, extents, instruction, relocation)? {
                    function.calls.push(Call { offset, callee });
                }
            }
            OPCODE_JUMP if instruction.offset == -1 => function.endless_loops.push(offset),
            OPCODE_JUMP_LONG if instruction.immediate == -1 => function.endless_loops.push(offset),
            _ => {}
        }
        last = Some((offset, instruction.opcode));
        let two_places = instruction.opcode == OPCODE_LOAD_IMMEDIATE_64;
        position += if two_places { 2 * INSTRUCTION_BYTES } else { INSTRUCTION_BYTES };
    }
    if let Some((offset, opcode)) = last
        && !matches!(opcode, OPCODE_EXIT | OPCODE_JUMP | OPCODE_JUMP_LONG)
    {
        function.open_end = Some(offset);
    }
    Ok(())
}

fn decode(code: &[u8], position: usize) -> Option<Instruction> {
    let bytes: [u8; INSTRUCTION_BYTES] =
        code.get(position..position + INSTRUCTION_BYTES)?.try_into().ok()?;
    let [opcode, registers, offset @ .., _, _, _, _] = bytes;
    let [.., i0, i1, i2, i3] = bytes;
    Some(Instruction {
        opcode,
        source: registers >> 4,
        offset: i16::from_le_bytes(offset),
        immediate: i32::from_le_bytes([i0, i1, i2, i3]),
    })
}

/// The immediate counts instructions from the next one; with a relocation, from what that names.
fn resolve_call(
    file: &object::File<'_>,
    extents: &[Extent],
    caller: &Extent,
    offset: u64,
    instruction: Instruction,
    relocation: Option<&RelocationTarget>,
) -> Result<Callee> {
    let distance = (i64::from(instruction.immediate) + 1) * INSTRUCTION_BYTES_SIGNED;
    let (section, base) = match relocation {
        None => (caller.section, offset),
        Some(target) => match base_of(file, target)? {
            Base::At(section, address) => (section, address),
            Base::Undefined(name) => return Ok(Callee::Undefined(name)),
        },
    };
    let address = base.checked_add_signed(distance).context("a call leaves the section")?;
    Ok(find_callee(extents, section, address))
}

/// A function whose address is taken, for `bpf_loop` and the like; none for maps and data.
fn resolve_address(
    file: &object::File<'_>,
    extents: &[Extent],
    instruction: Instruction,
    relocation: Option<&RelocationTarget>,
) -> Result<Option<Callee>> {
    let Some(target) = relocation else { return Ok(None) };
    let Base::At(section, base) = base_of(file, target)? else { return Ok(None) };
    if file.section_by_index(section)?.kind() != SectionKind::Text {
        return Ok(None);
    }
    let distance = if instruction.source == SOURCE_PSEUDO_FUNCTION {
        (i64::from(instruction.immediate) + 1) * INSTRUCTION_BYTES_SIGNED
    } else {
        i64::from(instruction.immediate)
    };
    let address = base.checked_add_signed(distance).context("an address leaves the section")?;
    Ok(Some(find_callee(extents, section, address)))
}

enum Base {
    At(SectionIndex, u64),
    Undefined(String),
}

fn base_of(file: &object::File<'_>, target: &RelocationTarget) -> Result<Base> {
    match target {
        RelocationTarget::Symbol(index) => {
            let symbol = file.symbol_by_index(*index)?;
            Ok(match symbol.section_index() {
                Some(section) => Base::At(section, symbol.address()),
                None => Base::Undefined(format!("{:#}", rustc_demangle::demangle(symbol.name()?))),
            })
        }
        RelocationTarget::Section(index) => Ok(Base::At(*index, 0)),
        other => bail!("a relocation of an unknown form: {other:?}"),
    }
}

fn find_callee(extents: &[Extent], section: SectionIndex, address: u64) -> Callee {
    extents
        .iter()
        .position(|extent| {
            extent.section == section
                && (extent.start..extent.start + extent.size).contains(&address)
        })
        .map_or_else(|| Callee::Undefined(format!("code at {address:#x}")), Callee::Function)
}
