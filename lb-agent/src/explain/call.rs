//! What would become of a socket call, step by step: the programs' own decision, as with packets.

use std::{
    cell::Cell,
    collections::BTreeMap,
    net::{IpAddr, SocketAddr},
};

use lb_common::{
    abi::{
        BACKEND_NONE, CLASS_ALL, CLIENT_NODE, Client, DropReason, NetU16, PREFERS_NODE,
        PROTOCOL_TCP, PROTOCOL_UDP, ReachEntry, ReachKey, ReachList, SCOPE_SECOND_HALF,
        ServiceScope, VISIBLE_TO_CONTAINERS, VISIBLE_TO_NETWORKS, VISIBLE_TO_NODE, Verdict,
    },
    engine::{Context, Family, Tuple},
    socket::{Call, Decision, Membership, SocketTables, class_of, client_hash, decide, sees},
};

use super::recorder::Recorder;
use crate::{
    api::{
        explain::{CallExplanation, CallQuery, Outcome, Step},
        trace::BackendName,
    },
    model::Protocol,
};

/// Who calls, and what is said of it.
#[derive(Clone, Debug, Default)]
pub struct Caller {
    /// Its name, for people.
    pub name: String,
    /// Cookie of its network namespace; 0: not known.
    pub cookie: u64,
    /// Which slot the call falls on, unless the service wants affinity.
    pub hash: u32,
    /// Whether the host leads containers to networks that they are not on.
    pub routes_across: bool,
    /// Names of networks by their numbers in the tables.
    pub networks: BTreeMap<u64, String>,
}

/// The call while it is decided on.
pub(super) struct CallNotes<'a> {
    pub(super) caller: &'a Caller,
    /// Whether its backend is chosen by who calls.
    pub(super) client: Cell<Option<Client>>,
}

/// Decides on a call of `caller` to `vip`, which is the address in `query`.
pub fn explain_call<A: Family + Into<IpAddr>, T: SocketTables<A>>(
    query: &CallQuery,
    caller: &Caller,
    vip: A,
    tables: &T,
    context: &Context,
) -> CallExplanation {
    let protocol = match query.protocol {
        Protocol::Tcp => PROTOCOL_TCP,
        Protocol::Udp => PROTOCOL_UDP,
    };
    let call = Call {
        vip,
        port: NetU16::new(query.vip.port()),
        protocol: protocol.into(),
        client: caller.cookie,
        hash: caller.hash,
        hash_seed: context.hash_seed,
        routes_across: caller.routes_across.into(),
    };
    // It has no address yet.
    let flow = Tuple {
        client: A::UNSPECIFIED,
        server: vip,
        client_port: NetU16::new(0),
        server_port: call.port,
        protocol: protocol.into(),
    };
    let notes = CallNotes { caller, client: Cell::new(None) };
    let recorder = Recorder::of_call(tables, context, flow, notes);
    let decision = decide(&recorder, &call, None);
    let steps = recorder.into_steps();
    CallExplanation {
        question: query.clone(),
        notes: remarks(&decision, &steps),
        outcome: outcome(&decision),
        steps,
    }
}

impl<A: Family + Into<IpAddr>, T: SocketTables<A>> Membership for Recorder<'_, A, T> {
    fn is_on(&self, class: u64, network: u64) -> bool {
        self.tables().is_on(class, network)
    }
}

impl<A: Family + Into<IpAddr>, T: SocketTables<A>> SocketTables<A> for Recorder<'_, A, T> {
    fn client(&self, cookie: u64) -> Option<&Client> {
        let client = self.tables().client(cookie);
        if let Some(notes) = self.call() {
            notes.client.set(client.copied());
            let networks = client.map_or_else(Vec::new, |client| {
                let is_on = |network: &&u64| self.tables().is_on(client.class, **network);
                let hashes = notes.caller.networks.keys().filter(is_on);
                let mut names: Vec<String> = hashes.map(|hash| notes.network(*hash)).collect();
                names.sort();
                names
            });
            let kind = match client {
                None => "unknown",
                Some(client) if client.kind == CLIENT_NODE => "node",
                Some(_) => "container",
            };
            let name = notes.caller.name.clone();
            self.note(Step::Caller { name, kind: kind.to_owned(), networks });
            let scope = self.scope_asked();
            if let Some(scope) = scope {
                self.note(Step::Scope {
                    visible: notes.visible(&scope),
                    prefers_node: scope.flags & PREFERS_NODE != 0,
                    is_seen: sees(self.tables(), &scope, client),
                });
            }
        }
        client
    }

    fn scope(&self, service: u32) -> Option<&ServiceScope> {
        let scope = self.tables().scope(service);
        self.keep_scope(scope.copied());
        scope
    }

    fn network(&self, backend: u32) -> u64 {
        let network = self.tables().network(backend);
        if let Some(notes) = self.call() {
            let across = u32::from(notes.caller.routes_across);
            let class = class_of(notes.client.get().as_ref(), across);
            self.note(Step::Network {
                backend: BackendName::of(backend),
                network: (network != 0).then(|| notes.network(network)),
                is_reached: network == 0
                    || class == CLASS_ALL
                    || self.tables().is_on(class, network),
            });
        }
        network
    }

    fn reach_list(&self, key: &ReachKey) -> Option<ReachList> {
        let list = self.tables().reach_list(key)?;
        self.note(Step::Reach {
            of: if key.class == CLASS_ALL { "everybody" } else { "the caller's networks" }
                .to_owned(),
            slots: list.slots,
            preferred: list.near,
            others: list.far,
        });
        Some(list)
    }

    fn reach_entry(&self, index: u32) -> ReachEntry {
        self.tables().reach_entry(index)
    }
}

impl CallNotes<'_> {
    /// What is hashed, and the hash.
    pub(super) fn hash(&self, seed: u64, has_affinity: bool) -> (String, u32) {
        if has_affinity {
            ("the caller's namespace".to_owned(), client_hash(seed, self.caller.cookie))
        } else {
            ("this call alone".to_owned(), self.caller.hash)
        }
    }

    fn network(&self, hash: u64) -> String {
        let name = self.caller.networks.get(&hash);
        name.cloned().unwrap_or_else(|| format!("network {hash:#018x}"))
    }

    fn networks(&self, hashes: &[u64]) -> Vec<String> {
        hashes.iter().filter(|hash| **hash != 0).map(|hash| self.network(*hash)).collect()
    }

    fn visible(&self, scope: &ServiceScope) -> Vec<String> {
        let flags = [(VISIBLE_TO_NODE, "node"), (VISIBLE_TO_CONTAINERS, "containers")];
        let flags = flags.iter().filter(|(flag, _)| scope.flags & flag != 0);
        let mut words: Vec<String> = flags.map(|(_, word)| (*word).to_owned()).collect();
        if scope.flags & VISIBLE_TO_NETWORKS != 0 {
            let half = usize::from(scope.flags & SCOPE_SECOND_HALF != 0);
            let networks = self.networks(&scope.networks[half]);
            words.extend(networks.into_iter().map(|name| format!("network:{name}")));
        }
        words
    }
}

fn outcome<A: Family + Into<IpAddr>>(decision: &Decision<A>) -> Outcome {
    let is_translated = matches!(decision.verdict, Verdict::Deliver | Verdict::Route);
    let to = SocketAddr::new(decision.address.into(), decision.port.get());
    let backend = (decision.backend != BACKEND_NONE).then(|| BackendName::of(decision.backend));
    Outcome {
        verdict: decision.verdict.name().to_owned(),
        reason: (decision.reason != DropReason::None).then(|| decision.reason.name().to_owned()),
        answer: (decision.errno != 0).then(|| errno_name(decision.errno)),
        backend,
        to: is_translated.then_some(to),
        from: None,
        ifindex: 0,
        flow_record: None,
        reply_record: None,
        replies: None,
    }
}

/// As manuals write it.
fn errno_name(errno: i32) -> String {
    match errno {
        lb_common::socket::REFUSED => "ECONNREFUSED".to_owned(),
        lb_common::socket::TIMED_OUT => "ETIMEDOUT".to_owned(),
        lb_common::socket::UNREACHABLE => "EHOSTUNREACH".to_owned(),
        other => format!("error {other}"),
    }
}

fn remarks<A>(decision: &Decision<A>, steps: &[Step]) -> Vec<String> {
    let mut remarks = Vec::new();
    if decision.verdict == Verdict::Pass {
        let is_vip = steps
            .iter()
            .any(|step| matches!(step, Step::Frontend { state, .. } if state != "unknown"));
        remarks.push(if is_vip {
            "the call is left alone: the port is the node's own, or the service is visible to nobody \
             on this node"
                .to_owned()
        } else {
            "the address is no virtual address of this node: the call is left alone".to_owned()
        });
    }
    let is_by_chance =
        |step: &Step| matches!(step, Step::Hash { of, .. } if of == "this call alone");
    if steps.iter().any(is_by_chance) {
        remarks.push("each call falls on a slot by chance; this is one of them".to_owned());
    }
    remarks
}
