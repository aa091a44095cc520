//! Every packet case by the real programs in the kernel; needs root and the built object.

use lb_tests::packets::{KernelBed, all, object_bytes};

#[test]
fn packet_cases() {
    let object = object_bytes().expect("the object is built");
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
    assert!(failures.is_empty(), "{} failed:\n{}", failures.len(), failures.join("\n"));
}
