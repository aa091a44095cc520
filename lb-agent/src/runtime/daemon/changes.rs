//! What a reload of the configuration has changed, as an event. Pure.

use crate::{config::Written, journal::Draft, provider::file, runtime::status::clip};

/// Settings that one event names; the rest is counted.
const CHANGES_MAX: usize = 8;
/// Characters of a key or a value that it shows.
const CHARS_MAX: usize = 60;
/// Value of what is not written.
const UNSET: &str = "unset";
/// Whoever knows it can choose flows that fall on one slot, so it is not for all who may read events.
const SECRET: &str = "hash_seed";

/// One event for all settings that are another way now; `None`: none is. `late` has the keys that are
/// used after a restart only, with all below them.
pub(super) fn event(old: &Written, new: &Written, late: &[&str]) -> Option<Draft> {
    let changes = old.changes(new);
    if changes.is_empty() {
        return None;
    }
    let shown = changes.iter().take(CHANGES_MAX).map(|change| {
        let value = |value: Option<&str>| match value {
            Some(_) if change.key == SECRET => "a number".to_owned(),
            value => clip(value.unwrap_or(UNSET), CHARS_MAX),
        };
        format!(
            "{} from {} to {}",
            clip(change.key, CHARS_MAX),
            value(change.from),
            value(change.to)
        )
    });
    let more = changes.len().checked_sub(CHANGES_MAX).filter(|more| *more > 0);
    let more = more.map(|more| format!("{more} more"));
    let told: Vec<String> = shown.chain(more).collect();
    let is_late = |late: &&str| {
        let is_below = |key: &str| key.strip_prefix(*late).is_some_and(is_end_of_key);
        changes.iter().any(|change| is_below(change.key))
    };
    let late: Vec<&str> = late.iter().copied().filter(|it| is_late(it)).collect();
    let what = format!("settings changed: {}", told.join(", "));
    let why = (!late.is_empty())
        .then(|| format!("used after a restart of the agent only: {}", late.join(", ")));
    Some(Draft { why, ..Draft::of(file::NAME, what) })
}

/// `front` is none of the keys under `fro`.
fn is_end_of_key(rest: &str) -> bool {
    rest.is_empty() || rest.starts_with('.')
}

#[cfg(test)]
mod tests {
    use std::fmt::Write as _;

    use insta::assert_snapshot;

    use super::*;
    use crate::config::Config;

    /// What is told of two files; of settings named in `late` it is said that they wait.
    fn told(old: &str, new: &str, late: &[&str]) -> String {
        let [old, new] = [old, new].map(|text| Config::parse(text, "lb.toml").expect("in order"));
        match event(&old.written, &new.written, late) {
            None => "nothing".to_owned(),
            Some(Draft { object, backend, what, why }) => {
                let backend = backend.unwrap_or_else(|| "-".to_owned());
                format!("{object} {backend}: {what} ({})", why.unwrap_or_else(|| "-".to_owned()))
            }
        }
    }

    #[test]
    fn changed_settings_are_one_event() {
        let old = "label_vips = ['192.0.2.20']\n[times]\nhold_seconds = 60";
        let new = "label_vips = ['192.0.2.21']\n[times]\nhold_seconds = 30\n[tc]\nmode = 'tcx'";
        let shown = [
            told(old, old, &[]),
            told("", "label_vips = ['192.0.2.20']", &[]),
            told("hash_seed = 12", "hash_seed = 34", &["hash_seed"]),
            told(old, new, &["tc", "times", "xdp"]),
            told(new, old, &[]),
            // Nothing of it is below this one.
            told("", "[times]\nhold_seconds = 1", &["time"]),
        ];
        assert_snapshot!(shown.join("\n"), @r#"
        nothing
        file -: settings changed: label_vips from unset to ["192.0.2.20"] (-)
        file -: settings changed: hash_seed from a number to a number (used after a restart of the agent only: hash_seed)
        file -: settings changed: label_vips from ["192.0.2.20"] to ["192.0.2.21"], tc.mode from unset to "tcx", times.hold_seconds from 60 to 30 (used after a restart of the agent only: tc, times)
        file -: settings changed: label_vips from ["192.0.2.21"] to ["192.0.2.20"], tc.mode from "tcx" to unset, times.hold_seconds from 30 to 60 (-)
        file -: settings changed: times.hold_seconds from unset to 1 (-)
        "#);
    }

    #[test]
    fn an_event_is_bounded() {
        let name = "n".repeat(100);
        let balancers = (1..=20).fold(String::new(), |mut text, number| {
            writeln!(text, "[[balancer]]\nname = '{number}{name}'\nvip = '192.0.2.{number}'")
                .expect("a string");
            text
        });
        let event = told("", &balancers, &[]);
        assert!(event.ends_with(", 12 more (-)"), "{event}");
        let shown_max = 3 * (CHARS_MAX + 1) + " from  to , ".len();
        assert!(event.chars().count() < CHANGES_MAX * shown_max + 100, "{event}");
        let cut = format!("balancer.10{}… from unset to {{ name = ", "n".repeat(CHARS_MAX - 11));
        assert!(event.contains(&cut), "{event}");
    }
}
