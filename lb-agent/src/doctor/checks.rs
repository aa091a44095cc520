//! From facts to findings. Pure: one function per check, in the order of the report.

mod agent;
mod calls;
mod node;
mod others;
mod ways;

use super::{Report, facts::Facts};

/// Examples of things of which there are many.
const EXAMPLES_MAX: usize = 5;

/// All findings. What matters most to somebody who has just installed lb comes first.
#[must_use]
pub fn examine(facts: &Facts) -> Report {
    let checks = [
        node::firewall,
        agent::agent,
        agent::api,
        agent::docker,
        node::kernel,
        node::fronts,
        node::forwarding,
        calls::cgroup,
        calls::ends,
        calls::outside,
        calls::strangers,
        calls::raw_sockets,
        calls::callers,
        calls::networks,
        calls::names,
        others::addresses,
        ways::routes,
        ways::programs,
        others::ipvs,
        others::software,
        agent::refusals,
        agent::tables,
    ];
    Report { findings: checks.iter().flat_map(|check| check(facts)).collect() }
}

/// Some of many, by name.
fn some_of<T: AsRef<str>>(all: &[T]) -> String {
    let shown = all.iter().take(EXAMPLES_MAX).map(|one| format!("`{}`", one.as_ref()));
    let shown = shown.collect::<Vec<_>>().join(", ");
    match all.len().saturating_sub(EXAMPLES_MAX) {
        0 => shown,
        more => format!("{shown} and {more} more"),
    }
}

/// `1 process`, `2 processes`.
fn count_of(count: usize, one: &str, many: &str) -> String {
    format!("{count} {}", if count == 1 { one } else { many })
}
