//! Random tables: slots in all states, records of all classes and ages, backends in all states.

use std::net::SocketAddr;

use lb_common::abi::{
    CLASS_REOPENED, FRONTEND_DROPS, FRONTEND_RECORDS_REPLIES, LOCAL_NODE, LOCAL_PRIMARY,
    META_REPLY_DEFAULTS, META_ROUTED_BACKENDS, META_ROUTES_REPLIES, PATH_LOCAL,
    PATH_RECORDS_REPLIES, PATH_ROUTED, PROTOCOL_TCP, PROTOCOL_UDP, REPLY_DEFAULT_AMBIGUOUS,
    affinity_flags, reply_end,
};

use super::{
    super::{EGRESS_IFINDEX, builder::NUMBERS},
    Random,
};
use crate::packets::{
    BackendSpec, INGRESS_IFINDEX, KnownFlow, KnownReply, Net, ReplyDefaultSpec, SlotState, World,
    at,
};

/// Room in the tables of established records: little, so that they are full at times.
pub const RECORDS_MAX: u32 = 4;
/// Backends have the numbers 1 to 4.
const BACKENDS: usize = 4;
/// Around the limits of every class; the last is a record that another CPU wrote just now.
const AGES: [u32; 13] = [0, 0, 0, 1, 2, 10, 14, 40, 70, 100, 120, 8000, u32::MAX];

/// The clients of a world.
pub(super) fn client(net: &Net, random: &mut Random) -> SocketAddr {
    let port = 40_000 + random.below(3) as u16;
    match random.below(30) {
        0 => SocketAddr::new(net.container, port),
        1 => SocketAddr::new(net.unroutable, port),
        2 => SocketAddr::new(net.own.0, port),
        3 => SocketAddr::new(net.router, port),
        4 => net.second_vip,
        5 => SocketAddr::new(net.impossible, port),
        _ => at(net.client, port),
    }
}

/// The destinations of a world, served and not.
pub(super) fn vip(net: &Net, random: &mut Random) -> SocketAddr {
    match random.below(12) {
        0 | 1 => net.second_vip,
        2 => SocketAddr::new(net.range_vip, 7999 + random.below(1002) as u16),
        3 => SocketAddr::new(net.all_ports_vip, random.number() as u16),
        4 => at(net.vip, 81),
        _ => net.vip,
    }
}

/// Addresses that backends have.
pub(super) fn backend(net: &Net, random: &mut Random) -> SocketAddr {
    let backend = random.of(&[net.one, net.one, net.two, net.three]);
    match random.below(12) {
        0 => at(backend, 0),
        1 => SocketAddr::new(net.unroutable, 8080),
        _ => backend,
    }
}

fn protocol(random: &mut Random) -> u8 {
    random.of(&[PROTOCOL_TCP, PROTOCOL_TCP, PROTOCOL_UDP])
}

fn slot(random: &mut Random) -> (u32, SlotState) {
    let state = match random.below(4) {
        0 => SlotState::Plain,
        1 => SlotState::Settled,
        _ => {
            let old = random.below(BACKENDS + 1) as u32;
            SlotState::Moving { old, age_ticks: random.of(&[0, 10, 55, 60, 1000]) }
        }
    };
    let cur = if random.percent(8) { 0 } else { 1 + random.below(BACKENDS) };
    (cur as u32, state)
}

fn backend_spec(net: &Net, random: &mut Random) -> BackendSpec {
    let is_local = random.percent(60);
    let records = if random.percent(40) { PATH_RECORDS_REPLIES } else { 0 };
    BackendSpec {
        address: backend(net, random),
        state: if random.percent(80) { 7 } else { random.below(8) as u8 },
        path: records | if is_local { PATH_LOCAL } else { PATH_ROUTED },
        ifindex: if is_local { INGRESS_IFINDEX } else { 0 },
        generation: 5 + u32::from(random.percent(10)),
    }
}

fn flow(net: &Net, random: &mut Random) -> KnownFlow {
    KnownFlow {
        client: client(net, random),
        vip: vip(net, random),
        protocol: protocol(random),
        backend: 1 + random.below(BACKENDS) as u32,
        generation: 5,
        age_ticks: random.of(&AGES),
        class: random.below(CLASS_REOPENED as usize + 1) as u32,
        is_half: random.percent(50),
    }
}

fn reply(net: &Net, random: &mut Random) -> KnownReply {
    let flow = flow(net, random);
    let is_foreign = random.percent(20);
    KnownReply {
        ifindex: random.of(&[0, INGRESS_IFINDEX, INGRESS_IFINDEX]),
        address: backend(net, random),
        client: flow.client,
        protocol: flow.protocol,
        vip: if is_foreign { net.nobody() } else { flow.vip },
        class: flow.class,
        backend: flow.backend,
        generation: flow.generation,
        front_ifindex: random.of(&[0, INGRESS_IFINDEX, EGRESS_IFINDEX]),
        age_ticks: flow.age_ticks,
        is_half: flow.is_half,
        // Now and then all that the client has sent is acknowledged by what packets say.
        client_end: random.of(&[0, reply_end(NUMBERS.1)]),
        backend_end: random.of(&[0, 0, reply_end(NUMBERS.0)]),
    }
}

fn reply_default(net: &Net, random: &mut Random) -> ReplyDefaultSpec {
    ReplyDefaultSpec {
        ifindex: random.of(&[0, INGRESS_IFINDEX, INGRESS_IFINDEX]),
        address: backend(net, random),
        protocol: protocol(random),
        vip: vip(net, random),
        flags: random.of(&[0, REPLY_DEFAULT_AMBIGUOUS, 2, 3, 4, 5, 7]),
        backend: 1 + random.below(BACKENDS) as u32,
        front_ifindex: random.of(&[0, INGRESS_IFINDEX, EGRESS_IFINDEX]),
    }
}

/// What is the same for several worlds in a row, since it takes long to change: MTU and flags of
/// frontends.
#[derive(Clone, Copy)]
pub struct Setting {
    net: &'static Net,
    frontend_flags: u32,
    egress_mtu: u32,
}

impl Setting {
    /// A random one.
    pub fn random(random: &mut Random) -> Self {
        let net = random.of(&crate::packets::NETS);
        let flags = [
            0,
            0,
            FRONTEND_DROPS,
            FRONTEND_RECORDS_REPLIES,
            affinity_flags(24),
            affinity_flags(if net.is_v6() { 64 } else { 32 }) | FRONTEND_RECORDS_REPLIES,
        ];
        Self { net, frontend_flags: random.of(&flags), egress_mtu: random.of(&[1500, 1400, 1280]) }
    }

    /// The family.
    #[must_use]
    pub const fn net(&self) -> &'static Net {
        self.net
    }

    /// Random tables.
    pub fn world(&self, random: &mut Random) -> World {
        let net = self.net;
        let (cur, slots) = slot(random);
        let mut room = [RECORDS_MAX; 2];
        // No more established records than there is room for.
        let mut fits = |kind: usize, is_half: bool| {
            let fits = is_half || room[kind] > 0;
            room[kind] -= u32::from(fits && !is_half);
            fits
        };
        let mut flows = random.some(6, |random| flow(net, random));
        flows.retain(|flow| fits(0, flow.is_half));
        let mut replies = random.some(8, |random| reply(net, random));
        replies.retain(|reply| fits(1, reply.is_half));
        let whole = if net.is_v6() { 128 } else { 32 };
        let local = [
            net.containers,
            net.own,
            (net.client.ip(), whole, LOCAL_NODE),
            (net.vip.ip(), whole, LOCAL_PRIMARY),
        ];
        World {
            ring: (!random.percent(4)).then_some(cur),
            slots,
            more_slots: random.some(3, slot),
            frontend_flags: self.frontend_flags,
            backends: (1..=BACKENDS as u32)
                .map(|number| (number, backend_spec(net, random)))
                .collect(),
            flows,
            replies,
            reply_defaults: random.some(4, |random| reply_default(net, random)),
            local: local[..random.of(&[0, 2, 2, 3, 4])].to_vec(),
            flags: random.of(&[0, META_ROUTED_BACKENDS, META_REPLY_DEFAULTS, 3, 3, 3, 3])
                | random.of(&[0, META_ROUTES_REPLIES]),
            half_open_per_tick: random.of(&[0, 1, 16_384]),
            flow_room: random.of(&[0, 1, u32::MAX]),
            xdp_may_send: random.percent(90),
            egress_mtu: self.egress_mtu,
            records_max: RECORDS_MAX,
            ..net.world()
        }
    }
}
