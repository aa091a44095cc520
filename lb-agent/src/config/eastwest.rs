//! `[cgroup]` and `[names]`: socket calls of the node and its containers, and the names that they use.

use std::{
    net::SocketAddr,
    path::{Component, PathBuf},
};

use toml::Spanned;

use super::{
    CgroupConfig, NamesConfig,
    address::parse_listen,
    raw,
    validate::{Checker, DAY_SECONDS},
};

/// Addresses to listen on, and servers to ask.
const ADDRESSES_MAX: usize = 16;

impl Checker<'_> {
    pub(super) fn cgroup(&mut self, cgroup: raw::Cgroup) -> CgroupConfig {
        let defaults = CgroupConfig::default();
        let path = cgroup.path.and_then(|path| {
            let span = path.span();
            let path = PathBuf::from(path.into_inner());
            let is_plain = path.is_absolute()
                && !path.as_os_str().as_encoded_bytes().contains(&0)
                && !path.components().any(|part| part == Component::ParentDir);
            if !is_plain {
                let message = "`path` must be the absolute path of a cgroup v2 directory, like \
                               /sys/fs/cgroup";
                self.problem(span, message.to_owned());
            }
            is_plain.then_some(path)
        });
        CgroupConfig {
            enabled: cgroup.enabled.unwrap_or(defaults.enabled),
            path,
            routes_across: cgroup.routes_across.unwrap_or(defaults.routes_across),
            refuses_unseen: cgroup.refuses_unseen.unwrap_or(defaults.refuses_unseen),
        }
    }

    pub(super) fn names(&mut self, names: raw::Names) -> NamesConfig {
        let defaults = NamesConfig::default();
        let listen = self.addresses(names.listen, "listen");
        for server in &names.forward {
            let asks_itself = server.get_ref().parse::<SocketAddr>().is_ok_and(|server| {
                let takes = |own: &SocketAddr| {
                    let is_any = own.ip().is_unspecified() && server.ip().is_loopback();
                    own.port() == server.port() && (own.ip() == server.ip() || is_any)
                };
                server.ip().is_unspecified() || listen.iter().any(takes)
            });
            if asks_itself {
                let message = format!(
                    "`forward` names {}, where `listen` has the agent answer itself; name the \
                     servers that know other names",
                    server.get_ref()
                );
                self.problem(server.span(), message);
            }
        }
        NamesConfig {
            listen,
            ttl_seconds: self.number(
                names.ttl_seconds,
                "ttl_seconds",
                0..=DAY_SECONDS,
                defaults.ttl_seconds,
            ),
            forward: self.addresses(names.forward, "forward"),
            compose: names.compose.unwrap_or(defaults.compose),
        }
    }

    fn addresses(&mut self, texts: Vec<Spanned<String>>, key: &str) -> Vec<SocketAddr> {
        if let Some(first) = texts.get(ADDRESSES_MAX) {
            let message = format!("`{key}` names more than {ADDRESSES_MAX} addresses");
            self.problem(first.span(), message);
        }
        let parsed = texts.into_iter().take(ADDRESSES_MAX).filter_map(|text| {
            let span = text.span();
            self.accept(parse_listen(text.get_ref()), span)
        });
        parsed.collect()
    }
}
