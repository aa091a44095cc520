//! From questions to answers: ours at once, those of others by whoever is asked for them.

use std::{
    net::{IpAddr, SocketAddr},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use hickory_resolver::proto::{
    op::ResponseCode,
    rr::{Name, RData, Record, RecordType, rdata},
};
use tokio::sync::watch;

use super::{
    activity::Activity,
    forward::{Forwarder, Waiting},
    table::{Answer, Names, POOL_ZONE, Question, Trust, Whose},
    wire::{self, Asked, Received, Reply, Transport},
};

/// How long it may be remembered that there is nothing: what comes, comes soon.
pub(super) const NEGATIVE_TTL_SECONDS_MAX: u32 = 5;

/// What answers questions; one for all addresses.
#[derive(Clone, Debug)]
pub(super) struct Responder {
    /// Made anew when services change, and not when somebody asks.
    pub(super) names: watch::Receiver<Arc<Names>>,
    pub(super) activity: Arc<Activity>,
    pub(super) ttl_seconds: u32,
    /// Whether names of `.local` get addresses from a pool, so that nobody else is to be asked for them.
    pub(super) has_pool: Arc<AtomicBool>,
    /// Who is asked for names that are not ours.
    pub(super) forward: Option<Arc<Forwarder>>,
}

/// What is to be done about a question.
pub(super) enum Outcome {
    /// Nothing.
    Silence,
    /// This goes back.
    Bytes(Vec<u8>),
    /// Somebody else knows, in a while.
    Later(Asked, Waiting),
}

impl Responder {
    /// Never waits.
    pub(super) fn respond(
        &self,
        bytes: &[u8],
        source: SocketAddr,
        transport: Transport,
    ) -> Outcome {
        let asked = match wire::read(bytes, transport) {
            Received::Noise => return Outcome::Silence,
            Received::Faulty(bytes) => return Outcome::Bytes(bytes),
            Received::Question(asked) => asked,
        };
        self.activity.note_asker(source.ip());
        // The table is shared: it is not kept while anything is written.
        let names = Arc::clone(&self.names.borrow());
        let (name, kind) = (asked.query.name(), asked.query.query_type());
        let own = self.own_reply(&names, name, kind);
        match own.map_or_else(|| self.reply_to_unknown(&names, name, kind), Ok) {
            Ok(reply) => self.at_once(&asked, reply),
            Err(trust) => self.of_others(asked, source.ip(), trust),
        }
    }

    fn at_once(&self, asked: &Asked, reply: Reply) -> Outcome {
        let can_recurse = self.forward.is_some();
        Outcome::Bytes(asked.answer(Reply { can_recurse, ..reply }))
    }

    /// Names that are not ours, so far as we know: asked elsewhere, or refused, upon which the next server
    /// is asked.
    fn of_others(&self, asked: Asked, source: IpAddr, trust: Trust) -> Outcome {
        let waiting = match &self.forward {
            Some(forward) if asked.wants_recursion() => forward.ask(&asked.query, source, trust),
            // Whoever is asked next would be believed.
            _ if trust == Trust::Hardly => Err(ResponseCode::ServFail),
            _ => Err(ResponseCode::Refused),
        };
        match waiting {
            Ok(waiting) => Outcome::Later(asked, waiting),
            Err(code) => self.at_once(&asked, Reply::code(code)),
        }
    }

    /// The error: it is not for us to say.
    fn reply_to_unknown(
        &self,
        names: &Names,
        name: &Name,
        kind: RecordType,
    ) -> Result<Reply, Trust> {
        let has_pool = self.has_pool.load(Ordering::Relaxed);
        let exists = match names.whose(&name.to_ascii(), question_of(kind), has_pool) {
            Whose::Others(trust) => return Err(trust),
            Whose::NotYetKnown => return Ok(Reply::code(ResponseCode::ServFail)),
            Whose::Zone => true,
            Whose::Nobodys => false,
        };
        let zone = fully_qualified(POOL_ZONE).ok_or(Trust::Full)?;
        Ok(self.nothing(name, kind, zone, exists))
    }

    /// `None`: the name is not ours.
    fn own_reply(&self, names: &Names, name: &Name, kind: RecordType) -> Option<Reply> {
        let mut reply = Reply { is_ours: true, ..Reply::default() };
        match names.answer(&name.to_ascii(), question_of(kind)) {
            Answer::Unknown => return None,
            Answer::Addresses(addresses) => reply.answers = self.addresses(name, &addresses),
            Answer::Ports { target, ports, addresses } => {
                let target = fully_qualified(&target)?;
                let record = |port: &u16| {
                    let data = rdata::SRV::new(0, 0, *port, target.clone());
                    Record::from_rdata(name.clone(), self.ttl_seconds, RData::SRV(data))
                };
                reply.answers = ports.iter().map(record).collect();
                reply.additionals = self.addresses(&target, &addresses);
            }
            // A name of a service is a zone of its own.
            Answer::Nothing { target, exists } => {
                return Some(self.nothing(name, kind, fully_qualified(&target)?, exists));
            }
        }
        Some(reply)
    }

    /// Nothing of what is asked for, in a zone of ours. `exists`: there is something else at the name.
    fn nothing(&self, name: &Name, kind: RecordType, zone: Name, exists: bool) -> Reply {
        let mut reply = Reply { is_ours: true, ..Reply::default() };
        if kind == RecordType::SOA && zone == *name {
            reply.answers.push(self.authority(name.clone()));
        } else {
            reply.authorities.push(self.authority(zone));
            if !exists {
                reply.code = ResponseCode::NXDomain;
            }
        }
        reply
    }

    fn addresses(&self, name: &Name, addresses: &[IpAddr]) -> Vec<Record> {
        let record = |address: &IpAddr| {
            let data = match address {
                IpAddr::V4(address) => RData::A((*address).into()),
                IpAddr::V6(address) => RData::AAAA((*address).into()),
            };
            Record::from_rdata(name.clone(), self.ttl_seconds, data)
        };
        addresses.iter().map(record).collect()
    }

    /// What says how long "there is nothing" may be remembered (RFC 2308).
    fn authority(&self, zone: Name) -> Record {
        let ttl = self.ttl_seconds.min(NEGATIVE_TTL_SECONDS_MAX);
        let seconds = i32::try_from(ttl).unwrap_or(i32::MAX);
        let data = rdata::SOA::new(zone.clone(), Name::root(), 1, seconds, seconds, seconds, ttl);
        Record::from_rdata(zone, ttl, RData::SOA(data))
    }
}

fn question_of(kind: RecordType) -> Question {
    match kind {
        RecordType::A => Question::V4,
        RecordType::AAAA => Question::V6,
        RecordType::SRV => Question::Ports,
        RecordType::ANY => Question::Any,
        _ => Question::Other,
    }
}

fn fully_qualified(name: &str) -> Option<Name> {
    let mut name = Name::from_ascii(name).ok()?;
    name.set_fqdn(true);
    Some(name)
}
