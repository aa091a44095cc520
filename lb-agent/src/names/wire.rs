//! Questions as they come over the wire, and answers as they go. Pure; every byte of a question is
//! hostile.

use hickory_resolver::proto::{
    op::{Edns, Header, Message, MessageType, OpCode, Query, ResponseCode},
    rr::{DNSClass, Record},
    serialize::binary::{BinDecodable as _, BinDecoder},
};

/// Longest question; what real programs ask has some hundred bytes.
pub(super) const QUESTION_BYTES_MAX: usize = 4096;
/// What a datagram may carry when its asker says nothing.
const PLAIN_BYTES: u16 = 512;
/// What it may carry at most, whatever its asker says: more would come in fragments.
pub(super) const DATAGRAM_BYTES_MAX: u16 = 1232;
/// Additional records of a question: EDNS, and perhaps a signature.
const ADDITIONALS_MAX: u16 = 4;

/// How a question came.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Transport {
    /// A datagram; an answer that is too long for one is cut off.
    Datagram,
    /// A connection.
    Connection,
}

/// What came.
#[derive(Debug)]
pub(super) enum Received {
    /// Nothing that is to be answered: no message, or an answer.
    Noise,
    /// A message that is answered with an error.
    Faulty(Vec<u8>),
    /// A question.
    Question(Asked),
}

/// A question of one name.
#[derive(Clone, Debug)]
pub(super) struct Asked {
    header: Header,
    /// Of what, in the case of whoever asks.
    pub(super) query: Query,
    edns: Option<Edns>,
    /// Bytes that the answer may have.
    limit: u16,
}

/// What is answered.
#[derive(Clone, Debug, Default)]
pub(super) struct Reply {
    pub(super) code: ResponseCode,
    pub(super) is_ours: bool,
    pub(super) can_recurse: bool,
    pub(super) answers: Vec<Record>,
    pub(super) authorities: Vec<Record>,
    pub(super) additionals: Vec<Record>,
}

impl Reply {
    pub(super) fn code(code: ResponseCode) -> Self {
        Self { code, ..Self::default() }
    }
}

impl Asked {
    /// Whether its asker wants others to be asked.
    pub(super) fn wants_recursion(&self) -> bool {
        self.header.recursion_desired()
    }

    /// The answer as it goes over the wire.
    pub(super) fn answer(&self, reply: Reply) -> Vec<u8> {
        let mut message = blank(&self.header, reply.code);
        message.set_authoritative(reply.is_ours).set_recursion_available(reply.can_recurse);
        message.add_query(self.query.clone());
        message.insert_answers(reply.answers);
        message.insert_name_servers(reply.authorities);
        message.insert_additionals(reply.additionals);
        if let Some(asked) = &self.edns {
            let mut edns = Edns::new();
            edns.set_max_payload(DATAGRAM_BYTES_MAX).set_version(0);
            edns.set_dnssec_ok(asked.flags().dnssec_ok);
            message.set_edns(edns);
        }
        encode(message, self.limit)
    }
}

/// Reads what came.
pub(super) fn read(bytes: &[u8], transport: Transport) -> Received {
    let mut decoder = BinDecoder::new(bytes);
    let Ok(header) = Header::read(&mut decoder) else { return Received::Noise };
    // Whoever answers answers would talk to itself.
    if header.message_type() == MessageType::Response {
        return Received::Noise;
    }
    let fault = |code| Received::Faulty(encode(blank(&header, code), PLAIN_BYTES));
    if header.op_code() != OpCode::Query {
        return fault(ResponseCode::NotImp);
    }
    // Numbers are looked at before anybody makes room for that many.
    let has_one = header.query_count() == 1
        && header.answer_count() == 0
        && header.name_server_count() == 0
        && header.additional_count() <= ADDITIONALS_MAX;
    if !has_one || bytes.len() > QUESTION_BYTES_MAX {
        return fault(ResponseCode::FormErr);
    }
    let Ok(mut message) = Message::from_vec(bytes) else { return fault(ResponseCode::FormErr) };
    let Some(query) = message.take_queries().pop() else { return fault(ResponseCode::FormErr) };
    let edns = message.extensions().clone();
    let limit = match (transport, &edns) {
        (Transport::Connection, _) => u16::MAX,
        (Transport::Datagram, None) => PLAIN_BYTES,
        (Transport::Datagram, Some(edns)) => {
            edns.max_payload().clamp(PLAIN_BYTES, DATAGRAM_BYTES_MAX)
        }
    };
    let is_later = edns.as_ref().is_some_and(|edns| edns.version() > 0);
    let asked = Asked { header, query, edns, limit };
    if is_later {
        return Received::Faulty(asked.answer(Reply::code(ResponseCode::BADVERS)));
    }
    if asked.query.query_class() != DNSClass::IN {
        return Received::Faulty(asked.answer(Reply::code(ResponseCode::Refused)));
    }
    Received::Question(asked)
}

/// An answer without anything.
fn blank(header: &Header, code: ResponseCode) -> Message {
    let mut message = Message::new();
    message
        .set_id(header.id())
        .set_message_type(MessageType::Response)
        .set_op_code(header.op_code())
        .set_recursion_desired(header.recursion_desired())
        .set_checking_disabled(header.checking_disabled())
        .set_response_code(code);
    message
}

/// What does not fit: first what nobody has asked for, and then all, which says "ask by a connection".
fn encode(mut message: Message, limit: u16) -> Vec<u8> {
    let fits = |message: &Message| message.to_vec().ok().filter(|it| it.len() <= limit.into());
    if let Some(bytes) = fits(&message) {
        return bytes;
    }
    message.take_additionals();
    if let Some(bytes) = fits(&message) {
        return bytes;
    }
    message.take_answers();
    message.take_name_servers();
    message.set_truncated(true);
    fits(&message).unwrap_or_default()
}
