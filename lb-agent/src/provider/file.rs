//! The services of the config file as claims. Pure: reading and watching the file is the work of
//! others.

use crate::{
    config::{Config, StaticBackend, StaticService},
    model::{Backend, BackendPath, BackendState, Claim, Claims, ReplyFacts, ServiceName, WaysIn},
};

/// What the provider is called in events and statuses.
pub const NAME: &str = "file";

/// Everything that the file asks for. A service without backends still claims its frontends, so that
/// its clients are answered and nobody else takes them.
pub fn claims(config: &Config) -> Claims {
    let claims = config.services.iter().flat_map(|service| service_claims(config, service));
    Claims { claims: claims.collect(), ..Claims::default() }
}

fn service_claims<'a>(
    config: &'a Config,
    service: &'a StaticService,
) -> impl Iterator<Item = Claim> + 'a {
    let source =
        format!("service `{}` in {}, line {}", service.name, config.file_name, service.line);
    let claim = move |frontend, backend| Claim {
        service: ServiceName(format!("file/{}", service.name)),
        frontend,
        backend,
        ring_size: service.ring_size,
        since_ms: 0,
        source: source.clone(),
    };
    service.frontends.iter().flat_map(move |frontend| {
        let backends = service.backends.iter().map(static_backend).map(Some);
        let none = service.backends.is_empty().then_some(None);
        backends.chain(none).map(|backend| claim(*frontend, backend)).collect::<Vec<_>>()
    })
}

fn static_backend(backend: &StaticBackend) -> Backend {
    let address = backend.address.to_string();
    Backend {
        place: address.clone(),
        instance: String::new(),
        display_name: address,
        address: backend.address,
        weight: backend.weight,
        path: BackendPath::Routed,
        state: BackendState::Healthy,
        started_at_ms: 0,
        // It is reached by the routing table, by anybody.
        replies: ReplyFacts { ways_in: WaysIn::Direct, ..ReplyFacts::default() },
    }
}

#[cfg(test)]
mod tests {
    use std::fmt::Write as _;

    use insta::assert_snapshot;

    use super::claims;
    use crate::{config::Config, model::Claim};

    fn check(text: &str) -> String {
        let config = Config::parse(text, "lb.toml").unwrap();
        let claims = claims(&config);
        assert_eq!(claims.refusals, []);
        let mut shown = String::new();
        for claim in claims.claims {
            let backend = claim.backend.map_or("no backend".to_owned(), |backend| {
                assert_eq!(backend.place, backend.address.to_string());
                format!("{} weight {} {:?}", backend.place, backend.weight, backend.path)
            });
            let ring = claim.ring_size.map_or(String::new(), |size| format!(", ring {size}"));
            let Claim { service, frontend, since_ms, source, .. } = claim;
            writeln!(
                shown,
                "{service} at {frontend}: {backend}{ring}; since {since_ms} by {source}"
            )
            .unwrap();
        }
        shown
    }

    #[test]
    fn every_backend_claims_every_frontend() {
        let shown = check(
            r#"
            [[service]]
            name = "web"
            frontends = ["tcp://192.0.2.10:80", "tcp://192.0.2.10:8080"]
            ring_size = 4093
            [[service.backend]]
            address = "10.0.0.1:8080"
            [[service.backend]]
            address = "10.0.0.2:8080"
            weight = 0
            "#,
        );
        assert_snapshot!(shown, @r"
        file/web at tcp://192.0.2.10:80: 10.0.0.1:8080 weight 100 Routed, ring 4093; since 0 by service `web` in lb.toml, line 3
        file/web at tcp://192.0.2.10:80: 10.0.0.2:8080 weight 0 Routed, ring 4093; since 0 by service `web` in lb.toml, line 3
        file/web at tcp://192.0.2.10:8080: 10.0.0.1:8080 weight 100 Routed, ring 4093; since 0 by service `web` in lb.toml, line 3
        file/web at tcp://192.0.2.10:8080: 10.0.0.2:8080 weight 0 Routed, ring 4093; since 0 by service `web` in lb.toml, line 3
        ");
    }

    #[test]
    fn a_service_without_backends_claims_its_frontends() {
        let shown = check("[[service]]\nname = 'web'\nfrontends = ['tcp://192.0.2.10:80']\n");
        assert_snapshot!(shown, @"file/web at tcp://192.0.2.10:80: no backend; since 0 by service `web` in lb.toml, line 2");
    }
}
