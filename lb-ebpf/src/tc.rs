//! TC: packets as socket buffers, checksums by helper, delivery by redirect.
//!
//! "Not ours" is `TC_ACT_UNSPEC` (-1), under which both TCX and clsact go on with the next program;
//! `TC_ACT_OK` would end TCX's chain.
//!
//! A packet passes through stages ([`stages`]): parse, decide, forward or answer. What they hand on is
//! in a per-CPU map, since the kernel's stack holds 512 bytes for a program and all that it calls.

mod answers;
mod forward;
mod packet;
mod stages;

use aya_ebpf::{
    bindings::{__sk_buff, TC_ACT_SHOT, TC_ACT_UNSPEC},
    macros::classifier,
    programs::TcContext,
};
use lb_common::{
    abi::{DropReason, Hook, NetAddr6, NetU32, Verdict},
    engine::{
        commit, may_concern_front,
        wire::{HEADER_BYTES_MAX, Link, Network, USUAL_HEADER_BYTES, link},
    },
};

use self::{packet::TcPacket, stages::Stages};
use crate::{
    count, log,
    maps::Scratch,
    tables::{FamilyMaps, Maps},
    trace,
};

const PASS: i32 = TC_ACT_UNSPEC;
const DROP: i32 = TC_ACT_SHOT as i32;
/// Not an action of TC: the packet is to be answered.
const ANSWER: i32 = -1000;
/// Not an action of TC: the packet has no ports.
const OTHER: i32 = -1001;
/// Not an action of TC: the packet is to be forwarded.
const FORWARD: i32 = -1002;

/// Packets from clients, and replies of routed backends.
#[classifier]
pub fn lb_tc_front(ctx: TcContext) -> i32 {
    let packet = TcPacket::new(ctx.skb.skb);
    // A switch floods frames of unknown receivers, and a promiscuous interface takes them: they are
    // another machine's. What a container sends is for the bridge, never for its veth.
    if !packet.is_for_this_machine() {
        return PASS;
    }
    start(&packet, Hook::TcFront)
}

/// Packets that containers send.
#[classifier]
pub fn lb_tc_reply(ctx: TcContext) -> i32 {
    start(&TcPacket::new(ctx.skb.skb), Hook::TcReply)
}

#[inline(always)]
fn start(packet: &TcPacket, hook: Hook) -> i32 {
    if !packet.make_readable(USUAL_HEADER_BYTES) {
        return PASS;
    }
    let link = link(packet, packet.tags_beside());
    if link.tags != 0 && !packet.make_readable(HEADER_BYTES_MAX as u32) {
        return PASS;
    }
    match link.network {
        Network::V4 => run::<NetU32>(packet, hook, &link),
        Network::V6 => run::<NetAddr6>(packet, hook, &link),
        Network::Other => PASS,
    }
}

#[inline(always)]
fn run<A: Stages>(packet: &TcPacket, hook: Hook, link: &Link) -> i32 {
    let is_front = matches!(hook, Hook::TcFront);
    let Some(meta) = count::meta() else { return PASS };
    if is_front && !may_concern_front::<A, _, _>(packet, link.l3_offset, &Maps, meta.flags) {
        count::verdict(hook as u32, Verdict::Pass);
        return PASS;
    }
    let skb = packet.skb();
    let tags = link.tags + packet.tags_beside();
    let ingress_ifindex = packet.ingress_ifindex();
    // The interface itself would send without the tags.
    let reply_ifindex = if tags == 0 { ingress_ifindex } else { 0 };
    let Some(scratch) = A::scratch() else { return PASS };
    scratch.context = count::context(meta, ingress_ifindex, reply_ifindex);
    let is_traced = trace::is_on(meta.flags);
    scratch.tags = tags;
    let mut action = A::with_ports(skb, link.l3_offset as u32, hook as u32);
    if action == OTHER && packet.lacks(HEADER_BYTES_MAX as u32) {
        if !packet.make_readable(HEADER_BYTES_MAX as u32) {
            return PASS;
        }
        action = A::with_ports(skb, link.l3_offset as u32, hook as u32);
    }
    if action == OTHER {
        match hook {
            Hook::TcReply => A::reply_other(skb),
            _ => A::front_other(skb),
        };
        action = settle(skb, hook, scratch);
        if action == FORWARD {
            action = A::forward(skb, hook as u32);
        }
    }
    if action == ANSWER {
        action = finish::<A>(skb, hook);
    }
    if is_traced {
        A::tell(hook as u32);
    }
    action
}

/// Carries a decision out, if it is not to forward or to answer.
#[inline(always)]
fn settle<A: FamilyMaps>(skb: *mut __sk_buff, hook: Hook, scratch: &mut Scratch<A>) -> i32 {
    let Scratch { context, decision, .. } = scratch;
    log::decision(skb, hook, decision);
    match decision.verdict {
        Verdict::Pass => {
            if decision.has_doubt() {
                decision.settle_doubt(TcPacket::new(skb).is_of_connection());
                if decision.verdict as u32 != Verdict::Pass as u32 {
                    return FORWARD;
                }
            }
            // What a reply shows may be that its record is somebody else's, or that it is no reply.
            if let Err(reason) = commit(&Maps, decision) {
                fail::<A>(hook as u32, reason);
                return DROP;
            }
            count::refused(context, decision.refusing);
            count::verdict(hook as u32, Verdict::Pass);
            PASS
        }
        Verdict::Drop => {
            count::drop(hook as u32, decision.reason);
            DROP
        }
        Verdict::Answer => ANSWER,
        _ => FORWARD,
    }
}

/// Answers a packet, or drops it.
#[inline(always)]
fn finish<A: Stages>(skb: *mut __sk_buff, hook: Hook) -> i32 {
    let Some(Scratch { decision, .. }) = A::scratch() else { return DROP };
    let (unanswered, reason) = (decision.unanswered(), decision.reason);
    let action = A::answer(skb);
    if action == DROP {
        fail::<A>(hook as u32, unanswered);
    } else {
        count::reason(reason);
        count::verdict(hook as u32, Verdict::Answer);
    }
    action
}

/// Drops a packet for which something else was decided.
#[inline(always)]
fn fail<A: FamilyMaps>(hook: u32, reason: DropReason) {
    count::drop(hook, reason);
    let Some(Scratch { decision, .. }) = A::scratch() else { return };
    let backend = decision.backend;
    decision.drop(reason, backend);
}
