//! What is kept is read again, and nothing else is believed.

use std::{
    fs,
    time::{Duration, Instant},
};

use proptest::prelude::*;
use tokio::time::sleep;

use super::{
    super::{
        Runs,
        host::{Host as _, Node},
        signal::Signal,
    },
    *,
};

fn asked(instance: &str, at_ns: u64) -> AskedToEnd {
    [(instance.to_owned(), Signalled { signal: Signal::TERMINATE, at_ns })].into()
}

/// Any of them.
fn any_asked() -> impl Strategy<Value = AskedToEnd> {
    let signalled = (1..=64, any::<u64>()).prop_map(|(number, at_ns)| {
        let signal = Signal::try_from(number).expect("there are 64");
        Signalled { signal, at_ns }
    });
    prop::collection::btree_map(any::<String>(), signalled, 0..20)
}

proptest! {
    #[test]
    fn any_are_read_as_they_were_kept(asked in any_asked()) {
        let directory = tempfile::tempdir().expect("a directory");
        let endings = Endings::at(directory.path());
        endings.save(asked.clone()).expect("it is kept");
        prop_assert_eq!(endings.read(), Ok(asked));
    }

    #[test]
    fn whatever_is_in_the_file_is_read_or_refused(
        text in crate::mangle::mangled_text(
            r#"{"version":1,"asked_to_end":{"a@1":{"signal":15,"at_ns":7}}}"#,
        ),
    ) {
        let directory = tempfile::tempdir().expect("a directory");
        let endings = Endings::at(directory.path());
        fs::write(directory.path().join(FILE), &text).expect("written");
        match endings.read() {
            // It is the same when it is kept again.
            Ok(asked) => {
                endings.save(asked.clone()).expect("it is kept");
                prop_assert_eq!(endings.read(), Ok(asked));
            }
            Err(cause) => {
                let is_told = cause.starts_with("not understood in line ")
                    || cause.starts_with("it has version ");
                prop_assert!(is_told, "{}", cause);
                prop_assert_eq!(endings.load(), AskedToEnd::default());
            }
        }
    }
}

#[test]
fn a_file_that_is_not_ours_ends_nobody() {
    let directory = tempfile::tempdir().expect("a directory");
    let endings = Endings::at(directory.path());
    let one = |asked: &str| format!(r#"{{"version":1,"asked_to_end":{{"a@1":{asked}}}}}"#);
    for (text, expected) in [
        ("{".to_owned(), "not understood in line 1"),
        (r#"{"version":2,"asked_to_end":{}}"#.to_owned(), "it has version 2, not 1"),
        (one(r#"{"signal":0,"at_ns":7}"#), "not understood in line 1"),
        (one(r#"{"signal":65,"at_ns":7}"#), "not understood in line 1"),
        (one(r#"{"signal":15,"at_ns":-7}"#), "not understood in line 1"),
        (one(r#"{"signal":15}"#), "not understood in line 1"),
    ] {
        fs::write(directory.path().join(FILE), &text).expect("written");
        assert_eq!(endings.read(), Err(expected.to_owned()), "{text}");
        assert_eq!(endings.load(), AskedToEnd::default());
    }
}

#[tokio::test]
async fn the_node_keeps_them_for_a_reload_and_for_the_next_agent() {
    let directory = tempfile::tempdir().expect("a directory");
    let node = |runs: &Runs, is_kept: bool| {
        Node::new(runs.clone(), None, is_kept.then(|| Endings::at(directory.path())))
    };
    let runs = Runs::default();
    assert_eq!(node(&runs, true).asked_to_end(), AskedToEnd::default());
    for at_ns in [1, 2] {
        node(&runs, true).keep_asked(asked("a@1", at_ns));
        assert_eq!(node(&runs, false).asked_to_end(), asked("a@1", at_ns), "a reload");
        // Nobody waits for the file.
        let deadline = Instant::now() + Duration::from_secs(10);
        while node(&Runs::default(), true).asked_to_end() != asked("a@1", at_ns) {
            assert!(Instant::now() < deadline, "{at_ns} is not written");
            sleep(Duration::from_millis(1)).await;
        }
        assert_eq!(node(&Runs::default(), true).asked_to_end(), asked("a@1", at_ns), "a start");
    }
    // What this agent knows is newer than the file.
    node(&runs, false).keep_asked(AskedToEnd::default());
    assert_eq!(node(&runs, true).asked_to_end(), AskedToEnd::default());
}
