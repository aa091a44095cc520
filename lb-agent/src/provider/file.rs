//! The services of the config file as claims. Pure: reading and watching the file is the work of
//! others.

use std::{collections::BTreeMap, net::SocketAddr, sync::Arc};

use crate::{
    config::{Config, StaticBackend, StaticService},
    model::{
        Backend, BackendPath, BackendState, Claim, Claims, FrontendAddress, Origin, ReplyFacts,
        ServiceName, Setting, WaysIn, Wishes,
    },
};

/// Weight of a backend that has none in the file.
const WEIGHT: u16 = 100;

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
    let own = own_wishes(service, &source);
    let share = service.wishes.share.as_ref().and_then(|share| share.value.as_ref());
    let name_at = move |frontend: &FrontendAddress| match share {
        Some(share) => ServiceName::shared(share, frontend),
        None => ServiceName(format!("file/{}", service.name).into()),
    };
    let wishes_of = move |backend: &StaticBackend| {
        let own = own.get(&(backend.weight, backend.exclusive));
        Arc::clone(own.unwrap_or(&service.wishes))
    };
    let claim = move |frontend: FrontendAddress, backend: Option<&StaticBackend>| Claim {
        service: name_at(&frontend),
        frontend,
        backend: backend.map(static_backend),
        pooled: None,
        wishes: backend.map_or_else(|| Arc::clone(&service.wishes), &wishes_of),
        since_ms: 0,
        source: source.clone(),
    };
    service.frontends.iter().flat_map(move |frontend| {
        // Addresses are not translated from one family to the other: each frontend has the backends
        // of its own.
        let is_of_family = |it: &&StaticBackend| it.address.is_ipv4() == frontend.vip.is_ipv4();
        let backends = service.backends.iter().filter(is_of_family);
        let mut claims: Vec<Claim> = backends.map(|it| claim(*frontend, Some(it))).collect();
        if claims.is_empty() {
            claims.push(claim(*frontend, None));
        }
        claims
    })
}

/// The service's wishes with what is written of its backends; those of which the same is written share
/// them.
fn own_wishes(
    service: &StaticService,
    source: &str,
) -> BTreeMap<(Option<u16>, Option<bool>), Arc<Wishes>> {
    let mut own = BTreeMap::new();
    let is_plain = |it: &&StaticBackend| it.weight.is_none() && it.exclusive.is_none();
    for backend in service.backends.iter().filter(|it| !is_plain(it)) {
        own.entry((backend.weight, backend.exclusive)).or_insert_with(|| {
            let mut wishes = (*service.wishes).clone();
            let weight =
                backend.weight.map(|it| Setting::new(it, Origin::config(source, "weight")));
            let exclusive = backend.exclusive;
            let exclusive =
                exclusive.map(|it| Setting::new(it, Origin::config(source, "exclusive")));
            wishes.weight = weight.or(wishes.weight);
            wishes.exclusive = exclusive.or(wishes.exclusive);
            Arc::new(wishes)
        });
    }
    own
}

fn static_backend(backend: &StaticBackend) -> Backend {
    backend_at(backend.address, backend.weight.unwrap_or(WEIGHT))
}

/// Why a static backend drains that was not told to.
pub(crate) const LEFT: &str = "no longer in the file";

/// A backend that the file no longer has.
pub(crate) fn leaving_backend(address: SocketAddr) -> Backend {
    Backend { state: BackendState::Draining, ..backend_at(address, WEIGHT) }
}

fn backend_at(address: SocketAddr, weight: u16) -> Backend {
    let name = match address.port() {
        0 => address.ip().to_string(),
        _ => address.to_string(),
    };
    Backend {
        place: name.clone(),
        instance: String::new(),
        display_name: name,
        address,
        weight,
        path: BackendPath::Routed,
        state: BackendState::Healthy,
        started_at_ms: 0,
        reported: None,
        asked_to_end: None,
        network: None,
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
            let ring = claim.wishes.ring_size.as_ref().and_then(|size| size.value);
            let mut ring = ring.map_or(String::new(), |size| format!(", ring {size}"));
            if let Some(exclusive) = &claim.wishes.exclusive {
                write!(ring, ", exclusive {} ({})", exclusive.value, exclusive.origin).unwrap();
            }
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
    fn a_frontend_has_the_backends_of_its_family() {
        let shown = check(
            r#"
            [[service]]
            name = "dns"
            frontends = ["udp://192.0.2.10:53", "udp://[2001:db8::10]:53", "tcp://192.0.2.10:53"]
            [[service.backend]]
            address = "10.0.0.1:53"
            [[service.backend]]
            address = "[fd00::1]:53"
            "#,
        );
        assert_snapshot!(shown, @"
        file/dns at udp://192.0.2.10:53: 10.0.0.1:53 weight 100 Routed; since 0 by service `dns` in lb.toml, line 3
        file/dns at udp://[2001:db8::10]:53: [fd00::1]:53 weight 100 Routed; since 0 by service `dns` in lb.toml, line 3
        file/dns at tcp://192.0.2.10:53: 10.0.0.1:53 weight 100 Routed; since 0 by service `dns` in lb.toml, line 3
        ");
    }

    #[test]
    fn a_service_without_backends_claims_its_frontends() {
        let shown = check("[[service]]\nname = 'web'\nfrontends = ['tcp://192.0.2.10:80']\n");
        assert_snapshot!(shown, @"file/web at tcp://192.0.2.10:80: no backend; since 0 by service `web` in lb.toml, line 2");
    }
    #[test]
    fn a_shared_frontend_is_a_service_of_its_own() {
        let shown = check(
            r#"
            [[service]]
            name = "blue"
            frontends = ["tcp://192.0.2.10:80", "tcp://192.0.2.10:81"]
            share = "shop"
            [[service.backend]]
            address = "10.0.0.1:80"
            [[service]]
            name = "green"
            frontends = ["tcp://192.0.2.10:80"]
            share = "shop"
            [[service.backend]]
            address = "10.0.0.2:80"
            exclusive = true
            "#,
        );
        assert_snapshot!(shown, @"
        share/shop@tcp://192.0.2.10:80 at tcp://192.0.2.10:80: 10.0.0.1:80 weight 100 Routed; since 0 by service `blue` in lb.toml, line 3
        share/shop@tcp://192.0.2.10:81 at tcp://192.0.2.10:81: 10.0.0.1:80 weight 100 Routed; since 0 by service `blue` in lb.toml, line 3
        share/shop@tcp://192.0.2.10:80 at tcp://192.0.2.10:80: 10.0.0.2:80 weight 100 Routed, exclusive true (service `green` in lb.toml, line 9, `exclusive`); since 0 by service `green` in lb.toml, line 9
        ");
    }
}
