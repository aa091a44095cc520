//! What is checked of a history, and what that takes.

use lb_common::{
    abi::{
        BACKEND_NONE, CLASS_CLOSED, CLASS_CLOSING_BY_BACKEND, CLASS_CLOSING_BY_CLIENT,
        CLASS_DATAGRAM, CLASS_ESTABLISHED, CLASS_HALF_OPEN, CLASS_RESET, FlowRecord,
        RingDescriptor, SLOT_MOVING, SLOT_PLAIN, Slot, TAKES_OLD, TAKES_OLD_DATAGRAMS,
    },
    engine::{Choice, FlowChange},
};

use super::{Simulation, Violation, What};
use crate::{
    agent::{RINGS, hash_of, slots, tick},
    net::{Net, backend},
};

impl<A: Net> Simulation<'_, A> {
    /// Every live flow is recorded or belongs to its slot's default.
    pub(super) fn check_flow(&mut self, index: usize) -> Result<(), Violation> {
        let client = &self.clients[index];
        let Some(owner) = client.owner.filter(|_| client.is_owed(self.now)) else { return Ok(()) };
        let keeps = if client.is_tcp() { TAKES_OLD } else { TAKES_OLD_DATAGRAMS };
        if !self.owns(owner, keeps) {
            // Gone, or as good: nothing is owed any more, also if it should come back.
            self.clients[index].is_promised = false;
            return Ok(());
        }
        let is_owned = self.is_owned(index, self.current(index), false)
            && self.before(index).is_none_or(|before| self.is_owned(index, before, false));
        if is_owned { Ok(()) } else { self.violated(Some(index), What::FlowUnowned) }
    }

    pub(super) fn is_owned(
        &self,
        index: usize,
        descriptor: RingDescriptor,
        is_strict: bool,
    ) -> bool {
        let client = &self.clients[index];
        let Some(owner) = client.owner else { return false };
        let Some((number, _)) = self.cluster.instances[owner].number else { return false };
        let slot = self.slot(index, descriptor);
        if slot.state() != SLOT_PLAIN {
            let established = self.tables.flows.borrow().get(&client.key);
            let half = self.tables.half_flows.borrow().get(&client.key);
            let half = half.filter(|_| !is_strict);
            let live = established.filter(|record| self.is_live(record));
            if let Some(record) = live.or(half.filter(|record| self.is_live(record))) {
                return self.instance_of(&record) == owner;
            }
        }
        // What a gone `old` leaves behind goes to `cur`.
        let keeps = if client.is_tcp() { TAKES_OLD } else { TAKES_OLD_DATAGRAMS };
        let has_old = slot.state() == SLOT_MOVING
            && slot.old() != BACKEND_NONE
            && backend(&self.tables, slot.old()).state & keeps != 0;
        // But that is no promise: a connection that came now and found no room for its record is
        // lost when `cur` changes again.
        if is_strict && client.is_tcp() && slot.state() == SLOT_MOVING && !has_old {
            return false;
        }
        number == if has_old { slot.old() } else { slot.cur() }
    }

    /// What follows a SYN goes where it went, as long as nothing is published.
    pub(super) fn check_syn(
        &mut self,
        index: usize,
        slot: Slot,
        choice: &Choice<A>,
    ) -> Result<(), Violation> {
        let key = &self.clients[index].key;
        let records =
            [self.tables.flows.borrow().get(key), self.tables.half_flows.borrow().get(key)];
        let mut live = records.into_iter().flatten().filter(|record| self.is_live(record));
        let has_old = slot.state() == SLOT_MOVING
            && slot.old() != BACKEND_NONE
            && backend(&self.tables, slot.old()).state & TAKES_OLD != 0;
        let default = if has_old { slot.old() } else { slot.cur() };
        let is_recorded = live.next().is_some_and(|record| record.backend == choice.number);
        if is_recorded || choice.number == default {
            return Ok(());
        }
        self.violated(Some(index), What::SynUnowned)
    }

    /// An eighth of the table is for connections that are new.
    pub(super) fn check_room(
        &mut self,
        index: usize,
        choice: &Choice<A>,
        established_before: usize,
    ) -> Result<(), Violation> {
        let records_max = self.setup.records_max;
        let established = self.tables.flows.borrow().len();
        let has_grown = choice.change == FlowChange::Put && established > established_before;
        if has_grown && established > records_max - records_max / 8 {
            return self.violated(Some(index), What::ReserveTaken);
        }
        Ok(())
    }

    pub(super) fn is_live(&self, record: &FlowRecord) -> bool {
        let limits = self.tables.limits;
        let limit = match record.class {
            CLASS_HALF_OPEN => limits.half_open_ticks,
            CLASS_ESTABLISHED | CLASS_CLOSING_BY_CLIENT | CLASS_RESET => limits.established_ticks,
            CLASS_DATAGRAM => limits.datagram_ticks,
            CLASS_CLOSING_BY_BACKEND | CLASS_CLOSED => limits.closing_ticks,
            other => unreachable!("class {other}"),
        };
        let keeps = if record.class == CLASS_DATAGRAM { TAKES_OLD_DATAGRAMS } else { TAKES_OLD };
        tick(self.now) - record.last_seen_tick <= limit
            && self.keeps(self.instance_of(record), keeps)
    }

    pub(super) fn check_plain_slots(&mut self) -> Result<(), Violation> {
        for index in 0..self.clients.len() {
            let slot = self.slot(index, self.current(index));
            let records = [
                self.tables.flows.borrow().get(&self.clients[index].key),
                self.tables.half_flows.borrow().get(&self.clients[index].key),
            ];
            for record in records.into_iter().flatten() {
                if slot.state() == SLOT_PLAIN
                    && record.backend != slot.cur()
                    && self.is_live(&record)
                {
                    return self.violated(Some(index), What::PlainSlotHasRecord);
                }
            }
        }
        Ok(())
    }

    pub(super) fn check_nothing_left(&mut self) -> Result<(), Violation> {
        let records = self.tables.flows.borrow().len() + self.tables.half_flows.borrow().len();
        let is_plain = RINGS.iter().all(|ring| {
            slots(&self.tables, self.tables.rings[ring])
                .iter()
                .all(|slot| slot.state() == SLOT_PLAIN)
        });
        if records == 0 && is_plain { Ok(()) } else { self.violated(None, What::LeftOver) }
    }

    pub(super) fn violated(&mut self, client: Option<usize>, what: What) -> Result<(), Violation> {
        let owner = client.and_then(|client| self.clients[client].owner);
        let number = owner.and_then(|owner| self.cluster.instances[owner].number);
        self.note(client, || format!("{what:?}; the flow belongs to {number:?}"));
        Err(Violation { at: self.now, client, what })
    }

    pub(super) fn keeps(&self, instance: usize, bit: u8) -> bool {
        let Some((number, generation)) = self.cluster.instances[instance].number else {
            return false;
        };
        let backend = backend(&self.tables, number);
        backend.generation == generation && backend.state & bit != 0
    }

    /// Whether an instance still has a claim to its flows, for the agent and for the kernel.
    pub(super) fn owns(&self, instance: usize, bit: u8) -> bool {
        let decided = self.agent.decided.get(&instance);
        decided.is_none_or(|state| state & bit != 0) && self.keeps(instance, bit)
    }

    pub(super) fn instance(&self, choice: &Choice<A>) -> usize {
        self.agent.instance_of[&(choice.number, choice.backend.generation)]
    }

    pub(super) fn instance_of(&self, record: &FlowRecord) -> usize {
        self.agent.instance_of[&(record.backend, record.generation)]
    }

    pub(super) fn has_record(&self, index: usize) -> bool {
        let key = &self.clients[index].key;
        self.tables.flows.borrow().get(key).is_some()
            || self.tables.half_flows.borrow().get(key).is_some()
    }

    pub(super) fn current(&self, index: usize) -> RingDescriptor {
        self.tables.rings[&self.clients[index].ring()]
    }

    /// The ring before, while a CPU may still be at a packet of the client with it. Once a packet of
    /// the client has met the new ring, what follows from it does, too.
    pub(super) fn before(&self, index: usize) -> Option<RingDescriptor> {
        let ring = self.clients[index].ring();
        let (before, until) = self.agent.previous.get(&ring)?;
        let is_seen = self.clients[index].seen_epoch == self.tables.rings[&ring].epoch();
        (self.now < *until && !is_seen).then_some(*before)
    }

    pub(super) fn slot(&self, index: usize, descriptor: RingDescriptor) -> Slot {
        let at = descriptor.slot_index(hash_of::<A>(&self.clients[index].key));
        self.tables.slots[at as usize]
    }
}
