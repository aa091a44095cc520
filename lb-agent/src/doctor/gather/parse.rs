//! Files of /proc, as text. Pure; what does not parse is left out.

use std::{
    collections::BTreeSet,
    net::{Ipv4Addr, Ipv6Addr, SocketAddr},
    path::PathBuf,
};

use ipnet::IpNet;

use crate::doctor::facts::Route;

/// Where the root of cgroup v2 is mounted, from `/proc/self/mountinfo`.
pub(super) fn cgroup_root(mounts: &str) -> Option<PathBuf> {
    mounts.lines().find_map(|line| {
        let (before, after) = line.split_once(" - ")?;
        let mut fields = before.split(' ').skip(3);
        let (root, point) = (fields.next()?, fields.next()?);
        let is_it = after.split(' ').next() == Some("cgroup2") && root == "/";
        is_it.then(|| PathBuf::from(point.replace("\\040", " ")))
    })
}

/// Whether a bpffs is mounted where it belongs, from the same.
pub(super) fn has_bpffs(mounts: &str) -> bool {
    mounts.lines().any(|line| {
        let Some((before, after)) = line.split_once(" - ") else { return false };
        before.split(' ').nth(4) == Some("/sys/fs/bpf") && after.starts_with("bpf ")
    })
}

/// Interfaces of default routes, from `/proc/net/route`.
pub(super) fn default_interfaces(routes: &str) -> BTreeSet<String> {
    let lines = routes.lines().skip(1).map(|line| line.split('\t').collect::<Vec<_>>());
    let default = lines.filter(|fields| {
        fields.get(1) == Some(&"00000000") && fields.get(7).is_some_and(|mask| *mask == "00000000")
    });
    default.map(|fields| fields[0].to_owned()).collect()
}

/// The node's addresses of IPv4, from `/proc/net/fib_trie`.
pub(super) fn local_v4(trie: &str) -> BTreeSet<Ipv4Addr> {
    let mut addresses = BTreeSet::new();
    let mut latest: Option<Ipv4Addr> = None;
    for line in trie.lines() {
        let line = line.trim_start();
        if let Some(address) = line.strip_prefix("|-- ") {
            latest = address.parse().ok();
        } else if line == "/32 host LOCAL" {
            addresses.extend(latest);
        }
    }
    addresses
}

/// The node's addresses of IPv6, from `/proc/net/if_inet6`.
pub(super) fn local_v6(table: &str) -> BTreeSet<Ipv6Addr> {
    let address = |line: &str| {
        let digits = line.split(' ').next().filter(|digits| digits.len() == 32)?;
        Some(Ipv6Addr::from(u128::from_str_radix(digits, 16).ok()?))
    };
    table.lines().filter_map(address).collect()
}

/// A flag of both tables of routes: `unreachable`, `prohibit` or `blackhole`.
const REFUSED: u32 = 0x200;
/// Routes that are looked at; a node with a full table of the internet has more.
const ROUTES_MAX: usize = 65_536;

/// Routes of the main table, from `/proc/net/route`.
pub(super) fn routes_v4(table: &str) -> Vec<Route> {
    let address = |text: &str| {
        // As the memory of the machine has it.
        Some(Ipv4Addr::from(u32::from_str_radix(text, 16).ok()?.to_ne_bytes()))
    };
    let route = |line: &str| {
        let fields: Vec<&str> = line.split('\t').map(str::trim).collect();
        let [interface, to, by, flags, _, _, metric, mask, ..] = fields[..] else { return None };
        let (to, by, mask) = (address(to)?, address(by)?, address(mask)?);
        Some(Route {
            prefix: IpNet::with_netmask(to.into(), mask.into()).ok()?,
            interface: interface.to_owned(),
            gateway: (!by.is_unspecified()).then_some(by.into()),
            // Some kernels write it with a sign.
            metric: u32::try_from(metric.parse::<i64>().ok()? & 0xffff_ffff).ok()?,
            is_refused: u32::from_str_radix(flags, 16).ok()? & REFUSED != 0,
        })
    };
    table.lines().skip(1).take(ROUTES_MAX).filter_map(route).collect()
}

/// Routes of all tables, from `/proc/net/ipv6_route`.
pub(super) fn routes_v6(table: &str) -> Vec<Route> {
    let number = |text: &str| u32::from_str_radix(text, 16).ok();
    let address = |text: &str| Some(Ipv6Addr::from(u128::from_str_radix(text, 16).ok()?));
    let route = |line: &str| {
        let fields: Vec<&str> = line.split_ascii_whitespace().collect();
        let [to, length, _, _, by, metric, _, _, flags, interface] = fields[..] else {
            return None;
        };
        let (to, by) = (address(to)?, address(by)?);
        Some(Route {
            prefix: IpNet::new(to.into(), u8::try_from(number(length)?).ok()?).ok()?,
            interface: interface.to_owned(),
            gateway: (!by.is_unspecified()).then_some(by.into()),
            metric: number(metric)?,
            is_refused: number(flags)? & REFUSED != 0,
        })
    };
    table.lines().take(ROUTES_MAX).filter_map(route).collect()
}

/// Virtual services, from `/proc/net/ip_vs`; those by firewall mark have no address.
pub(super) fn ipvs(table: &str) -> Vec<SocketAddr> {
    let service = |line: &str| {
        let mut words = line.split_ascii_whitespace();
        let protocol = words.next()?;
        if !matches!(protocol, "TCP" | "UDP" | "SCTP") {
            return None;
        }
        let (address, port) = words.next()?.rsplit_once(':')?;
        let port = u16::from_str_radix(port, 16).ok()?;
        let address = match address.strip_prefix('[').and_then(|it| it.strip_suffix(']')) {
            Some(v6) => v6.parse::<Ipv6Addr>().ok()?.into(),
            None => Ipv4Addr::from(u32::from_str_radix(address, 16).ok()?).into(),
        };
        Some(SocketAddr::new(address, port))
    };
    table.lines().filter_map(service).collect()
}

/// Name of a group, from `/etc/group`; its number, where it has none.
pub(super) fn group_name(groups: &str, gid: u32) -> String {
    let name = groups.lines().find_map(|line| {
        let mut fields = line.split(':');
        let name = fields.next()?;
        (fields.nth(1)?.parse() == Ok(gid)).then(|| name.to_owned())
    });
    name.unwrap_or_else(|| gid.to_string())
}

/// The cgroup v2 of a process, from `/proc/PID/cgroup`.
pub(super) fn cgroup_of(text: &str) -> Option<&str> {
    text.lines().find_map(|line| line.strip_prefix("0::"))
}

/// Whether a cgroup is another or below it.
pub(super) fn is_below(cgroup: &str, root: &str) -> bool {
    let rest = cgroup.strip_prefix(root.trim_end_matches('/'));
    rest.is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
}

/// Name of a process and whether it is a program, from `/proc/PID/stat`: no thread of the kernel, and
/// not one that has ended and waits for its parent.
pub(super) fn stat(text: &str) -> Option<(&str, bool)> {
    /// `PF_KTHREAD`.
    const KERNEL_THREAD: u32 = 0x0020_0000;
    let name = text.get(text.find('(')? + 1..text.rfind(')')?)?;
    let rest = text.get(text.rfind(')')? + 2..)?;
    let flags: u32 = rest.split(' ').nth(6)?.parse().ok()?;
    Some((name, flags & KERNEL_THREAD == 0 && !rest.starts_with('Z')))
}

/// Sockets in a table of `/proc/net`, which has one line of headers.
pub(super) fn sockets(table: &str) -> usize {
    table.lines().skip(1).filter(|line| !line.trim().is_empty()).count()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[cfg(feature = "agent")]
    proptest::proptest! {
        /// Names of processes and interfaces are anybody's choice.
        #[test]
        fn any_file_is_read_and_nothing_is_made_up(
            text in proptest::prop_oneof![
                crate::mangle::any_text(),
                crate::mangle::mangled_text("41 31 0:38 / /sys/fs/cgroup rw - cgroup2 cgroup2 rw\n"),
                crate::mangle::mangled_text("7 (a) b) S 1 7 7 0 -1 4194560 1 2"),
                crate::mangle::mangled_text("I\tD\neth0\t00000000\t0\t3\t0\t0\t0\t00000000\n"),
                crate::mangle::mangled_text("     |-- 10.0.0.7\n        /32 host LOCAL\n"),
                crate::mangle::mangled_text("TCP  0A00010A:0050 rr\nUDP  [fd00::1]:0035 mh\n"),
                crate::mangle::mangled_text("fd000077000000000000000000000001 05 40 00 80  eth0\n"),
                crate::mangle::mangled_text("root:x:0:\nlb:x:107:me\n0::/docker/1\n"),
            ],
        ) {
            let lines = text.lines().count();
            proptest::prop_assert!(cgroup_root(&text).is_none_or(|it| it.as_os_str().len() <= text.len()));
            has_bpffs(&text);
            proptest::prop_assert!(default_interfaces(&text).len() <= lines);
            proptest::prop_assert!(local_v4(&text).len() + local_v6(&text).len() <= 2 * lines);
            proptest::prop_assert!(ipvs(&text).len() <= lines && sockets(&text) <= lines);
            proptest::prop_assert!(!group_name(&text, 107).contains(':'));
            proptest::prop_assert!(cgroup_of(&text).is_none_or(|it| text.contains(it)));
            proptest::prop_assert!(stat(&text).is_none_or(|(name, _)| text.contains(name)));
            is_below(&text, "/a");
            is_below("/a", &text);
        }
    }

    #[test]
    fn mounts_are_found() {
        let check = |mounts: &str, root: Option<&str>, has: bool| {
            assert_eq!(cgroup_root(mounts), root.map(PathBuf::from), "{mounts}");
            assert_eq!(has_bpffs(mounts), has, "{mounts}");
        };
        check("", None, false);
        check("garbage - cgroup2\n - - -", None, false);
        check(
            "41 31 0:38 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw\n\
             42 31 0:39 / /sys/fs/bpf rw shared:1 - bpf bpf rw,mode=700",
            Some("/sys/fs/cgroup/unified"),
            true,
        );
        check("41 31 0:38 /docker/1 /sys/fs/cgroup rw - cgroup2 cgroup2 rw", None, false);
        check("41 31 0:38 / /sys/fs/bpf rw - tmpfs bpf rw", None, false);
    }

    #[test]
    fn addresses_are_found() {
        let trie = "Main:\n  +-- 0.0.0.0/0 3 0 5\n     |-- 0.0.0.0\n        /0 universe UNICAST\n\
                    \x20    +-- 10.0.0.0/24 2 0 2\n        |-- 10.0.0.0\n           /24 link UNICAST\n\
                    \x20       |-- 10.0.0.7\n           /32 host LOCAL\n        |-- 10.0.0.255\n\
                    \x20          /32 link BROADCAST\n";
        assert_eq!(local_v4(trie), BTreeSet::from([Ipv4Addr::new(10, 0, 0, 7)]));
        let table = "fd000077000000000000000000000001 05 40 00 80     eth0\nrubbish\n";
        assert_eq!(local_v6(table), BTreeSet::from(["fd00:77::1".parse().expect("an address")]));
        let routes = "Iface\tDestination\tGateway\tFlags\tRefCnt\tUse\tMetric\tMask\n\
                      eth0\t00000000\t0100000A\t0003\t0\t0\t0\t00000000\n\
                      eth1\t0000000A\t00000000\t0001\t0\t0\t0\t00FFFFFF\nbroken\n";
        assert_eq!(default_interfaces(routes), BTreeSet::from(["eth0".to_owned()]));
    }

    #[test]
    fn routes_are_found() {
        let table = "Iface\tDestination\tGateway\tFlags\tRefCnt\tUse\tMetric\tMask\t\tMTU\n\
                     eth0\t00000000\t0100A8C0\t0003\t0\t0\t100\t00000000\t0\t0\t0 \n\
                     *\t0A7100CB\t00000000\t0204\t0\t0\t-9674240\tFFFFFFFF\t0\t0\t0 \n\
                     *\t0B7100CB\t00000000\t0205\t0\t0\t4285293056\tFFFFFFFF\t0\t0\t0 \n\
                     eth0\t0000A8C0\t00000000\t0001\t0\t0\t0\t0000FFFF\t0\nbroken\n\
                     odd\t0000A8C0\t00000000\t0001\t0\t0\t0\tFF00FF00\t0\n";
        let routes = routes_v4(table);
        let shown: Vec<String> = routes.iter().map(|it| it.prefix.to_string()).collect();
        assert_eq!(shown, ["0.0.0.0/0", "203.0.113.10/32", "203.0.113.11/32", "192.168.0.0/16"]);
        assert_eq!(routes[0].gateway, Some("192.168.0.1".parse().expect("an address")));
        let ours = |it: &Route| it.is_refused && it.metric == crate::model::UNSEEN_ROUTE_METRIC;
        assert!(ours(&routes[1]) && ours(&routes[2]));
        assert!(!routes[3].is_refused && routes[3].gateway.is_none());
        let table = "fd000000000000000000000000000010 80 00000000000000000000000000000000 00 \
                     00000000000000000000000000000000 ff6c6200 00000000 00000000 00200200       lo\n\
                     fd000077000000000000000000000000 40 00000000000000000000000000000000 00 \
                     00000000000000000000000000000000 00000100 00000001 00000000 00000001     eth0\n\
                     fd 40\n";
        let routes = routes_v6(table);
        let shown: Vec<String> = routes.iter().map(|it| it.prefix.to_string()).collect();
        assert_eq!(shown, ["fd00::10/128", "fd00:77::/64"]);
        assert!(routes[0].is_refused && routes[0].metric == crate::model::UNSEEN_ROUTE_METRIC);
        assert!(!routes[1].is_refused && routes[1].interface == "eth0");
    }

    #[test]
    fn services_of_ipvs_are_found() {
        let table = "IP Virtual Server version 1.2.1 (size=4096)\nProt LocalAddress:Port Scheduler\n\
                     \x20 -> RemoteAddress:Port\nTCP  0A00010A:0050 rr\n\
                     \x20 -> 0A000102:0050      Masq    1      0          0\n\
                     UDP  [fd00:0000:0000:0000:0000:0000:0000:0001]:0035 mh\nFWM  00000100 rr\n";
        let services: Vec<String> = ipvs(table).iter().map(ToString::to_string).collect();
        assert_eq!(services, ["10.0.1.10:80", "[fd00::1]:53"]);
    }

    #[test]
    fn processes_are_read() {
        assert_eq!(stat("7 (a) b) S 1 7 7 0 -1 4194560 1 2"), Some(("a) b", true)));
        assert_eq!(stat("2 (kthreadd) S 0 0 0 0 -1 2129984 0 0"), Some(("kthreadd", false)));
        assert_eq!(stat("7 (a) Z 1 7 7 0 -1 4194560 1 2"), Some(("a", false)));
        for broken in ["", "7 (", "7 )(", "7 (a)", "7 (a) S x"] {
            assert_eq!(stat(broken), None, "{broken}");
        }
        assert_eq!(cgroup_of("5:cpu:/x\n0::/docker/1\n"), Some("/docker/1"));
        let check = |cgroup: &str, root: &str, expected| {
            assert_eq!(is_below(cgroup, root), expected, "{cgroup} {root}");
        };
        check("/", "/", true);
        check("/a/b", "/", true);
        check("/a/b", "/a", true);
        check("/a", "/a", true);
        check("/ab", "/a", false);
        check("/", "/a", false);
        assert_eq!(group_name("root:x:0:\nlb:x:107:me\nbroken\n", 107), "lb");
        assert_eq!(group_name("root:x:0:\n", 5), "5");
        assert_eq!(sockets("  sl  local\n   1: 00\n\n"), 1);
    }
}
