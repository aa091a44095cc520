//! Every packet case by the real programs in the kernel; needs root and the built object.

use std::collections::BTreeMap;

use anyhow::{Result, ensure};
use lb_tests::{
    needs,
    packets::{Case, KernelBed, all, object_bytes, run_in_kernel},
    skip,
};

#[test]
fn packet_cases() -> Result<()> {
    needs!(namespaces);
    let object = match object_bytes() {
        Ok(object) => object,
        Err(error) => skip!("{error:#}"),
    };
    // Tables get their room when they are made.
    let mut by_room: BTreeMap<u32, Vec<Case>> = BTreeMap::new();
    for case in all() {
        by_room.entry(case.world.records_max).or_default().push(case);
    }
    let mut failures = Vec::new();
    let mut packets = 0;
    for (records_max, cases) in &by_room {
        packets += cases.iter().map(|case| case.steps.len()).sum::<usize>();
        // A thread of its own: the bed moves it into a namespace that goes when it ends.
        std::thread::scope(|scope| {
            let run = || -> Result<Vec<String>> {
                let mut bed = KernelBed::new(&object, *records_max)?;
                let errors = cases.iter().filter_map(|case| run_in_kernel(&mut bed, case).err());
                Ok(errors.map(|error| format!("{error:#}")).collect())
            };
            scope.spawn(run).join().expect("the bed does not panic")
        })
        .map(|errors| failures.extend(errors))?;
    }
    let cases: usize = by_room.values().map(Vec::len).sum();
    println!("{cases} cases, {packets} packets by the programs in the kernel");
    ensure!(failures.is_empty(), "{} failed:\n{}", failures.len(), failures.join("\n"));
    Ok(())
}
