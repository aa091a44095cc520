//! Runs a case on the host's engine.

use lb_common::{
    abi::{
        DropReason, FAMILY_V4, Frontend, Limits, PROTOCOL_TCP, ReplyRecordV4, RingDescriptor,
        Verdict, ring_number,
    },
    engine::{
        Context, front_v4,
        host::{HostPacket, HostTables, run},
        reply_v4,
    },
};

use super::{
    Case, INGRESS_IFINDEX, KnownFlow, KnownReply, Program, RING_SIZE, World, builder::MACS,
    cases::frontend_keys,
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
    let mut flows = Vec::new();
    for (table, is_half) in [(&tables.flows_v4, false), (&tables.half_flows_v4, true)] {
        flows.extend(table.borrow().iter().map(|(key, record)| KnownFlow {
            key: *key,
            backend: record.backend,
            generation: record.generation,
            age_ticks: NOW_TICK - record.last_seen_tick,
            class: record.class,
            is_half,
        }));
    }
    let mut replies = Vec::new();
    for (table, is_half) in [(&tables.replies_v4, false), (&tables.half_replies_v4, true)] {
        replies.extend(table.borrow().iter().map(|(key, record)| KnownReply {
            key: *key,
            age_ticks: NOW_TICK - record.last_seen_tick,
            record: ReplyRecordV4 { last_seen_tick: 0, ..*record },
            is_half,
        }));
    }
    compare(case, &flows, &replies);
}

/// Compares what is recorded with what a case expects.
///
/// # Panics
///
/// When anything is not as the case says.
pub(super) fn compare(case: &Case, flows: &[KnownFlow], replies: &[KnownReply]) {
    let name = case.name;
    for flow in flows {
        assert!(case.flows_after.contains(flow), "case `{name}`: {flow:#?} is recorded");
    }
    for flow in &case.flows_after {
        assert!(flows.contains(flow), "case `{name}`: {flow:#?} is missing, there is {flows:#?}");
    }
    for reply in replies {
        assert!(case.replies_after.contains(reply), "case `{name}`: {reply:#?} is recorded");
    }
    for reply in &case.replies_after {
        assert!(replies.contains(reply), "case `{name}`: {reply:#?} is missing of {replies:#?}");
    }
}

fn is_by_kernel(reason: DropReason) -> bool {
    matches!(reason, DropReason::NoRoute | DropReason::ForwardingDisabled)
}

fn tables(world: &World) -> HostTables {
    let ring = ring_number(0, FAMILY_V4, PROTOCOL_TCP);
    let frontend = Frontend { ring, flags: world.frontend_flags, ..Frontend::default() };
    let slot = world.slots.slot(world.ring.unwrap_or(0), NOW_TICK);
    let tables = HostTables {
        frontends_v4: frontend_keys().into_iter().map(|key| (key, frontend)).collect(),
        rings: world
            .ring
            .map(|_| (ring, RingDescriptor::new(0, RING_SIZE, 1)))
            .into_iter()
            .collect(),
        slots: vec![slot; RING_SIZE as usize],
        backends_v4: world.backends.iter().copied().collect(),
        reply_defaults_v4: world.reply_defaults.iter().copied().collect(),
        local_v4: world.local.clone(),
        ..HostTables::with_room(Limits::with_cpus(1), world.records_max as usize, 1024)
    };
    for flow in &world.flows {
        let table = if flow.is_half { &tables.half_flows_v4 } else { &tables.flows_v4 };
        table.borrow_mut().put(flow.key, flow.record(NOW_TICK)).expect("there is room");
    }
    for reply in &world.replies {
        let table = if reply.is_half { &tables.half_replies_v4 } else { &tables.replies_v4 };
        let record = ReplyRecordV4 { last_seen_tick: NOW_TICK - reply.age_ticks, ..reply.record };
        table.borrow_mut().put(reply.key, record).expect("there is room");
    }
    tables
}
