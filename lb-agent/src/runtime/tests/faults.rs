//! Random changes, deaths, kills and refusals: whatever happens, the node ends up as it should be.

use std::time::Duration;

use super::{
    SECOND,
    bed::{Bed, addresses, container, entry},
};
use crate::{
    model::{Claim, Claims},
    plan::KernelState,
    provider::ProviderEvent,
};

/// Of this many actions, one is refused.
const FAULT_RATE: u64 = 10;

/// `SplitMix64`: small, seeded, the same everywhere.
struct Random(u64);

impl Random {
    fn below(&mut self, limit: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut word = self.0;
        word = (word ^ (word >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        word = (word ^ (word >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (word ^ (word >> 31)) % limit
    }

    /// Some of the containers 1 to 8 and of the static backends 101 to 104, at ports 1 to 3.
    fn claims(&mut self) -> (Vec<Claim>, Vec<Claim>) {
        let mut docker = Vec::new();
        for id in 1..=8 {
            if self.below(2) == 0 {
                docker.push(container(u16::from(id) % 2 + 1, id));
            }
        }
        let mut file = Vec::new();
        for id in 101..=104 {
            if self.below(2) == 0 {
                file.push(entry(3, id));
            }
        }
        (docker, file)
    }
}

fn ids(claims: &[Claim], port: u16) -> Vec<u8> {
    let at_port = claims.iter().filter(|claim| claim.frontend.ports.first() == port);
    let backends = at_port.filter_map(|claim| claim.backend.as_ref());
    backends
        .filter_map(|backend| match backend.address.ip() {
            std::net::IpAddr::V4(address) => Some(address.octets()[3]),
            std::net::IpAddr::V6(_) => None,
        })
        .collect()
}

async fn check(seed: u64) {
    let mut random = Random(seed);
    let mut bed = Bed::new(KernelState::default());
    for _ in 0..20 {
        let mut faults = Random(random.below(u64::MAX));
        bed.refuse(move |_| faults.below(FAULT_RATE) == 0);
        let (docker, file) = random.claims();
        bed.claims("file", &file).await;
        bed.claims("docker", &docker).await;
        match random.below(6) {
            0 => bed.gone(&format!("c{}", random.below(8) + 1)).await,
            1 => {
                bed.settle().await;
                bed = Bed::new(bed.kill().await);
            }
            2 => bed.settle().await,
            pause => bed.wait(SECOND * u32::try_from(pause).expect("small")).await,
        }
    }
    bed.refuse(|_| false);
    let (docker, file) = random.claims();
    // A dead instance never comes back; these are others in its place.
    let docker: Vec<Claim> = docker
        .into_iter()
        .map(|mut claim| {
            if let Some(backend) = &mut claim.backend {
                backend.instance += "-next";
            }
            claim
        })
        .collect();
    bed.claims("docker", &docker).await;
    bed.claims("file", &file).await;
    bed.wait(200 * SECOND).await;
    for port in 1..=2 {
        assert_eq!(bed.served(port), addresses(&ids(&docker, port)), "seed {seed}, port {port}");
    }
    assert_eq!(bed.served(3), addresses(&ids(&file, 3)), "seed {seed}");
    assert_eq!(bed.view().await.status.refusals, [], "seed {seed}");
    // Who was taken out of the file drains for five minutes.
    bed.wait(300 * SECOND).await;
    bed.take_log();
    bed.wait(200 * SECOND).await;
    assert_eq!(bed.take_log(), [], "seed {seed}: it comes to rest");
}

#[tokio::test(start_paused = true)]
async fn refused_actions_never_leave_a_wrong_table() {
    for seed in 0..24 {
        check(seed).await;
    }
}

/// In a storm of events there is always more to do; those who only look are told all the same.
#[tokio::test]
async fn a_storm_of_events_does_not_hide_what_is_going_on() {
    // As many as take some seconds: time is real here, and passes while the node is at work.
    const ACTIONS: usize = 180;
    let mut bed = Bed::new(KernelState::default());
    bed.claims("file", &[]).await;
    let (events, mut published) = (bed.events.clone(), bed.published.clone());
    let (done, is_over) = std::sync::mpsc::channel();
    let (mut actions, mut publications) = (0, 0_u64);
    bed.refuse(move |_| {
        std::thread::sleep(Duration::from_millis(20));
        if published.has_changed().is_ok_and(|is_changed| is_changed) {
            published.mark_unchanged();
            publications += 1;
        }
        actions += 1;
        if actions <= ACTIONS {
            // Always somebody new.
            let mut claim = container(1, 1);
            if let Some(backend) = &mut claim.backend {
                backend.instance = actions.to_string();
            }
            let claims = Claims { claims: vec![claim], ..Claims::default() };
            events.try_send(ProviderEvent::Claims { provider: "docker", claims }.into()).ok();
        } else {
            done.send(publications).ok();
        }
        false
    });
    bed.published.mark_unchanged();
    let begun = std::time::Instant::now();
    bed.claims("docker", &[container(1, 1)]).await;
    let publications = loop {
        bed.wait(Duration::from_millis(50)).await;
        if let Ok(publications) = is_over.try_recv() {
            break publications;
        }
    };
    let seconds = begun.elapsed().as_secs();
    assert!(
        (2..=seconds + 1).contains(&publications),
        "{publications} views in {ACTIONS} actions and {seconds} s"
    );
}
