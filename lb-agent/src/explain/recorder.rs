//! Tables that write down what is asked of them. They take nothing: deciding changes nothing.

use std::{
    cell::{Cell, RefCell},
    net::{IpAddr, SocketAddr},
};

use lb_common::{
    abi::{
        BACKEND_NONE, FRONTEND_DROPS, FRONTEND_RECORDS_REPLIES, FlowRecord, Frontend,
        FrontendState, Limits, NetU16, REPLY_DEFAULT_AMBIGUOUS, REPLY_DEFAULT_FOREIGN,
        REPLY_DEFAULT_OTHER_WAYS, Refusals, RingDescriptor, SLOT_MOVING, SLOT_PLAIN, ServiceScope,
        Slot, affinity_prefix_bits,
    },
    engine::{Backend, Context, Family, Tables, Tuple, Way, is_live, slot_hash},
};

use super::{call::CallNotes, seconds, takes};
use crate::api::{
    explain::{FlowRecordView, ReplyView, Step},
    names,
    trace::BackendName,
};

/// State of a destination that is a VIP without frontend at the port.
pub(super) const UNSERVED: &str = "unserved";

/// The tables of a family, and what the engine has asked of them so far.
pub(super) struct Recorder<'a, A, T> {
    tables: &'a T,
    context: &'a Context,
    flow: Tuple<A>,
    flags: Cell<u32>,
    ring: Cell<RingDescriptor>,
    /// Of a socket call.
    call: Option<CallNotes<'a>>,
    scope: Cell<Option<ServiceScope>>,
    steps: RefCell<Vec<Step>>,
}

impl<'a, A: Family + Into<IpAddr>, T: Tables<A>> Recorder<'a, A, T> {
    pub(super) fn new(tables: &'a T, context: &'a Context, flow: Tuple<A>) -> Self {
        Self {
            tables,
            context,
            flow,
            flags: Cell::new(0),
            ring: Cell::new(RingDescriptor::NONE),
            call: None,
            scope: Cell::new(None),
            steps: RefCell::default(),
        }
    }

    /// For a socket call, which `flow` is not: nothing is known of its source.
    pub(super) fn of_call(
        tables: &'a T,
        context: &'a Context,
        flow: Tuple<A>,
        call: CallNotes<'a>,
    ) -> Self {
        Self { call: Some(call), ..Self::new(tables, context, flow) }
    }

    pub(super) fn tables(&self) -> &'a T {
        self.tables
    }

    pub(super) fn call(&self) -> Option<&CallNotes<'a>> {
        self.call.as_ref()
    }

    /// The scope that was asked for last.
    pub(super) fn scope_asked(&self) -> Option<ServiceScope> {
        self.scope.get()
    }

    pub(super) fn keep_scope(&self, scope: Option<ServiceScope>) {
        self.scope.set(scope);
    }

    pub(super) fn into_steps(self) -> Vec<Step> {
        self.steps.into_inner()
    }

    pub(super) fn has_asked_for_replies(&self) -> bool {
        self.steps.borrow().iter().any(Step::is_about_replies)
    }

    /// Notes a step, unless the same was just found.
    pub(super) fn note(&self, step: Step) {
        let mut steps = self.steps.borrow_mut();
        if !steps.contains(&step) {
            steps.push(step);
        }
    }

    fn note_flow(&self, table: &str, record: Option<&FlowRecord>) {
        let record = record.map(|record| {
            let limits = self.tables.limits();
            let backend = self.tables.backend(record.backend);
            let is_live = backend
                .is_some_and(|backend| is_live(record, &backend, &limits, self.context.now_tick));
            FlowRecordView {
                backend: BackendName::of(record.backend),
                generation: record.generation,
                class: names::class(record.class).to_owned(),
                age_seconds: self.age(record.last_seen_tick),
                is_live,
            }
        });
        self.note(Step::FlowRecord { table: table.to_owned(), record });
    }

    fn note_reply(&self, table: &str, record: Option<&A::ReplyRecord>) {
        let record = record.map(|record| {
            let way = A::way(record);
            ReplyView {
                class: Some(names::class(way.record_class()).to_owned()),
                age_seconds: Some(self.age(way.last_seen_tick)),
                ..reply_view(&way)
            }
        });
        self.note(Step::ReplyRecord { table: table.to_owned(), record });
    }

    fn age(&self, tick: u32) -> u64 {
        // The data path may be a tick ahead of us.
        let ticks = self.context.now_tick.wrapping_sub(tick);
        if ticks == u32::MAX { 0 } else { seconds(ticks) }
    }
}

fn reply_view<A: Into<IpAddr> + Copy>(way: &Way<A>) -> ReplyView {
    ReplyView {
        vip: socket(way.vip, way.vip_port),
        backend: BackendName::of(way.backend),
        class: None,
        age_seconds: None,
        flags: Vec::new(),
    }
}

/// Flags of a default in words.
fn default_flags(flags: u16) -> Vec<String> {
    let bits = [
        (REPLY_DEFAULT_AMBIGUOUS, "ambiguous"),
        (REPLY_DEFAULT_OTHER_WAYS, "other_ways"),
        (REPLY_DEFAULT_FOREIGN, "foreign"),
    ];
    bits.iter().filter(|(bit, _)| flags & bit != 0).map(|(_, name)| (*name).to_owned()).collect()
}

fn socket<A: Into<IpAddr>>(address: A, port: NetU16) -> SocketAddr {
    SocketAddr::new(address.into(), port.get())
}

/// Flags of a frontend in words.
fn flags_of(frontend: &Frontend) -> Vec<String> {
    let mut flags = Vec::new();
    if frontend.flags & FRONTEND_RECORDS_REPLIES != 0 {
        flags.push("records_replies".to_owned());
    }
    if frontend.flags & FRONTEND_DROPS != 0 {
        flags.push("drops".to_owned());
    }
    flags.extend(affinity_prefix_bits(frontend.flags).map(|bits| format!("affinity/{bits}")));
    flags
}

impl<A: Family + Into<IpAddr>, T: Tables<A>> Tables<A> for Recorder<'_, A, T> {
    fn limits(&self) -> Limits {
        self.tables.limits()
    }

    fn frontend(&self, key: &A::FrontendKey) -> Frontend {
        let frontend = self.tables.frontend(key);
        if frontend.is_served() {
            // The source is looked up, too, lest it be a VIP.
            self.flags.set(frontend.flags);
        }
        let state = match frontend.state {
            FrontendState::Served => "served",
            FrontendState::Unserved => UNSERVED,
            FrontendState::NotVip => "unknown",
        };
        let number = frontend.is_served().then_some(frontend.service);
        let flags = if frontend.is_vip() { flags_of(&frontend) } else { Vec::new() };
        self.note(Step::Frontend { state: state.to_owned(), service: None, number, flags });
        frontend
    }

    fn may_be_vip(&self, address: A) -> bool {
        self.tables.may_be_vip(address)
    }

    fn ring(&self, ring: u32) -> Option<RingDescriptor> {
        let flags = self.flags.get();
        let (seed, bits) = (self.context.hash_seed, affinity_prefix_bits(flags));
        let (of, hash) = match (&self.call, bits) {
            (Some(call), bits) => call.hash(seed, bits.is_some()),
            (None, Some(bits)) => {
                let of = format!("the client's address, {bits} bits");
                (of, slot_hash(seed, flags, &self.flow))
            }
            (None, None) => ("the flow".to_owned(), slot_hash(seed, flags, &self.flow)),
        };
        self.note(Step::Hash { of, hash });
        let descriptor = self.tables.ring(ring)?;
        self.ring.set(descriptor);
        self.note(Step::Ring { ring, slots: descriptor.size(), epoch: descriptor.epoch() });
        Some(descriptor)
    }

    fn slot(&self, index: u32) -> Option<Slot> {
        let slot = self.tables.slot(index)?;
        let is_plain = slot.state() == SLOT_PLAIN;
        let state = match slot.state() {
            SLOT_PLAIN => "plain",
            SLOT_MOVING => "moving",
            _ => "settled",
        };
        let old = (!is_plain && slot.old() != BACKEND_NONE).then(|| BackendName::of(slot.old()));
        let age_ticks = slot.age_ticks(self.context.now_tick);
        self.note(Step::Slot {
            index: index.wrapping_sub(self.ring.get().start()),
            state: state.to_owned(),
            cur: BackendName::of(slot.cur()),
            old,
            age_seconds: (!is_plain).then(|| seconds(age_ticks)),
        });
        Some(slot)
    }

    fn backend(&self, number: u32) -> Option<Backend<A>> {
        let backend = self.tables.backend(number)?;
        if number != BACKEND_NONE {
            let is_local = backend.is_local();
            self.note(Step::Backend {
                backend: BackendName::of(number),
                address: socket(backend.address, backend.port),
                takes: takes(backend.state),
                path: if is_local { "local" } else { "routed" }.to_owned(),
                ifindex: backend.ifindex,
                generation: backend.generation,
            });
        }
        Some(backend)
    }

    fn flow(&self, key: &A::FlowKey) -> Option<FlowRecord> {
        let record = self.tables.flow(key);
        self.note_flow("flows", record.as_ref());
        record
    }

    fn half_flow(&self, key: &A::FlowKey) -> Option<FlowRecord> {
        let record = self.tables.half_flow(key);
        self.note_flow("half_flows", record.as_ref());
        record
    }

    fn refusals(&self, ring: u32) -> Refusals {
        let refusals = self.tables.refusals(ring);
        let since = if refusals.full_tick == 0 {
            0
        } else {
            self.context.now_tick.wrapping_sub(refusals.full_tick)
        };
        self.note(Step::Pressure { of: "refused".to_owned(), value: since });
        refusals
    }

    fn half_open_count(&self, tick: u32) -> u32 {
        let count = self.tables.half_open_count(tick);
        self.note(Step::Pressure { of: "half_open".to_owned(), value: count });
        count
    }

    fn flow_room(&self) -> u32 {
        let room = self.tables.flow_room();
        self.note(Step::Pressure { of: "flow_room".to_owned(), value: room });
        room
    }

    fn reply_default(&self, key: &A::ReplyDefaultKey) -> Option<A::ReplyDefault> {
        let default = self.tables.reply_default(key);
        let view = default.as_ref().map(|default| {
            let way = A::default_way(default);
            ReplyView { flags: default_flags(way.class), ..reply_view(&way) }
        });
        self.note(Step::ReplyDefault { default: view });
        default
    }

    fn local(&self, address: A) -> u32 {
        self.tables.local(address)
    }

    fn reply(&self, key: &A::ReplyKey) -> Option<A::ReplyRecord> {
        let record = self.tables.reply(key);
        self.note_reply("replies", record.as_ref());
        record
    }

    fn half_reply(&self, key: &A::ReplyKey) -> Option<A::ReplyRecord> {
        let record = self.tables.half_reply(key);
        self.note_reply("half_replies", record.as_ref());
        record
    }

    fn fragment(&self, key: &A::FragmentKey) -> Option<A::FragmentRecord> {
        self.tables.fragment(key)
    }
}
