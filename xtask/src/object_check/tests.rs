//! Small objects written here, and programs compiled from xtask/fixtures/defects.

use std::io::Write as _;

use object::write::{Object, Relocation, Symbol, SymbolSection};
use object::{
    Architecture, BinaryFormat, Endianness, RelocationFlags, SectionKind, SymbolFlags, SymbolKind,
    SymbolScope,
};

use super::*;
use crate::ebpf::Build;
use crate::toolchain;
use Code::{AddressOf, Call, CallNear, CallPointer, Exit, Helper, LoopForEver, Zero};

/// The relocation of a call, `R_BPF_64_32`.
const RELOCATION_CALL: u32 = object::elf::R_BPF_64_32;
/// The relocation of a 64-bit immediate, `R_BPF_64_64`.
const RELOCATION_ADDRESS: u32 = object::elf::R_BPF_64_64;

/// Instructions of the functions in the tests.
#[derive(Clone, Copy)]
enum Code {
    /// `r0 = 0`
    Zero,
    Exit,
    /// `goto -1`
    LoopForEver,
    /// A helper of the kernel.
    Helper(i32),
    /// A function by name, defined or not, in whatever section.
    Call(&'static str),
    /// A function of the same section, so many instructions from the next one.
    CallNear(i32),
    CallPointer,
    /// `r1 = &function`
    AddressOf(&'static str),
}

/// A function: section, name, code.
type Source<'a> = (&'a str, &'a str, &'a [Code]);

fn bytes(code: Code) -> Vec<u8> {
    let one = |opcode: u8, source: u8, offset: i16, immediate: i32| {
        let mut bytes = vec![opcode, source << 4];
        bytes.extend(offset.to_le_bytes());
        bytes.extend(immediate.to_le_bytes());
        bytes
    };
    match code {
        Zero => one(0xb7, 0, 0, 0),
        Exit => one(0x95, 0, 0, 0),
        LoopForEver => one(0x05, 0, -1, 0),
        Helper(number) => one(0x85, 0, 0, number),
        Call(_) => one(0x85, 1, 0, -1),
        CallNear(distance) => one(0x85, 1, 0, distance),
        CallPointer => one(0x8d, 0, 0, 0),
        AddressOf(_) => [one(0x18, 0, 0, 0), one(0, 0, 0, 0)].concat(),
    }
}

fn assemble(sources: &[Source<'_>]) -> Vec<u8> {
    let mut object = Object::new(BinaryFormat::Elf, Architecture::Bpf, Endianness::Little);
    let mut sections = BTreeMap::new();
    let mut symbols = BTreeMap::new();
    let mut places = Vec::new();
    for (section_name, name, code) in sources {
        let section = *sections.entry(*section_name).or_insert_with(|| {
            object.add_section(Vec::new(), (*section_name).into(), SectionKind::Text)
        });
        let data: Vec<u8> = code.iter().flat_map(|&code| bytes(code)).collect();
        let offset = object.append_section_data(section, &data, 8);
        let size = data.len() as u64;
        let symbol = object.add_symbol(symbol(name, offset, size, SymbolSection::Section(section)));
        symbols.insert((*name).to_owned(), symbol);
        places.push((section, offset));
    }
    for ((_, _, code), (section, start)) in sources.iter().zip(places) {
        let mut offset = start;
        for &code in *code {
            let (name, flags) = match code {
                Call(name) => (Some(name), RELOCATION_CALL),
                AddressOf(name) => (Some(name), RELOCATION_ADDRESS),
                _ => (None, 0),
            };
            if let Some(name) = name {
                let symbol = *symbols
                    .entry(name.to_owned())
                    .or_insert_with(|| object.add_symbol(undefined(name)));
                let flags = RelocationFlags::Elf { r_type: flags };
                let relocation = Relocation { offset, symbol, addend: 0, flags };
                object.add_relocation(section, relocation).unwrap();
            }
            offset += bytes(code).len() as u64;
        }
    }
    object.write().unwrap()
}

fn symbol(name: &str, value: u64, size: u64, section: SymbolSection) -> Symbol {
    Symbol {
        name: name.into(),
        value,
        size,
        kind: SymbolKind::Text,
        scope: SymbolScope::Linkage,
        weak: false,
        section,
        flags: SymbolFlags::None,
    }
}

fn undefined(name: &str) -> Symbol {
    symbol(name, 0, 0, SymbolSection::Undefined)
}

/// Checks an object made of `sources`: function and kind of every defect.
#[track_caller]
fn check_sources(sources: &[Source<'_>], expect: &[(&str, DefectKind)]) {
    let report = check(&assemble(sources)).unwrap();
    let found: Vec<(&str, &DefectKind)> =
        report.defects.iter().map(|defect| (defect.function.as_str(), &defect.kind)).collect();
    let expect: Vec<(&str, &DefectKind)> =
        expect.iter().map(|(name, kind)| (*name, kind)).collect();
    assert_eq!(found, expect);
}

const MEMSET: Source<'_> = (".text", "memset", &[Zero, Exit]);
const BOUNDS: &str = "_ZN4core9panicking18panic_bounds_check17h0123456789abcdefE";
const UNWRAP: &str = "_ZN4core6option13unwrap_failed17h0123456789abcdefE";

#[test]
fn a_program_that_calls_helpers_has_no_defect() {
    check_sources(&[("xdp", "front", &[Helper(1), Zero, Exit]), MEMSET], &[]);
}

#[test]
fn memory_functions_are_found_in_the_program_and_in_what_it_calls() {
    let memory = |name: &str| DefectKind::Memory(name.to_owned());
    check_sources(
        &[("xdp", "front", &[Call("memset"), Exit]), MEMSET],
        &[("front", memory("memset"))],
    );
    check_sources(
        &[
            ("classifier", "front", &[Call("choose"), Exit]),
            (".text", "choose", &[Call("memcpy"), Exit]),
            (".text", "memcpy", &[Zero, Exit]),
        ],
        &[("choose", memory("memcpy"))],
    );
    check_sources(&[("xdp", "front", &[Call("memcmp"), Exit])], &[("front", memory("memcmp"))]);
}

#[test]
fn what_no_program_reaches_does_not_matter() {
    check_sources(
        &[
            ("xdp", "front", &[Zero, Exit]),
            (".text", "unused", &[Call("memset"), Call(BOUNDS)]),
            MEMSET,
        ],
        &[],
    );
}

#[test]
fn panics_are_laid_to_who_causes_them() {
    check_sources(
        &[
            ("xdp", "front", &[Call("parse"), Exit]),
            (".text", "parse", &[Call(BOUNDS)]),
            (".text.unlikely.", BOUNDS, &[Call("handler")]),
            (".text", "handler", &[LoopForEver]),
        ],
        &[("parse", DefectKind::Panic("core::panicking::panic_bounds_check".to_owned()))],
    );
    check_sources(
        &[("xdp", "front", &[Zero, Call(UNWRAP)]), (".text.unlikely.", UNWRAP, &[LoopForEver])],
        &[("front", DefectKind::Panic("core::option::unwrap_failed".to_owned()))],
    );
    check_sources(&[("xdp", "front", &[Zero, LoopForEver])], &[("front", DefectKind::EndlessLoop)]);
    check_sources(
        &[("xdp", "front", &[Zero, Exit, Call("diverge")]), (".text", "diverge", &[Helper(1)])],
        &[("front", DefectKind::OpenEnd), ("diverge", DefectKind::OpenEnd)],
    );
}

#[test]
fn calls_within_a_section_and_by_address_are_followed() {
    let found = [("second", DefectKind::Memory("memset".to_owned()))];
    check_sources(
        &[
            ("xdp", "first", &[CallNear(1), Exit]),
            ("xdp", "second", &[Call("memset"), Exit]),
            MEMSET,
        ],
        &found,
    );
    check_sources(
        &[
            ("xdp", "front", &[AddressOf("second"), Helper(181), Exit]),
            (".text", "second", &[Call("memset"), Exit]),
            MEMSET,
        ],
        &found,
    );
}

#[test]
fn what_the_kernel_cannot_load_is_refused() {
    check_sources(
        &[("xdp", "front", &[Call("__multi3"), CallPointer, Exit])],
        &[
            ("front", DefectKind::Undefined("__multi3".to_owned())),
            ("front", DefectKind::IndirectCall),
        ],
    );
    check_sources(
        &[("xdp", "front", &[CallNear(100), Exit])],
        &[("front", DefectKind::Undefined("code at 0x328".to_owned()))],
    );
}

#[test]
fn sizes_count_shared_functions_for_every_program() {
    let report = check(&assemble(&[
        ("xdp", "front", &[Call("shared"), Zero, Exit]),
        ("classifier", "reply", &[Call("shared"), Exit]),
        (".text", "shared", &[AddressOf("shared"), Zero, Exit]),
    ]))
    .unwrap();
    let size = |own, called| ProgramSize { own, called };
    assert_eq!(
        report.programs,
        BTreeMap::from([("front".to_owned(), size(3, 4)), ("reply".to_owned(), size(2, 4))])
    );
}

#[test]
fn what_is_no_object_with_programs_is_an_error() {
    let message = |data: &[u8]| format!("{:#}", check(data).unwrap_err());
    assert!(message(b"").contains("not an object file"));
    assert!(message(b"\x7fELF garbage").contains("not an object file"));
    assert!(message(&assemble(&[MEMSET])).contains("no program"));
    let this_program = std::fs::read(std::env::current_exe().unwrap()).unwrap();
    assert!(message(&this_program).contains("not a BPF object"));
}

#[test]
fn no_cut_or_changed_object_makes_the_check_panic() {
    let object = assemble(&[("xdp", "front", &[Call("memset"), AddressOf("front"), Exit]), MEMSET]);
    for length in 0..object.len() {
        drop(check(&object[..length]));
    }
    for position in 0..object.len() {
        let mut changed = object.clone();
        changed[position] ^= 0xff;
        drop(check(&changed));
    }
}

/// Compiles a program of xtask/fixtures/defects and checks it. None: no BPF toolchain here.
fn check_fixture(test: &str, binary: &'static str) -> Option<Report> {
    let Some(toolchain) = toolchain::find() else {
        skip(test, "there is no BPF toolchain; `cargo xtask build-ebpf` installs one");
        return None;
    };
    let build = Build::fixture(binary);
    build.compile(&toolchain).unwrap();
    Some(check(&std::fs::read(build.object()).unwrap()).unwrap())
}

fn skip(test: &str, reason: &str) {
    println!("SKIP {test}: {reason}");
    if let Some(path) = std::env::var_os("LB_SKIP_LOG") {
        let mut log = std::fs::OpenOptions::new().append(true).open(path).unwrap();
        log.write_all(format!("SKIP {test}: {reason}\n").as_bytes()).unwrap();
    }
}

/// The only defect of a compiled program.
#[track_caller]
fn only_defect(report: Report) -> Defect {
    assert_eq!(report.defects.len(), 1, "{:?}", report.defects);
    report.defects.into_iter().next().unwrap()
}

#[test]
fn compiled_index_out_of_bounds_is_refused_with_its_line() {
    let test = "compiled_index_out_of_bounds_is_refused_with_its_line";
    let Some(report) = check_fixture(test, "indexes") else { return };
    let defect = only_defect(report);
    assert_eq!(defect.function, "lb_indexes");
    assert_eq!(defect.kind, DefectKind::Panic("core::panicking::panic_bounds_check".to_owned()));
    let source = include_str!("../../fixtures/defects/src/bin/indexes.rs");
    let line = source.lines().position(|line| line.contains("ACTIONS[")).unwrap() + 1;
    let end = format!("bin/indexes.rs:{line}");
    assert!(defect.location.as_ref().unwrap().ends_with(&end), "{defect:?}");
}

#[test]
fn compiled_unwrap_is_refused_in_the_function_that_has_it() {
    let test = "compiled_unwrap_is_refused_in_the_function_that_has_it";
    let Some(report) = check_fixture(test, "unwraps") else { return };
    let defect = only_defect(report);
    assert_eq!(defect.function, "unwraps::port_of");
    assert!(matches!(defect.kind, DefectKind::Panic(_)), "{defect:?}");
}

#[test]
fn compiled_memset_is_refused_with_its_line() {
    let test = "compiled_memset_is_refused_with_its_line";
    let Some(report) = check_fixture(test, "zeroes") else { return };
    let defect = only_defect(report);
    assert_eq!(defect.function, "lb_zeroes");
    assert_eq!(defect.kind, DefectKind::Memory("memset".to_owned()));
    assert!(defect.to_string().contains("calls `memset`"));
}

#[test]
fn compiled_sound_program_passes() {
    let Some(report) = check_fixture("compiled_sound_program_passes", "sound") else { return };
    assert_eq!(report.defects, []);
    let size = &report.programs["lb_sound"];
    assert!(size.own > 0 && size.called > 0, "{size:?}");
}
