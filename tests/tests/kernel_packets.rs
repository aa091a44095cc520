//! Every packet case by the real programs in the kernel; needs root and the built object.

use anyhow::{Result, ensure};
use lb_tests::{
    needs,
    packets::{KernelBed, all, object_bytes},
    skip,
};

#[test]
fn packet_cases() -> Result<()> {
    needs!(namespaces);
    let object = match object_bytes() {
        Ok(object) => object,
        Err(error) => skip!("{error:#}"),
    };
    let mut failures = Vec::new();
    for case in all() {
        // A thread of its own: the bed moves it into a namespace that goes when it ends.
        let result = std::thread::scope(|scope| {
            let run = || KernelBed::new(&object, case.world.records_max)?.run(&case);
            scope.spawn(run).join().expect("the bed does not panic")
        });
        if let Err(error) = result {
            failures.push(format!("{error:#}"));
        }
    }
    ensure!(failures.is_empty(), "{} failed:\n{}", failures.len(), failures.join("\n"));
    Ok(())
}
