//! Every packet case on the host's engine; needs no privileges.

#[test]
fn packet_cases() {
    let cases = lb_tests::packets::all();
    for case in &cases {
        lb_tests::packets::run_on_host(case);
    }
    assert!(cases.len() > 50, "{} cases: has the list been cut?", cases.len());
}
