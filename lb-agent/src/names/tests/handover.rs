//! Sockets that were handed over: which are used, what becomes of the others, and what the service
//! manager is told.

use std::{
    fs::File,
    io::IoSliceMut,
    net::{Ipv4Addr, SocketAddr, UdpSocket},
    os::{
        fd::{AsRawFd as _, OwnedFd},
        unix::net::UnixDatagram,
    },
    sync::Arc,
    time::{Duration, Instant},
};

use hickory_resolver::proto::{
    op::{Message, ResponseCode},
    rr::RecordType,
};
use nix::sys::socket::{ControlMessageOwned, MsgFlags, UnixAddr, recvmsg};
use tokio::{sync::watch, time::sleep};
use tokio_util::sync::CancellationToken;

use super::{
    super::{
        handover::{
            Shelf,
            fit::{Facts, choose},
            given::{Given, names_of},
            name_of,
            store::Store,
        },
        listen::{Kind, Place, bound, places},
        start_with,
    },
    over_the_wire::{free, question},
    view,
};
use crate::{
    api::types::View,
    config::{Config, LabelsConfig, NamesConfig},
};

fn address(text: &str) -> SocketAddr {
    text.parse().expect(text)
}

/// What a socket says that listens there.
fn facts(at: &str, kind: Kind) -> Facts {
    Facts {
        kind: Some(kind),
        address: Some(address(at)),
        is_listening: kind == Kind::Connections,
        ..Facts::default()
    }
}

#[test]
fn what_is_just_what_would_be_opened_is_used() {
    let (udp, tcp) = (Kind::Datagrams, Kind::Connections);
    let check = |facts: Facts, wanted: (&str, Kind, bool), expected: bool| {
        let (at, kind, is_v6_only) = wanted;
        let place = Place { address: address(at), kind, is_v6_only };
        let chosen = choose(std::slice::from_ref(&facts), &[place]);
        assert_eq!(chosen, [expected.then_some(0)], "{facts:?} at {place}, {is_v6_only}");
    };
    let (own, any, six) = ("127.0.0.1:53", "0.0.0.0:53", "[::1]:53");
    for kind in [udp, tcp] {
        for at in [own, any, six, "[fe80::1%2]:53", "[::ffff:127.0.0.1]:53"] {
            check(facts(at, kind), (at, kind, false), true);
        }
        for other in ["127.0.0.2:53", "127.0.0.1:54", any, "[::]:53", "[::ffff:127.0.0.1]:53"] {
            check(facts(own, kind), (other, kind, false), false);
            check(facts(other, kind), (own, kind, false), false);
        }
        check(facts("[fe80::1%2]:53", kind), ("[fe80::1%3]:53", kind, false), false);
        // Of all addresses it matters which families are meant; of one it does not.
        for (is_v6_only, is_wanted) in [(false, false), (false, true), (true, false), (true, true)]
        {
            let only = |at| Facts { is_v6_only, ..facts(at, kind) };
            check(only("[::]:53"), ("[::]:53", kind, is_wanted), is_v6_only == is_wanted);
            check(only(six), (six, kind, is_wanted), true);
        }
        for broken in [
            Facts { kind: None, ..facts(own, kind) },
            Facts { address: None, ..facts(own, kind) },
            Facts { has_peer: true, ..facts(own, kind) },
            Facts { is_listening: kind != tcp, ..facts(own, kind) },
            Facts::default(),
        ] {
            check(broken, (own, kind, false), false);
        }
    }
    check(facts(own, udp), (own, tcp, false), false);
    check(facts(own, tcp), (own, udp, false), false);
}

#[test]
fn each_is_used_once_and_in_any_order() {
    let (udp, tcp) = (Kind::Datagrams, Kind::Connections);
    let wanted = places(&[address("127.0.0.1:53"), address("[::]:53")]).concat();
    let [one, other] = [udp, tcp].map(|kind| facts("127.0.0.1:53", kind));
    for (handed, expected) in [
        (vec![], [None, None, None, None]),
        (vec![other.clone(), one.clone()], [Some(1), Some(0), None, None]),
        (vec![one.clone(), one.clone(), one.clone()], [Some(0), None, None, None]),
        (
            vec![facts("[::]:53", tcp), Facts::default(), other, one],
            // The one of all addresses is to have its own family alone.
            [Some(3), Some(2), None, None],
        ),
    ] {
        assert_eq!(choose(&handed, &wanted), expected, "{handed:?}");
    }
    let alone = places(&[address("[::]:53")]).concat();
    assert_eq!(choose(&[facts("[::]:53", tcp)], &alone), [None, Some(0)]);
}

#[test]
fn what_the_environment_says_is_taken_with_care() {
    let check = |pid: Option<&str>, count: Option<&str>, names: Option<&str>, expected: &[&str]| {
        let found = names_of(7, pid, count, names).expect("it can be told");
        assert_eq!(found, expected, "{pid:?} {count:?} {names:?}");
    };
    let (own, many) = (Some("7"), u64::from(u32::MAX).to_string());
    check(None, None, None, &[]);
    check(own, None, Some("a"), &[]);
    check(None, Some("1"), Some("a"), &[]);
    check(Some("8"), Some("nonsense"), None, &[]);
    check(own, Some("0"), None, &[]);
    check(own, Some("2"), None, &["", ""]);
    check(own, Some("2"), Some("a:b"), &["a", "b"]);
    check(own, Some("2"), Some("a"), &["a", ""]);
    check(own, Some("2"), Some("a:b:c"), &["a", "b"]);
    check(own, Some("3"), Some("a::b\nFDSTORE=1"), &["a", "", ""]);
    check(own, Some(&many), None, &[""; 1024]);
    for (pid, count) in [("", "1"), ("-7", "1"), ("7", ""), ("7", "-1"), ("7", "3x"), ("x", "\0")] {
        let trouble = names_of(7, Some(pid), Some(count), None).expect_err("no number");
        assert!(trouble.contains("is no number"), "{trouble}");
    }
}

/// Longest wait for what comes at once, unless the machine is busy.
const PATIENCE: Duration = Duration::from_mins(1);

/// What a socket that does not wait gets, in a moment.
async fn received(socket: &UdpSocket) -> Vec<u8> {
    let (begin, mut buffer) = (Instant::now(), [0; 16]);
    loop {
        match socket.recv(&mut buffer) {
            Ok(length) => return buffer[..length].to_vec(),
            Err(error) if begin.elapsed() > PATIENCE => panic!("{error}"),
            Err(_) => sleep(Duration::from_millis(5)).await,
        }
    }
}

fn keep(name: &str) -> String {
    format!("FDSTORE=1 FDPOLL=0 FDNAME={name} 1")
}

fn forget(name: &str) -> String {
    format!("FDSTOREREMOVE=1 FDNAME={name} 0")
}

/// What a service manager has been told.
struct Told(UnixDatagram);

impl Told {
    fn at(path: &std::path::Path) -> Self {
        let socket = UnixDatagram::bind(path).expect("a socket");
        socket.set_nonblocking(true).expect("it is a socket");
        Self(socket)
    }

    /// Each message in one line, with how many descriptors came along.
    fn since(&self) -> Vec<String> {
        let mut told = Vec::new();
        let mut buffer = [0; 1024];
        loop {
            let mut control = nix::cmsg_space!([i32; 8]);
            let mut parts = [IoSliceMut::new(&mut buffer)];
            let (number, flags) = (self.0.as_raw_fd(), MsgFlags::MSG_CMSG_CLOEXEC);
            let message = recvmsg::<UnixAddr>(number, &mut parts, Some(&mut control), flags);
            let Ok(message) = message else { return told };
            let count = message.cmsgs().expect("room for all").map(|it| match it {
                ControlMessageOwned::ScmRights(descriptors) => descriptors.len(),
                other => panic!("{other:?}"),
            });
            let (count, length): (usize, usize) = (count.sum(), message.bytes);
            let text = String::from_utf8_lossy(&buffer[..length]).trim_end().replace('\n', " ");
            told.push(format!("{text} {count}"));
        }
    }
}

fn given(name: &str, socket: impl Into<OwnedFd>) -> Given {
    Given { name: name.to_owned(), socket: socket.into() }
}

#[tokio::test]
async fn what_is_wanted_is_kept_and_nothing_else() {
    let directory = tempfile::tempdir().expect("a directory");
    let path = directory.path().join("notify");
    let told = Told::at(&path);
    let [one, other] = [free().await, free().await];
    let wanted = places(&[one, other]);
    let names: Vec<String> = wanted.concat().iter().map(name_of).collect();

    let stranger = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).expect("a socket");
    let gone = stranger.local_addr().expect("an address");
    let first = bound(wanted[0][0]).expect("a socket");
    let asker = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).expect("a socket");
    asker.send_to(b"before", one).expect("sent");
    let all = vec![
        given("stranger", stranger),
        given("no-socket", File::open("/dev/null").expect("a file")),
        // By its name a socket that is used would go as well.
        given("shared", File::open("/dev/null").expect("a file")),
        given("shared", first),
        given("", File::open("/dev/null").expect("a file")),
    ];
    let shelf = Shelf::new(Store::at(&path), all, wanted.concat());
    assert_eq!(told.since(), [forget("stranger"), forget("no-socket")]);
    UdpSocket::bind(gone).expect("it is closed");
    assert_eq!([shelf.is_given(wanted[0]), shelf.is_given(wanted[1])], [true, false]);

    let (datagrams, _connections) = shelf.open(wanted[0]).expect("sockets");
    assert_eq!(told.since(), [keep(&names[1])], "the other is kept already");
    assert_eq!(received(&datagrams).await, b"before");
    assert!(datagrams.recv(&mut [0; 16]).is_err(), "nobody waits here");
    // A part that is begun anew gets the same ones, which could not be opened twice.
    shelf.open(wanted[0]).expect("sockets");
    assert_eq!(told.since(), [""; 0]);
    shelf.open(wanted[1]).expect("sockets");
    assert_eq!(told.since(), [keep(&names[2]), keep(&names[3])]);

    // Another configuration, for the next agent.
    shelf.want(places(&[other]).concat());
    assert_eq!(told.since(), [forget(&names[0]), forget(&names[1])]);
    asker.send_to(b"until the end", one).expect("sent");
    assert_eq!(received(&datagrams).await, b"until the end", "this one listens on");
    shelf.want(places(&[other]).concat());
    assert_eq!(told.since(), [""; 0]);
    shelf.want(wanted.concat());
    assert_eq!(told.since(), [keep(&names[0]), keep(&names[1])]);
}

#[tokio::test]
async fn what_a_manager_could_not_be_told_it_is_told_later() {
    let directory = tempfile::tempdir().expect("a directory");
    let path = directory.path().join("notify");
    let wanted = places(&[free().await]);
    let names = wanted[0].map(|place| name_of(&place));
    let shelf = Shelf::new(Store::at(&path), Vec::new(), wanted.concat());
    shelf.open(wanted[0]).expect("sockets, with nobody who keeps them");
    let told = Told::at(&path);
    shelf.want(wanted.concat());
    assert_eq!(told.since(), names.each_ref().map(|name| keep(name)));
    drop(told);
    std::fs::remove_file(&path).expect("it is there");
    shelf.want(Vec::new());
    let told = Told::at(&path);
    for expected in [&names.each_ref().map(|name| forget(name))[..], &[]] {
        shelf.want(Vec::new());
        assert_eq!(told.since(), expected);
    }
}

/// Questions would wait there for nothing.
#[tokio::test]
async fn of_two_sockets_one_alone_is_not_left_open() {
    let directory = tempfile::tempdir().expect("a directory");
    let path = directory.path().join("notify");
    let told = Told::at(&path);
    for is_from_store in [true, false] {
        let at = free().await;
        let wanted = places(&[at]);
        let names = wanted[0].map(|place| name_of(&place));
        let [datagrams, connections] = wanted[0].map(|place| bound(place).expect("a socket"));
        let name = if is_from_store { names[0].as_str() } else { "lb-agent.socket" };
        let shelf = Shelf::new(Store::at(&path), vec![given(name, datagrams)], wanted.concat());
        shelf.open(wanted[0]).expect_err("somebody else has the other");
        // What a unit has, it has on: opened anew it could not be.
        let expected = is_from_store.then(|| forget(name));
        assert_eq!(told.since(), Vec::from_iter(expected));
        assert_eq!(UdpSocket::bind(at).is_ok(), is_from_store);
        drop(connections);
        shelf.open(wanted[0]).expect("sockets");
        let opened = if is_from_store { &names[..] } else { &names[1..] };
        assert_eq!(told.since(), opened.iter().map(|name| keep(name)).collect::<Vec<_>>());
    }
}

#[test]
fn names_are_what_a_manager_takes() {
    let addresses = ["127.0.0.1:53", "[::]:53", "[fe80::1%2]:5353"].map(address);
    let names: Vec<String> = places(&addresses).concat().iter().map(name_of).collect();
    let expected = [
        "names-udp-127.0.0.1_53",
        "names-tcp-127.0.0.1_53",
        "names-udp-[__]_53",
        "names-tcp-[__]_53",
        "names-udp-[fe80__1%2]_5353",
        "names-tcp-[fe80__1%2]_5353",
    ];
    assert_eq!(names, expected);
}

/// A question that was there before its responder, which waits so long for all names, and gets to know
/// them after a while, or never.
async fn asked_before(known_wait: Duration, becomes_complete: bool) -> ResponseCode {
    let at = free().await;
    let wanted = places(&[at]).concat();
    let socket = bound(wanted[0]).expect("a socket");
    let asker = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).expect("a socket");
    asker.connect(at).expect("an address");
    let bytes = question("restserver.local.", RecordType::A).to_vec().expect("a message");
    asker.send(&bytes).expect("sent");

    let names = NamesConfig { listen: vec![at], ..NamesConfig::default() };
    let pool = Some("10.97.0.0/24".parse().expect("a pool"));
    let labels = LabelsConfig { routing_pool: pool, ..LabelsConfig::default() };
    let config = Config { names, labels, ..Config::default() };
    let (sender, receiver) = watch::channel(Arc::<View>::default());
    let (stop, begin) = (CancellationToken::new(), Instant::now());
    let mut shelf = Shelf::new(Store::default(), vec![given("names", socket)], wanted);
    shelf.known_wait = known_wait;
    start_with(&config, &[], shelf, &receiver, &Arc::default(), &stop).expect("a thread");
    let mut buffer = [0; 1500];
    if becomes_complete {
        asker.set_read_timeout(Some(Duration::from_millis(500))).expect("a time");
        assert!(asker.recv(&mut buffer).is_err(), "told before anything is known");
        sender.send_replace(Arc::new(view()));
    }
    asker.set_read_timeout(Some(PATIENCE)).expect("a time");
    let length = asker.recv(&mut buffer).expect("an answer");
    assert!(becomes_complete || begin.elapsed() >= known_wait, "{:?}", begin.elapsed());
    stop.cancel();
    Message::from_vec(&buffer[..length]).expect("a message").response_code()
}

#[tokio::test]
async fn who_asked_before_waits_until_names_are_known_but_not_for_ever() {
    let (long, short) = (Duration::from_hours(1), Duration::from_millis(500));
    assert_eq!(asked_before(long, true).await, ResponseCode::NoError);
    assert_eq!(asked_before(short, false).await, ResponseCode::ServFail);
}
