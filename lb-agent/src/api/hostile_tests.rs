//! What goes over the wire as text, read back and mangled.

use std::net::IpAddr;

use proptest::prelude::*;

use super::{
    client::{Client, ClientError},
    trace::{Prefix, TraceLine, TraceQuery},
    types::VipList,
};
use crate::mangle::{any_text, mangled, mangled_text};

/// What a client makes of these bytes in the place of an answer.
fn ask_one_who_says(answer: &[u8]) -> Result<VipList, ClientError> {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    runtime.expect("a runtime").block_on(async {
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join("api.sock");
        let listener = tokio::net::UnixListener::bind(&path).expect("a socket");
        let serve = async {
            let (mut stream, _) = listener.accept().await.expect("a client");
            let length = stream.read(&mut [0; 1024]).await.expect("a request");
            assert!(length > 0, "nothing was asked");
            // Who has heard enough may have gone.
            drop(stream.write_all(answer).await);
        };
        let client = Client::new(&path);
        tokio::join!(client.get("/v1/vips"), serve).0
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(128))]

    /// An error says whose answer it was, and what was wrong with it, in one line.
    #[test]
    fn any_answer_is_read_or_named(
        answer in prop_oneof![
            mangled("HTTP/1.1 200 OK\r\ncontent-length: 11\r\n\r\n{\"vips\":[]}"),
            mangled("HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\nb\r\n{\"vips\":[]}\r\n0\r\n\r\n"),
            mangled("HTTP/1.1 404 Not Found\r\ncontent-length: 17\r\n\r\n{\"error\":\"no x\"}\n"),
            mangled(format!("HTTP/1.1 500 No\r\n\r\n{}", "\u{1b}[31mx".repeat(1000))),
            prop::collection::vec(any::<u8>(), 0..100),
        ],
    ) {
        if let Err(error) = ask_one_who_says(&answer) {
            let said = error.to_string();
            let names = match &error {
                ClientError::Answer { status, .. } => {
                    said.starts_with(&format!("the agent answered {status}: "))
                }
                ClientError::Protocol { socket, cause } => {
                    said.contains(&format!("`{}` does not answer as", socket.display()))
                        && !cause.is_empty()
                }
                _ => false,
            };
            prop_assert!(names, "{}", said);
            prop_assert!(!said.chars().any(char::is_control), "{:?}", said);
            prop_assert!(said.chars().count() < 20_000, "{} characters", said.len());
        }
    }
}

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
        from in prop::option::of(any_text()),
        port in any::<Option<u16>>(),
        dropped in any::<bool>(),
    ) {
        let client = client.map(|address| Prefix { address, bits: 7 });
        let query = TraceQuery { client, from, port, backend, dropped, ..TraceQuery::default() };
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
