//! From the file as written to a [`Config`]: every value checked, every problem collected with its
//! place, so that one run tells all.

use std::{
    collections::{BTreeMap, btree_map::Entry},
    net::{IpAddr, Ipv4Addr},
    ops::Range,
    path::PathBuf,
    sync::Arc,
};

use lb_common::abi;
use serde::Deserialize as _;
use toml::{Spanned, de::DeTable};

use super::{
    ApiConfig, Balancer, Config, ConfigError, DockerConfig, LabelsConfig, MetricsConfig, Problem,
    TablesConfig, TcConfig, Written, XdpConfig,
    address::{parse_listen, usable_address},
    error::Lines,
    policy::Place,
    raw,
};

/// Longest interface name that the kernel takes.
const INTERFACE_NAME_BYTES_MAX: usize = 15;
/// Longest path of a Unix socket.
const SOCKET_PATH_BYTES_MAX: usize = 107;
/// Longest name of a balancer, a service or a group.
const NAME_CHARS_MAX: usize = 128;
/// Balancers beyond this could not have a service each.
const BALANCERS_MAX: usize = abi::MAX_SERVICES as usize;
/// Smallest pool: one ring and its successor.
const RING_SLOTS_MIN: u32 = 2 * abi::RING_SIZES[0];
/// Largest pool that a ring descriptor can address.
const RING_SLOTS_MAX: u32 = 1 << 28;
/// Largest table of recorded flows per family; about 3 GiB.
const RECORDS_MAX: u32 = 32 * 1024 * 1024;
/// Problems after which the rest is not listed.
const PROBLEMS_MAX: usize = 100;
pub(super) const DAY_SECONDS: u32 = 24 * 3600;

pub(super) fn parse(text: &str, file_name: &str) -> Result<Config, ConfigError> {
    let wrong = |error: toml::de::Error| ConfigError::from_toml(file_name, text, &error);
    let table = DeTable::parse(text).map_err(wrong)?;
    let written = Written::of(table.get_ref());
    let file = raw::File::deserialize(toml::Deserializer::from(table)).map_err(wrong)?;
    let mut checker = Checker { lines: Lines::new(text), problems: Vec::new() };
    let config = Config { written, ..checker.config(file, file_name) };
    let mut problems = checker.problems;
    if problems.is_empty() {
        return Ok(config);
    }
    problems.sort();
    if problems.len() > PROBLEMS_MAX {
        let message = format!("and {} more problems", problems.len() - PROBLEMS_MAX);
        problems.truncate(PROBLEMS_MAX);
        problems.push(Problem { position: None, message });
    }
    Err(ConfigError { file_name: file_name.to_owned(), problems })
}

/// Collects problems; a value with a problem is replaced by something harmless, since the whole
/// config is refused in the end.
pub(super) struct Checker<'a> {
    lines: Lines<'a>,
    problems: Vec<Problem>,
}

impl Checker<'_> {
    pub(super) fn problem(&mut self, span: Range<usize>, message: String) {
        let position = Some(self.lines.position(span.start));
        self.problems.push(Problem { position, message });
    }

    pub(super) fn line(&self, span: &Range<usize>) -> usize {
        self.lines.position(span.start).line
    }

    fn config(&mut self, file: raw::File, file_name: &str) -> Config {
        let defaults = Config::default();
        let state_path = self.path(file.state_path, "state_path", defaults.state_path);
        let policy =
            self.policy(file.defaults, &format!("[defaults] in {file_name}"), Place::Defaults);
        let labels = LabelsConfig {
            balancers: self.balancers(file.balancer),
            vips: self.label_vips(&file.label_vips),
            routing_pool: file.routing_pool.as_ref().and_then(|pool| self.routing_pool(pool)),
            registrations: self.registrations(file.registrator),
            defaults: Arc::new(policy),
        };
        if let Some(pool) = &file.routing_pool {
            self.pool_is_free(pool, &labels);
        }
        let services = self.services(file.service, &labels, file_name);
        Config {
            file_name: file_name.to_owned(),
            front: self.front(file.front),
            pin_path: self.path(file.pin_path, "pin_path", defaults.pin_path),
            hash_seed: file.hash_seed.and_then(|seed| self.hash_seed(&seed)),
            xdp: self.xdp(file.xdp),
            tc: TcConfig { mode: file.tc.mode },
            cgroup: self.cgroup(file.cgroup),
            names: self.names(file.names),
            api: self.api(file.api, state_path.join("api.sock"), defaults.api.group),
            docker: self.docker(file.docker),
            metrics: self.metrics(file.metrics),
            tables: self.tables(file.tables),
            times: self.times(file.times),
            labels,
            services,
            state_path,
            written: defaults.written,
        }
    }

    fn front(&mut self, names: Vec<Spanned<String>>) -> Vec<String> {
        let mut front = Vec::new();
        for name in names {
            self.interface_name(name.get_ref(), name.span());
            if front.contains(name.get_ref()) {
                let message = format!("interface `{}` is named twice in `front`", name.get_ref());
                self.problem(name.span(), message);
            }
            front.push(name.into_inner());
        }
        front
    }

    fn interface_name(&mut self, name: &str, span: Range<usize>) {
        let is_name = !name.is_empty()
            && name.len() <= INTERFACE_NAME_BYTES_MAX
            && name != "."
            && name != ".."
            && !name.contains(|char: char| char == '/' || char == ':' || !char.is_ascii_graphic());
        if !is_name {
            self.problem(
                span,
                format!(
                    "`{}` is no interface name; write it as `ip link` shows it, at most \
                     {INTERFACE_NAME_BYTES_MAX} characters",
                    name.escape_debug()
                ),
            );
        }
    }

    fn path(&mut self, path: Option<Spanned<String>>, key: &str, default: PathBuf) -> PathBuf {
        let Some(path) = path else { return default };
        let span = path.span();
        let path = PathBuf::from(path.into_inner());
        if !path.is_absolute() || path.as_os_str().as_encoded_bytes().contains(&0) {
            let message = format!("`{key}` must be an absolute path, like {}", default.display());
            self.problem(span, message);
        }
        path
    }

    fn hash_seed(&mut self, seed: &Spanned<i64>) -> Option<u64> {
        let checked = u64::try_from(*seed.get_ref())
            .map_err(|_| format!("`hash_seed` is {}; it must not be negative", seed.get_ref()));
        self.accept(checked, seed.span())
    }

    fn xdp(&mut self, xdp: raw::Xdp) -> XdpConfig {
        let mut interfaces = BTreeMap::new();
        for (name, mode) in xdp.interfaces {
            self.interface_name(&name, mode.span());
            interfaces.insert(name, mode.into_inner());
        }
        XdpConfig { mode: xdp.mode, interfaces }
    }

    fn api(&mut self, api: raw::Api, socket: PathBuf, group: String) -> ApiConfig {
        let span = api.socket.as_ref().map(Spanned::span);
        let socket = self.path(api.socket, "socket", socket);
        if socket.as_os_str().len() > SOCKET_PATH_BYTES_MAX {
            self.problem(
                span.unwrap_or(0..0),
                format!(
                    "the socket path `{}` is too long for the kernel; use at most \
                     {SOCKET_PATH_BYTES_MAX} bytes",
                    socket.display()
                ),
            );
        }
        let group = match api.group {
            Some(group) => self.name(group, "group"),
            None => group,
        };
        ApiConfig { socket, group }
    }

    fn metrics(&mut self, metrics: raw::Metrics) -> MetricsConfig {
        let listen = metrics.listen.and_then(|listen| {
            let span = listen.span();
            self.accept(parse_listen(listen.get_ref()), span)
        });
        MetricsConfig { listen }
    }

    fn docker(&mut self, docker: raw::Docker) -> DockerConfig {
        let defaults = DockerConfig::default();
        let endpoint = match docker.endpoint {
            None => defaults.endpoint,
            Some(endpoint) => {
                let path = endpoint.get_ref().strip_prefix("unix://").unwrap_or_default();
                if !path.starts_with('/') || path.contains('\0') {
                    self.problem(
                        endpoint.span(),
                        format!(
                            "`{}` is no Docker endpoint; the agent needs the daemon of its own \
                             node, so write `unix://` and the absolute path of its socket",
                            endpoint.get_ref().escape_debug()
                        ),
                    );
                }
                endpoint.into_inner()
            }
        };
        DockerConfig {
            enabled: docker.enabled.unwrap_or(defaults.enabled),
            endpoint,
            resync_seconds: self.number(
                docker.resync_seconds,
                "resync_seconds",
                1..=DAY_SECONDS,
                defaults.resync_seconds,
            ),
        }
    }

    fn tables(&mut self, tables: raw::Tables) -> TablesConfig {
        let defaults = TablesConfig::default();
        TablesConfig {
            ring_slots: self.number(
                tables.ring_slots,
                "ring_slots",
                RING_SLOTS_MIN..=RING_SLOTS_MAX,
                defaults.ring_slots,
            ),
            records: self.number(tables.records, "records", 1..=RECORDS_MAX, defaults.records),
        }
    }

    pub(super) fn number(
        &mut self,
        value: Option<Spanned<i64>>,
        key: &str,
        allowed: std::ops::RangeInclusive<u32>,
        default: u32,
    ) -> u32 {
        let Some(value) = value else { return default };
        match u32::try_from(*value.get_ref()) {
            Ok(number) if allowed.contains(&number) => number,
            _ => {
                self.problem(
                    value.span(),
                    format!(
                        "`{key}` is {}; it must be from {} to {}",
                        value.get_ref(),
                        allowed.start(),
                        allowed.end()
                    ),
                );
                default
            }
        }
    }

    /// Names go into messages, tables and labels: no spaces, nothing unprintable.
    pub(super) fn name(&mut self, name: Spanned<String>, key: &str) -> String {
        let text = name.get_ref();
        let is_name = !text.is_empty()
            && text.chars().count() <= NAME_CHARS_MAX
            && !text.contains(|char: char| char.is_whitespace() || char.is_control());
        if !is_name {
            let message = format!(
                "`{key}` must be 1 to {NAME_CHARS_MAX} characters without spaces and control \
                 characters"
            );
            self.problem(name.span(), message);
        }
        name.into_inner()
    }

    fn balancers(&mut self, balancers: Vec<raw::Balancer>) -> Vec<Balancer> {
        let mut by_name: BTreeMap<String, (usize, usize)> = BTreeMap::new();
        let mut by_vip: BTreeMap<IpAddr, usize> = BTreeMap::new();
        let mut checked = Vec::new();
        for (index, balancer) in balancers.into_iter().enumerate() {
            let line = self.line(&balancer.name.span());
            if index == BALANCERS_MAX {
                let message = format!("more than {BALANCERS_MAX} balancers; remove some");
                self.problem(balancer.name.span(), message);
            }
            for name in std::iter::once(&balancer.name).chain(&balancer.id) {
                match by_name.entry(name.get_ref().clone()) {
                    Entry::Vacant(entry) => {
                        entry.insert((index, line));
                    }
                    // A name and an id of one balancer may be the same word.
                    Entry::Occupied(entry) if entry.get().0 == index => {}
                    Entry::Occupied(entry) => {
                        let message = format!(
                            "`{}` already names the balancer of line {}; a name or id stands for \
                             one balancer, so choose another",
                            name.get_ref().escape_debug(),
                            entry.get().1
                        );
                        self.problem(name.span(), message);
                    }
                }
            }
            let vip = self.vip(&balancer.vip);
            if let Some(vip) = vip
                && let Some(other) = by_vip.insert(vip, line)
            {
                let message = format!(
                    "the VIP {vip} already belongs to the balancer of line {other}; give each \
                     balancer an address of its own"
                );
                self.problem(balancer.vip.span(), message);
            }
            checked.push(Balancer {
                name: self.name(balancer.name, "name"),
                id: balancer.id.map(|id| self.name(id, "id")),
                vip: vip.unwrap_or(IpAddr::V4(Ipv4Addr::UNSPECIFIED)),
            });
        }
        checked
    }

    fn vip(&mut self, vip: &Spanned<String>) -> Option<IpAddr> {
        let checked = match vip.get_ref().parse::<IpAddr>() {
            Ok(address) => usable_address(address, "VIP"),
            Err(_) => Err(format!(
                "`{}` is no IP address; `vip` is one address without port or prefix, like \
                 192.0.2.10",
                vip.get_ref().escape_debug()
            )),
        };
        self.accept(checked, vip.span())
    }

    pub(super) fn accept<T>(
        &mut self,
        checked: Result<T, String>,
        span: Range<usize>,
    ) -> Option<T> {
        checked.map_err(|message| self.problem(span, message)).ok()
    }
}
