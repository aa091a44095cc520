//! What is answered to those who are neither this node nor on it.

use std::{
    net::{Ipv4Addr, SocketAddr},
    sync::Arc,
};

use hickory_resolver::proto::{
    op::{Message, Query, ResponseCode},
    rr::{Name, RecordType},
};
use tokio::sync::watch;

use super::{
    super::{
        Names,
        forward::Forwarder,
        neighbours::Neighbours,
        responder::{Outcome, Responder},
        wire::Transport,
    },
    view,
};

fn question(name: &str) -> Vec<u8> {
    let mut question = Message::new();
    question.set_id(7).set_recursion_desired(true);
    question.add_query(Query::query(Name::from_ascii(name).expect(name), RecordType::A));
    question.to_vec().expect("a message")
}

/// Else we would ask for anybody who reaches us, and answer to whomever he names.
#[tokio::test]
async fn for_strangers_nobody_is_asked() {
    let (_, names) = watch::channel(Arc::new(Names::of(&view(), false)));
    let servers = [(Ipv4Addr::new(127, 0, 0, 7), 9).into()];
    let forward = Some(Arc::new(Forwarder::new(&servers, Neighbours::new(&[]))));
    let responder = Responder {
        names,
        activity: Arc::default(),
        ttl_seconds: 30,
        has_pool: Arc::default(),
        forward,
    };
    let check = |name: &str, source: &str, expected: Option<ResponseCode>| {
        let source = SocketAddr::new(source.parse().expect(source), 4000);
        let code = match responder.respond(&question(name), source, Transport::Datagram) {
            Outcome::Bytes(bytes) => {
                Some(Message::from_vec(&bytes).expect("a message").response_code())
            }
            Outcome::Later(..) => None,
            Outcome::Silence => panic!("{name} from {source} is answered by nothing"),
        };
        assert_eq!(code, expected, "{name} from {source}");
    };
    check("example.com.", "127.0.0.1", None);
    for stranger in ["203.0.113.77", "::ffff:203.0.113.77", "2001:db8::77"] {
        check("example.com.", stranger, Some(ResponseCode::Refused));
        check("restserver.local.", stranger, Some(ResponseCode::NoError));
    }
}
