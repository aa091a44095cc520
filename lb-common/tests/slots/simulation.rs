//! One history: clients, cluster and agent around the engine, in virtual time, with every packet
//! and every flow checked.

// By its path, since the kernel's test of these histories takes this file by its path, too.
#[path = "checks.rs"]
mod checks;
#[path = "outcome.rs"]
mod outcome;
#[path = "packet.rs"]
mod packet;

use std::{cmp::Reverse, collections::BinaryHeap};

use lb_common::{
    abi::{BACKEND_NONE, Slot, TAKES_NEW, TAKES_OLD, TAKES_OLD_DATAGRAMS},
    engine::{Choice, PacketKind, host::HostTables},
};

use crate::{
    agent::{Agent, Order, limits},
    clients::{Client, Phase, Send, TCP_CLIENTS, UDP_CLIENTS},
    cluster::{Change, Cluster, HOUR, SECOND, history},
    net::Net,
    random::Random,
};

use self::outcome::Seconds;
pub(crate) use self::outcome::{Tally, Violation, What};

/// What a history is made from.
#[derive(Clone, Debug)]
pub(crate) struct Setup {
    pub(crate) seed: u64,
    pub(crate) change_hours: u64,
    pub(crate) quiet_hours: u64,
    pub(crate) records_max: usize,
    pub(crate) half_open_max: usize,
    pub(crate) half_open_per_tick: u32,
    /// The table of half-open records refuses some, as the kernel's may.
    pub(crate) refuses_half_open: bool,
    pub(crate) hold_seconds: u32,
    pub(crate) order: Order,
    pub(crate) changes: Vec<(u64, Change)>,
    /// Clients that take part.
    pub(crate) clients: Vec<usize>,
    /// Keep a trace of the packets and slots of this client.
    pub(crate) traced: Option<usize>,
}

impl Setup {
    /// Every second history has room for all records, the others for a few.
    pub(crate) fn new(seed: u64) -> Self {
        let mut random = Random::new(seed, 2);
        let (change_hours, quiet_hours) = (10, 11);
        let (records_max, half_open_max, half_open_per_tick) = match seed % 4 {
            0 | 1 => (1000, 1000, 1000),
            2 => (8, 2, 1),
            _ => (16, 4, 2),
        };
        Self {
            seed,
            change_hours,
            quiet_hours,
            records_max,
            half_open_max,
            half_open_per_tick,
            refuses_half_open: records_max < 1000,
            hold_seconds: [0, 60][(random.next() % 2) as usize],
            order: [Order::StatesFirst, Order::RingsFirst][(random.next() % 2) as usize],
            changes: history(seed, change_hours, None),
            clients: (0..TCP_CLIENTS + UDP_CLIENTS).collect(),
            traced: None,
        }
    }

    /// Only UDP and many changes: what goes wrong in the moment between the halves of a publication.
    pub(crate) fn datagrams(seed: u64) -> Self {
        Self {
            change_hours: 4,
            quiet_hours: 3,
            changes: history(seed, 4, Some(20 * SECOND)),
            clients: (TCP_CLIENTS..TCP_CLIENTS + UDP_CLIENTS).collect(),
            records_max: 1000,
            half_open_max: 1000,
            half_open_per_tick: 1000,
            refuses_half_open: false,
            ..Self::new(seed)
        }
    }

    fn has_room(&self) -> bool {
        self.records_max >= 1000
    }
}

#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
enum Event {
    Change(usize),
    Start(usize),
    Plan,
    Finish,
    BeginScan,
    FinishScan,
    Act { client: usize, connection: u64 },
    SynAck { client: usize, connection: u64, from: usize },
}

/// Somebody who looks on: what else decides on the same packets must decide the same.
pub(crate) trait Witness<A: Net> {
    /// The packet, and the tables before it.
    fn before(
        &mut self,
        _tables: &HostTables<A>,
        _now_tick: u32,
        _flow: &A::FlowKey,
        _kind: PacketKind,
    ) {
    }

    /// What was decided, and the tables afterwards.
    fn after(&mut self, _tables: &HostTables<A>, _choice: &Choice<A>) {}
}

/// Nobody.
impl<A: Net> Witness<A> for () {}

pub(crate) struct Simulation<'a, A: Net> {
    setup: Setup,
    witness: &'a mut dyn Witness<A>,
    now: u64,
    events: BinaryHeap<Reverse<(u64, u64, Event)>>,
    scheduled: u64,
    tables: HostTables<A>,
    cluster: Cluster,
    agent: Agent,
    clients: Vec<Client<A>>,
    random: Random,
    paused_until: u64,
    pub(crate) tally: Tally,
    pub(crate) trace: Vec<String>,
    traced_slots: Vec<Vec<Slot>>,
}

/// Runs a history.
pub(crate) fn run<A: Net>(
    setup: &Setup,
    witness: &mut dyn Witness<A>,
) -> Result<Tally, (Violation, Vec<String>)> {
    let mut simulation = Simulation::new(setup.clone(), witness);
    match simulation.run() {
        Ok(()) => Ok(simulation.tally),
        Err(violation) => Err((violation, simulation.trace)),
    }
}

impl<'a, A: Net> Simulation<'a, A> {
    fn new(setup: Setup, witness: &'a mut dyn Witness<A>) -> Self {
        let limits = limits(setup.half_open_per_tick);
        let mut simulation = Self {
            now: 0,
            events: BinaryHeap::new(),
            scheduled: 0,
            tables: HostTables::with_room(limits, setup.records_max, setup.half_open_max),
            cluster: Cluster::new(setup.seed),
            agent: Agent::new(setup.order, setup.hold_seconds),
            clients: (0..TCP_CLIENTS + UDP_CLIENTS)
                .map(|index| Client::new(setup.seed, index))
                .collect(),
            random: Random::new(setup.seed, 3),
            paused_until: 0,
            tally: Tally::default(),
            trace: Vec::new(),
            traced_slots: Vec::new(),
            setup,
            witness,
        };
        simulation.agent.plan(0, &mut simulation.cluster, &mut simulation.tables);
        simulation.agent.finish(0, &mut simulation.tables);
        simulation
    }

    fn schedule(&mut self, after: u64, event: Event) {
        self.scheduled += 1;
        self.events.push(Reverse((self.now + after, self.scheduled, event)));
    }

    fn run(&mut self) -> Result<(), Violation> {
        for index in 0..self.setup.changes.len() {
            self.schedule(self.setup.changes[index].0 + SECOND, Event::Change(index));
        }
        for client in self.setup.clients.clone() {
            let after = 1 + client as u64 * 37;
            self.schedule(after, Event::Act { client, connection: 0 });
        }
        self.schedule(100, Event::Plan);
        self.schedule(3000, Event::BeginScan);
        let end = (self.setup.change_hours + self.setup.quiet_hours) * HOUR;
        while let Some(Reverse((at, _, event))) = self.events.pop() {
            if at > end {
                break;
            }
            self.now = at;
            self.handle(event)?;
            match event {
                // With room for all, a packet changes nothing but its own flow.
                Event::Act { client, .. } | Event::SynAck { client, .. }
                    if self.setup.has_room() =>
                {
                    self.check_flow(client)?;
                }
                _ => {
                    for at in 0..self.setup.clients.len() {
                        self.check_flow(self.setup.clients[at])?;
                    }
                }
            }
        }
        self.check_nothing_left()
    }

    fn handle(&mut self, event: Event) -> Result<(), Violation> {
        match event {
            Event::Change(index) => {
                let change = self.setup.changes[index].1;
                self.note(None, || format!("{change:?}"));
                if let Change::Pause { length } = change {
                    self.paused_until = self.now + length;
                }
                if let Some((at, identity)) = self.cluster.apply(self.now, change) {
                    self.schedule(at - self.now, Event::Start(identity));
                }
                let delay = self.random.skewed(20, 2000);
                self.schedule(delay, Event::Plan);
            }
            Event::Start(identity) => {
                if self.cluster.places[identity].0.is_none() {
                    self.cluster.start(identity);
                    self.schedule(150, Event::Plan);
                }
            }
            Event::Plan => {
                if self.now >= self.paused_until {
                    self.tally.publications += 1;
                    if self.agent.plan(self.now, &mut self.cluster, &mut self.tables) {
                        let gap = self.random.skewed(1, 900);
                        self.schedule(gap, Event::Finish);
                    }
                    self.note_slots();
                    self.check_plain_slots()?;
                }
                // Whoever asked, there is one look in five seconds.
                if self.events.iter().filter(|event| event.0.2 == Event::Plan).count() < 2 {
                    let period = self.random.between(8000, 16_000);
                    self.schedule(period, Event::Plan);
                }
            }
            Event::Finish => {
                self.tally.publications += 1;
                self.agent.finish(self.now, &mut self.tables);
                self.note_slots();
                self.check_plain_slots()?;
            }
            Event::BeginScan => {
                if self.now >= self.paused_until {
                    self.agent.begin_scan(self.now, &self.tables);
                    let length = self.random.between(1, 800);
                    self.schedule(length, Event::FinishScan);
                }
                let period = self.random.between(20 * SECOND, 60 * SECOND);
                self.schedule(period, Event::BeginScan);
            }
            Event::FinishScan => self.agent.finish_scan(self.now, &mut self.tables),
            Event::Act { client, connection } => self.act(client, connection)?,
            Event::SynAck { client, connection, from } => {
                let state = &self.clients[client];
                if state.connection == connection && matches!(state.phase, Phase::Opening(_)) {
                    self.shake_hands(client, from)?;
                }
            }
        }
        Ok(())
    }

    fn act(&mut self, index: usize, connection: u64) -> Result<(), Violation> {
        let client = &mut self.clients[index];
        if client.is_tcp() && client.connection != connection {
            return Ok(());
        }
        let is_first = client.phase == Phase::Closed;
        // Clients go on for the first part of the quiet, and then fall silent.
        let is_over = self.now > (self.setup.change_hours + self.setup.quiet_hours / 5) * HOUR;
        if is_over && is_first {
            return Ok(());
        }
        let (owner, is_owed) = (client.owner, client.is_owed(self.now));
        let (send, after) = client.act(self.now);
        if is_first {
            client.publications = self.tally.publications;
            self.tally.connections += u64::from(client.is_tcp());
        }
        let connection = client.connection;
        self.schedule(after, Event::Act { client: index, connection });
        if send == Send::Nothing || self.clients[index].is_lost() {
            return Ok(());
        }
        match send {
            Send::Syn => self.send_syn(index),
            Send::Datagram => self.send_datagram(index),
            Send::Data => self.send_data(index, PacketKind::Data, owner, is_owed),
            Send::Fin => self.send_data(index, PacketKind::Fin, owner, is_owed),
            _ => self.send_data(index, PacketKind::Reset, owner, is_owed),
        }
    }

    fn send_syn(&mut self, client: usize) -> Result<(), Violation> {
        let choice = self.packet(client, PacketKind::Syn)?;
        if choice.number == BACKEND_NONE {
            return Ok(());
        }
        if choice.backend.state & TAKES_NEW == 0 {
            return self.violated(Some(client), What::SynToUnwilling);
        }
        let from = self.instance(&choice);
        if let Some(delay) = self.clients[client].answer_delay()
            && !self.cluster.instances[from].is_dead
        {
            let connection = self.clients[client].connection;
            self.schedule(delay, Event::SynAck { client, connection, from });
        }
        Ok(())
    }

    /// The SYN+ACK arrives, and the client acknowledges it.
    fn shake_hands(&mut self, index: usize, from: usize) -> Result<(), Violation> {
        if self.cluster.instances[from].is_dead {
            return Ok(());
        }
        let choice = self.packet(index, PacketKind::Data)?;
        if choice.number == BACKEND_NONE || self.instance(&choice) != from {
            let is_quiet = self.clients[index].publications == self.tally.publications;
            if is_quiet && self.setup.has_room() {
                return self.violated(Some(index), What::HandshakeSplit);
            }
            self.tally.handshakes_broken += 1;
            let pause = self.clients[index].close();
            let connection = self.clients[index].connection;
            self.schedule(pause, Event::Act { client: index, connection });
            return Ok(());
        }
        let now = self.now;
        let client = &mut self.clients[index];
        client.phase = Phase::Open;
        client.owner = Some(from);
        client.last_sent = now;
        self.promise(index)
    }

    /// From now on the flow is owed its backend: it is recorded, or its slot's default.
    fn promise(&mut self, index: usize) -> Result<(), Violation> {
        let client = &self.clients[index];
        let keeps = if client.is_tcp() { TAKES_OLD } else { TAKES_OLD_DATAGRAMS };
        if client.is_promised || client.owner.is_none_or(|owner| !self.owns(owner, keeps)) {
            return Ok(());
        }
        if self.is_owned(index, self.current(index), true) {
            self.clients[index].is_promised = true;
        } else if self.setup.has_room() && self.clients[index].is_tcp() {
            return self.violated(Some(index), What::FlowUnowned);
        } else {
            self.tally.unpromised += 1;
        }
        Ok(())
    }

    fn send_data(
        &mut self,
        index: usize,
        kind: PacketKind,
        owner: Option<usize>,
        is_owed: bool,
    ) -> Result<(), Violation> {
        let choice = self.packet(index, kind)?;
        let Some(owner) = owner else { return Ok(()) };
        let is_there = choice.number != BACKEND_NONE && self.instance(&choice) == owner;
        if !is_there && is_owed && self.owns(owner, TAKES_OLD) {
            return self.violated(Some(index), What::FlowMoved);
        }
        if !is_there || self.cluster.instances[owner].is_dead {
            // A RST, or silence: the client gives up.
            let pause = self.clients[index].close();
            let connection = self.clients[index].connection;
            self.schedule(pause, Event::Act { client: index, connection });
            return Ok(());
        }
        if kind == PacketKind::Data && self.clients[index].owner.is_some() {
            self.clients[index].last_sent = self.now;
            self.promise(index)?;
        }
        Ok(())
    }

    fn send_datagram(&mut self, index: usize) -> Result<(), Violation> {
        let choice = self.packet(index, PacketKind::Datagram)?;
        let (owner, is_owed) = (self.clients[index].owner, self.clients[index].is_owed(self.now));
        let now_at = (choice.number != BACKEND_NONE).then(|| self.instance(&choice));
        if let Some(owner) = owner
            && is_owed
            && now_at != Some(owner)
            && self.owns(owner, TAKES_OLD_DATAGRAMS)
        {
            return self.violated(Some(index), What::FlowMoved);
        }
        let now = self.now;
        let client = &mut self.clients[index];
        (client.owner, client.last_sent) = (now_at, now);
        client.is_promised = false;
        if now_at.is_some() { self.promise(index) } else { Ok(()) }
    }

    fn note(&mut self, client: Option<usize>, text: impl FnOnce() -> String) {
        let Some(traced) = self.setup.traced else { return };
        if client.is_none_or(|client| client == traced) {
            self.trace.push(format!("{:>9} {}", Seconds(self.now), text()));
        }
    }

    fn note_slots(&mut self) {
        let Some(traced) = self.setup.traced else { return };
        let slot = self.slot(traced, self.current(traced));
        if self.traced_slots.last().is_none_or(|before| before[0] != slot) {
            self.traced_slots.push(vec![slot]);
            self.note(None, || format!("published {slot:?}"));
        }
    }
}
