//! One packet: what is decided on it, and what can be said of any.

use lb_common::{
    abi::{BACKEND_NONE, SLOT_MOVING, SLOT_PLAIN, TAKES_OLD, TAKES_OLD_DATAGRAMS},
    engine::{Choice, Context, Decision, PacketKind, choose, commit},
};

use super::{Simulation, Violation, What};
use crate::{
    agent::{HASH_SEED, hash_of, tick},
    net::Net,
};

impl<A: Net> Simulation<'_, A> {
    /// Decides on a packet and checks what can be said of any packet.
    pub(super) fn packet(
        &mut self,
        index: usize,
        kind: PacketKind,
    ) -> Result<Choice<A>, Violation> {
        self.tally.packets += 1;
        let ring = self.clients[index].ring();
        let current = self.tables.rings[&ring];
        let before = self.before(index).filter(|_| self.clients[index].is_on_late_cpu());
        let is_late = before.is_some();
        if let Some(before) = before {
            // As good as sent before the publication.
            self.clients[index].publications = u64::MAX;
            self.tables.rings.insert(ring, before);
        } else {
            self.clients[index].seen_epoch = current.epoch();
        }
        let slot = self.slot(index, self.tables.rings[&ring]);
        let context = Context {
            now_tick: tick(self.now),
            now_moment: 0,
            ingress_ifindex: 1,
            reply_ifindex: 1,
            hash_seed: HASH_SEED,
            meta_flags: 0,
        };
        let had_record = self.has_record(index);
        let established_before = self.tables.flows.borrow().len();
        let choice = self.decide(index, ring, &context, kind);
        self.tables.rings.insert(ring, current);
        self.tally.refusals += u64::from(choice.is_refused);
        self.tally.slots_seen += 1;
        self.tally.slots_busy += u64::from(slot.state() != SLOT_PLAIN);
        self.note(Some(index), || {
            let late = if is_late { " (late)" } else { "" };
            format!("{kind:?}{late} on {slot:?} -> {} {:?}", choice.number, choice.change)
        });
        if !had_record && self.has_record(index) {
            let is_right =
                slot.state() == SLOT_MOVING && !matches!(kind, PacketKind::Fin | PacketKind::Reset);
            if !is_right {
                return self.violated(Some(index), What::RecordedWrongly).map(|()| choice);
            }
        }
        self.check_room(index, &choice, established_before)?;
        if kind == PacketKind::Syn && choice.number != BACKEND_NONE {
            self.check_syn(index, slot, &choice)?;
        }
        if choice.number != BACKEND_NONE {
            let instance = self.instance(&choice);
            if self.cluster.instances[instance].identity.is_none() {
                self.violated(Some(index), What::PacketToStranger)?;
            }
            let needed = match kind {
                PacketKind::Syn => 0,
                PacketKind::Datagram => TAKES_OLD_DATAGRAMS,
                _ => TAKES_OLD,
            };
            if choice.backend.state & needed != needed {
                self.violated(Some(index), What::PacketToGone)?;
            }
        }
        Ok(choice)
    }

    /// Decides on a packet and commits that.
    fn decide(
        &mut self,
        index: usize,
        ring: u32,
        context: &Context,
        kind: PacketKind,
    ) -> Choice<A> {
        let key = self.clients[index].key;
        // The kernel's finds no room now and then, which says nothing of the next packet.
        let is_refusing = self.setup.refuses_half_open && self.tally.packets.is_multiple_of(5);
        self.tables.half_flows.borrow_mut().is_blocked = is_refusing;
        self.witness.before(&self.tables, context.now_tick, &key, kind);
        let mut choice = choose(&self.tables, context, ring, hash_of::<A>(&key), &key, kind);
        let mut decision = Decision::pass();
        decision.record.flow_change = choice.change;
        decision.record.ring = ring;
        decision.record.is_refused = choice.is_refused;
        decision.record.flow = key;
        decision.record.flow_record = choice.record(context.now_tick);
        if let Err(reason) = commit(&self.tables, &decision) {
            (choice.number, choice.reason) = (BACKEND_NONE, reason);
        }
        self.tables.half_flows.borrow_mut().is_blocked = false;
        self.witness.after(&self.tables, &choice);
        choice
    }
}
