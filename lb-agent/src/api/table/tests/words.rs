//! Words and lines: units, moments, text from outside, events, conflicts, who asked for a state.

use super::*;

#[test]
fn bytes_are_three_digits_and_a_unit() {
    let check = |count, expected: &str| assert_eq!(bytes(count), expected, "{count}");
    check(0, "0B");
    check(1023, "1023B");
    check(1024, "1.0K");
    check(102_399, "99.9K");
    check(102_400, "100K");
    check(1_048_575, "1023K");
    check(1_048_576, "1.0M");
    check(u64::MAX, "15.9E");
}

#[test]
fn durations_are_two_units() {
    let check = |seconds, expected: &str| assert_eq!(duration(seconds), expected, "{seconds}");
    check(0, "0s");
    check(59, "59s");
    check(61, "1m1s");
    check(3600, "1h0m");
    check(93_784, "1d2h");
}

#[test]
fn text_from_outside_cannot_steer_the_terminal() {
    assert_snapshot!(printable("a\u{1b}]0;x\u{7}\n\u{202e}é"), @r#"a\u{1b}]0;x\u{7}\u{a}\u{202e}é"#);
}

#[test]
fn moments_are_shown_as_people_write_them() {
    let check = |at_ms, expected: &str| assert_eq!(timestamp(at_ms), expected);
    check(0, "1970-01-01T00:00:00.000Z");
    check(951_782_400_000, "2000-02-29T00:00:00.000Z");
    check(951_868_799_999, "2000-02-29T23:59:59.999Z");
    check(951_868_800_000, "2000-03-01T00:00:00.000Z");
    check(1_709_164_800_000, "2024-02-29T00:00:00.000Z");
    check(1_735_689_599_000, "2024-12-31T23:59:59.000Z");
    check(1_735_689_600_001, "2025-01-01T00:00:00.001Z");
    check(4_107_542_400_000, "2100-03-01T00:00:00.000Z");
}

#[test]
fn events_and_conflicts() {
    let one = EventView {
        number: 1,
        at_ms: 1_735_689_600_001,
        uptime_ms: 1,
        object: "compose/shop/redis:6379".to_owned(),
        backend: Some("shop-redis-1".to_owned()),
        what: "healthy -> draining".to_owned(),
        why: Some("told to end".to_owned()),
    };
    let bare = EventView {
        backend: None,
        what: "served at \u{1b}[31m".to_owned(),
        why: None,
        ..one.clone()
    };
    assert_snapshot!(event(&one), @"2025-01-01T00:00:00.001Z  compose/shop/redis:6379  shop-redis-1  healthy -> draining  (told to end)");
    assert_snapshot!(event(&bare), @r"2025-01-01T00:00:00.001Z  compose/shop/redis:6379  served at \u{1b}[31m");
    assert_snapshot!(events(&[one, bare]), @r"
    TIME                      OBJECT                   BACKEND       WHAT                  WHY
    2025-01-01T00:00:00.001Z  compose/shop/redis:6379  shop-redis-1  healthy -> draining   told to end
    2025-01-01T00:00:00.001Z  compose/shop/redis:6379  -             served at \u{1b}[31m
    ");
    let frontend = frontend(6379);
    let conflict = ConflictView {
        frontend,
        owned: frontend,
        owner: service_name(),
        owner_source: "container `shop-redis-1`, label `aliyun.lb.port_6379`".to_owned(),
        contender: ServiceName("docker/redis:6379@192.0.2.10:6379".into()),
        contender_source: "container `mine`, label `aliyun.lb.port_6379`".to_owned(),
        since_ms: 1_735_689_600_001,
    };
    assert_snapshot!(conflicts(&[conflict]), @"
    FRONTEND               OWNER                    ASKED FOR BY                                           CONTENDER                          ASKED FOR BY                                   SINCE
    tcp://192.0.2.10:6379  compose/shop/redis:6379  container `shop-redis-1`, label `aliyun.lb.port_6379`  docker/redis:6379@192.0.2.10:6379  container `mine`, label `aliyun.lb.port_6379`  2025-01-01T00:00:00.001Z
    ");
}

#[test]
fn who_asked_for_a_state_is_shown() {
    let mut backends = backend_views();
    backends[1].state_reason = Some("drained by root, 17 s left".to_owned());
    backends[1].steering = Some(SteeringView {
        will: Some(crate::api::steer::Will::Drain),
        lifts: None,
        weight: Some(50),
        by: "root".to_owned(),
        at_ms: 1,
    });
    assert_snapshot!(super::backends(&backends[1..2], true), @"
    BACKEND       ADDRESS          WEIGHT  SHARE  STATE                                  REPLIES                         CONNS  FLOWS  IN  OUT
    shop-redis-2  172.18.0.3:6379     100   0.0%  draining (drained by root, 17 s left)  recorded (published by Docker)      -      0  0B   0B
    ");
}
