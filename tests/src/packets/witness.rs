//! The real program beside a history of the state machine in virtual time: for each packet the kernel
//! gets the very tables, their times moved to now, and must choose the same backend and record the
//! same.

use std::{
    net::{IpAddr, Ipv6Addr, SocketAddr},
    thread,
    time::Duration,
};

use anyhow::{Context as _, bail, ensure};
use lb_common::{
    abi::{
        BACKEND_NONE, FRONTEND_DROPS, FlowInsertions, FlowRecord, HalfOpenRate, Meta, PATH_LOCAL,
        PROTOCOL_TCP, PROTOCOL_UDP, Refusals, Slot, Verdict, map_names, ring_number,
    },
    engine::{Choice, PacketKind, host::HostTables},
};

use super::{
    BackendSpec, BedFamily, HASH_SEED, INGRESS_IFINDEX, KernelBed, Outcome, Program, V4, V6, World,
    now_tick, tcp, udp,
};

/// Rings that histories have, of TCP and UDP.
const RINGS: [u32; 2] = [0, 1];
/// A tick, and a little more.
const TICK: Duration = Duration::from_millis(1100);
/// Times that a packet is sent again because the clock went on.
const ATTEMPTS: usize = 20;

/// What the tables say of one flow, with virtual times.
#[derive(Clone, PartialEq, Debug)]
struct Traces {
    established: Option<FlowRecord>,
    half_open: Option<FlowRecord>,
    refusals: [Refusals; 2],
    half_open_rate: HalfOpenRate,
    flow_insertions: FlowInsertions,
}

/// The kernel's side of a history.
pub struct Witness<A: BedFamily> {
    bed: KernelBed,
    /// Of the packet that is being decided on.
    flow: A::FlowKey,
    kind: PacketKind,
    tick: u32,
    outcome: Option<(Outcome, Traces)>,
    /// Packets that were compared.
    pub packets: usize,
    /// The first that went wrong.
    pub error: Option<anyhow::Error>,
}

impl<A: BedFamily> Witness<A> {
    /// Loads the object with room for so many established records.
    pub fn new(object: &[u8], records_max: u32) -> anyhow::Result<Self> {
        let mut bed = KernelBed::new(object, records_max)?;
        let net = if A::IS_V6 { V6 } else { V4 };
        // What nobody serves is dropped: answers have a rate.
        let world = World { frontend_flags: FRONTEND_DROPS, ..net.world() };
        bed.fill(&world, now_tick())?;
        Ok(Self {
            bed,
            flow: A::FlowKey::default(),
            kind: PacketKind::Syn,
            tick: 0,
            outcome: None,
            packets: 0,
            error: None,
        })
    }

    /// Sends a packet of a flow, at a virtual tick, with the tables as they are.
    pub fn before(
        &mut self,
        tables: &HostTables<A>,
        tick: u32,
        flow: &A::FlowKey,
        kind: PacketKind,
    ) {
        if self.error.is_some() {
            return;
        }
        (self.flow, self.kind, self.tick) = (*flow, kind, tick);
        match self.send(tables) {
            Ok(outcome) => self.outcome = Some(outcome),
            Err(error) => self.error = Some(error),
        }
    }

    /// Compares with what the host decided.
    pub fn after(&mut self, tables: &HostTables<A>, choice: &Choice<A>) {
        let Some((outcome, traces)) = self.outcome.take() else { return };
        self.packets += 1;
        if let Err(error) = self.compare(tables, choice, &outcome, &traces) {
            let place = format!("packet {}, {:?} of {:?}", self.packets, self.kind, self.flow);
            self.error.get_or_insert(error.context(place));
        }
    }

    fn compare(
        &self,
        tables: &HostTables<A>,
        choice: &Choice<A>,
        outcome: &Outcome,
        traces: &Traces,
    ) -> anyhow::Result<()> {
        let backend = match outcome.verdict {
            // The number is in the address, the low byte of the destination.
            Some(Verdict::Deliver) => u32::from(outcome.output[if A::IS_V6 { 53 } else { 33 }]),
            Some(Verdict::Drop) => BACKEND_NONE,
            other => bail!("{other:?} for {:?}", outcome.reason),
        };
        ensure!(
            (backend, outcome.reason) == (choice.number, choice.reason),
            "the kernel chose {backend} ({:?}), the host {} ({:?})",
            outcome.reason,
            choice.number,
            choice.reason
        );
        let note = |ring| tables.refusals.borrow().get(&ring).copied().unwrap_or_default();
        let on_host = Traces {
            established: tables.flows.borrow().get(&self.flow),
            half_open: tables.half_flows.borrow().get(&self.flow),
            refusals: RINGS.map(note),
            half_open_rate: tables.half_open_rate.get(),
            flow_insertions: tables.flow_insertions.get(),
        };
        ensure!(*traces == on_host, "the kernel recorded {traces:?}, the host {on_host:?}");
        Ok(())
    }

    fn send(&mut self, tables: &HostTables<A>) -> anyhow::Result<(Outcome, Traces)> {
        let input = self.packet();
        for _ in 0..ATTEMPTS {
            let now = now_tick();
            let shift = now.wrapping_sub(self.tick);
            if is_never_by_accident(tables, shift) {
                thread::sleep(TICK);
                continue;
            }
            self.fill(tables, shift)?;
            let outcome = self.bed.send(Program::TcFront, &input)?.context("no packet")?;
            if now_tick() == now {
                return Ok((outcome, self.traces(shift)?));
            }
        }
        bail!("the clock went on {ATTEMPTS} times: is the machine too slow?")
    }

    fn packet(&self) -> Vec<u8> {
        let flow = A::tuple(&self.flow);
        let client = SocketAddr::new(flow.client.into(), flow.client_port.get());
        let vip = SocketAddr::new(flow.server.into(), flow.server_port.get());
        if flow.protocol == u32::from(PROTOCOL_UDP) {
            return udp(client, vip).bytes();
        }
        let flags = match self.kind {
            PacketKind::Syn => "S",
            PacketKind::Fin => "F.",
            PacketKind::Reset => "R",
            PacketKind::Stray => "S.",
            _ => "P.",
        };
        tcp(client, vip, flags).bytes()
    }

    fn fill(&mut self, tables: &HostTables<A>, shift: u32) -> anyhow::Result<()> {
        let bed = &mut self.bed;
        let moved = |tick: u32| if tick == 0 { 0 } else { tick.wrapping_add(shift) };
        let meta = Meta {
            abi_version: lb_common::abi::ABI_VERSION,
            flags: 0,
            hash_seed: HASH_SEED,
            limits: tables.limits,
        };
        bed.array(map_names::META)?.set(0, meta, 0)?;
        for ring in RINGS {
            let descriptor = tables.rings.get(&ring).copied().unwrap_or_default();
            bed.array(map_names::RINGS)?.set(number::<A>(ring), descriptor.raw(), 0)?;
            let note = tables.refusals.borrow().get(&ring).copied().unwrap_or_default();
            let note = Refusals {
                refused_tick: moved(note.refused_tick),
                full_tick: moved(note.full_tick),
            };
            bed.array(map_names::REFUSALS)?.set(number::<A>(ring), note, 0)?;
        }
        let mut slots = bed.array(map_names::RING_SLOTS)?;
        for (index, slot) in (0..).zip(&tables.slots) {
            let since_tick = slot.since_tick().wrapping_add(shift);
            let slot = Slot::new(slot.cur(), slot.old(), slot.state(), since_tick);
            slots.set(index, slot.raw(), 0)?;
        }
        let mut backends = bed.array(A::BACKENDS)?;
        for (number, backend) in &tables.backends {
            let place = u8::try_from(*number).context("a number too high for an address")?;
            let ip = if A::IS_V6 {
                Ipv6Addr::new(0xfd00, 77, 0, 0, 0, 0, 0, place.into()).into()
            } else {
                IpAddr::from([10, 77, 0, place])
            };
            let backend = A::backend(backend);
            let spec = BackendSpec {
                address: SocketAddr::new(ip, 0),
                state: backend.state,
                path: PATH_LOCAL,
                ifindex: INGRESS_IFINDEX,
                generation: backend.generation,
            };
            let record = A::backend_record(&spec).context("an address of another family")?;
            backends.set(*number, record, 0)?;
        }
        let host = [&tables.flows, &tables.half_flows];
        for (name, records) in A::FLOWS.into_iter().zip(host) {
            let mut table = bed.hash::<A::FlowKey, FlowRecord>(name)?;
            super::kernel::clear(&mut table)?;
            for (key, record) in records.borrow().iter() {
                let last_seen_tick = record.last_seen_tick.wrapping_add(shift);
                table.insert(key, FlowRecord { last_seen_tick, ..*record }, 0)?;
            }
        }
        let rate = tables.half_open_rate.get();
        let rate = HalfOpenRate { tick: rate.tick.wrapping_add(shift), ..rate };
        bed.set_per_cpu(map_names::HALF_OPEN_RATE, 0, rate)?;
        bed.set_flow_room(A::NUMBER, tables.flow_room, tables.flow_insertions.get())
    }

    fn traces(&mut self, shift: u32) -> anyhow::Result<Traces> {
        let moved = |tick: u32| if tick == 0 { 0 } else { tick.wrapping_sub(shift) };
        let mut records = [None; 2];
        for (record, name) in records.iter_mut().zip(A::FLOWS) {
            let table = self.bed.hash::<A::FlowKey, FlowRecord>(name)?;
            *record = match table.get(&self.flow, 0) {
                Ok(found) => {
                    let last_seen_tick = found.last_seen_tick.wrapping_sub(shift);
                    Some(FlowRecord { last_seen_tick, ..found })
                }
                Err(aya::maps::MapError::KeyNotFound) => None,
                Err(error) => return Err(error.into()),
            };
        }
        let mut refusals = [Refusals::default(); 2];
        for (note, ring) in refusals.iter_mut().zip(RINGS) {
            let found: Refusals =
                self.bed.array(map_names::REFUSALS)?.get(&number::<A>(ring), 0)?;
            *note = Refusals {
                refused_tick: moved(found.refused_tick),
                full_tick: moved(found.full_tick),
            };
        }
        let rate = self.bed.half_open_rate()?;
        let half_open_rate = HalfOpenRate { tick: rate.tick.wrapping_sub(shift), ..rate };
        Ok(Traces {
            established: records[0],
            half_open: records[1],
            refusals,
            half_open_rate,
            flow_insertions: self.bed.flow_insertions(A::NUMBER)?,
        })
    }
}

/// The kernel's number of a history's ring.
fn number<A: BedFamily>(ring: u32) -> u32 {
    let protocol = if ring == RINGS[0] { PROTOCOL_TCP } else { PROTOCOL_UDP };
    ring_number(0, A::NUMBER, protocol)
}

/// Whether a refusal of long ago would fall on tick 0, which says that there was none: the node may be
/// up for less time than a history takes.
fn is_never_by_accident<A: BedFamily>(tables: &HostTables<A>, shift: u32) -> bool {
    let notes = tables.refusals.borrow();
    let mut ticks = notes.values().flat_map(|note| [note.refused_tick, note.full_tick]);
    ticks.any(|tick| tick != 0 && tick.wrapping_add(shift) == 0)
}
