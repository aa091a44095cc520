//! A large node. Times are printed, not asserted: `cargo test --release scale -- --nocapture`.

use std::time::Duration;

use super::{
    SECOND,
    bed::{Bed, addresses, container, entry},
};
use crate::{
    model::{Claim, ServiceName},
    plan::KernelState,
};

const SERVICES: u16 = 1000;
const BACKENDS: u8 = 10;

/// Services of the file, each with backends that are routed.
fn file() -> Vec<Claim> {
    let mut claims = Vec::new();
    for index in 0..SERVICES {
        for id in 1..=BACKENDS {
            let mut claim = entry(10_000 + index, id);
            claim.service = ServiceName(format!("file/s{index}").into());
            if let Some(backend) = &mut claim.backend {
                let [high, low] = index.to_be_bytes();
                backend.address = ([10, 128 + high, low, id], 80).into();
                backend.place = backend.address.to_string();
                backend.display_name.clone_from(&backend.place);
            }
            claims.push(claim);
        }
    }
    claims
}

/// A container comes and goes beside ten thousand backends of others.
#[tokio::test(start_paused = true)]
async fn a_change_among_many_services() {
    let bed = Bed::new(KernelState::default());
    bed.node().is_trusted = true;
    bed.claims("file", &file()).await;
    bed.claims("docker", &[container(1, 1)]).await;
    bed.wait(30 * SECOND).await;
    assert_eq!(bed.served(1), addresses(&[1]));
    let mut latest = Vec::new();
    for _ in 0..10 {
        for ids in [&[1, 2][..], &[1]] {
            let claims: Vec<Claim> = ids.iter().map(|id| container(1, *id)).collect();
            let before = bed.view().await.status.reconcile.clone();
            bed.claims("docker", &claims).await;
            bed.wait(Duration::from_millis(10)).await;
            assert_eq!(bed.served(1), addresses(ids));
            let begun = std::time::Instant::now();
            let after = bed.view().await.status.reconcile.clone();
            let rounds = after.rounds - before.rounds;
            let took = after.durations.sum_seconds - before.durations.sum_seconds;
            latest.push((rounds, (took * 1e6).round(), begun.elapsed().as_micros()));
        }
        bed.wait(10 * SECOND).await;
    }
    println!("rounds, their microseconds, those of a view: {latest:?}");
}
