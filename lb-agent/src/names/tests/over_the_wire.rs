//! Answers as whoever asks gets them, byte by byte and over real sockets.

use std::{
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    sync::Arc,
    time::Duration,
};

use hickory_resolver::proto::{
    op::{Edns, Message, MessageType, OpCode, Query, ResponseCode},
    rr::{DNSClass, Name, RData, Record, RecordType},
};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpStream, UdpSocket},
    sync::watch,
    time::timeout,
};
use tokio_util::sync::CancellationToken;

use super::{
    super::{
        Names,
        connections::{CONNECTIONS_MAX, CONNECTIONS_OF_ONE_MAX},
        responder::{Outcome, Responder},
        room::Room,
        start,
        wire::{DATAGRAM_BYTES_MAX, QUESTION_BYTES_MAX, Transport},
    },
    view, vip,
};
use crate::{
    api::types::View,
    config::{Config, NamesConfig},
};

const TTL_SECONDS: u32 = 30;

pub(super) fn question(name: &str, kind: RecordType) -> Message {
    let mut question = Message::new();
    question.set_id(7).set_recursion_desired(true);
    question.add_query(Query::query(Name::from_ascii(name).expect(name), kind));
    question
}

/// What is answered at once, without sockets.
fn respond(view: &View, bytes: &[u8], transport: Transport) -> Option<Vec<u8>> {
    let (_, names) = watch::channel(Arc::new(Names::of(view, false)));
    let (activity, has_pool) = Default::default();
    let responder =
        Responder { names, activity, ttl_seconds: TTL_SECONDS, has_pool, forward: None };
    match responder.respond(bytes, ([127, 0, 0, 1], 4000).into(), transport) {
        Outcome::Silence => None,
        Outcome::Bytes(bytes) => Some(bytes),
        Outcome::Later(..) => panic!("nobody is asked"),
    }
}

fn answer(message: &Message) -> Message {
    let bytes = message.to_vec().expect("a message");
    let answer = respond(&view(), &bytes, Transport::Datagram).expect("an answer");
    let answer = Message::from_vec(&answer).expect("a message");
    assert_eq!((answer.id(), answer.message_type()), (message.id(), MessageType::Response));
    assert_eq!(answer.queries(), message.queries());
    answer
}

#[test]
fn nothing_is_told_apart_from_no_such_name() {
    let check = |name: &str, kind: RecordType, code: ResponseCode, zone: &str| {
        let answer = answer(&question(name, kind));
        assert_eq!(answer.response_code(), code, "{name} {kind}");
        assert!(answer.authoritative() && answer.answers().is_empty(), "{answer}");
        // RFC 2308: its TTL and its minimum say how long that may be remembered.
        let [soa] = answer.name_servers() else { panic!("{answer}") };
        let RData::SOA(data) = soa.data() else { panic!("{soa}") };
        assert_eq!((soa.name().to_ascii().as_str(), soa.ttl(), data.minimum()), (zone, 5, 5));
    };
    let (none, no_name) = (ResponseCode::NoError, ResponseCode::NXDomain);
    check("other.local.", RecordType::AAAA, none, "other.local.");
    check("restserver.local.", RecordType::TXT, none, "restserver.local.");
    check("restserver.local.", RecordType::HTTPS, none, "restserver.local.");
    check("_tcp.restserver.local.", RecordType::A, none, "restserver.local.");
    check("_81._tcp.restserver.local.", RecordType::SRV, no_name, "restserver.local.");
    check("_tcp.other.local.", RecordType::SRV, no_name, "other.local.");

    let soa = answer(&question("other.local.", RecordType::SOA));
    assert!(matches!(soa.answers(), [record] if record.record_type() == RecordType::SOA), "{soa}");
    let any = answer(&question("restserver.local.", RecordType::ANY));
    assert_eq!(any.answers().len(), 2, "{any}");
    for name in ["example.com.", "x.restserver.local.", "local.", "."] {
        let answer = answer(&question(name, RecordType::A));
        assert_eq!(answer.response_code(), ResponseCode::Refused, "{name}");
        assert!(!answer.authoritative() && answer.name_servers().is_empty(), "{answer}");
    }
}

#[test]
fn names_come_back_as_they_were_written() {
    for name in ["ReStSeRvEr.LoCaL.", "_TCP.reSTserver.local."] {
        let kind = if name.starts_with('_') { RecordType::SRV } else { RecordType::A };
        let answer = answer(&question(name, kind));
        assert_eq!(answer.queries()[0].name().to_ascii(), name);
        assert_eq!(answer.answers()[0].name().to_ascii(), name);
        assert_eq!(answer.answers()[0].ttl(), TTL_SECONDS);
    }
}

/// What is answered to these bytes; `None`: nothing.
fn check_code(text: &str, bytes: &[u8], expected: Option<ResponseCode>) {
    let answer = respond(&view(), bytes, Transport::Datagram);
    let code = answer.map(|bytes| {
        let answer = Message::from_vec(&bytes).expect(text);
        assert_eq!((answer.id(), answer.message_type()), (7, MessageType::Response), "{text}");
        // 16 has two names.
        u16::from(answer.response_code())
    });
    assert_eq!(code, expected.map(u16::from), "{text}");
}

#[test]
fn what_is_no_question_is_told_so_or_ignored() {
    let good = question("restserver.local.", RecordType::A);
    let with = |change: fn(&mut Message)| {
        let mut message = good.clone();
        change(&mut message);
        message.to_vec().expect("a message")
    };
    let form_error = Some(ResponseCode::FormErr);
    check_code("nothing", &[], None);
    check_code("half a header", &with(|_| {})[..11], None);
    check_code(
        "an answer",
        &with(|it| {
            it.set_message_type(MessageType::Response);
        }),
        None,
    );
    check_code(
        "no question",
        &with(|it| {
            it.take_queries();
        }),
        form_error,
    );
    check_code(
        "two",
        &with(|it| {
            it.add_query(it.queries()[0].clone());
        }),
        form_error,
    );
    let record = || Record::from_rdata(Name::root(), 1, RData::A(Ipv4Addr::LOCALHOST.into()));
    let with_answer = {
        let mut message = good.clone();
        message.add_answer(record());
        message.to_vec().expect("a message")
    };
    check_code("with an answer", &with_answer, form_error);
    check_code(
        "update",
        &with(|it| {
            it.set_op_code(OpCode::Update);
        }),
        Some(ResponseCode::NotImp),
    );
    let chaos = |it: &mut Message| {
        it.queries_mut()[0].set_query_class(DNSClass::CH);
    };
    check_code("another class", &with(chaos), Some(ResponseCode::Refused));
    let later = |it: &mut Message| {
        it.extensions_mut().get_or_insert_with(Edns::new).set_version(1);
    };
    check_code("a later EDNS", &with(later), Some(ResponseCode::BADVERS));
}

#[test]
fn bytes_that_are_no_message_are_told_so() {
    let form_error = Some(ResponseCode::FormErr);
    let plain = question("restserver.local.", RecordType::A).to_vec().expect("a message");
    check_code("cut off", &plain[..plain.len() - 3], form_error);
    let mut looped = plain.clone();
    looped[12..14].copy_from_slice(&[0xc0, 12]);
    check_code("a name that points at itself", &looped, form_error);
    let mut many = plain.clone();
    many[4..6].copy_from_slice(&[0xff, 0xff]);
    check_code("65,535 questions", &many, form_error);
    let mut long = plain.clone();
    long.resize(QUESTION_BYTES_MAX + 1, 0);
    check_code("too long", &long, form_error);
}

#[test]
fn what_does_not_fit_is_asked_for_by_a_connection() {
    let frontends: Vec<String> = (1..=200).map(|port| format!("tcp://10.96.0.10:{port}")).collect();
    let frontends: Vec<&str> = frontends.iter().map(String::as_str).collect();
    let few = vip("10.96.0.11", &["few.local"], &frontends[..20]);
    let view =
        View { vips: vec![vip("10.96.0.10", &["many.local"], &frontends), few], ..View::default() };
    let ask = |name: &str, payload: Option<u16>, transport| {
        let mut message = question(name, RecordType::SRV);
        if let Some(payload) = payload {
            let mut edns = Edns::new();
            edns.set_max_payload(payload).set_dnssec_ok(true);
            message.set_edns(edns);
        }
        let bytes = respond(&view, &message.to_vec().expect("a message"), transport);
        let bytes = bytes.expect("an answer");
        let limit = payload.unwrap_or(0).clamp(512, DATAGRAM_BYTES_MAX);
        let is_small = bytes.len() <= usize::from(limit);
        assert!(is_small || transport == Transport::Connection, "{} of {limit}", bytes.len());
        Message::from_vec(&bytes).expect("a message")
    };
    for payload in [None, Some(0), Some(512), Some(4096), Some(u16::MAX)] {
        let cut = ask("many.local.", payload, Transport::Datagram);
        assert!(cut.truncated() && cut.answers().is_empty(), "{cut}");
        let edns = cut.extensions().as_ref();
        assert_eq!(edns.is_some(), payload.is_some());
        assert!(edns.is_none_or(|it| it.max_payload() == DATAGRAM_BYTES_MAX && it.version() == 0));
        assert!(edns.is_none_or(|it| it.flags().dnssec_ok), "it comes back as it came");
    }
    let whole = ask("many.local.", None, Transport::Connection);
    assert!(!whole.truncated() && whole.answers().len() == 200);
    // What was not asked for is left out, and nobody has to ask again.
    let few = ask("few.local.", None, Transport::Datagram);
    assert!(few.truncated(), "{few}");
    let few = ask("few.local.", Some(1232), Transport::Datagram);
    assert!(!few.truncated() && few.answers().len() == 20 && few.additionals().len() == 1);
    let four = View {
        vips: (1..=4)
            .map(|number| vip(&format!("10.96.1.{number}"), &["four.local"], &frontends[..15]))
            .collect(),
        ..View::default()
    };
    let bytes = question("four.local.", RecordType::SRV).to_vec().expect("a message");
    let bytes = respond(&four, &bytes, Transport::Datagram).expect("an answer");
    let less = Message::from_vec(&bytes).expect("a message");
    assert!(!less.truncated() && less.answers().len() == 15, "{less}");
    assert_eq!(less.additionals().len(), 0);
}

#[test]
fn connections_are_bounded_for_all_and_for_one() {
    let room = Room::new(CONNECTIONS_MAX, CONNECTIONS_OF_ONE_MAX);
    let one: IpAddr = Ipv4Addr::new(10, 0, 0, 1).into();
    let held: Vec<_> = (0..CONNECTIONS_OF_ONE_MAX).map(|_| room.take(one).expect("room")).collect();
    assert!(room.take(one).is_none());
    assert!(room.take(Ipv4Addr::new(10, 0, 0, 1).to_ipv6_mapped().into()).is_none());
    drop(held);
    let mut all = Vec::new();
    for number in 0..u16::try_from(CONNECTIONS_MAX).expect("a small number") {
        all.push(room.take(Ipv6Addr::new(0xfd00, 0, 0, number, 0, 0, 0, 1).into()).expect("room"));
    }
    assert!(room.take(one).is_none(), "it is full");
    all.pop();
    assert!(room.take(one).is_some());
    drop(all);
    // One /64 is one asker.
    let of_one = |host| Ipv6Addr::new(0xfd00, 0, 0, 1, 0, 0, 0, host).into();
    let held: Vec<_> = (0..20).filter_map(|host| room.take(of_one(host))).collect();
    assert_eq!(held.len(), CONNECTIONS_OF_ONE_MAX);
}

async fn exchange(server: SocketAddr, question: &Message) -> Message {
    let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).await.expect("a socket");
    socket.connect(server).await.expect("an address");
    let bytes = question.to_vec().expect("a message");
    let mut buffer = [0; 1500];
    for _ in 0..50 {
        socket.send(&bytes).await.expect("sent");
        let answer = timeout(Duration::from_millis(500), socket.recv(&mut buffer)).await;
        if let Ok(Ok(length)) = answer {
            return Message::from_vec(&buffer[..length]).expect("an answer");
        }
        // It does not listen yet.
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    panic!("{server} does not answer");
}

pub(super) async fn ask(server: SocketAddr, name: &str, kind: RecordType) -> Message {
    exchange(server, &question(name, kind)).await
}

/// Waits until a name is answered like this.
pub(super) async fn wait_code(server: SocketAddr, name: &str, code: ResponseCode) {
    for _ in 0..100 {
        if ask(server, name, RecordType::A).await.response_code() == code {
            return;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    panic!("{name} is never {code}");
}

pub(super) struct Server {
    pub(super) address: SocketAddr,
    pub(super) view: watch::Sender<Arc<View>>,
    stop: CancellationToken,
}

impl Drop for Server {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

/// A port that nobody has, of either protocol: at an address that no other process takes ports of.
pub(super) async fn free() -> SocketAddr {
    let [_, _, high, low] = std::process::id().to_be_bytes();
    let probe = UdpSocket::bind((Ipv4Addr::new(127, 83, high, low), 0)).await;
    probe.and_then(|probe| probe.local_addr()).expect("a port")
}

async fn serve(forward: Vec<SocketAddr>) -> Server {
    let names = NamesConfig { listen: vec![free().await], forward, ..NamesConfig::default() };
    serve_with(&Config { names, ..Config::default() }, view())
}

pub(super) fn serve_with(config: &Config, view: View) -> Server {
    let (sender, receiver) = watch::channel(Arc::new(view));
    let stop = CancellationToken::new();
    start(config, &[], Vec::new(), &receiver, &Arc::default(), &stop).expect("a thread");
    Server { address: config.names.listen[0], view: sender, stop }
}

#[tokio::test]
async fn questions_are_answered_by_datagrams() {
    let server = serve(Vec::new()).await;
    let answer = ask(server.address, "restserver.local.", RecordType::A).await;
    assert_eq!((answer.id(), answer.response_code()), (7, ResponseCode::NoError));
    assert!(answer.authoritative() && !answer.recursion_available());
    let [record] = answer.answers() else { panic!("{answer}") };
    assert_eq!(record.data(), &RData::A(Ipv4Addr::new(10, 96, 0, 10).into()));
    assert_eq!(record.ttl(), NamesConfig::default().ttl_seconds);

    let answer = ask(server.address, "_http._tcp.restserver.local.", RecordType::SRV).await;
    let [record] = answer.answers() else { panic!("{answer}") };
    let RData::SRV(data) = record.data() else { panic!("{record}") };
    assert_eq!((data.port(), data.target().to_utf8().as_str()), (80, "restserver.local."));
    assert_eq!(answer.additionals().len(), 2);

    // What is not ours is refused, and asked elsewhere by whoever asks.
    let answer = ask(server.address, "example.com.", RecordType::A).await;
    assert_eq!(answer.response_code(), ResponseCode::Refused);

    // A service that is over is over, and one that is new is there.
    server.view.send_replace(Arc::default());
    wait_code(server.address, "restserver.local.", ResponseCode::Refused).await;
    server.view.send_replace(Arc::new(view()));
    wait_code(server.address, "restserver.local.", ResponseCode::NoError).await;
}

async fn connect(server: SocketAddr) -> TcpStream {
    // It listens for both at once.
    ask(server, "restserver.local.", RecordType::A).await;
    TcpStream::connect(server).await.expect("a connection")
}

async fn say(stream: &mut TcpStream, message: &Message) -> std::io::Result<Message> {
    let bytes = message.to_vec().expect("a message");
    stream.write_u16(u16::try_from(bytes.len()).expect("short")).await?;
    stream.write_all(&bytes).await?;
    let mut answer = vec![0; stream.read_u16().await?.into()];
    stream.read_exact(&mut answer).await?;
    Ok(Message::from_vec(&answer).expect("an answer"))
}

#[tokio::test]
async fn questions_are_answered_by_connections_of_which_there_are_so_many() {
    let server = serve(Vec::new()).await;
    let mut first = connect(server.address).await;
    let message = question("restserver.local.", RecordType::A);
    for _ in 0..3 {
        assert_eq!(say(&mut first, &message).await.expect("an answer").answers().len(), 1);
    }
    let mut held = Vec::new();
    for _ in 1..CONNECTIONS_OF_ONE_MAX {
        let mut stream = TcpStream::connect(server.address).await.expect("a connection");
        say(&mut stream, &message).await.expect("an answer");
        held.push(stream);
    }
    let mut more = TcpStream::connect(server.address).await.expect("a connection");
    assert!(say(&mut more, &message).await.is_err(), "one too many");
    drop(held);
    // Nobody waits for what does not come, or for more than anybody asks.
    first.write_u16(u16::MAX).await.expect("sent");
    let end = timeout(Duration::from_secs(2), first.read(&mut [0])).await.expect("an end");
    assert!(matches!(end, Ok(0) | Err(_)), "{end:?}");
    let mut next = TcpStream::connect(server.address).await.expect("a connection");
    say(&mut next, &message).await.expect("an answer");
    let begun = std::time::Instant::now();
    next.write_all(&[0, 40, 1]).await.expect("sent");
    let end = timeout(Duration::from_secs(20), next.read(&mut [0])).await.expect("an end");
    assert!(matches!(end, Ok(0) | Err(_)) && begun.elapsed() > Duration::from_secs(3), "{end:?}");
}

#[tokio::test]
async fn other_names_are_asked_elsewhere_where_that_is_configured() {
    // One of ours stands for the server of everybody else. It listens at another address than the one
    // that we are asked from: whoever is asked is not asked for.
    let upstream = UdpSocket::bind((Ipv4Addr::new(127, 0, 0, 3), 0)).await.expect("a port");
    let at = upstream.local_addr().expect("an address");
    drop(upstream);
    let names = NamesConfig { listen: vec![at], ..NamesConfig::default() };
    let _its_server = serve_with(&Config { names, ..Config::default() }, view());
    exchange(at, &question("restserver.local.", RecordType::A)).await;

    let server = serve(vec![at]).await;
    server.view.send_replace(Arc::default());
    wait_code(server.address, "example.com.", ResponseCode::ServFail).await;
    for name in ["restserver.local.", "RESTserver.local."] {
        let answer = ask(server.address, name, RecordType::A).await;
        assert!(answer.recursion_available() && !answer.authoritative());
        assert_eq!(answer.answers()[0].name().to_ascii(), name, "{answer}");
    }
    let none = ask(server.address, "other.local.", RecordType::AAAA).await;
    assert_eq!((none.response_code(), none.answers().len()), (ResponseCode::NoError, 0));
    assert_eq!(none.name_servers().len(), 1, "{none}");
    let absent = ask(server.address, "_81._tcp.restserver.local.", RecordType::SRV).await;
    assert_eq!(absent.response_code(), ResponseCode::NXDomain);
    // Who does not want others to be asked is refused.
    let mut own = question("restserver.local.", RecordType::A);
    own.set_recursion_desired(false);
    assert_eq!(exchange(server.address, &own).await.response_code(), ResponseCode::Refused);
}

/// A server that asks us what we ask it.
#[tokio::test]
async fn servers_that_ask_in_a_circle_are_refused_or_wait_for_themselves() {
    // From the address of the server: refused at once.
    let direct = serve(vec![(Ipv4Addr::LOCALHOST, 9).into()]).await;
    let answer = ask(direct.address, "example.com.", RecordType::A).await;
    assert_eq!(answer.response_code(), ResponseCode::Refused);

    // By way of others: it counts what it is asked, and passes it on to us, from another address.
    let between = UdpSocket::bind((Ipv4Addr::new(127, 0, 0, 4), 0)).await.expect("a socket");
    let at = between.local_addr().expect("an address");
    let server = serve(vec![at]).await;
    let onward = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).await.expect("a socket");
    let target = server.address;
    let counting = tokio::spawn(async move {
        let (mut buffer, mut count) = ([0; 1500], 0);
        while let Ok(Ok((length, _))) =
            timeout(Duration::from_secs(3), between.recv_from(&mut buffer)).await
        {
            count += 1;
            onward.send_to(&buffer[..length], target).await.expect("sent");
        }
        count
    });
    let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).await.expect("a socket");
    let bytes = question("example.com.", RecordType::A).to_vec().expect("a message");
    // It may have to begin to listen.
    ask(server.address, "restserver.local.", RecordType::A).await;
    socket.send_to(&bytes, server.address).await.expect("sent");
    let mut buffer = [0; 1500];
    let length = timeout(Duration::from_secs(15), socket.recv(&mut buffer)).await;
    let answer = Message::from_vec(&buffer[..length.expect("an end").expect("bytes")]);
    assert_eq!(answer.expect("an answer").response_code(), ResponseCode::ServFail);
    let count = counting.await.expect("a count");
    assert!((1..=4).contains(&count), "the circle was gone through {count} times");
}

/// What can be asked of other servers is bounded: who is beyond it is told at once.
#[tokio::test]
async fn questions_that_wait_are_bounded() {
    // It never answers.
    let silent = UdpSocket::bind((Ipv4Addr::new(127, 0, 0, 5), 0)).await.expect("a socket");
    let server = serve(vec![silent.local_addr().expect("an address")]).await;
    ask(server.address, "restserver.local.", RecordType::A).await;
    let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).await.expect("a socket");
    socket.connect(server.address).await.expect("an address");
    for number in 0..600 {
        let name = format!("name-{number}.example.com.");
        let bytes = question(&name, RecordType::A).to_vec().expect("a message");
        socket.send(&bytes).await.expect("sent");
        if number % 50 == 0 {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    }
    let mut buffer = [0; 1500];
    let at_once = timeout(Duration::from_millis(1500), socket.recv(&mut buffer)).await;
    let length = at_once.expect("who is beyond it waits").expect("bytes");
    let answer = Message::from_vec(&buffer[..length]).expect("an answer");
    assert_eq!(answer.response_code(), ResponseCode::ServFail);
    // Our own are answered meanwhile.
    let answer = ask(server.address, "restserver.local.", RecordType::A).await;
    assert_eq!(answer.answers().len(), 1);
    // Whoever else asks waits as if the first had asked nothing.
    let from = (Ipv4Addr::new(127, 0, 0, 6), 0);
    let other = UdpSocket::bind(from).await.expect("a socket");
    let bytes = question("else.example.com.", RecordType::A).to_vec().expect("a message");
    other.send_to(&bytes, server.address).await.expect("sent");
    let at_once = timeout(Duration::from_millis(500), other.recv(&mut buffer)).await;
    assert!(at_once.is_err(), "told at once that there is no room");
}
