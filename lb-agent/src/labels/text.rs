//! Text from outside, made safe for messages, tables and names.

use std::hash::Hasher as _;

use siphasher::sip::SipHasher13;

/// Longest part of a label, name or value that a message repeats.
const SHOWN_CHARS_MAX: usize = 80;

/// For messages: at most 80 characters of it, everything unprintable escaped.
pub fn shown(text: &str) -> String {
    let mut shown = escaped(text.chars().take(SHOWN_CHARS_MAX));
    if text.chars().nth(SHOWN_CHARS_MAX).is_some() {
        shown.push('…');
    }
    shown
}

/// For names that must stay different when they are cut: a long one ends with a hash of the whole.
pub(super) fn name_part(text: &str) -> String {
    if text.chars().nth(SHOWN_CHARS_MAX).is_none() {
        return escaped(text.chars());
    }
    let mut hasher = SipHasher13::new();
    hasher.write(text.as_bytes());
    let kept = SHOWN_CHARS_MAX - 17;
    format!("{}~{:016x}", escaped(text.chars().take(kept)), hasher.finish())
}

fn escaped(chars: impl Iterator<Item = char>) -> String {
    let mut escaped = String::new();
    for char in chars {
        match char {
            '\'' | '"' => escaped.push(char),
            // Backticks quote names in messages.
            '`' => escaped.push('\''),
            _ => escaped.extend(char.escape_debug()),
        }
    }
    escaped
}

#[cfg(test)]
mod tests {
    use super::{name_part, shown};

    #[test]
    fn messages_repeat_a_bounded_printable_part() {
        let check = |text: &str, expected: &str| assert_eq!(shown(text), expected);
        check("web-1", "web-1");
        check("größe 网络", "größe 网络");
        check("a\nb\u{1b}[31m\0", "a\\nb\\u{1b}[31m\\0");
        check("right\u{202e}left", "right\\u{202e}left");
        check("quote ` and \"", "quote ' and \"");
        check(&"x".repeat(81), &format!("{}…", "x".repeat(80)));
    }

    #[test]
    fn long_names_stay_different() {
        let long = "x".repeat(1000);
        let (one, other) = (name_part(&format!("{long}1")), name_part(&format!("{long}2")));
        assert_eq!(one.chars().count(), 80);
        assert_ne!(one, other);
        assert_eq!(name_part("web"), "web");
    }
}
