//! The hooks on the host: the engine decides, and what the kernel's programs do besides is here said
//! once more, as plainly as can be. Both beds are asked the same.

use std::{
    collections::HashMap,
    net::{IpAddr, Ipv6Addr},
};

use lb_common::{
    abi::{
        BACKEND_NONE, DropReason, FAMILY_V4, FAMILY_V6, FRONTEND_WORDS_V4, FRONTEND_WORDS_V6,
        Frontend, META_ROUTES_REPLIES, NetAddr6, NetU16, NetU32, PROTOCOL_ANY, PROTOCOL_TCP,
        PROTOCOL_UDP, RingDescriptor, SCOPE_FRONT, Verdict, ring_number,
    },
    engine::{
        Context, Decision, EditKind, Family, RecordTables, Side,
        answer::{AnswerKind, answer, write},
        commit, front, front_transport,
        host::{HostPacket, HostTables},
        mtu, reply,
        translate::{translate, translate_error},
        wire::{Headers, Link, Network, link},
    },
};

use super::{
    Action, Counted, HALF_OPEN_MAX, HASH_SEED, INGRESS_IFINDEX, Outcome, Program, RING_SIZE, World,
    builder::MACS,
    family::{BedFamily, Dump, FrontendFamily},
    frontends,
    kernel::{EGRESS_IFINDEX, EGRESS_MACS},
};

/// Destination and source.
type Macs = ([u8; 6], [u8; 6]);

/// MTU of the loopback device.
const INGRESS_MTU: u32 = 65_536;

/// The tables of both families, and what the hooks know of the machine.
pub struct HostBed {
    v4: HostTables<NetU32>,
    v6: HostTables<NetAddr6>,
    flags: u32,
    xdp_may_send: bool,
    egress_mtu: u32,
}

impl HostBed {
    /// Tables as a world wants them.
    #[must_use]
    pub fn new(world: &World, now_tick: u32) -> Self {
        Self {
            v4: tables::<NetU32, FRONTEND_WORDS_V4>(world, FAMILY_V4, now_tick),
            v6: tables::<NetAddr6, FRONTEND_WORDS_V6>(world, FAMILY_V6, now_tick),
            flags: world.flags,
            xdp_may_send: world.xdp_may_send,
            egress_mtu: world.egress_mtu,
        }
    }

    /// What a program makes of a packet.
    pub fn send(&mut self, program: Program, input: &[u8], now_tick: u32) -> Outcome {
        let mut packet = HostPacket(input.to_vec());
        let link = link(&packet, 0);
        if program != Program::TcReply && !input.starts_with(&MACS.0) {
            return Outcome::untouched(input);
        }
        if program == Program::XdpFront && link.tags != 0 {
            return Outcome::untouched(input);
        }
        let context = Context {
            now_tick,
            now_moment: 0,
            ingress_ifindex: INGRESS_IFINDEX,
            reply_ifindex: if link.tags == 0 { INGRESS_IFINDEX } else { 0 },
            hash_seed: HASH_SEED,
            meta_flags: self.flags,
        };
        let mut counted = Counted::NOTHING;
        let action = match (link.network, program) {
            (Network::Other, _) => Action::Pass,
            (Network::V4, Program::XdpFront) => {
                self.xdp(&self.v4, &mut packet, &link, &context, &mut counted)
            }
            (Network::V6, Program::XdpFront) => {
                self.xdp(&self.v6, &mut packet, &link, &context, &mut counted)
            }
            (Network::V4, _) => {
                let mut hook = Tc { bed: self, tables: &self.v4, context: &context, program };
                hook.run(&mut packet, &link, &mut counted)
            }
            (Network::V6, _) => {
                let mut hook = Tc { bed: self, tables: &self.v6, context: &context, program };
                hook.run(&mut packet, &link, &mut counted)
            }
        };
        let output = if action == Action::Drop { input.to_vec() } else { packet.0 };
        let Counted { verdict, reason, refusals } = counted;
        Outcome { action, verdict, reason, refusals, output }
    }

    /// The records, with their times.
    #[must_use]
    pub fn dump_v4(&self) -> Dump<NetU32> {
        dump(&self.v4)
    }

    /// The records, with their times.
    #[must_use]
    pub fn dump_v6(&self) -> Dump<NetAddr6> {
        dump(&self.v6)
    }

    /// Where a packet goes: the interface, and the MAC addresses if the neighbour is known.
    fn route(destination: IpAddr) -> Result<Option<Macs>, DropReason> {
        let (is_client, is_link, is_next, is_own) = match destination {
            IpAddr::V4(address) => {
                let [a, b, c, d] = address.octets();
                let is_link = [a, b, c] == [10, 9, 0];
                ([a, b, c] == [198, 51, 100], is_link, d == 2, matches!(d, 0 | 1 | 255))
            }
            IpAddr::V6(address) => {
                let starts = |prefix: Ipv6Addr| address.octets()[..8] == prefix.octets()[..8];
                let last = u64::from_be_bytes(address.octets()[8..].try_into().expect("8 bytes"));
                let client = Ipv6Addr::new(0x2001, 0xdb8, 0xc, 0, 0, 0, 0, 0);
                let link = Ipv6Addr::new(0xfd00, 9, 0, 0, 0, 0, 0, 0);
                (starts(client), starts(link), last == 2, matches!(last, 0 | 1))
            }
        };
        if is_client || (is_link && is_next) {
            Ok(Some(EGRESS_MACS))
        } else if is_link && !is_own {
            Ok(None)
        } else {
            Err(DropReason::NoRoute)
        }
    }

    fn mtu(&self, ifindex: u32) -> u32 {
        match ifindex {
            INGRESS_IFINDEX => INGRESS_MTU,
            EGRESS_IFINDEX => self.egress_mtu,
            _ => 0,
        }
    }

    /// `lb_xdp_front`: forwards whole packets with ports by the routing table, and drops.
    fn xdp<A: BedFamily>(
        &self,
        tables: &HostTables<A>,
        packet: &mut HostPacket,
        link: &Link,
        context: &Context,
        counted: &mut Counted,
    ) -> Action
    where
        HostTables<A>: RecordTables<A>,
    {
        let headers = A::parse(packet, link.l3_offset);
        if !headers.is_transport() {
            return Action::Pass;
        }
        let mut decision = Decision::pass();
        front_transport(&headers, tables, context, &mut decision);
        match decision.verdict {
            Verdict::Drop => {
                counted.drop(decision.reason);
                return Action::Drop;
            }
            Verdict::Route | Verdict::Reply => {}
            _ => return Action::Pass,
        }
        let to = match decision.translation.side {
            Side::Source => headers.destination,
            Side::Destination => decision.translation.address,
        };
        let Ok(Some(macs)) = Self::route(to.into()) else { return Action::Pass };
        if !self.xdp_may_send
            || headers.l3_bytes > self.egress_mtu
            || looks_partial(packet, &headers)
        {
            return Action::Pass;
        }
        counted.verdict = Some(decision.verdict);
        let edited = commit(tables, &decision).and_then(|()| {
            translate(packet, &decision.translation).map_err(|_| DropReason::EditFailed)
        });
        if let Err(why) = edited {
            counted.drop(why);
            return Action::Drop;
        }
        counted.refusals = refusals(&headers, &decision);
        packet.0[..6].copy_from_slice(&macs.0);
        packet.0[6..12].copy_from_slice(&macs.1);
        Action::Redirect
    }
}

/// Connections that a backend refuses by a packet.
fn refusals<A: Family>(headers: &Headers<A>, decision: &Decision<A>) -> u64 {
    u64::from(match decision.verdict {
        Verdict::Reply => headers.is_refusal(),
        Verdict::Pass => decision.refusing != BACKEND_NONE,
        _ => false,
    })
}

/// Whether the checksum is the sum of the pseudo header, which a device would finish.
fn looks_partial<A: BedFamily>(packet: &HostPacket, headers: &Headers<A>) -> bool {
    let at = headers.l4_offset + if headers.protocol == u32::from(PROTOCOL_TCP) { 16 } else { 6 };
    let field = u16::from_be_bytes([packet.0[at], packet.0[at + 1]]);
    let octets = |address: A| match address.into() {
        IpAddr::V4(address) => address.octets().to_vec(),
        IpAddr::V6(address) => address.octets().to_vec(),
    };
    let bytes = [octets(headers.source), octets(headers.destination)].concat();
    let mut sum = headers.protocol + headers.l4_bytes();
    for pair in bytes.chunks(2) {
        sum += u32::from(pair[0]) << 8 | u32::from(pair[1]);
    }
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    u32::from(field) == sum
}

/// `lb_tc_front` and `lb_tc_reply`.
struct Tc<'a, A: Family> {
    bed: &'a HostBed,
    tables: &'a HostTables<A>,
    context: &'a Context,
    program: Program,
}

impl<A: BedFamily> Tc<'_, A>
where
    HostTables<A>: RecordTables<A>,
{
    fn run(&mut self, packet: &mut HostPacket, link: &Link, counted: &mut Counted) -> Action {
        let headers = A::parse(packet, link.l3_offset);
        let mut decision = Decision::pass();
        let decide = if self.program == Program::TcReply { reply } else { front };
        decide(packet, &headers, self.tables, self.context, &mut decision);
        if decision.has_doubt() {
            // Packets of test runs have a socket that is no connection.
            decision.settle_doubt(false);
        }
        let result = match decision.verdict {
            Verdict::Pass => commit(self.tables, &decision).map(|()| Action::Pass),
            Verdict::Drop => Err(decision.reason),
            Verdict::Answer => Self::answer(packet, link, &headers, &decision),
            _ => self.forward(packet, link, &headers, &mut decision),
        };
        match result {
            Ok(action) => {
                counted.verdict = Some(decision.verdict);
                if decision.verdict == Verdict::Answer {
                    counted.reason = decision.reason;
                }
                counted.refusals = refusals(&headers, &decision);
                action
            }
            Err(why) => {
                counted.drop(why);
                Action::Drop
            }
        }
    }

    fn forward(
        &self,
        packet: &mut HostPacket,
        link: &Link,
        headers: &Headers<A>,
        decision: &mut Decision<A>,
    ) -> Result<Action, DropReason> {
        let is_error = decision.edit == EditKind::Error;
        let address = if is_error { decision.error.address } else { decision.translation.address };
        let ifindex = match decision.verdict {
            Verdict::Route => HostBed::route(address.into()).map(|_| EGRESS_IFINDEX)?,
            Verdict::Reply
                if decision.ifindex == 0 || self.context.meta_flags & META_ROUTES_REPLIES != 0 =>
            {
                match HostBed::route(headers.destination.into()) {
                    Ok(_) => EGRESS_IFINDEX,
                    Err(_) if decision.ifindex != 0 => decision.ifindex,
                    Err(reason) => return Err(reason),
                }
            }
            _ => decision.ifindex,
        };
        let mtu = self.bed.mtu(ifindex);
        if decision.verdict != Verdict::Deliver
            && headers.l3_bytes > 576
            && mtu != 0
            && !mtu::fits(packet, headers, 0, mtu)
        {
            decision.verdict = Verdict::Answer;
            (decision.answer, decision.reason) = (AnswerKind::TooBig, DropReason::TooBig);
            decision.mtu = mtu;
            return Self::answer(packet, link, headers, decision);
        }
        commit(self.tables, decision)?;
        let edited = match decision.edit {
            EditKind::Error => translate_error(packet, &decision.error),
            _ => translate(packet, &decision.translation),
        };
        edited.map_err(|_| DropReason::EditFailed)?;
        // The container and the next hop know nothing of tags.
        packet.0.drain(12..12 + 4 * link.tags as usize);
        Ok(Action::Redirect)
    }

    fn answer(
        packet: &mut HostPacket,
        link: &Link,
        headers: &Headers<A>,
        decision: &Decision<A>,
    ) -> Result<Action, DropReason> {
        let unanswered = decision.unanswered();
        let answer = answer(packet, headers, decision.answer, decision.mtu).ok_or(unanswered)?;
        // The kernel makes no room in a frame with a tag in its bytes.
        if link.tags != 0 && answer.added_bytes() != 0 {
            return Err(unanswered);
        }
        write(packet, &answer).map_err(|_| unanswered)?;
        Ok(Action::Redirect)
    }
}

fn tables<A: FrontendFamily<W>, const W: usize>(
    world: &World,
    family: u32,
    now_tick: u32,
) -> HostTables<A> {
    let flags = world.frontend_flags;
    let mut single = HashMap::new();
    let mut wide = Vec::new();
    for (key, last, service) in frontends::keys::<A, W>(world) {
        use lb_common::frontends::FrontendKey as _;
        let ring = ring_number(service, family, key.protocol());
        let frontend = Frontend { ring, flags, ..Frontend::default() };
        if key.port().get() == last {
            single.insert(key, frontend);
        } else {
            wide.push((key, last, frontend));
        }
    }
    for vip in world.vips().into_iter().filter_map(A::address) {
        let key = A::frontend_key(vip, NetU16::new(0), PROTOCOL_ANY, SCOPE_FRONT);
        single.insert(key, Frontend { flags, ..Frontend::default() });
    }
    let descriptor = world.ring.map(|_| RingDescriptor::new(0, RING_SIZE, 1));
    let ring = |protocol| Some((ring_number(0, family, protocol), descriptor?));
    let backend = |(number, backend): &(u32, _)| Some((*number, A::backend_record(backend)?));
    let tables = HostTables {
        frontends: single,
        wide_frontends: wide,
        rings: [PROTOCOL_TCP, PROTOCOL_UDP].into_iter().filter_map(ring).collect(),
        slots: world.all_slots(now_tick).collect(),
        backends: world.backends.iter().filter_map(backend).collect(),
        reply_defaults: std::cell::RefCell::new(
            world.reply_defaults.iter().filter_map(A::known_default).collect(),
        ),
        local: world.local.clone(),
        flow_room: world.room(),
        ..HostTables::with_room(world.limits(), world.records_max as usize, HALF_OPEN_MAX as usize)
    };
    for flow in &world.flows {
        let Some((key, record)) = A::known_flow(flow, now_tick) else { continue };
        let table = if flow.is_half { &tables.half_flows } else { &tables.flows };
        table.borrow_mut().put(key, record).expect("there is room");
    }
    for reply in &world.replies {
        let Some((key, record)) = A::known_reply(reply, now_tick) else { continue };
        let table = if reply.is_half { &tables.half_replies } else { &tables.replies };
        table.borrow_mut().put(key, record).expect("there is room");
    }
    tables
}

fn dump<A: BedFamily>(tables: &HostTables<A>) -> Dump<A> {
    let ring = |protocol| ring_number(0, A::NUMBER, protocol);
    let note = |ring| tables.refusals.borrow().get(&ring).copied().unwrap_or_default();
    let mut dump = Dump {
        flows: HashMap::new(),
        replies: HashMap::new(),
        defaults: tables.reply_defaults.borrow().clone(),
        fragments: tables.fragments.borrow().clone(),
        refusals: [note(ring(PROTOCOL_TCP)), note(ring(PROTOCOL_UDP))],
        half_open: tables.half_open_rate.get(),
        flow_insertions: tables.flow_insertions.get(),
    };
    for (table, is_half) in [(&tables.flows, false), (&tables.half_flows, true)] {
        dump.flows.extend(table.borrow().iter().map(|(key, record)| ((*key, is_half), *record)));
    }
    for (table, is_half) in [(&tables.replies, false), (&tables.half_replies, true)] {
        dump.replies.extend(table.borrow().iter().map(|(key, record)| ((*key, is_half), *record)));
    }
    dump
}
