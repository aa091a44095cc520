//! What changes, and whose claims are given.

use std::sync::Arc;

use proptest::prelude::*;

use super::*;
use crate::model::{BackendState, FrontendAddress, Ports, Protocol, fixtures};

/// Claims of a few services, told apart by their source.
fn claims() -> impl Strategy<Value = Vec<Claim>> {
    prop::collection::vec((1_u16..5, 1_u8..4, 0_u8..3), 0..12).prop_map(|wishes| {
        let claim = |(service, id, source): (u16, u8, u8)| Claim {
            service: ServiceName(format!("s{service}").into()),
            frontend: FrontendAddress {
                vip: [192, 0, 2, 10].into(),
                protocol: Protocol::Tcp,
                ports: Ports::one(service).expect("a port"),
            },
            backend: Some(fixtures::backend(id, &format!("c{id}"), BackendState::Healthy)),
            pooled: None,
            wishes: Arc::default(),
            since_ms: 1,
            source: source.to_string(),
        };
        wishes.into_iter().map(claim).collect()
    })
}

fn of(claims: &[Claim], service: &ServiceName) -> Vec<Claim> {
    claims.iter().filter(|claim| claim.service == *service).cloned().collect()
}

proptest! {
    #[test]
    fn services_are_touched_whose_claims_are_others(told in prop::collection::vec(claims(), 1..5)) {
        let mut ledger = Ledger::new(&["docker"]);
        let mut before: Vec<Claim> = Vec::new();
        for claims in told {
            let told = Claims { claims: claims.clone(), ..Claims::default() };
            ledger.set_claims("docker", told);
            ledger.set_gone("docker", "c1");
            let touched = ledger.take_touched();
            let all = before.iter().chain(&claims).map(|claim| claim.service.clone());
            for service in all.collect::<BTreeSet<_>>() {
                let (before, mut now) = (of(&before, &service), of(&claims, &service));
                let has_died = now.iter().any(|claim| {
                    claim.backend.as_ref().is_some_and(|backend| backend.instance == "c1")
                });
                prop_assert_eq!(touched.contains(&service), before != now || has_died);
                for claim in &mut now {
                    claim.backend = claim.backend.take().filter(|it| it.instance != "c1");
                }
                prop_assert_eq!(ledger.claims_of(Some(&[service].into())), now);
            }
            before = claims;
        }
        prop_assert_eq!(ledger.claims_of(None).len(), before.len());
    }
}
