//! What hostile senders make of valid input, for tests of parsers.

use std::{
    ffi::OsStr,
    io,
    os::unix::{ffi::OsStrExt as _, process::CommandExt as _},
    process::{Child, Command},
};

use proptest::prelude::*;

/// Changes of one input.
const CHANGES_MAX: usize = 6;

/// These bytes with some of them replaced, removed, doubled, added or cut off.
pub(crate) fn mangled(bytes: impl Into<Vec<u8>>) -> impl Strategy<Value = Vec<u8>> {
    let bytes = bytes.into();
    let index = any::<prop::sample::Index>;
    let change = (index(), index(), 0_u8..6, any::<u8>());
    prop::collection::vec(change, 0..CHANGES_MAX).prop_map(move |changes| {
        let mut bytes = bytes.clone();
        for (at, other, kind, byte) in changes {
            let (at, other) = (at.index(bytes.len() + 1), other.index(bytes.len() + 1));
            let part = at.min(other)..at.max(other);
            match kind {
                0 if at < bytes.len() => bytes[at] = byte,
                1 if at < bytes.len() => bytes[at] ^= 1 << (byte % 8),
                2 => bytes.insert(at, byte),
                3 => drop(bytes.drain(part)),
                4 if bytes.len() < 1 << 16 => {
                    let copied = bytes[part.clone()].to_vec();
                    bytes.splice(part.end..part.end, copied);
                }
                _ => bytes.truncate(at.max(1)),
            }
        }
        bytes
    })
}

/// A mangled text: what is no UTF-8 in it is replaced.
pub(crate) fn mangled_text(text: &str) -> impl Strategy<Value = String> {
    mangled(text).prop_map(|bytes| String::from_utf8_lossy(&bytes).into_owned())
}

/// Texts without any sense.
pub(crate) fn any_text() -> impl Strategy<Value = String> {
    prop_oneof![any::<String>(), "[ -~\\n\\t]{0,200}", "\\PC{0,100}"]
}

/// A process that sleeps, and whose name in `/proc/PID/stat` is no UTF-8 and looks like the fields behind
/// it.
pub(crate) fn sleeper_without_name() -> io::Result<Child> {
    let directory = tempfile::tempdir()?;
    let program = directory.path().join(OsStr::from_bytes(b"s\xff) S 1"));
    let path = std::env::var_os("PATH").unwrap_or_default();
    let mut found = std::env::split_paths(&path).map(|it| it.join("sleep"));
    let sleep = found.find(|it| it.is_file()).ok_or(io::ErrorKind::NotFound)?;
    std::os::unix::fs::symlink(sleep, &program)?;
    // It has been executed when this returns.
    Command::new(program).arg0("sleep").arg("60").spawn()
}
