//! Single values.

use std::{collections::BTreeSet, ops::RangeInclusive};

use lb_common::abi::{self, SCOPE_NETWORKS};

use crate::model::{
    Affinity, Datagrams, InitialState, Preference, ProbePlace, Unreachable, Visibility,
};

/// What parsing yields, or what is wrong.
type Parsed<T> = Result<T, String>;

/// Bits of a client's address that count when nobody says how many: one IPv4 client, one IPv6 site.
const PREFIX_V4: u8 = 32;
const PREFIX_V6: u8 = 64;
/// Ranges of statuses in one value.
const STATUSES_MAX: usize = 16;
/// Longest text that goes into a request.
const TEXT_CHARS_MAX: usize = 1024;
/// Longest name of what is shared.
const NAME_CHARS_MAX: usize = 64;
/// Longest duration, in seconds: ten days.
const DURATION_SECONDS_MAX: u64 = 864_000;

/// Time between probes: what comes more often would be a load.
pub const PROBE_INTERVAL_MS: RangeInclusive<u32> = 50..=24 * 3600 * 1000;
/// Time for a probe: it has a place among those under way as long as it takes, and who wants many such
/// places must not keep others from theirs.
pub const PROBE_TIMEOUT_MS: RangeInclusive<u32> = 50..=60_000;
/// Time before the first probe.
pub const PROBE_DELAY_MS: RangeInclusive<u32> = 0..=24 * 3600 * 1000;

/// Replicas that are expected.
pub const SCALE: RangeInclusive<u32> = 0..=65_536;
/// Replicas that are replaced at a time.
pub const ROLLING_UPDATES: RangeInclusive<u32> = 1..=65_536;
/// Names in `depends`.
const DEPENDS_MAX: usize = 64;
/// Longest name of a service there.
const SERVICE_CHARS_MAX: usize = 128;

/// A port in decimal digits without sign, spaces or leading zeros: one port has one spelling.
pub fn port(text: &str) -> Parsed<u16> {
    let is_plain = text.bytes().all(|byte| byte.is_ascii_digit()) && !text.starts_with('0');
    match text.parse() {
        Ok(port) if is_plain && port > 0 => Ok(port),
        _ => Err("is no port; ports are 1 to 65535".to_owned()),
    }
}

/// A number within a range, in decimal digits.
pub fn number(text: &str, allowed: RangeInclusive<u32>) -> Parsed<u32> {
    let is_plain = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    match text.parse() {
        Ok(number) if is_plain && allowed.contains(&number) => Ok(number),
        _ => Err(format!("is no number from {} to {}", allowed.start(), allowed.end())),
    }
}

/// Share of new flows.
pub fn weight(text: &str) -> Parsed<u16> {
    Ok(u16::try_from(number(text, 0..=65_535)?).unwrap_or(u16::MAX))
}

/// `30` or `30%`.
pub fn percent(text: &str) -> Parsed<u32> {
    let digits = text.strip_suffix('%').unwrap_or(text).trim_end();
    number(digits, 0..=100).map_err(|_| "is no percentage from 0 to 100".to_owned())
}

/// One of the sizes that a ring can have.
pub fn ring_size(text: &str) -> Parsed<u32> {
    let size = text.parse().ok().filter(|size| abi::RING_SIZES.contains(size));
    size.ok_or_else(|| {
        let sizes: Vec<String> = abi::RING_SIZES.iter().map(u32::to_string).collect();
        format!("is no size of a ring; the sizes are {}", sizes.join(", "))
    })
}

/// `true` or `false`.
pub fn flag(text: &str) -> Parsed<bool> {
    match text {
        "true" => Ok(true),
        "false" => Ok(false),
        _ => Err("is neither true nor false".to_owned()),
    }
}

/// `30s`, `500ms`, `1m30s`, `1.5h`, or a number of seconds.
pub fn duration_ms(text: &str) -> Parsed<u32> {
    let wrong = || "is no duration; write it like 30s, 500ms or 1m30s".to_owned();
    let limit = || format!("is more than {DURATION_SECONDS_MAX} s");
    let mut total_us: u64 = 0;
    let mut rest = text;
    if rest.is_empty() {
        return Err(wrong());
    }
    while !rest.is_empty() {
        let end = rest.find(|char: char| !char.is_ascii_digit()).unwrap_or(rest.len());
        let (whole, after) = rest.split_at(end);
        let (fraction, after) = match after.strip_prefix('.') {
            None => ("", after),
            Some(after) => {
                let end = after.find(|char: char| !char.is_ascii_digit()).unwrap_or(after.len());
                after.split_at(end)
            }
        };
        let end = after.find(|char: char| char.is_ascii_digit()).unwrap_or(after.len());
        let (unit, after) = after.split_at(end);
        let unit_us: u64 = match unit {
            "" if rest.len() == text.len() && fraction.is_empty() => 1_000_000,
            "us" | "µs" => 1,
            "ms" => 1000,
            "s" => 1_000_000,
            "m" => 60_000_000,
            "h" => 3_600_000_000,
            _ => return Err(wrong()),
        };
        if whole.is_empty() || fraction.len() > 6 {
            return Err(wrong());
        }
        let whole: u64 = whole.parse().map_err(|_| limit())?;
        let parts: u64 = format!("{fraction:0<6}").parse().map_err(|_| wrong())?;
        let fraction_us = parts * (unit_us / 1000) / 1000;
        total_us = whole
            .checked_mul(unit_us)
            .and_then(|whole_us| whole_us.checked_add(fraction_us))
            .and_then(|part_us| total_us.checked_add(part_us))
            .filter(|total_us| *total_us <= DURATION_SECONDS_MAX * 1_000_000)
            .ok_or_else(limit)?;
        rest = after;
    }
    u32::try_from(total_us / 1000).map_err(|_| limit())
}

/// A duration in whole seconds; what is less than a second counts as one.
pub fn duration_seconds(text: &str) -> Parsed<u32> {
    Ok(duration_ms(text)?.div_ceil(1000))
}

/// Time between two probes.
pub fn probe_interval_ms(text: &str) -> Parsed<u32> {
    probe_time(text, PROBE_INTERVAL_MS)
}

/// Time after which an unfinished probe has failed.
pub fn probe_timeout_ms(text: &str) -> Parsed<u32> {
    probe_time(text, PROBE_TIMEOUT_MS)
}

/// Time before the first probe.
pub fn probe_delay_ms(text: &str) -> Parsed<u32> {
    probe_time(text, PROBE_DELAY_MS)
}

fn probe_time(text: &str, allowed: RangeInclusive<u32>) -> Parsed<u32> {
    match duration_ms(text)? {
        time if time < *allowed.start() => Err(format!("is less than {} ms", allowed.start())),
        time if time > *allowed.end() => Err(format!("is more than {} s", allowed.end() / 1000)),
        time => Ok(time),
    }
}

/// `none`, `client`, `client/24`, `client/24,56`.
pub fn affinity(text: &str) -> Parsed<Affinity> {
    let wrong = || "is no affinity; write none, client, or client/24,64 for networks".to_owned();
    let bits = |text: &str, max: u32| -> Parsed<u8> {
        let bits = number(text, 1..=max).map_err(|_| wrong())?;
        Ok(u8::try_from(bits).unwrap_or(u8::MAX))
    };
    let (prefix_v4, prefix_v6) = match text.split_once('/') {
        None if text == "none" => return Ok(Affinity::None),
        None if text == "client" => (PREFIX_V4, PREFIX_V6),
        Some(("client", prefixes)) => match prefixes.split_once(',') {
            None => (bits(prefixes, 32)?, PREFIX_V6),
            Some((v4, v6)) => (bits(v4, 32)?, bits(v6, 128)?),
        },
        _ => return Err(wrong()),
    };
    Ok(Affinity::Client { prefix_v4, prefix_v6 })
}

/// `reject` or `drop`.
pub fn unreachable(text: &str) -> Parsed<Unreachable> {
    match text {
        "reject" => Ok(Unreachable::Reject),
        "drop" => Ok(Unreachable::Drop),
        _ => Err("is neither reject nor drop".to_owned()),
    }
}

/// `records` or `answers`.
pub fn datagrams(text: &str) -> Parsed<Datagrams> {
    match text {
        "records" => Ok(Datagrams::Records),
        "answers" => Ok(Datagrams::Answers),
        _ => Err("is neither records nor answers".to_owned()),
    }
}

/// `all`, `none`, or a list of `node`, `containers` and `network:NAME`.
pub fn visibility(text: &str) -> Parsed<Visibility> {
    let mut visibility = Visibility { node: false, containers: false, networks: BTreeSet::new() };
    match text {
        "all" => return Ok(Visibility::default()),
        "none" => return Ok(visibility),
        _ => {}
    }
    for word in text.split(',') {
        match word.split_once(':') {
            None if word == "node" => visibility.node = true,
            None if word == "containers" => visibility.containers = true,
            Some(("network", name)) if is_network_name(name) => {
                visibility.networks.insert(name.to_owned());
            }
            _ => {
                return Err(
                    "is no visibility; write all, none, or a list of node, containers and \
                            network:NAME, like node,network:web_default"
                        .to_owned(),
                );
            }
        }
    }
    if visibility.networks.len() > SCOPE_NETWORKS {
        return Err(format!("names more than {SCOPE_NETWORKS} networks"));
    }
    Ok(visibility)
}

/// As Docker takes it.
fn is_network_name(name: &str) -> bool {
    let is_allowed = |char: char| char.is_ascii_alphanumeric() || "_.-".contains(char);
    (1..=NAME_CHARS_MAX).contains(&name.len()) && name.chars().all(is_allowed)
}

/// `any` or `node`.
pub fn preference(text: &str) -> Parsed<Preference> {
    match text {
        "any" => Ok(Preference::Any),
        "node" => Ok(Preference::Node),
        _ => Err("is neither any nor node".to_owned()),
    }
}

/// `starting` or `healthy`.
pub fn initial_state(text: &str) -> Parsed<InitialState> {
    match text {
        "starting" => Ok(InitialState::Starting),
        "healthy" => Ok(InitialState::Healthy),
        _ => Err("is neither starting nor healthy".to_owned()),
    }
}

/// `auto`, `node` or `container`.
pub fn place(text: &str) -> Parsed<ProbePlace> {
    match text {
        "auto" => Ok(ProbePlace::Auto),
        "node" => Ok(ProbePlace::Node),
        "container" => Ok(ProbePlace::Container),
        _ => Err("is none of auto, node, container".to_owned()),
    }
}

/// A name under which frontends are shared.
pub fn share(text: &str) -> Parsed<String> {
    let is_name = !text.is_empty()
        && text.chars().count() <= NAME_CHARS_MAX
        && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte));
    if is_name {
        Ok(text.to_owned())
    } else {
        Err(format!("is no name; write 1 to {NAME_CHARS_MAX} letters, digits, `-`, `_` or `.`"))
    }
}

/// `db,cache`: services that are expected.
pub fn depends(text: &str) -> Parsed<Vec<String>> {
    let names: Vec<&str> = text.split(',').map(str::trim).take(DEPENDS_MAX + 1).collect();
    let is_name = |name: &&str| {
        (1..=SERVICE_CHARS_MAX).contains(&name.chars().count()) && !name.contains(char::is_control)
    };
    if names.len() > DEPENDS_MAX || !names.iter().all(is_name) {
        return Err(format!("is no list of 1 to {DEPENDS_MAX} services; write it like db,cache"));
    }
    Ok(names.into_iter().map(str::to_owned).collect())
}

/// `200`, `200-399`, `200,204,301-303`.
pub fn statuses(text: &str) -> Parsed<Vec<RangeInclusive<u16>>> {
    let wrong = || "is no list of statuses; write it like 200-399 or 200,204".to_owned();
    let status = |text: &str| -> Parsed<u16> {
        let status = number(text.trim(), 100..=599).map_err(|_| wrong())?;
        Ok(u16::try_from(status).unwrap_or(u16::MAX))
    };
    let ranges: Parsed<Vec<_>> = text
        .split(',')
        .take(STATUSES_MAX + 1)
        .map(|range| {
            let (first, last) = range.split_once('-').unwrap_or((range, range));
            let range = status(first)?..=status(last)?;
            if range.is_empty() { Err(wrong()) } else { Ok(range) }
        })
        .collect();
    ranges.and_then(|ranges| if ranges.len() > STATUSES_MAX { Err(wrong()) } else { Ok(ranges) })
}

/// A path of a request, with its query: what could end the request line is refused.
pub fn path(text: &str) -> Parsed<String> {
    let is_path = text.starts_with('/')
        && text.len() <= TEXT_CHARS_MAX
        && text.bytes().all(|byte| byte.is_ascii_graphic() && byte != b'#');
    if is_path {
        Ok(text.to_owned())
    } else {
        Err("is no path; write it like /health, and escape what is no ASCII as %XX".to_owned())
    }
}

/// A host, a name or a method: one word without spaces, that cannot end a header.
pub fn token(text: &str) -> Parsed<String> {
    let is_token = !text.is_empty()
        && text.len() <= 255
        && text.bytes().all(|byte| byte.is_ascii_graphic() && !b"/\\\"<>@?#".contains(&byte));
    if is_token {
        Ok(text.to_owned())
    } else {
        Err("is no single word of letters and digits".to_owned())
    }
}
