//! XDP: flows whose backend is on another machine, and the replies of those backends.
//!
//! Everything else goes on to TC untouched, also what only TC can do right: local delivery, next
//! hops whose neighbour is unknown, interfaces that XDP must not send to, and packets whose checksum
//! the sender left to a device.

use aya_ebpf::{
    bindings::xdp_action::{XDP_DROP, XDP_PASS, XDP_TX},
    helpers::bpf_redirect,
    macros::xdp,
    programs::XdpContext,
};
use lb_common::{
    abi::{DropReason, Hook, NetU32, Verdict},
    engine::{
        Context, Decision, ETHERNET_HEADER_BYTES, EditError, Packet, Side, checksum,
        checksum::Change,
        commit,
        edit::{TCP_CHECKSUM_OFFSET, translate_v4},
        front_v4, may_concern_front_v4,
    },
};

use crate::{
    count, fib,
    fib::NextHop,
    maps::{Maps, XDP_EGRESS},
    trace, window,
};

/// Packets from clients, and replies of routed backends.
#[xdp]
pub fn lb_xdp_front(ctx: XdpContext) -> u32 {
    let mut packet = XdpPacket { ctx };
    if !may_concern_front_v4(&packet, &Maps, count::meta_flags()) {
        return XDP_PASS;
    }
    let Some(context) = count::context(packet.ctx.ingress_ifindex() as u32) else {
        return XDP_PASS;
    };
    let decision = front_v4(&packet, &Maps, &context);
    trace::decision(&packet.ctx, Hook::Xdp, &decision);
    match apply(&mut packet, &context, &decision) {
        Ok(action) => action,
        Err(reason) => {
            count::drop(Hook::Xdp, reason);
            XDP_DROP
        }
    }
}

/// Carries a decision out, or leaves the packet to TC before anything has changed.
#[inline(always)]
fn apply(
    packet: &mut XdpPacket,
    context: &Context,
    decision: &Decision,
) -> Result<u32, DropReason> {
    let Some(edit) = &decision.edit else {
        if decision.verdict as u32 == Verdict::Drop as u32 {
            return Err(decision.reason);
        }
        return Ok(XDP_PASS);
    };
    if decision.verdict as u32 == Verdict::Deliver as u32
        || packet.has_partial_checksum(edit.l4_offset)
    {
        return Ok(XDP_PASS);
    }
    let Some((source, destination, tos)) = packet.addresses() else { return Ok(XDP_PASS) };
    let (source, destination) = match edit.side {
        Side::Source => (edit.address, destination),
        Side::Destination => (source, edit.address),
    };
    let Ok(NextHop { ifindex, macs: Some(macs) }) =
        fib::next_hop(packet.ctx.ctx, context, source, destination, tos)
    else {
        return Ok(XDP_PASS);
    };
    let is_same = ifindex == context.ingress_ifindex;
    if !is_same && XDP_EGRESS.get(ifindex).copied().unwrap_or(0) == 0 {
        return Ok(XDP_PASS);
    }
    commit(&Maps, decision)?;
    let length_bytes = packet.length_bytes() as u32;
    translate_v4(packet, edit).map_err(|EditError| DropReason::EditFailed)?;
    packet.write_macs(macs).ok_or(DropReason::EditFailed)?;
    count::forwarded(Hook::Xdp, decision, length_bytes);
    if is_same {
        return Ok(XDP_TX);
    }
    // SAFETY: the helper only notes where the packet goes once the program has returned.
    Ok(unsafe { bpf_redirect(ifindex, 0) } as u32)
}

/// A frame.
struct XdpPacket {
    ctx: XdpContext,
}

impl XdpPacket {
    #[inline(always)]
    fn pointer<const N: usize>(&self, offset: usize) -> Option<*mut [u8; N]> {
        window::pointer(self.ctx.data(), self.ctx.data_end(), offset)
    }

    /// Source, destination and type of service.
    #[inline(always)]
    fn addresses(&self) -> Option<(NetU32, NetU32, u8)> {
        let header = self.window::<20>(ETHERNET_HEADER_BYTES)?;
        Some((
            NetU32::from_wire([header[12], header[13], header[14], header[15]]),
            NetU32::from_wire([header[16], header[17], header[18], header[19]]),
            header[1],
        ))
    }

    /// Whether the TCP checksum may be `CHECKSUM_PARTIAL`: a sender on this machine leaves the sum of
    /// the pseudo header in the field, for a device to finish. XDP has no way to say so, and the
    /// arithmetic for such a field has the opposite sign; so whatever looks like it goes to TC, where
    /// helpers know. One in 65,536 complete checksums looks like it, too, and takes the longer way.
    #[inline(always)]
    fn has_partial_checksum(&self, l4_offset: usize) -> bool {
        let Some(header) = self.window::<20>(ETHERNET_HEADER_BYTES) else { return true };
        let Some(field) = self.window::<2>(l4_offset + TCP_CHECKSUM_OFFSET) else { return true };
        let total_length = u16::from_be_bytes([header[2], header[3]]);
        if total_length == 0 {
            // IPv4 BIG TCP: beyond what the field and a frame can hold.
            return true;
        }
        let header_bytes = (l4_offset - ETHERNET_HEADER_BYTES) as u16;
        let tcp_bytes = total_length.wrapping_sub(header_bytes);
        let word = |at: usize| {
            u32::from_ne_bytes([header[at], header[at + 1], header[at + 2], header[at + 3]])
        };
        let mut sum = checksum::add(word(12), word(16));
        sum = checksum::add(sum, u32::from(u16::from_ne_bytes([0, header[9]])));
        sum = checksum::add(sum, u32::from(tcp_bytes.to_be()));
        checksum::fold(sum) == u16::from_ne_bytes(*field)
    }

    #[inline(always)]
    fn write_macs(&mut self, macs: [u16; 6]) -> Option<()> {
        let start = self.pointer::<12>(0)?.cast::<u16>();
        for (index, word) in macs.into_iter().enumerate() {
            // SAFETY: twelve bytes were checked; volatile keeps the stores apart (see `fib::macs`).
            unsafe { start.add(index).write_volatile(word) };
        }
        Some(())
    }
}

impl Packet for XdpPacket {
    #[inline(always)]
    fn length_bytes(&self) -> usize {
        self.ctx.data_end() - self.ctx.data()
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

    /// By arithmetic: `has_partial_checksum` has kept back what is not complete.
    #[inline(always)]
    fn fix_l4_checksum(&mut self, offset: usize, change: Change) -> Result<(), EditError> {
        checksum::rewrite(self.window_mut::<2>(offset).ok_or(EditError)?, change);
        Ok(())
    }
}
