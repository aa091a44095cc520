//! Looks for what must not be in the compiled kernel programs.
//!
//! The verifier refuses a program from which a panic can be reached, with a message that names
//! nothing; a call of `memset` is legal, and a loop over bytes for every packet. Both are found here
//! by following the calls from every program, and are reported with function and source line.
//! Works on the bytes of an object; knows nothing of how it was built.

mod lines;
mod object_file;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use anyhow::{Result, bail};

use lines::Lines;
use object_file::{Call, Callee, Function, ObjectFile};

/// Functions that the compiler calls for copies and comparisons that it does not expand.
const MEMORY_FUNCTIONS: &[&str] = &["memset", "memcpy", "memmove", "memcmp", "bcmp"];

/// What was found in an object.
#[derive(Debug)]
pub(crate) struct Report {
    /// Every program, by name.
    pub(crate) programs: BTreeMap<String, ProgramSize>,
    /// What must not be there, in the order of the code.
    pub(crate) defects: Vec<Defect>,
}

/// Instructions of a program.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct ProgramSize {
    /// In the program itself.
    pub(crate) own: usize,
    /// In the functions that it calls.
    pub(crate) called: usize,
}

/// Something that must not be in the object.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Defect {
    /// Function with the offending instruction.
    pub(crate) function: String,
    /// File and line that the instruction was made from, as far as the object tells.
    pub(crate) location: Option<String>,
    /// What is wrong with it.
    pub(crate) kind: DefectKind,
}

/// Kinds of defects.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum DefectKind {
    /// Calls a function that panics.
    Panic(String),
    /// Panics: the panic handler's endless loop was inlined.
    EndlessLoop,
    /// The last instruction neither returns nor jumps: whatever it calls does not come back.
    OpenEnd,
    /// Calls one of [`MEMORY_FUNCTIONS`].
    Memory(String),
    /// Calls a function that is not in the object.
    Undefined(String),
    /// Calls through a pointer.
    IndirectCall,
}

impl fmt::Display for Defect {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "`{}`", self.function)?;
        if let Some(location) = &self.location {
            write!(formatter, " at {location}")?;
        }
        match &self.kind {
            DefectKind::Panic(callee) => write!(
                formatter,
                " can panic: it calls `{callee}`. Use `get()`, a mask, or checked or wrapping \
                 arithmetic, and handle the other case"
            ),
            DefectKind::EndlessLoop => write!(
                formatter,
                " can panic (it contains the endless loop of the panic handler). Use `get()`, a \
                 mask, or checked or wrapping arithmetic, and handle the other case"
            ),
            DefectKind::OpenEnd => write!(
                formatter,
                " runs off its end: a path ends in a call that does not return, as a panic does"
            ),
            DefectKind::Memory(callee) => write!(
                formatter,
                " calls `{callee}`, a loop over bytes. Give the copy or the zeroed value a size \
                 that the compiler knows, or write it field by field"
            ),
            DefectKind::Undefined(callee) => write!(
                formatter,
                " calls `{callee}`, which is not in the object; the kernel cannot load that"
            ),
            DefectKind::IndirectCall => write!(
                formatter,
                " calls through a pointer, which BPF cannot do. Use generics instead of `dyn` and \
                 function pointers"
            ),
        }
    }
}

/// Checks an object.
pub(crate) fn check(data: &[u8]) -> Result<Report> {
    let object = ObjectFile::parse(data)?;
    let lines = Lines::parse(&object);
    let entries: Vec<usize> =
        (0..object.functions.len()).filter(|&index| object.functions[index].is_program).collect();
    if entries.is_empty() {
        bail!("there is no program in the object");
    }

    let mut programs = BTreeMap::new();
    let mut reachable = BTreeSet::new();
    for entry in entries {
        let called = reachable_from(&object, entry);
        let program = &object.functions[entry];
        let size = ProgramSize {
            own: program.instructions,
            called: called
                .iter()
                .filter(|&&index| index != entry)
                .map(|&index| object.functions[index].instructions)
                .sum(),
        };
        programs.insert(program.name.clone(), size);
        reachable.extend(called);
    }

    let mut defects: Vec<Defect> = Vec::new();
    for index in reachable {
        for (offset, kind) in defects_of(&object, &object.functions[index]) {
            let function = &object.functions[index];
            let location = lines.locate(&function.section, offset);
            let defect = Defect { function: function.name.clone(), location, kind };
            if !defects.contains(&defect) {
                defects.push(defect);
            }
        }
    }
    Ok(Report { programs, defects })
}

fn reachable_from(object: &ObjectFile<'_>, entry: usize) -> BTreeSet<usize> {
    let mut seen = BTreeSet::from([entry]);
    let mut queue = vec![entry];
    while let Some(index) = queue.pop() {
        for call in &object.functions[index].calls {
            // What happens after a panic is the fault of who panics.
            if let Callee::Function(callee) = call.callee
                && !panics_by_purpose(&object.functions[callee])
                && seen.insert(callee)
            {
                queue.push(callee);
            }
        }
    }
    seen
}

/// Defects of a function, with the offset of the instruction in its section.
fn defects_of(object: &ObjectFile<'_>, function: &Function) -> Vec<(u64, DefectKind)> {
    let mut defects: Vec<(u64, DefectKind)> = function
        .calls
        .iter()
        .filter_map(|call| Some((call.offset, defect_of_call(object, call)?)))
        .collect();
    if let Some(offset) = function.open_end
        // A call that has been reported says more.
        && defects.iter().all(|(reported, _)| *reported != offset)
    {
        defects.push((offset, DefectKind::OpenEnd));
    }
    defects.extend(function.endless_loops.iter().map(|&offset| (offset, DefectKind::EndlessLoop)));
    defects
}

fn defect_of_call(object: &ObjectFile<'_>, call: &Call) -> Option<DefectKind> {
    match &call.callee {
        Callee::Function(index) => {
            let callee = &object.functions[*index];
            if MEMORY_FUNCTIONS.contains(&callee.name.as_str()) {
                Some(DefectKind::Memory(callee.name.clone()))
            } else {
                panics_by_purpose(callee).then(|| DefectKind::Panic(callee.name.clone()))
            }
        }
        Callee::Undefined(name) if MEMORY_FUNCTIONS.contains(&name.as_str()) => {
            Some(DefectKind::Memory(name.clone()))
        }
        Callee::Undefined(name) if name.contains("panicking") => {
            Some(DefectKind::Panic(name.clone()))
        }
        Callee::Undefined(name) => Some(DefectKind::Undefined(name.clone())),
        Callee::Pointer => Some(DefectKind::IndirectCall),
    }
}

/// `core::panicking::panic_bounds_check`, `core::option::unwrap_failed`, the panic handler.
fn panics_by_purpose(function: &Function) -> bool {
    let name = function.name.as_str();
    let diverges = function.open_end.is_some() || !function.endless_loops.is_empty();
    name.contains("panicking")
        || name.contains("rust_begin_unwind")
        || (name.starts_with("core::") && (diverges || name.contains("_fail")))
}
