//! What labels may ask for, as the file has it: `label_vips`, `routing_pool`, `[[registrator]]`.

use std::{collections::BTreeMap, net::IpAddr};

use ipnet::IpNet;
use toml::Spanned;

use super::{
    LabelsConfig, Registration,
    address::{parse_frontend, usable_address},
    raw,
    validate::Checker,
};

/// Prefixes that labels may choose from, and registrations.
const VIPS_MAX: usize = 256;
const REGISTRATIONS_MAX: usize = 4096;
/// Sizes of the pool: at least two addresses for services, at most 2^24.
const POOL_PREFIX_V4: std::ops::RangeInclusive<u8> = 8..=30;

impl LabelsConfig {
    /// All addresses that are named one by one.
    pub(super) fn vips(&self) -> impl Iterator<Item = IpAddr> {
        let balancers = self.balancers.iter().map(|balancer| balancer.vip);
        balancers.chain(self.registrations.iter().map(|one| one.frontend.vip))
    }
}

impl Checker<'_> {
    /// Addresses and prefixes that labels may name.
    pub(super) fn label_vips(&mut self, texts: &[Spanned<String>]) -> Vec<IpNet> {
        if let Some(beyond) = texts.get(VIPS_MAX) {
            self.problem(beyond.span(), format!("more than {VIPS_MAX} prefixes; join some"));
        }
        let mut vips = Vec::new();
        for text in texts {
            let parsed = match text.get_ref().parse::<IpAddr>() {
                Ok(address) => Ok(IpNet::from(address)),
                Err(_) => parse_prefix(text.get_ref()),
            };
            let usable = parsed.and_then(|net| usable_address(net.addr(), "address").map(|_| net));
            vips.extend(self.accept(usable, text.span()));
        }
        vips
    }

    /// The subnet that `.local` names get their addresses from.
    pub(super) fn routing_pool(&mut self, text: &Spanned<String>) -> Option<IpNet> {
        let parsed = parse_prefix(text.get_ref()).and_then(|net| {
            usable_address(net.addr(), "pool")?;
            if POOL_PREFIX_V4.contains(&net.prefix_len()) {
                return Ok(net);
            }
            Err(format!(
                "the pool {net} has a prefix of {} bits; it must be from {} to {}",
                net.prefix_len(),
                POOL_PREFIX_V4.start(),
                POOL_PREFIX_V4.end()
            ))
        });
        self.accept(parsed, text.span())
    }

    /// Where services with the names of Registrator are reached.
    pub(super) fn registrations(&mut self, raw: Vec<raw::Registration>) -> Vec<Registration> {
        let mut owners = BTreeMap::new();
        let mut checked = Vec::new();
        for registration in raw.into_iter().take(REGISTRATIONS_MAX) {
            let span = registration.frontend.span();
            let line = self.line(&span);
            let frontend = parse_frontend(registration.frontend.get_ref());
            let name = self.name(registration.name, "name");
            let Some(frontend) = self.accept(frontend, span.clone()) else { continue };
            if let Some(owner) = owners.insert(frontend, line) {
                let message = format!(
                    "{frontend} is already the frontend of the name of line {owner}; a frontend \
                     has one service"
                );
                self.problem(span, message);
            }
            checked.push(Registration { name, frontend });
        }
        checked
    }

    /// Refuses addresses of the pool that somebody else has.
    pub(super) fn pool_is_free(&mut self, text: &Spanned<String>, labels: &LabelsConfig) {
        let Some(pool) = labels.routing_pool else { return };
        if let Some(vip) = labels.vips().find(|vip| pool.contains(vip)) {
            let message = format!(
                "the VIP {vip} lies in `routing_pool` {pool}, whose addresses are given to names; \
                 choose another"
            );
            self.problem(text.span(), message);
        }
    }
}

fn parse_prefix(text: &str) -> Result<IpNet, String> {
    let wrong = || format!("`{}` is no subnet; write it like 198.18.0.0/24", text.escape_debug());
    let net: IpNet = text.parse().map_err(|_| wrong())?;
    if net.trunc() != net {
        return Err(format!("`{text}` has bits behind its prefix; write it like {}", net.trunc()));
    }
    Ok(net)
}

#[cfg(all(test, feature = "agent"))]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::mangle::{any_text, mangled_text};

    proptest! {
        #[test]
        fn any_text_is_a_subnet_or_none(
            text in prop_oneof![
                any_text(),
                mangled_text("198.18.0.0/24"),
                mangled_text("2001:db8::/64"),
            ],
        ) {
            if let Ok(net) = parse_prefix(&text) {
                prop_assert_eq!(parse_prefix(&net.to_string()), Ok(net));
            }
        }
    }
}
