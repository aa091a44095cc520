//! Decisions to forward, carried out.

use aya_ebpf::helpers::{bpf_redirect_neigh, bpf_redirect_peer};
use lb_common::{
    abi::{DropReason, META_ROUTES_REPLIES, Verdict},
    engine::{
        EditError, EditKind, Packet as _,
        answer::AnswerKind,
        commit, mtu,
        translate::{translate, translate_error},
    },
};

use super::{ANSWER, DROP, fail, packet::TcPacket};
use crate::{
    count::{self, HookNumber},
    fib::{self, FibAddress},
    maps::Scratch,
    tables::{FamilyMaps, Maps},
};

/// Every link carries packets of this size (RFC 791), so nobody has to be asked.
const BYTES_ALWAYS_CARRIED: u32 = 576;

/// Carries out a decision to forward. Without `ERRORS`, it is not on an ICMP error.
#[inline(always)]
pub fn forward<A: FamilyMaps + FibAddress, const ERRORS: bool>(
    packet: &mut TcPacket,
    hook: HookNumber,
    scratch: &mut Scratch<A>,
) -> i32 {
    match try_forward::<A, ERRORS>(packet, hook, scratch) {
        Ok(action) => action,
        Err(reason) => {
            fail::<A>(hook, reason);
            DROP
        }
    }
}

/// Whatever can fail without a trace comes before the first change.
#[inline(always)]
fn try_forward<A: FamilyMaps + FibAddress, const ERRORS: bool>(
    packet: &mut TcPacket,
    hook: HookNumber,
    scratch: &mut Scratch<A>,
) -> Result<i32, DropReason> {
    find_egress(packet, scratch)?;
    let Scratch { context, tags, headers, decision, egress_ifindex, egress_mtu, .. } = scratch;
    let ifindex = *egress_ifindex;
    let is_delivered = decision.verdict as u32 == Verdict::Deliver as u32;
    // Who receives does not enforce its MTU.
    if !is_delivered && headers.l3_bytes > BYTES_ALWAYS_CARRIED {
        let mtu =
            if *egress_mtu <= fib::MTU_UNKNOWN { packet.mtu_of(ifindex) } else { *egress_mtu };
        if mtu != 0 && !mtu::fits(packet, headers, packet.gso_bytes(), mtu) {
            let backend = decision.backend;
            decision.drop(DropReason::TooBig, backend);
            (decision.verdict, decision.answer) = (Verdict::Answer, AnswerKind::TooBig);
            decision.mtu = mtu;
            return Ok(ANSWER);
        }
    }
    commit(&Maps, decision)?;
    let length_bytes = packet.length_bytes() as u32;
    let edited = match decision.edit {
        EditKind::Error if ERRORS => translate_error(packet, &decision.error),
        _ => translate(packet, &decision.translation),
    };
    edited.map_err(|EditError| DropReason::EditFailed)?;
    if *tags != 0 {
        packet.remove_tags(*tags).map_err(|EditError| DropReason::EditFailed)?;
    }
    count::forwarded(hook, context, headers, decision, length_bytes);
    // SAFETY: both helpers only note where the packet goes once the program has returned.
    let action = unsafe {
        if is_delivered {
            bpf_redirect_peer(ifindex, 0)
        } else {
            bpf_redirect_neigh(ifindex, core::ptr::null_mut(), 0, 0)
        }
    };
    Ok(action as i32)
}

/// Where a packet leaves, and the MTU of the way there, if the routing table says it.
#[inline(always)]
fn find_egress<A: FamilyMaps + FibAddress>(
    packet: &TcPacket,
    scratch: &mut Scratch<A>,
) -> Result<(), DropReason> {
    let Scratch { context, headers, decision, egress_ifindex, egress_mtu, .. } = scratch;
    let is_error = decision.edit as u32 == EditKind::Error as u32;
    let address = if is_error { decision.error.address } else { decision.translation.address };
    // Where the client has come in, of a reply.
    (*egress_ifindex, *egress_mtu) = (decision.ifindex, 0);
    let (source, destination) = match decision.verdict {
        Verdict::Route => (headers.source, address),
        // A node with several front interfaces, or a client in a VLAN.
        Verdict::Reply
            if decision.ifindex == 0 || context.meta_flags & META_ROUTES_REPLIES != 0 =>
        {
            (address, headers.destination)
        }
        _ => return Ok(()),
    };
    match fib::next_hop(packet.skb(), context, headers, source, destination, 0) {
        Ok(hop) => (*egress_ifindex, *egress_mtu) = (hop.ifindex, hop.mtu),
        Err(reason) if decision.ifindex == 0 => return Err(reason),
        Err(_) => {}
    }
    Ok(())
}
