//! Every packet case on the host's engine; needs no privileges.

use anyhow::{Result, ensure};

#[test]
fn packet_cases() -> Result<()> {
    let cases = lb_tests::packets::all();
    let run = |case| lb_tests::packets::run_on_host(case).err();
    let failures: Vec<_> = cases.iter().filter_map(run).map(|error| format!("{error:#}")).collect();
    ensure!(failures.is_empty(), "{} failed:\n{}", failures.len(), failures.join("\n"));
    println!("{} cases on the host's engine", cases.len());
    ensure!(cases.len() > 200, "{} cases: has the list been cut?", cases.len());
    Ok(())
}
