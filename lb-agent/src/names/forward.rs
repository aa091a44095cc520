//! Names that are not ours, asked of the servers that the configuration names.
//!
//! Owns how many may wait. A question that is being asked is not asked again, so one that comes back to
//! us by a loop of servers waits for itself, and ends with its time.

use std::{
    collections::{BTreeSet, HashMap},
    fmt,
    net::{IpAddr, SocketAddr},
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use futures_util::{
    FutureExt as _,
    future::{BoxFuture, Shared},
};
use hickory_resolver::{
    Resolver, TokioResolver,
    config::{NameServerConfigGroup, ResolveHosts, ResolverConfig},
    name_server::TokioConnectionProvider,
    proto::{
        ProtoError, ProtoErrorKind,
        op::{Query, ResponseCode},
        rr::{Name, RecordType},
    },
};

use super::{
    neighbours::Neighbours,
    responder::NEGATIVE_TTL_SECONDS_MAX,
    room::{Place, Room},
    table::Trust,
    wire::Reply,
};

/// Questions that wait for others; more are told to ask somebody else.
const WAITING_MAX: usize = 256;
/// Of them, those of one asker: it keeps nobody else waiting.
const WAITING_OF_ONE_MAX: usize = 32;
/// Longest wait for a server.
const TIMEOUT: Duration = Duration::from_secs(2);
/// Longest wait for all of them.
const TIMEOUT_ALL: Duration = Duration::from_secs(4);

type Key = (Name, RecordType);
type Lookup = Shared<BoxFuture<'static, Arc<Reply>>>;

/// Asks these servers and no others, and keeps nothing: whoever asks us does that.
pub(super) struct Forwarder {
    resolver: TokioResolver,
    servers: BTreeSet<IpAddr>,
    neighbours: Neighbours,
    room: Room,
    lookups: Arc<Mutex<HashMap<Key, Lookup>>>,
}

impl fmt::Debug for Forwarder {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("Forwarder").field("servers", &self.servers).finish_non_exhaustive()
    }
}

/// An answer that is waited for, and the room that the wait takes.
pub(super) struct Waiting {
    lookup: Lookup,
    trust: Trust,
    _place: Place,
}

impl Waiting {
    /// The answer, for an asker's own way of writing the name.
    pub(super) async fn reply(self, name: &Name) -> Reply {
        let mut reply = trusted(Reply::clone(&*self.lookup.await), self.trust);
        for record in reply.answers.iter_mut().filter(|record| record.name() == name) {
            record.set_name(name.clone());
        }
        reply
    }
}

impl Forwarder {
    /// Of these servers, for these askers.
    pub(super) fn new(servers: &[SocketAddr], neighbours: Neighbours) -> Self {
        let mut group = NameServerConfigGroup::new();
        for server in servers {
            group.merge(NameServerConfigGroup::from_ips_clear(&[server.ip()], server.port(), true));
        }
        let config = ResolverConfig::from_parts(None, Vec::new(), group);
        let provider = TokioConnectionProvider::default();
        let mut builder = Resolver::builder_with_config(config, provider);
        let options = builder.options_mut();
        options.cache_size = 0;
        options.use_hosts_file = ResolveHosts::Never;
        options.timeout = TIMEOUT;
        options.attempts = 1;
        Self {
            resolver: builder.build(),
            servers: servers.iter().map(|server| server.ip().to_canonical()).collect(),
            neighbours,
            room: Room::new(WAITING_MAX, WAITING_OF_ONE_MAX),
            lookups: Arc::default(),
        }
    }

    /// Begins to ask, unless it is asked already. The error is what the asker is told at once.
    pub(super) fn ask(
        &self,
        query: &Query,
        source: IpAddr,
        trust: Trust,
    ) -> Result<Waiting, ResponseCode> {
        // It would ask us what we ask it; and for strangers nobody is asked.
        if self.servers.contains(&source.to_canonical()) || !self.neighbours.have(source) {
            return Err(ResponseCode::Refused);
        }
        let place = self.room.take(source).ok_or(ResponseCode::ServFail)?;
        let key = (query.name().to_lowercase(), query.query_type());
        let mut lookups = self.lookups.lock().unwrap_or_else(PoisonError::into_inner);
        let begin = || self.begin(key.clone(), look_up(self.resolver.clone(), key.clone()));
        let lookup = lookups.entry(key.clone()).or_insert_with(begin).clone();
        Ok(Waiting { lookup, trust, _place: place })
    }

    /// A task, so that it ends and is forgotten although those who wait for it may go away.
    fn begin(&self, key: Key, reply: impl Future<Output = Reply> + Send + 'static) -> Lookup {
        let lookups = Arc::clone(&self.lookups);
        let task = tokio::spawn(async move {
            let _asked = Asked { key, lookups };
            let reply = tokio::time::timeout(TIMEOUT_ALL, reply).await;
            Arc::new(reply.unwrap_or_else(|_elapsed| failed()))
        });
        task.map(|result| result.unwrap_or_else(|_ended| Arc::new(failed()))).boxed().shared()
    }
}

/// A question that is being asked, however that ends: whoever asks the same later is to be told something
/// else than that it failed once.
struct Asked {
    key: Key,
    lookups: Arc<Mutex<HashMap<Key, Lookup>>>,
}

impl Drop for Asked {
    fn drop(&mut self) {
        self.lookups.lock().unwrap_or_else(PoisonError::into_inner).remove(&self.key);
    }
}

async fn look_up(resolver: TokioResolver, (name, kind): Key) -> Reply {
    let mut reply = match resolver.lookup(name, kind).await {
        Ok(found) => Reply { answers: found.records().to_vec(), ..Reply::default() },
        Err(error) => match error.proto().map(ProtoError::kind) {
            // The same kind of error says that a server refused or failed.
            Some(ProtoErrorKind::NoRecordsFound {
                response_code: code @ (ResponseCode::NoError | ResponseCode::NXDomain),
                soa,
                ..
            }) => {
                let authority = soa.clone().map(|soa| soa.into_record_of_rdata());
                Reply { authorities: authority.into_iter().collect(), ..Reply::code(*code) }
            }
            _ => failed(),
        },
    };
    reply.can_recurse = true;
    reply
}

/// What is made of an answer to a name that may be ours, or may become ours.
fn trusted(mut reply: Reply, trust: Trust) -> Reply {
    if trust == Trust::Hardly && reply.code == ResponseCode::NXDomain {
        return failed();
    }
    let answers = if trust == Trust::Hardly { &mut reply.answers[..] } else { &mut [] };
    // RFC 2308: that of the authority says how long "there is nothing" may be remembered.
    let authorities = if trust == Trust::Full { &mut [] } else { &mut reply.authorities[..] };
    for record in answers.iter_mut().chain(authorities) {
        record.set_ttl(record.ttl().min(NEGATIVE_TTL_SECONDS_MAX));
    }
    reply
}

fn failed() -> Reply {
    Reply { can_recurse: true, ..Reply::code(ResponseCode::ServFail) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_question_that_ends_in_a_panic_is_asked_again() {
        let forwarder = Forwarder::new(&[], Neighbours::new(&[]));
        let key = (Name::root(), RecordType::A);
        let known = || forwarder.lookups.lock().expect("no panic while it is held");
        for _ in 0..2 {
            let lookup = forwarder.begin(key.clone(), async { panic!("as a test has it") });
            assert!(known().insert(key.clone(), lookup.clone()).is_none(), "it is remembered");
            assert_eq!(lookup.await.code, ResponseCode::ServFail);
        }
    }
}
