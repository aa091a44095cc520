//! Docker's timestamps, as RFC 3339 has them: `2026-02-28T23:59:59.123456789+01:00`.

/// Milliseconds since the epoch; `None`: not understood. Before the epoch (Docker's "never" is the
/// first day of the year 1) is 0.
pub(super) fn parse_ms(text: &str) -> Option<u64> {
    let (date, time) = text.split_once(['T', 't', ' '])?;
    let mut date = date.splitn(3, '-').map(number);
    let (year, month, day) = (date.next()??, date.next()??, date.next()??);

    let zone_at = time.find(['Z', 'z', '+', '-'])?;
    let (clock, zone) = time.split_at(zone_at);
    let (clock, fraction) = clock.split_once('.').unwrap_or((clock, "0"));
    let mut clock = clock.splitn(3, ':').map(number);
    let (hour, minute, second) = (clock.next()??, clock.next()??, clock.next()??);
    let valid = (1..=12).contains(&month)
        && (1..=31).contains(&day)
        && hour < 24
        && minute < 60
        && second <= 60
        && year <= 9999;
    if !valid {
        return None;
    }
    let days = days_since_epoch(year, month, day);
    let seconds = days * 86_400 + hour * 3600 + minute * 60 + second - offset_seconds(zone)?;
    Some(u64::try_from(seconds * 1000 + milliseconds(fraction)?).unwrap_or(0))
}

/// A number without sign.
fn number(text: &str) -> Option<i64> {
    let is_number = !text.is_empty() && text.len() <= 4 && text.bytes().all(|c| c.is_ascii_digit());
    if is_number { text.parse().ok() } else { None }
}

/// The first three digits after the point.
fn milliseconds(fraction: &str) -> Option<i64> {
    if fraction.is_empty() || !fraction.bytes().all(|c| c.is_ascii_digit()) {
        return None;
    }
    number(&format!("{fraction:0<3}")[..3])
}

/// `Z`, `+01:00`, `-05:30`.
fn offset_seconds(zone: &str) -> Option<i64> {
    if zone.eq_ignore_ascii_case("z") {
        return Some(0);
    }
    let (hours, minutes) = zone[1..].split_once(':')?;
    let (hours, minutes) = (number(hours)?, number(minutes)?);
    let seconds = hours * 3600 + minutes * 60;
    (hours < 24 && minutes < 60).then_some(if zone.starts_with('-') { -seconds } else { seconds })
}

/// Days between 1970-01-01 and a date of the Gregorian calendar. Years begin in March here, so that
/// the leap day is their last.
fn days_since_epoch(year: i64, month: i64, day: i64) -> i64 {
    let year = if month <= 2 { year - 1 } else { year };
    let day_of_year = (153 * ((month + 9) % 12) + 2) / 5 + day - 1;
    let leap_days = year.div_euclid(4) - year.div_euclid(100) + year.div_euclid(400);
    year * 365 + leap_days + day_of_year - 719_468
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn any_text_is_read_or_not(
            text in prop_oneof![
                any::<String>(),
                "[0-9]{0,5}-[0-9]{0,3}-[0-9]{0,3}[Tt ][0-9:.]{0,20}[Zz+-]?[0-9:]{0,6}",
                "[0-9]{4}-(0[1-9]|1[0-2])-[0-3][0-9]T[0-2][0-9]:[0-6][0-9]:[0-6][0-9](\\.\\PC{0,12})?[Z+-]\\PC{0,6}",
            ],
        ) {
            // The last moment that can be written, a day west of Greenwich.
            let latest_ms = 253_402_387_200_000;
            prop_assert!(parse_ms(&text).is_none_or(|ms| ms <= latest_ms), "{text}");
        }

        #[test]
        fn zones_and_fractions_shift_a_moment(
            day in 1_u64..29, month in 1_u64..13, year in 1971_u64..2300, second in 0_u64..86_400,
            ns in 0_u64..1_000_000_000, hours in 0_u64..24, minutes in 0_u64..60, west: bool,
        ) {
            let clock = format!("{:02}:{:02}:{:02}", second / 3600, second / 60 % 60, second % 60);
            let date = format!("{year:04}-{month:02}-{day:02}");
            let utc = parse_ms(&format!("{date}T{clock}Z")).expect("a moment");
            prop_assert_eq!(utc / 1000 % 86_400, second);
            let zone = format!("{}{hours:02}:{minutes:02}", if west { '-' } else { '+' });
            let there = parse_ms(&format!("{date}T{clock}.{ns:09}{zone}")).expect("a moment");
            let offset_ms = (hours * 60 + minutes) * 60_000;
            let expected = if west { utc + offset_ms } else { utc - offset_ms };
            prop_assert_eq!(there, expected + ns / 1_000_000);
        }
    }

    #[track_caller]
    fn check(text: &str, expected: Option<u64>) {
        assert_eq!(parse_ms(text), expected, "{text}");
    }

    #[test]
    fn timestamps() {
        check("1970-01-01T00:00:00Z", Some(0));
        check("1970-01-01T00:00:00.001999Z", Some(1));
        check("2000-02-29T12:00:00Z", Some(951_825_600_000));
        check("2024-03-01T00:00:00.5Z", Some(1_709_251_200_500));
        check("2026-08-22T09:15:42.123456789Z", Some(1_787_390_142_123));
        check("2026-08-22T11:15:42.123456789+02:00", Some(1_787_390_142_123));
        check("2026-08-22T03:45:42.123-05:30", Some(1_787_390_142_123));
        check("9999-12-31T23:59:60Z", Some(253_402_300_800_000));
        // Docker's "never".
        check("0001-01-01T00:00:00Z", Some(0));
    }

    #[test]
    fn no_timestamps() {
        for text in [
            "",
            "yesterday",
            "2026-08-22",
            "2026-08-22T09:15:42",
            "2026-08-22T09:15Z",
            "2026-13-22T09:15:42Z",
            "2026-00-22T09:15:42Z",
            "2026-08-32T09:15:42Z",
            "2026-08-22T24:15:42Z",
            "2026-08-22T09:60:42Z",
            "2026-08-22T09:15:61Z",
            "2026-08-22T09:15:42.Z",
            "2026-08-22T09:15:42.1x3Z",
            "2026-08-22T09:15:42+1",
            "2026-08-22T09:15:42+25:00",
            "-026-08-22T09:15:42Z",
            "20260-08-22T09:15:42Z",
            "2026-08-22T09:15:42.é9Z",
        ] {
            check(text, None);
        }
    }
}
