//! Values that nobody would write, and those that look like it.

use proptest::prelude::*;

use super::*;

/// Every grammar, as text in and what is wrong out.
type Grammar = (&'static str, fn(&str) -> Result<(), String>);

const ALL: [Grammar; 20] = [
    ("affinity", |text| affinity(text).map(drop)),
    ("datagrams", |text| datagrams(text).map(drop)),
    ("duration_ms", |text| duration_ms(text).map(drop)),
    ("duration_seconds", |text| duration_seconds(text).map(drop)),
    ("flag", |text| flag(text).map(drop)),
    ("initial_state", |text| initial_state(text).map(drop)),
    ("number", |text| number(text, 0..=7).map(drop)),
    ("path", |text| path(text).map(drop)),
    ("percent", |text| percent(text).map(drop)),
    ("place", |text| place(text).map(drop)),
    ("port", |text| port(text).map(drop)),
    ("probe_delay_ms", |text| probe_delay_ms(text).map(drop)),
    ("probe_interval_ms", |text| probe_interval_ms(text).map(drop)),
    ("probe_timeout_ms", |text| probe_timeout_ms(text).map(drop)),
    ("probe word", |text| ProbeWord::parse(text).map(drop)),
    ("ring_size", |text| ring_size(text).map(drop)),
    ("share", |text| share(text).map(drop)),
    ("statuses", |text| statuses(text).map(drop)),
    ("token", |text| token(text).map(drop)),
    ("unreachable", |text| unreachable(text).map(drop)),
];

fn near_value() -> impl Strategy<Value = String> {
    prop_oneof![
        any::<String>(),
        // Numbers around the edges of their types, with and without a unit.
        "[0-9]{0,25}(\\.[0-9]{0,8})?(us|µs|ms|s|m|h|d|%)?",
        "(1844674407370955161[4-6]|1844674407370955[12]|864000|4294967[0-9]{3})(\\.[0-9]{1,7})?(us|ms|s|h)?",
        "([0-9]{1,6}(ms|s|m|h)){0,6}",
        "client(/-?[0-9]{0,4}(,-?[0-9]{0,4}){0,3})?",
        "([0-9]{0,4}-?[0-9]{0,4},?){0,40}",
        "/?[ -~]{0,300}",
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    #[test]
    fn any_value_is_read_or_refused_in_bounded_printable_words(text in near_value()) {
        for (name, parse) in ALL {
            if let Err(message) = parse(&text) {
                prop_assert!(message.chars().count() < 300, "{name}: {message}");
                prop_assert!(!message.chars().any(char::is_control), "{name}: {message:?}");
            }
        }
    }

    #[test]
    fn durations_are_sums(hours in 0_u64..300, minutes in 0_u64..99_999, ms in 0_u64..10_000_000) {
        let text = format!("{hours}h{minutes}m{}.{:03}s", ms / 1000, ms % 1000);
        let expected_ms = (hours * 60 + minutes) * 60_000 + ms;
        if expected_ms <= 864_000_000 {
            prop_assert_eq!(duration_ms(&text).map(u64::from), Ok(expected_ms));
        } else {
            prop_assert!(duration_ms(&text).is_err());
        }
    }

    #[test]
    fn what_could_end_a_request_line_or_a_header_is_refused(
        before in "[ -~]{0,9}", bad in "[\r\n\0 \t\u{7f}-\u{2ff}]", after in "[ -~]{0,9}",
    ) {
        let text = [before, bad, after].concat();
        prop_assert!(token(&text).is_err());
        prop_assert!(path(&("/".to_owned() + &text)).is_err());
    }
}

#[test]
fn durations_do_not_wrap() {
    for text in ["18446744073709551.999999ms", "18446744073709551615us", "99999999999999999999s"] {
        assert_eq!(duration_ms(text), Err("is more than 864000 s".to_owned()), "{text}");
    }
}
