//! Source lines of instructions, from the line table in `.BTF.ext`.
//!
//! The table is a help for the reader of a message: if it is absent or broken, there are no lines.

use std::collections::HashMap;

use super::object_file::ObjectFile;

const MAGIC: u32 = 0xeb9f;

/// Where in its header each section says how long the header is, and where what we need begins.
const HEADER_LENGTH_AT: usize = 4;
const BTF_STRINGS_AT: usize = 16;
const LINE_INFO_AT: usize = 16;
const LINE_INFO_LENGTH_AT: usize = 20;

/// The bits of a column in the word that holds line and column.
const COLUMN_BITS: u32 = 10;

/// Line tables by section.
#[derive(Default)]
pub(super) struct Lines {
    sections: HashMap<String, Vec<Line>>,
}

struct Line {
    offset: u64,
    file: String,
    number: u32,
}

impl Lines {
    pub(super) fn parse(object: &ObjectFile<'_>) -> Self {
        try_parse(object.btf, object.btf_ext).unwrap_or_default()
    }

    /// File and line of the instruction at `offset` of a section.
    pub(super) fn locate(&self, section: &str, offset: u64) -> Option<String> {
        let lines = self.sections.get(section)?;
        // Line 0 stands for code that belongs to no line: what is before it tells more.
        let line = lines.iter().rfind(|line| line.offset <= offset && line.number > 0)?;
        Some(format!("{}:{}", line.file, line.number))
    }
}

fn try_parse(btf: &[u8], btf_ext: &[u8]) -> Option<Lines> {
    if word(btf, 0)? & 0xffff != MAGIC || word(btf_ext, 0)? & 0xffff != MAGIC {
        return None;
    }
    let strings = btf.get(at(btf, HEADER_LENGTH_AT)? + at(btf, BTF_STRINGS_AT)?..)?;
    let start = at(btf_ext, HEADER_LENGTH_AT)? + at(btf_ext, LINE_INFO_AT)?;
    let table = btf_ext.get(start..start.checked_add(at(btf_ext, LINE_INFO_LENGTH_AT)?)?)?;
    let record_bytes = at(table, 0)?;
    if record_bytes < 16 {
        return None;
    }

    let mut sections = HashMap::new();
    let mut rest = table.get(4..)?;
    while !rest.is_empty() {
        let (name, count) = (string(strings, at(rest, 0)?)?, at(rest, 4)?);
        let records = rest.get(8..8 + count.checked_mul(record_bytes)?)?;
        rest = rest.get(8 + records.len()..)?;
        let mut lines = Vec::with_capacity(count);
        for record in records.chunks_exact(record_bytes) {
            lines.push(Line {
                offset: u64::from(word(record, 0)?),
                file: string(strings, at(record, 4)?)?,
                number: word(record, 12)? >> COLUMN_BITS,
            });
        }
        lines.sort_by_key(|line| line.offset);
        sections.insert(name, lines);
    }
    Some(Lines { sections })
}

fn word(data: &[u8], position: usize) -> Option<u32> {
    let bytes = data.get(position..position.checked_add(4)?)?;
    Some(u32::from_le_bytes(bytes.try_into().ok()?))
}

fn at(data: &[u8], position: usize) -> Option<usize> {
    usize::try_from(word(data, position)?).ok()
}

fn string(strings: &[u8], start: usize) -> Option<String> {
    let bytes = strings.get(start..)?.split(|&byte| byte == 0).next()?;
    Some(String::from_utf8_lossy(bytes).into_owned())
}
