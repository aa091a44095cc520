//! Every label and variable that is known, and the nearest known one of a misspelt name.

/// A label that is acted on, read or passed over on purpose.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Known {
    /// How it is written; `$PORT` is a container's port, `$NAME` any text.
    pub pattern: &'static str,
    /// Whether anything follows from it.
    pub is_used: bool,
}

const fn used(pattern: &'static str) -> Known {
    Known { pattern, is_used: true }
}

const fn ignored(pattern: &'static str) -> Known {
    Known { pattern, is_used: false }
}

/// Our own labels, without the prefix `lb.` or `lb.$PORT.`.
pub const LB: [&str; 35] = [
    "affinity",
    "datagrams",
    "drain",
    "exclusive",
    "frontend",
    "panic",
    "passive",
    "port",
    "prefer",
    "probe",
    "probe.body",
    "probe.command",
    "probe.delay",
    "probe.fall",
    "probe.host",
    "probe.initial",
    "probe.interval",
    "probe.method",
    "probe.path",
    "probe.place",
    "probe.port",
    "probe.rise",
    "probe.server_name",
    "probe.status",
    "probe.timeout",
    "probe.verify",
    "ring_size",
    "rolling_updates",
    "scale",
    "share",
    "slow_start",
    "unhealthy_grace",
    "unreachable",
    "visible",
    "weight",
];

/// The labels of Aliyun Container Service for Swarm.
pub const ALIYUN: [Known; 50] = [
    used("aliyun.lb.port_$PORT"),
    used("aliyun.routing.port_$PORT"),
    used("aliyun.routing.session_sticky"),
    used("aliyun.probe.url"),
    used("aliyun.probe.cmd"),
    used("aliyun.probe.timeout_seconds"),
    used("aliyun.probe.initial_delay_seconds"),
    used("aliyun.scale"),
    used("aliyun.rolling_updates"),
    used("aliyun.rolling_updates.parallelism"),
    used("aliyun.depends"),
    ignored("aliyun.global"),
    ignored("aliyun.latest_image"),
    ignored("aliyun.reschedule"),
    ignored("aliyun.addon"),
    ignored("aliyun.custom_addon"),
    ignored("aliyun.log_store_$NAME"),
    ignored("aliyun.log_ttl_$NAME"),
    ignored("aliyun.log.timestamp"),
    ignored("aliyun.logs"),
    ignored("aliyun.logs.$NAME"),
    ignored("aliyun.logs.$NAME.format"),
    ignored("aliyun.logs.$NAME.tags"),
    ignored("aliyun.monitoring.addon.$NAME"),
    ignored("aliyun.auto_scaling"),
    ignored("aliyun.auto_scaling.max_cpu"),
    ignored("aliyun.auto_scaling.min_cpu"),
    ignored("aliyun.auto_scaling.max_memory"),
    ignored("aliyun.auto_scaling.min_memory"),
    ignored("aliyun.auto_scaling.max_internetInRate"),
    ignored("aliyun.auto_scaling.min_internetInRate"),
    ignored("aliyun.auto_scaling.max_internetOutRate"),
    ignored("aliyun.auto_scaling.min_internetOutRate"),
    ignored("aliyun.auto_scaling.step"),
    ignored("aliyun.auto_scaling.max_instances"),
    ignored("aliyun.auto_scaling.min_instances"),
    ignored("aliyun.proxy.VIRTUAL_HOST"),
    ignored("aliyun.proxy.VIRTUAL_HOST_WEIGHT"),
    ignored("aliyun.proxy.required"),
    ignored("aliyun.proxy.TCP_PORTS"),
    ignored("aliyun.proxy.BALANCE"),
    ignored("aliyun.proxy.HEALTH_CHECK"),
    ignored("aliyun.proxy.HTTP_CHECK"),
    ignored("aliyun.proxy.COOKIE"),
    ignored("aliyun.proxy.APPSESSION"),
    ignored("aliyun.proxy.EXCLUDE_PORTS"),
    ignored("aliyun.proxy.SSL_CERT"),
    ignored("aliyun.proxy.FORCE_SSL"),
    ignored("aliyun.proxy.GZIP_COMPRESSION_TYPE"),
    ignored("aliyun.proxy.EXTRA_SETTINGS"),
];

/// What comes after `SERVICE_` or `SERVICE_$PORT_`; everything else is an attribute without meaning
/// for balancing.
pub const REGISTRATOR: [Known; 19] = [
    used("NAME"),
    used("IGNORE"),
    used("CHECK_HTTP"),
    used("CHECK_HTTP_METHOD"),
    used("CHECK_HTTPS"),
    used("CHECK_HTTPS_METHOD"),
    used("CHECK_TCP"),
    used("CHECK_CMD"),
    used("CHECK_SCRIPT"),
    used("CHECK_TTL"),
    used("CHECK_GRPC"),
    used("CHECK_INTERVAL"),
    used("CHECK_TIMEOUT"),
    used("CHECK_INITIAL_STATUS"),
    used("CHECK_DEREGISTER_AFTER"),
    ignored("CHECK_TLS_SKIP_VERIFY"),
    ignored("CHECK_GRPC_USE_TLS"),
    ignored("ID"),
    ignored("TAGS"),
];

/// Names that are longer are not compared with others.
const COMPARED_CHARS_MAX: usize = 80;

/// The known name that `name` was probably meant to be. `None`: there is none so near, or `name` is
/// too long for a mistake.
pub(super) fn nearest<'a>(name: &str, known: impl Iterator<Item = &'a str>) -> Option<&'a str> {
    if name.len() > COMPARED_CHARS_MAX {
        return None;
    }
    let lower = name.to_lowercase();
    let distance = |known: &str| strsim::damerau_levenshtein(&lower, &known.to_lowercase());
    let (distance, nearest) = known.map(|known| (distance(known), known)).min()?;
    // Of short names other ones are near, too.
    let allowed = (nearest.chars().count() / 4).clamp(1, 4);
    (distance <= allowed).then_some(nearest)
}

/// Whether an `aliyun.` label is one of theirs.
pub(super) fn is_aliyun(key: &str) -> bool {
    ALIYUN.iter().any(|known| matches(known.pattern, key))
}

/// What begins like this is read here; the rest of theirs may have labels that we do not know.
const READ: [&str; 3] = ["aliyun.lb.", "aliyun.routing.", "aliyun.probe."];

/// Whether the label is one of those that we read, were it only known.
pub(super) fn is_read(key: &str) -> bool {
    READ.iter().any(|prefix| key.starts_with(prefix))
}

/// The `aliyun.` label that was probably meant, with the port or name that was written.
pub(super) fn nearest_aliyun(key: &str) -> Option<String> {
    nearest_spelling(key).or_else(|| begun(key))
}

/// The only known name that goes on where this one ends: `aliyun.probe.timeout`, `aliyun.lb.port`.
fn begun(key: &str) -> Option<String> {
    let begins = |known: &&Known| {
        known.is_used
            && known.pattern.strip_prefix(key).is_some_and(|it| it.starts_with(['_', '.']))
    };
    let mut found = ALIYUN.iter().filter(begins);
    let first = found.next().filter(|_| is_read(key))?;
    found.next().is_none().then(|| first.pattern.to_owned())
}

fn nearest_spelling(key: &str) -> Option<String> {
    let digits = key.bytes().rev().take_while(u8::is_ascii_digit).count();
    let (stem, number) = key.split_at(key.len() - digits);
    if number.is_empty() {
        if let Some((stem, _)) = key.rsplit_once('_')
            && let Some(stem) = nearest(&format!("{stem}_"), port_stems())
        {
            return Some(format!("{stem}$PORT"));
        }
        let plain = ALIYUN.iter().map(|known| known.pattern).filter(|it| !it.contains("$PORT"));
        return nearest(key, plain).map(str::to_owned);
    }
    nearest(stem, port_stems()).map(|stem| format!("{stem}{number}"))
}

/// What comes before the port.
fn port_stems() -> impl Iterator<Item = &'static str> {
    ALIYUN.iter().filter_map(|known| known.pattern.strip_suffix("$PORT"))
}

/// `$NAME` is one or more characters, and so is `$PORT`, which others check.
fn matches(pattern: &str, key: &str) -> bool {
    let Some((before, after)) = pattern.split_once('$') else { return pattern == key };
    let after = after.trim_start_matches(|char: char| char.is_ascii_uppercase());
    let Some(rest) = key.strip_prefix(before) else { return false };
    rest.strip_suffix(after).is_some_and(|name| !name.is_empty())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::{ALIYUN, LB, REGISTRATOR, is_aliyun, nearest, nearest_aliyun};
    use crate::{labels::lb, labels::registrator, model::Policy};

    /// The first cells of all tables of the document, with the rest of their rows.
    fn documented() -> Vec<(String, Vec<String>)> {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/labels.md");
        let text = std::fs::read_to_string(path).expect("docs/labels.md");
        let rows = text.lines().filter_map(|line| line.strip_prefix("| `"));
        rows.map(|row| {
            let (name, rest) = row.split_once('`').expect("a name in backticks");
            let cells = rest.split(" | ").skip(1).map(|cell| cell.trim_matches(['|', ' ']));
            (name.to_owned(), cells.map(str::to_owned).collect())
        })
        .collect()
    }

    #[test]
    fn every_known_label_is_documented_and_no_other() {
        let settings: Vec<&str> = Policy::default().rows().iter().map(|row| row.name).collect();
        let documented = documented();
        let mut documented: Vec<&str> = documented
            .iter()
            .map(|(name, _)| name.as_str())
            .filter(|name| !settings.contains(name))
            .collect();
        documented.sort_unstable();
        let ours = LB.iter().map(|name| format!("{}{name}", lb::PREFIX));
        let theirs = ALIYUN.iter().map(|known| known.pattern.to_owned());
        let registered =
            REGISTRATOR.iter().map(|known| format!("{}{}", registrator::PREFIX, known.pattern));
        let mut known: Vec<String> = ours.chain(theirs).chain(registered).collect();
        known.sort_unstable();
        assert_eq!(documented, known);
    }

    #[test]
    fn every_setting_is_documented_with_its_default() {
        let documented = documented();
        for row in Policy::default().rows() {
            let found = documented.iter().find(|(name, _)| name == row.name);
            let (_, cells) = found.unwrap_or_else(|| panic!("{} is not documented", row.name));
            assert_eq!(cells[0], row.value, "default of {}", row.name);
        }
    }

    #[track_caller]
    fn check(key: &str, expected: Option<&str>) {
        assert!(!is_aliyun(key), "{key} is known");
        assert_eq!(nearest_aliyun(key).as_deref(), expected, "{key}");
    }

    #[test]
    fn the_nearest_name_is_found() {
        check("aliyun.routing_port_80", Some("aliyun.routing.port_80"));
        check("aliyun.lb.prot_80", Some("aliyun.lb.port_80"));
        check("aliyun.lb_port_443", Some("aliyun.lb.port_443"));
        check("aliyun.probe.ulr", Some("aliyun.probe.url"));
        check("aliyun.prob.url", Some("aliyun.probe.url"));
        check("aliyun.probe.timeout_second", Some("aliyun.probe.timeout_seconds"));
        check("aliyun.Scale", Some("aliyun.scale"));
        check("aliyun.rolling_update", Some("aliyun.rolling_updates"));
        check("aliyun.probe.timeout", Some("aliyun.probe.timeout_seconds"));
        check("aliyun.probe.initial_delay", Some("aliyun.probe.initial_delay_seconds"));
        check("aliyun.lb.port", Some("aliyun.lb.port_$PORT"));
        check("aliyun.routing.port", Some("aliyun.routing.port_$PORT"));
        check("aliyun.lb.prot_http", Some("aliyun.lb.port_$PORT"));
        check("aliyun.lb", None);
        check("aliyun.probe.interval_seconds", None);
        check("aliyun.something.else.entirely", None);
        check(&format!("aliyun.{}", "x".repeat(100_000)), None);
    }

    #[test]
    fn what_they_have_is_known() {
        for key in [
            "aliyun.lb.port_80",
            "aliyun.log_store_access",
            "aliyun.logs.access.tags",
            "aliyun.auto_scaling.max_internetInRate",
        ] {
            assert!(is_aliyun(key), "{key}");
        }
        assert!(!is_aliyun("aliyun.log_store_"));
    }

    #[test]
    fn names_are_known_once() {
        let mut names: Vec<&str> = LB.into_iter().chain(ALIYUN.map(|it| it.pattern)).collect();
        let count = names.len();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), count);
    }

    proptest! {
        #[test]
        fn any_name_is_compared(name in any::<String>()) {
            nearest_aliyun(&name);
            nearest(&name, LB.into_iter());
            is_aliyun(&name);
        }
    }
}
