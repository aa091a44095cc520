//! What goes over the wire as text, read back and mangled.

use std::net::IpAddr;

use proptest::prelude::*;

use super::trace::{Prefix, TraceLine, TraceQuery};
use crate::mangle::{any_text, mangled, mangled_text};

proptest! {
    /// A prefix is what it says it is, or none.
    #[test]
    fn any_prefix_is_read_or_refused(
        text in prop_oneof![any_text(), mangled_text("192.0.2.0/24"), mangled_text("2001:db8::/48")],
    ) {
        match text.parse::<Prefix>() {
            Ok(prefix) => {
                let bits_max = if prefix.address.is_ipv4() { 32 } else { 128 };
                prop_assert!(prefix.bits <= bits_max);
                prop_assert_eq!(prefix.to_string().parse::<Prefix>(), Ok(prefix));
            }
            Err(message) => prop_assert!(message.len() < text.len() + 100),
        }
    }

    /// The client's side: an agent that answers nonsense is not believed, and does no harm.
    #[test]
    fn any_line_of_a_trace_is_read_or_refused(
        line in prop_oneof![
            mangled(r#"{"what":"begin","seconds":60}"#),
            mangled(r#"{"what":"lost","packets":18446744073709551615}"#),
            prop::collection::vec(any::<u8>(), 0..100),
        ],
    ) {
        if let Ok(line) = serde_json::from_slice::<TraceLine>(&line) {
            let text = serde_json::to_vec(&line).expect("JSON");
            prop_assert_eq!(serde_json::from_slice::<TraceLine>(&text).ok(), Some(line));
        }
    }

    /// Whatever is asked for is asked for as it was meant.
    #[test]
    fn pairs_of_a_query_are_read_back(
        client in prop::option::of(any::<IpAddr>()),
        backend in prop::option::of(any_text()),
        port in any::<Option<u16>>(),
        dropped in any::<bool>(),
    ) {
        let client = client.map(|address| Prefix { address, bits: 7 });
        let query = TraceQuery { client, port, backend, dropped, ..TraceQuery::default() };
        let pairs: serde_json::Map<_, _> = query
            .pairs()
            .into_iter()
            .map(|(key, value)| {
                let is_text = !["port", "dropped"].contains(&key);
                let value = if is_text { value.into() } else { value.parse().expect("JSON") };
                (key.to_owned(), value)
            })
            .collect();
        prop_assert_eq!(serde_json::from_value::<TraceQuery>(pairs.into()).ok(), Some(query));
    }
}
