//! TC: packets as socket buffers, checksums by helper, delivery by redirect.
//!
//! "Not ours" is `TC_ACT_UNSPEC` (-1), under which both TCX and clsact go on with the next program;
//! `TC_ACT_OK` would end TCX's chain.

use aya_ebpf::{
    bindings::{BPF_F_PSEUDO_HDR, TC_ACT_SHOT, TC_ACT_UNSPEC},
    helpers::{bpf_redirect_neigh, bpf_redirect_peer},
    macros::classifier,
    programs::TcContext,
};
use lb_common::{
    abi::{DropReason, Hook, NetU32, Verdict},
    engine::{
        Context, Decision, EditError, Packet, checksum, checksum::Change, commit,
        edit::translate_v4, front_v4, reply_v4,
    },
};

use crate::{count, fib, maps::Maps, trace, window};

/// `pkt_type` of a frame whose receiver is this interface.
const PACKET_HOST: u32 = 0;
const PASS: i32 = TC_ACT_UNSPEC;
const DROP: i32 = TC_ACT_SHOT as i32;
/// Bytes that must be readable directly: Ethernet, IPv4 with options, TCP with options.
const HEADER_BYTES_MAX: u32 = 14 + 60 + 60;

/// Packets from clients, and replies of routed backends.
#[classifier]
pub fn lb_tc_front(ctx: TcContext) -> i32 {
    run(TcPacket::new(ctx), Hook::TcFront)
}

/// Packets that containers send.
#[classifier]
pub fn lb_tc_reply(ctx: TcContext) -> i32 {
    run(TcPacket::new(ctx), Hook::TcReply)
}

#[inline(always)]
fn run(mut packet: TcPacket, hook: Hook) -> i32 {
    // A tag that the kernel has taken off is no longer in the bytes; the packet belongs to a VLAN
    // interface, not to this one.
    if packet.is_tagged() || !packet.make_headers_readable() {
        return PASS;
    }
    // A switch floods frames of unknown receivers, and a promiscuous interface takes them: they are
    // another machine's. What a container sends is for the bridge, never for its veth.
    if matches!(hook, Hook::TcFront) && !packet.is_for_this_machine() {
        return PASS;
    }
    let Some(context) = count::context(packet.ingress_ifindex()) else { return PASS };
    let decision = match hook {
        Hook::TcReply => reply_v4(&packet, &Maps, &context),
        _ => front_v4(&packet, &Maps, &context),
    };
    trace::decision(&packet.ctx, hook, &decision);
    match apply(&mut packet, hook, &context, &decision) {
        Ok(action) => action,
        Err(reason) => {
            count::drop(hook, reason);
            DROP
        }
    }
}

/// Carries a decision out. Whatever can fail without a trace comes before the first change.
#[inline(always)]
fn apply(
    packet: &mut TcPacket,
    hook: Hook,
    context: &Context,
    decision: &Decision,
) -> Result<i32, DropReason> {
    let Some(edit) = &decision.edit else {
        if decision.verdict as u32 == Verdict::Drop as u32 {
            return Err(decision.reason);
        }
        commit(&Maps, decision)?;
        count::verdict(hook, Verdict::Pass);
        return Ok(PASS);
    };
    let egress_ifindex = match decision.verdict {
        Verdict::Route => {
            let tos = packet.window::<16>(0).map_or(0, |start| start[15]);
            let source = packet.address_at(26).ok_or(DropReason::EditFailed)?;
            fib::next_hop(packet.context(), context, source, edit.address, tos)?.ifindex
        }
        // The default of a node with several front interfaces.
        Verdict::Reply if decision.ifindex == 0 => {
            let tos = packet.window::<16>(0).map_or(0, |start| start[15]);
            let client = packet.address_at(30).ok_or(DropReason::EditFailed)?;
            fib::next_hop(packet.context(), context, edit.address, client, tos)?.ifindex
        }
        _ => decision.ifindex,
    };
    commit(&Maps, decision)?;
    let length_bytes = packet.length_bytes() as u32;
    translate_v4(packet, edit).map_err(|EditError| DropReason::EditFailed)?;
    count::forwarded(hook, decision, length_bytes);
    // SAFETY: both helpers only note where the packet goes once the program has returned.
    let action = unsafe {
        match decision.verdict {
            Verdict::Deliver => bpf_redirect_peer(egress_ifindex, 0),
            _ => bpf_redirect_neigh(egress_ifindex, core::ptr::null_mut(), 0, 0),
        }
    };
    Ok(action as i32)
}

/// A socket buffer.
struct TcPacket {
    ctx: TcContext,
}

impl TcPacket {
    #[inline(always)]
    fn new(ctx: TcContext) -> Self {
        Self { ctx }
    }

    #[inline(always)]
    fn context(&self) -> *mut aya_ebpf::bindings::__sk_buff {
        self.ctx.skb.skb
    }

    #[inline(always)]
    fn is_tagged(&self) -> bool {
        // SAFETY: the context is valid while the program runs.
        unsafe { (*self.ctx.skb.skb).vlan_present != 0 }
    }

    #[inline(always)]
    fn is_for_this_machine(&self) -> bool {
        // SAFETY: as above.
        unsafe { (*self.ctx.skb.skb).pkt_type == PACKET_HOST }
    }

    #[inline(always)]
    fn ingress_ifindex(&self) -> u32 {
        // SAFETY: as above. At TC ingress this is the interface that the program is attached to.
        unsafe { (*self.ctx.skb.skb).ifindex }
    }

    /// Drivers may leave headers in fragments; they are pulled into the linear part when needed.
    #[inline(always)]
    fn make_headers_readable(&self) -> bool {
        let wanted = self.ctx.len().min(HEADER_BYTES_MAX);
        let readable = (self.ctx.data_end() - self.ctx.data()) as u32;
        readable >= wanted || self.ctx.skb.pull_data(wanted).is_ok()
    }

    #[inline(always)]
    fn address_at(&self, offset: usize) -> Option<NetU32> {
        Some(NetU32::from_wire(*self.window::<4>(offset)?))
    }

    #[inline(always)]
    fn pointer<const N: usize>(&self, offset: usize) -> Option<*mut [u8; N]> {
        window::pointer(self.ctx.data(), self.ctx.data_end(), offset)
    }
}

impl Packet for TcPacket {
    #[inline(always)]
    fn length_bytes(&self) -> usize {
        self.ctx.len() as usize
    }

    #[inline(always)]
    fn window<const N: usize>(&self, offset: usize) -> Option<&[u8; N]> {
        // SAFETY: the bytes are within the packet, as the verifier checks once more.
        self.pointer(offset).map(|pointer| unsafe { &*pointer })
    }

    #[inline(always)]
    fn window_mut<const N: usize>(&mut self, offset: usize) -> Option<&mut [u8; N]> {
        // SAFETY: as above; `&mut self` makes it the only window.
        self.pointer(offset).map(|pointer| unsafe { &mut *pointer })
    }

    /// By helper: the field of a packet from this machine holds only the pseudo header's sum
    /// (`CHECKSUM_PARTIAL`), and the sum that a device delivered (`CHECKSUM_COMPLETE`) must follow;
    /// the bytes do not show which.
    #[inline(always)]
    fn fix_l4_checksum(&mut self, offset: usize, change: Change) -> Result<(), EditError> {
        // Size 0 in the flags: the last argument is a difference.
        if !checksum::is_neutral(change.pseudo) {
            let flags = u64::from(BPF_F_PSEUDO_HDR);
            self.ctx
                .skb
                .l4_csum_replace(offset, 0, u64::from(change.pseudo), flags)
                .map_err(|_| EditError)?;
        }
        if !checksum::is_neutral(change.payload) {
            self.ctx
                .skb
                .l4_csum_replace(offset, 0, u64::from(change.payload), 0)
                .map_err(|_| EditError)?;
        }
        Ok(())
    }
}
