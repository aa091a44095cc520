//! `aliyun.routing.port_$container_port: [http://]$domain|$domain_prefix[:$context_path]`, several
//! values separated by `;`.
//!
//! In the original an HTTP proxy tells services apart by the Host header. A name that ends in
//! `.local` and stands alone needs no such thing: it gets a virtual address of its own. Everything
//! else is a matter of layer 7, and is told so.

use std::collections::BTreeMap;

use ipnet::IpNet;

use super::{LabelError, container_port};
use crate::{
    labels::shown,
    model::{PooledName, Ports},
};

/// What the keys of these labels begin with.
pub const PREFIX: &str = "aliyun.routing.port_";

/// Names in one label.
const NAMES_MAX: usize = 16;
/// Longest domain and longest path.
const DOMAIN_CHARS_MAX: usize = 128;
const PATH_CHARS_MAX: usize = 128;
/// Port at which the routing service answers.
pub const FRONT_PORT: Ports = Ports::one(80).expect("80 is a port");

/// One name, understood.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct RoutingLabel {
    /// The label's key.
    pub key: String,
    /// Port on which the container listens.
    pub container_port: u16,
    /// The name, and where its address comes from.
    pub name: PooledName,
}

/// Every name of these labels, in the order of the keys.
pub fn parse(
    labels: &BTreeMap<String, String>,
    pool: Option<IpNet>,
) -> impl Iterator<Item = Result<RoutingLabel, LabelError>> {
    let from_prefix = labels.range(PREFIX.to_owned()..);
    let ours = from_prefix.take_while(|(key, _)| key.starts_with(PREFIX));
    ours.flat_map(move |(key, value)| {
        let port = container_port(PREFIX, key, "restserver.local");
        let names = value.split(';').map(str::trim).filter(|name| !name.is_empty());
        let mut names: Vec<&str> = names.take(NAMES_MAX + 1).collect();
        if names.is_empty() {
            names.push("");
        }
        let too_many = (names.len() > NAMES_MAX).then(|| {
            names.truncate(NAMES_MAX);
            let message = format!("has more than {NAMES_MAX} names; the rest is left out");
            Err(LabelError { key: shown(key), message })
        });
        let parsed = names.into_iter().map(move |text| {
            let message = match (&port, parse_name(text, pool)) {
                (Err(message), _) => message.clone(),
                (Ok(_), Err(message)) => message,
                (Ok(port), Ok(name)) => {
                    return Ok(RoutingLabel { key: key.clone(), container_port: *port, name });
                }
            };
            Err(LabelError { key: shown(key), message })
        });
        parsed.chain(too_many).collect::<Vec<_>>()
    })
}

fn parse_name(text: &str, pool: Option<IpNet>) -> Result<PooledName, String> {
    let value = format!("the value `{}`", shown(text));
    if text.is_empty() {
        return Err("the value is empty; write it like restserver.local".to_owned());
    }
    let (scheme, rest) = text.split_once("://").unwrap_or(("http", text));
    let end = rest.find([':', '/']).unwrap_or(rest.len());
    let (domain, path) = rest.split_at(end);
    let path = path.strip_prefix(':').unwrap_or(path);
    if domain.chars().count() > DOMAIN_CHARS_MAX || path.chars().count() > PATH_CHARS_MAX {
        return Err(format!(
            "{value} has more than {DOMAIN_CHARS_MAX} characters before or after its path begins; \
             shorten it"
        ));
    }
    let domain = domain.to_lowercase();
    if !is_domain(&domain) {
        return Err(format!(
            "{value} names no domain; write letters, digits, `-` and `.`, like restserver.local"
        ));
    }
    let shown_domain = shown(&domain);
    if scheme != "http" {
        return Err(format!(
            "{value} needs the gateway: the scheme `{}` is not served at an address of its own; \
             only plain names that end in .local are",
            shown(scheme)
        ));
    }
    if !matches!(path, "" | "/") {
        return Err(format!(
            "{value} needs the gateway: requests for `{shown_domain}` are told apart by their path \
             `{}`, which only a proxy for HTTP sees",
            shown(path)
        ));
    }
    if domain.rsplit('.').next() != Some("local") || !domain.contains('.') {
        return Err(format!(
            "{value} needs the gateway: `{shown_domain}` is told from others by the Host header of \
             each request, which only a proxy for HTTP sees; a name that ends in .local gets an \
             address of its own"
        ));
    }
    if domain.contains('*') {
        return Err(format!(
            "{value} needs the gateway: `{shown_domain}` is many names, told apart by the Host header \
             of each request; name each by itself, and it gets an address of its own"
        ));
    }
    let Some(pool) = pool else {
        return Err(format!(
            "`{shown_domain}` needs an address of its own, and the config has no `routing_pool`; \
             add one, like routing_pool = \"198.18.0.0/24\""
        ));
    };
    Ok(PooledName { name: domain, pool })
}

/// Labels of letters, digits and hyphens, separated by dots. `*` is for the gateway to tell.
fn is_domain(text: &str) -> bool {
    let is_label = |label: &str| {
        (1..=63).contains(&label.len())
            && label.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_*".contains(&byte))
    };
    text.split('.').all(is_label) && text != ".local"
}
