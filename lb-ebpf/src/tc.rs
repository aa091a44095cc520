//! TC: packets as socket buffers, checksums by helper, delivery by redirect.
//!
//! "Not ours" is `TC_ACT_UNSPEC` (-1), under which both TCX and clsact go on with the next program;
//! `TC_ACT_OK` would end TCX's chain.

use aya_ebpf::{
    bindings::{
        BPF_F_MARK_MANGLED_0, BPF_F_PSEUDO_HDR, TC_ACT_SHOT, TC_ACT_UNSPEC,
        bpf_adj_room_mode::BPF_ADJ_ROOM_MAC,
    },
    helpers::{bpf_csum_update, bpf_redirect_neigh, bpf_redirect_peer, bpf_skb_change_tail},
    macros::classifier,
    programs::TcContext,
};
use lb_common::{
    abi::{DropReason, Hook, Verdict},
    engine::{
        Context, Decision, EditError, Packet,
        answer::Rebuild,
        checksum,
        checksum::Change,
        commit,
        edit::translate_v4,
        front_v4, reply_v4,
        translate::{Rewrite, TCP_CHECKSUM_OFFSET, UDP_CHECKSUM_OFFSET},
        wire::{PROTOCOL_TCP, TCP_HEADER_BYTES, UDP_HEADER_BYTES},
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
            let source = packet.source().ok_or(DropReason::EditFailed)?;
            fib::next_hop(packet.context(), context, source, edit.address, tos)?.ifindex
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
    fn source(&self) -> Option<lb_common::abi::NetU32> {
        let bytes = self.window::<4>(26)?;
        Some(lb_common::abi::NetU32::from_wire(*bytes))
    }

    #[inline(always)]
    fn pointer<const N: usize>(&self, offset: usize) -> Option<*mut [u8; N]> {
        window::pointer(self.ctx.data(), self.ctx.data_end(), offset)
    }

    /// By a window of the whole header: the verifier does not follow a sum of several offsets.
    #[inline(always)]
    fn checksum_field(&self, is_tcp: bool, l4_offset: usize) -> Option<u32> {
        if is_tcp {
            let tcp = self.window::<TCP_HEADER_BYTES>(l4_offset)?;
            Some(u32::from(u16::from_ne_bytes([tcp[16], tcp[17]])))
        } else {
            let udp = self.window::<UDP_HEADER_BYTES>(l4_offset)?;
            Some(u32::from(u16::from_ne_bytes([udp[6], udp[7]])))
        }
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

impl Rewrite for TcPacket {
    /// By helper, for the same reasons; the flag turns a sum of 0 into 0xffff.
    #[inline(always)]
    fn fix_udp_checksum(&mut self, offset: usize, change: Change) -> Result<(), EditError> {
        let mangled = u64::from(BPF_F_MARK_MANGLED_0);
        if !checksum::is_neutral(change.pseudo) {
            let flags = u64::from(BPF_F_PSEUDO_HDR) | mangled;
            self.ctx
                .skb
                .l4_csum_replace(offset, 0, u64::from(change.pseudo), flags)
                .map_err(|_| EditError)?;
        }
        if !checksum::is_neutral(change.payload) {
            self.ctx
                .skb
                .l4_csum_replace(offset, 0, u64::from(change.payload), mangled)
                .map_err(|_| EditError)?;
        }
        Ok(())
    }

    /// The helper does nothing, and says so, when there is no such sum (`CHECKSUM_COMPLETE`).
    #[inline(always)]
    fn fix_device_sum(&mut self, difference: u32) {
        // SAFETY: the context is valid while the program runs.
        unsafe { bpf_csum_update(self.context(), difference) };
    }
}

impl Rebuild for TcPacket {
    /// A difference outside the pseudo header leaves a `CHECKSUM_PARTIAL` field alone.
    #[inline(always)]
    fn has_unfinished_checksum(
        &mut self,
        protocol: u32,
        l4_offset: usize,
    ) -> Result<bool, EditError> {
        const DIFFERENCE: u32 = 1;
        let is_tcp = protocol == PROTOCOL_TCP;
        let offset = l4_offset + if is_tcp { TCP_CHECKSUM_OFFSET } else { UDP_CHECKSUM_OFFSET };
        let before = self.checksum_field(is_tcp, l4_offset).ok_or(EditError)?;
        let there = self.ctx.skb.l4_csum_replace(offset, 0, u64::from(DIFFERENCE), 0);
        there.map_err(|_| EditError)?;
        if self.checksum_field(is_tcp, l4_offset).ok_or(EditError)? == before {
            return Ok(true);
        }
        let back = self.ctx.skb.l4_csum_replace(offset, 0, u64::from(!DIFFERENCE), 0);
        back.map_err(|_| EditError)?;
        Ok(false)
    }

    /// Growing makes the kernel forget a device's sum, which writing all headers anew would void.
    /// `bpf_skb_adjust_room` refuses frames that have a tag in their bytes, beside the one that the kernel
    /// takes off: those get resets and echo replies only.
    #[inline(always)]
    fn resize(
        &mut self,
        _l3_offset: usize,
        kept_bytes: usize,
        added_bytes: usize,
    ) -> Result<(), EditError> {
        const GROWTH_BYTES: u32 = 4;
        let skb = self.context();
        let kept_bytes = kept_bytes as u32;
        // SAFETY: the context is valid while the program runs; windows are taken anew afterwards.
        let result = unsafe {
            bpf_skb_change_tail(skb, kept_bytes, 0)
                | bpf_skb_change_tail(skb, kept_bytes + GROWTH_BYTES, 0)
                | bpf_skb_change_tail(skb, kept_bytes, 0)
        };
        if result != 0 {
            return Err(EditError);
        }
        if added_bytes != 0 {
            let added_bytes = added_bytes as i32;
            self.ctx.skb.adjust_room(added_bytes, BPF_ADJ_ROOM_MAC, 0).map_err(|_| EditError)?;
        }
        Ok(())
    }
}
