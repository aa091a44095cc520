//! Questions that no resolver sends, over the wire: the next good one is answered all the same.

use std::{
    net::{Ipv4Addr, SocketAddr},
    str::FromStr as _,
    sync::Arc,
    time::Duration,
};

use hickory_resolver::proto::{
    op::{Message, Query, ResponseCode},
    rr::{Name, RecordType},
};
use proptest::{
    prelude::*,
    test_runner::{self, TestRunner},
};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpStream, UdpSocket},
    sync::watch,
    time::timeout,
};
use tokio_util::sync::CancellationToken;

use super::{
    super::{Names, Question, start},
    over_the_wire::free,
};
use crate::{
    api::types::View,
    config::{Config, NamesConfig},
    mangle::{any_text, mangled},
};

fn question(name: &str, kind: RecordType) -> Vec<u8> {
    let mut question = Message::new();
    question.set_id(7).set_recursion_desired(true);
    question.add_query(Query::query(Name::from_str(name).expect(name), kind));
    question.to_vec().expect("a message")
}

fn datagram() -> impl Strategy<Value = Vec<u8>> {
    let kinds =
        [RecordType::A, RecordType::AAAA, RecordType::SRV, RecordType::ANY, RecordType::AXFR];
    let good = ("([a-z_]{1,20}\\.){1,8}", prop::sample::select(kinds.to_vec()))
        .prop_map(|(name, kind)| question(&name, kind));
    prop_oneof![
        6 => good.prop_flat_map(mangled),
        1 => prop::collection::vec(any::<u8>(), 0..600),
        // Names that point at themselves, and counts that are not true.
        2 => (any::<[u16; 4]>(), any::<u8>()).prop_map(|(counts, at)| {
            let head = [0, 7, 1, 0].into_iter().chain(counts.into_iter().flat_map(u16::to_be_bytes));
            head.chain([0xc0, at % 20, 0, 1, 0, 1]).collect()
        }),
    ]
}

async fn is_answering(socket: &UdpSocket) -> bool {
    let mut buffer = [0; 4096];
    for _ in 0..50 {
        let question = question("nobody.example.", RecordType::A);
        // It may not listen yet, which is an error at once.
        tokio::time::sleep(Duration::from_millis(10)).await;
        if socket.send(&question).await.is_err() {
            continue;
        }
        // Answers to what was sent before may come first.
        while let Ok(Ok(length)) =
            timeout(Duration::from_millis(200), socket.recv(&mut buffer)).await
        {
            let answer = Message::from_vec(&buffer[..length]);
            if answer.is_ok_and(|it| it.id() == 7 && it.response_code() == ResponseCode::Refused) {
                return true;
            }
        }
    }
    false
}

/// The same over a connection, with a length in front that may be another.
async fn send_by_stream(server: SocketAddr, length: u16, bytes: &[u8]) -> bool {
    let Ok(mut stream) = TcpStream::connect(server).await else { return false };
    let _sent = stream.write_all(&length.to_be_bytes()).await;
    let _sent = stream.write_all(bytes).await;
    let _closed = stream.shutdown().await;
    let mut answer = Vec::new();
    timeout(Duration::from_secs(20), stream.read_to_end(&mut answer)).await.is_ok()
}

#[test]
fn any_datagram_and_any_stream_is_answered_or_dropped() {
    let runtime =
        tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build();
    let runtime = runtime.expect("a runtime");
    let (socket, server, _view) = runtime.block_on(async {
        let server = free().await;
        let (sender, receiver) = watch::channel(Arc::<View>::default());
        let names = NamesConfig { listen: vec![server], ..NamesConfig::default() };
        let config = Config { names, ..Config::default() };
        let stop = CancellationToken::new();
        start(&config, &[], Vec::new(), &receiver, &Arc::default(), &stop).expect("a thread");
        let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).await.expect("a socket");
        socket.connect(server).await.expect("any address");
        (socket, server, sender)
    });
    assert!(runtime.block_on(is_answering(&socket)), "it starts");
    let config = test_runner::Config::default();
    let config = test_runner::Config { cases: 256, failure_persistence: None, ..config };
    let datagrams = prop::collection::vec((datagram(), prop::option::of(any::<u16>())), 1..6);
    let result = TestRunner::new(config).run(&datagrams, |datagrams| {
        runtime.block_on(async {
            for (bytes, length) in &datagrams {
                let _sent = socket.send(bytes).await;
                let length = length.unwrap_or(u16::try_from(bytes.len()).unwrap_or(u16::MAX));
                prop_assert!(send_by_stream(server, length, bytes).await, "no end of the stream");
            }
            prop_assert!(is_answering(&socket).await, "it answers no more");
            Ok(())
        })
    });
    result.expect("every question");
}

proptest! {
    /// Names as texts, and every kind of question.
    #[test]
    fn any_name_is_known_or_not(
        name in prop_oneof![any_text(), "[a-z_.0-9]{0,300}", Just(".".repeat(300))],
        has_compose_names in any::<bool>(),
    ) {
        let names = Names::of(&View::default(), has_compose_names);
        for question in [Question::V4, Question::V6, Question::Ports, Question::Other] {
            prop_assert_eq!(names.answer(&name, question), super::Answer::Unknown);
        }
    }
}
