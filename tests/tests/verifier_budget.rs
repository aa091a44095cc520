//! What the verifier has to look at when the object is loaded: an agent's start, and each test, waits for
//! it, and a kernel refuses a program of more than a million. Needs root and the built object.

use anyhow::{Context as _, Result, ensure};
use aya::{Ebpf, programs::Program};
use lb_common::abi::program_names;
use lb_tests::{needs, packets::object_bytes, skip};

/// For all programs together, those that tell traces and those of sockets among them. The same sources
/// make code that differs by a tenth from one directory to another, in whose name the compiler orders
/// what it merges: hence the room.
const BUDGET: u32 = 600_000;

#[test]
fn verified_instructions_are_within_budget() -> Result<()> {
    needs!(namespaces);
    let object = match object_bytes() {
        Ok(object) => object,
        Err(error) => skip!("{error:#}"),
    };
    let mut ebpf = Ebpf::load(&object).context("loading the object")?;
    let mut counts = Vec::new();
    let packets = [program_names::TC_FRONT, program_names::TC_REPLY, program_names::XDP_FRONT];
    for name in packets.into_iter().chain(program_names::SOCKETS) {
        let program = ebpf.program_mut(name).context(name)?;
        match program {
            Program::SchedClassifier(program) => program.load().context(name)?,
            Program::Xdp(program) => program.load().context(name)?,
            Program::CgroupSockAddr(program) => program.load().context(name)?,
            Program::CgroupSock(program) => program.load().context(name)?,
            _ => anyhow::bail!("{name} is of another type"),
        }
        let count = program.info()?.verified_instruction_count();
        let Some(count) = count else { skip!("the kernel does not count (before Linux 5.16)") };
        counts.push((name, count));
    }
    let total: u32 = counts.iter().map(|(_, count)| count).sum();
    println!("{total} verified instructions of {BUDGET}: {counts:?}");
    ensure!(total <= BUDGET, "{total} verified instructions, budget {BUDGET}: {counts:?}");
    Ok(())
}
