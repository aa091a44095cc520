//! The kernel, its interfaces and addresses.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    net::IpAddr,
    path::Path,
};

use super::parse;
use crate::doctor::facts::{InterfaceFacts, KernelFacts, Route};

/// Where others pin their programs.
const PINS: [(&str, &str); 2] =
    [("Cilium", "/sys/fs/bpf/cilium"), ("Calico", "/sys/fs/bpf/calico")];

/// A file; nothing, where it cannot be read. What is no text in it (names of mounts are anybody's) is
/// nothing that is looked for.
pub(super) fn read(path: &str) -> String {
    fs::read(path).map(|bytes| String::from_utf8_lossy(&bytes).into_owned()).unwrap_or_default()
}

pub(super) fn kernel() -> KernelFacts {
    let release = read("/proc/sys/kernel/osrelease");
    let mounts = read("/proc/self/mountinfo");
    KernelFacts {
        release: (!release.is_empty()).then(|| release.trim().to_owned()),
        has_jit: number("/proc/sys/net/core/bpf_jit_enable").map(|value| value != 0),
        has_bpffs: (!mounts.is_empty()).then(|| parse::has_bpffs(&mounts)),
    }
}

pub(super) fn interface(name: &str) -> InterfaceFacts {
    let directory = Path::new("/sys/class/net").join(name);
    let state = fs::read_to_string(directory.join("operstate")).unwrap_or_default();
    let filter = |name: &str| number(&format!("/proc/sys/net/ipv4/conf/{name}/rp_filter"));
    InterfaceFacts {
        exists: directory.exists() || Path::new("/proc/sys/net/ipv4/conf").join(name).exists(),
        state: state.trim().to_owned(),
        is_physical: directory.join("device").exists(),
        reverse_path_filter: filter(name).max(filter("all")),
    }
}

pub(super) fn forwarding() -> [Option<bool>; 2] {
    ["/proc/sys/net/ipv4/ip_forward", "/proc/sys/net/ipv6/conf/all/forwarding"]
        .map(|path| number(path).map(|value| value != 0))
}

pub(super) fn addresses() -> BTreeSet<IpAddr> {
    let v4 = parse::local_v4(&read("/proc/net/fib_trie"));
    let v6 = parse::local_v6(&read("/proc/net/if_inet6"));
    v4.into_iter().map(IpAddr::V4).chain(v6.into_iter().map(IpAddr::V6)).collect()
}

pub(super) fn routes() -> Vec<Route> {
    let mut routes = parse::routes_v4(&read("/proc/net/route"));
    routes.extend(parse::routes_v6(&read("/proc/net/ipv6_route")));
    routes
}

/// Software that shows by what it has pinned.
pub(super) fn note_pins(software: &mut BTreeMap<String, String>) {
    for (name, path) in PINS {
        if Path::new(path).exists() {
            software.entry(name.to_owned()).or_insert_with(|| format!("has pins at `{path}`"));
        }
    }
}

fn number(path: &str) -> Option<u8> {
    fs::read_to_string(path).ok()?.trim().parse().ok()
}
