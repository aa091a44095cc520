//! Hands the BPF object to the agent: a copy of what `cargo xtask build-ebpf` made, or an empty file,
//! so that everything else builds without a BPF toolchain.

use std::{
    env, fs, io,
    path::{Path, PathBuf},
};

/// Where `cargo xtask build-ebpf` leaves the object, relative to this package.
const OBJECT: &str = "../lb-ebpf/target/bpfel-unknown-none/release/lb-ebpf";

fn main() -> io::Result<()> {
    let Some(out_dir) = env::var_os("OUT_DIR") else {
        return Err(io::Error::other("OUT_DIR is not set: run this by cargo"));
    };
    let object = Path::new(OBJECT);
    println!("cargo::rerun-if-changed=build.rs");
    println!("cargo::rerun-if-changed={}", nearest_existing(object).display());

    let content = if object.is_file() { fs::read(object)? } else { Vec::new() };
    let embedded = PathBuf::from(out_dir).join("lb-ebpf.o");
    if fs::read(&embedded).is_ok_and(|present| present == content) {
        return Ok(());
    }
    fs::write(embedded, content)
}

/// Cargo takes a path that does not exist as changed each time, and would build the agent anew with
/// every command; a directory it watches with all that is below.
fn nearest_existing(path: &Path) -> &Path {
    path.ancestors().find(|ancestor| ancestor.exists()).unwrap_or(path)
}
