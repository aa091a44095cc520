//! The state of the agent in one line each, for systemd and for its status.

use crate::{
    api::types::{ProviderState, View},
    config::ConfigError,
};

/// Problems of the file that its status repeats; the log has all.
const PROBLEMS_SHOWN_MAX: usize = 3;
/// Characters of each of them; some quote the file.
const PROBLEM_CHARS_MAX: usize = 500;

/// One line for `systemctl status`.
pub(super) fn status_line(view: &View) -> String {
    let healthy: u32 = view.services.iter().map(|service| service.backends.healthy).sum();
    let trouble = view.status.providers.iter().filter(|one| one.state != ProviderState::Ok);
    let trouble: Vec<&str> = trouble.map(|provider| provider.name.as_str()).collect();
    let counts = format!(
        "{} VIPs, {} services, {healthy} of {} backends healthy",
        view.vips.len(),
        view.services.len(),
        view.backends.len()
    );
    let waiting = (!trouble.is_empty()).then(|| format!("waiting for {}", trouble.join(", ")));
    let refusals = view.status.refusals.len();
    let refused = (refusals > 0).then(|| format!("{refusals} not granted"));
    [Some(counts), waiting, refused].into_iter().flatten().collect::<Vec<_>>().join("; ")
}

/// What is wrong with the file, in one line.
pub(super) fn trouble(error: &ConfigError) -> String {
    let shown = error.to_string();
    let lines: Vec<&str> = shown.lines().collect();
    let more = match lines.len().saturating_sub(PROBLEMS_SHOWN_MAX) {
        0 => String::new(),
        more => format!("; {more} more"),
    };
    let shown = lines.iter().take(PROBLEMS_SHOWN_MAX).map(|line| clip(line, PROBLEM_CHARS_MAX));
    let listed = shown.collect::<Vec<_>>().join("; ");
    format!("{listed}{more}; what was read before stays in force")
}

/// The beginning of a text, with a sign where there is more of it.
pub(super) fn clip(text: &str, chars_max: usize) -> String {
    match text.char_indices().nth(chars_max) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use insta::assert_snapshot;

    use super::*;
    use crate::{api::types::ProviderView, config::Config};

    #[test]
    fn status_line_says_who_is_waited_for() {
        let mut view = View::default();
        assert_snapshot!(status_line(&view), @"0 VIPs, 0 services, 0 of 0 backends healthy");
        view.status.providers.push(ProviderView {
            name: "docker".to_owned(),
            state: ProviderState::Trouble,
            trouble: Some("away".to_owned()),
            claims: 0,
        });
        assert_snapshot!(status_line(&view), @"0 VIPs, 0 services, 0 of 0 backends healthy; waiting for docker");
    }

    #[test]
    fn what_is_too_long_is_cut_between_characters() {
        for (text, expected) in [("", ""), ("äbc", "äbc"), ("äbcd", "äbc…"), ("äöüß", "äöü…")]
        {
            assert_eq!(clip(text, 3), expected);
        }
    }

    #[test]
    fn trouble_of_the_file_is_one_line() {
        let mut text = "a = 1\n".to_owned();
        let check = |text: &str| trouble(&Config::parse(text, "lb.toml").unwrap_err());
        assert!(check(&text).starts_with("lb.toml:1:1: unknown key `a`; known keys here: "));
        text = "front = ['a b', 'c d', 'e/f', '', '']".to_owned();
        assert_snapshot!(check(&text), @"lb.toml:1:10: `a b` is no interface name; write it as `ip link` shows it, at most 15 characters; lb.toml:1:17: `c d` is no interface name; write it as `ip link` shows it, at most 15 characters; lb.toml:1:24: `e/f` is no interface name; write it as `ip link` shows it, at most 15 characters; 3 more; what was read before stays in force");
        let long = check(&format!("front = ['{}']", "ä".repeat(100_000)));
        assert!(long.starts_with("lb.toml:1:10: `ää"), "{long}");
        assert!(long.ends_with("ä…; what was read before stays in force"), "{long}");
        assert!(long.chars().count() < PROBLEM_CHARS_MAX + 100, "{long}");
    }
}
