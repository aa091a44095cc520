//! Every packet case by the real programs in the kernel; needs root and the built object.

use std::collections::BTreeMap;

use anyhow::{Context as _, Result, ensure};
use lb_common::{
    abi::{DropReason, Verdict},
    engine::answer::{ANSWER_BUCKET_COUNT, AnswerKind},
};
use lb_tests::{
    needs,
    packets::{Action, Case, KernelBed, all, now_tick, object_bytes, run_in_kernel},
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

/// Whoever floods must not keep us from telling others what they need to know.
#[test]
fn answers_of_one_kind_leave_those_of_others() -> Result<()> {
    needs!(namespaces);
    let object = match object_bytes() {
        Ok(object) => object,
        Err(error) => skip!("{error:#}"),
    };
    let run = || -> Result<[u32; ANSWER_BUCKET_COUNT as usize]> {
        let mut bed = KernelBed::new(&object, 16)?;
        let mut checked = [0; ANSWER_BUCKET_COUNT as usize];
        for case in all() {
            let Some(step) = case.steps.first() else { continue };
            if step.verdict != Verdict::Answer {
                continue;
            }
            let own = match step.reason {
                DropReason::None => AnswerKind::EchoReply,
                DropReason::TooBig => AnswerKind::TooBig,
                _ => AnswerKind::Reset,
            };
            bed.fill(&case.world, now_tick())?;
            for exhausted in 0..ANSWER_BUCKET_COUNT {
                bed.set_answer_buckets(Some(exhausted))?;
                let outcome = bed.send(step.program, &step.input)?.context("no packet")?;
                let is_told = exhausted != own.bucket();
                let expected = if is_told { Action::Redirect } else { Action::Drop };
                ensure!(outcome.action == expected, "`{}`, {exhausted}: {outcome:?}", case.name);
                checked[own.bucket() as usize] += 1;
            }
        }
        Ok(checked)
    };
    // A thread of its own, as above.
    let checked = std::thread::scope(|scope| scope.spawn(run).join().expect("no panic"))?;
    ensure!(checked.iter().all(|count| *count > 0), "every bucket has cases: {checked:?}");
    Ok(())
}
