//! Runs a case on the host's engine.

use std::collections::HashMap;

use lb_common::{
    abi::{
        DropReason, FAMILY_V4, FlowRecord, Frontend, FrontendKeyV4, PROTOCOL_TCP, RingDescriptor,
        Slot, Verdict, ring_number,
    },
    engine::{
        Context, front_v4,
        host::{HostPacket, HostTables, run},
        reply_v4,
    },
};

use super::{
    Case, INGRESS_IFINDEX, KnownFlow, Program, RING_SIZE, World, builder::MACS, frontends,
};

const NOW_TICK: u32 = 100_000;

/// Runs a case and compares.
///
/// # Panics
///
/// When anything is not as the case says.
pub fn run_on_host(case: &Case) {
    let tables = tables(&case.world);
    let context = Context {
        now_tick: NOW_TICK,
        ingress_ifindex: INGRESS_IFINDEX,
        hash_seed: 7,
        meta_flags: case.world.flags,
    };
    for (index, step) in case.steps.iter().enumerate() {
        // XDP decides by the same function as TC; what it leaves to TC only the kernel's run shows.
        if step.program == Program::XdpFront {
            continue;
        }
        // Nor does the engine see whose frame it is: TC does, from the socket buffer.
        if !step.input.starts_with(&MACS.0) {
            continue;
        }
        let mut packet = HostPacket(step.input.clone());
        let decision =
            run(&mut packet, &tables, &context, |packet, tables, context| match step.program {
                Program::TcReply => reply_v4(packet, tables, context),
                _ => front_v4(packet, tables, context),
            });
        let place = format!("case `{}`, packet {index}", case.name);
        // The routing table is the kernel's.
        let (verdict, reason) = match step.reason {
            DropReason::NoRoute | DropReason::ForwardingDisabled => {
                (Verdict::Route, DropReason::None)
            }
            reason => (step.verdict, reason),
        };
        assert_eq!((decision.verdict, decision.reason), (verdict, reason), "{place}");
        if step.reason == reason && verdict != Verdict::Drop {
            assert_eq!(&packet.0, step.output.as_ref().unwrap_or(&step.input), "{place}");
        }
    }
    if case.steps.iter().any(|step| step.program == Program::XdpFront || is_by_kernel(step.reason))
    {
        return;
    }
    let flows: HashMap<_, _> =
        tables.flows_v4.borrow().iter().map(|(key, record)| (*key, known(*key, record))).collect();
    let expected: HashMap<_, _> = case.flows_after.iter().map(|flow| (flow.key, *flow)).collect();
    assert_eq!(flows, expected, "case `{}`: recorded flows", case.name);
    let replies = tables.replies_v4.borrow();
    assert_eq!(replies.len(), case.replies_after.len(), "case `{}`: {replies:#?}", case.name);
    for key in &case.replies_after {
        assert!(replies.contains_key(key), "case `{}`: no {key:?} in {replies:#?}", case.name);
    }
}

fn is_by_kernel(reason: DropReason) -> bool {
    matches!(reason, DropReason::NoRoute | DropReason::ForwardingDisabled)
}

fn known(key: lb_common::abi::FlowKeyV4, record: &FlowRecord) -> KnownFlow {
    KnownFlow {
        key,
        backend: record.backend,
        generation: record.generation,
        age_ticks: NOW_TICK - record.last_seen_tick,
        class: record.class,
    }
}

fn tables(world: &World) -> HostTables {
    let ring = ring_number(0, FAMILY_V4, PROTOCOL_TCP);
    let frontend = Frontend { ring, ..Frontend::default() };
    let vips = frontends::vips(&frontends::of_cases()).into_iter();
    let is_single = |(key, last, _): &(FrontendKeyV4, u16, u32)| key.port.get() == *last;
    let single = frontends::of_cases().into_iter().filter(is_single).map(|(key, ..)| key);
    let wide = frontends::of_cases().into_iter().filter(|it| !is_single(it));
    let tables = HostTables {
        frontends_v4: single.chain(vips).map(|key| (key, frontend)).collect(),
        wide_frontends_v4: wide.map(|(key, last, _)| (key, last, frontend)).collect(),
        rings: world
            .ring
            .map(|_| (ring, RingDescriptor::new(0, RING_SIZE, 1)))
            .into_iter()
            .collect(),
        slots: vec![Slot::plain(world.ring.unwrap_or(0)); RING_SIZE as usize],
        backends_v4: world.backends.iter().copied().collect(),
        records_max: world.records_max as usize,
        ..HostTables::default()
    };
    for flow in &world.flows {
        tables.flows_v4.borrow_mut().insert(
            flow.key,
            FlowRecord {
                backend: flow.backend,
                generation: flow.generation,
                last_seen_tick: NOW_TICK - flow.age_ticks,
                class: flow.class,
            },
        );
    }
    tables.replies_v4.borrow_mut().extend(world.replies.iter().copied());
    tables
}
