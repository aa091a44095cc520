//! XDP: flows whose backend is on another machine, and the replies of those backends; and the
//! cheapest place to drop what must be dropped.
//!
//! Everything else goes on to TC untouched, also what only TC can do right: local delivery, next
//! hops whose neighbour is unknown, packets beyond the MTU, interfaces that XDP must not send to,
//! answers, ICMP errors, VLANs, and packets whose checksum the sender left to a device. Frames for
//! another machine, for a group, or for another address of this one pass, and TC judges them.

use aya_ebpf::{
    bindings::{
        xdp_action::{XDP_DROP, XDP_PASS, XDP_TX},
        xdp_md,
    },
    helpers::bpf_redirect,
    macros::xdp,
    programs::XdpContext,
};
use lb_common::{
    abi::{DropReason, Hook, NetAddr6, NetU32, Verdict, XdpInterface},
    engine::{
        Context, Decision, EditError, Packet, Rewrite, Side, checksum,
        checksum::Change,
        commit, front_transport, may_concern_front,
        translate::{rewrite_udp_checksum, translate},
        wire::{
            ETHERNET_HEADER_BYTES, Headers, Network, PROTOCOL_TCP, TCP_HEADER_BYTES,
            UDP_HEADER_BYTES, link,
        },
    },
};

use crate::{
    count, fib,
    fib::{FibAddress, NextHop},
    log,
    maps::{Scratch, XDP_INTERFACES},
    tables::{FamilyMaps, Maps},
    trace,
    trace::Traced,
    window,
};

/// Packets from clients, and replies of routed backends.
#[xdp]
pub fn lb_xdp_front(ctx: XdpContext) -> u32 {
    let packet = XdpPacket { md: ctx.ctx };
    let link = link(&packet, 0);
    // VLAN tags need an interface that puts them back.
    if link.tags != 0 {
        return XDP_PASS;
    }
    match link.network {
        Network::V4 => lb_xdp_v4(ctx.ctx),
        Network::V6 => {
            if lb_xdp_parse_v6(ctx.ctx) != 0 {
                return XDP_PASS;
            }
            lb_xdp_front_v6();
            lb_xdp_finish_v6(ctx.ctx)
        }
        Network::Other => XDP_PASS,
    }
}

/// All of IPv4. Functions of their own, as in TC.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn lb_xdp_v4(md: *mut xdp_md) -> u32 {
    let Some(scratch) = NetU32::scratch() else { return XDP_PASS };
    if parse_headers(md, ETHERNET_HEADER_BYTES, scratch) != 0 {
        return XDP_PASS;
    }
    // What was parsed the verifier forgets: all ways go on as one.
    decide(core::hint::black_box(&mut *scratch));
    finish(md, scratch)
}

#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn lb_xdp_parse_v6(md: *mut xdp_md) -> u32 {
    let Some(scratch) = NetAddr6::scratch() else { return 1 };
    parse_headers(md, ETHERNET_HEADER_BYTES, scratch)
}

#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn lb_xdp_front_v6() -> u32 {
    let Some(scratch) = NetAddr6::scratch() else { return 0 };
    decide(scratch)
}

#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn lb_xdp_finish_v6(md: *mut xdp_md) -> u32 {
    let Some(scratch) = NetAddr6::scratch() else { return XDP_PASS };
    finish(md, scratch)
}

/// Parses a packet; not 0: it is TC's.
#[inline(always)]
fn parse_headers<A: FamilyMaps>(
    md: *mut xdp_md,
    l3_offset: usize,
    scratch: &mut Scratch<A>,
) -> u32 {
    let packet = XdpPacket { md };
    let Some(meta) = count::meta() else { return 1 };
    if !may_concern_front::<A, _, _>(&packet, l3_offset, &Maps, meta.flags) {
        return 1;
    }
    let ingress_ifindex = packet.ingress_ifindex();
    if !packet.is_for(interface(ingress_ifindex)) {
        return 1;
    }
    scratch.context = count::context(meta, ingress_ifindex, ingress_ifindex);
    A::parse_into(&packet, l3_offset, &mut scratch.headers);
    u32::from(!scratch.headers.is_transport())
}

#[inline(always)]
fn decide<A: FamilyMaps>(scratch: &mut Scratch<A>) -> u32 {
    let Scratch { context, headers, decision, .. } = scratch;
    front_transport(headers, &Maps, context, decision);
    0
}

#[inline(always)]
fn finish<A: FibAddress + Traced>(md: *mut xdp_md, scratch: &mut Scratch<A>) -> u32 {
    let Scratch { context, headers, decision, .. } = scratch;
    log::decision(md, Hook::Xdp, decision);
    let action = match decision.verdict {
        Verdict::Drop => {
            count::drop(Hook::Xdp as u32, decision.reason);
            XDP_DROP
        }
        Verdict::Route | Verdict::Reply => {
            match forward(&mut XdpPacket { md }, context, headers, decision) {
                Ok(action) => action,
                Err(reason) => {
                    count::drop(Hook::Xdp as u32, reason);
                    let backend = decision.backend;
                    decision.drop(reason, backend);
                    XDP_DROP
                }
            }
        }
        _ => XDP_PASS,
    };
    // TC decides anew on what it is left.
    if action != XDP_PASS && trace::is_on(context.meta_flags) {
        A::tell(Hook::Xdp as u32);
    }
    action
}

/// Carries a decision out, or leaves the packet to TC before anything has changed.
#[inline(always)]
fn forward<A: FamilyMaps + FibAddress>(
    packet: &mut XdpPacket,
    context: &Context,
    headers: &Headers<A>,
    decision: &mut Decision<A>,
) -> Result<u32, DropReason> {
    if packet.has_partial_checksum(headers) {
        return Ok(XDP_PASS);
    }
    let translation = &decision.translation;
    let (source, destination) = match translation.side {
        Side::Source => (translation.address, headers.destination),
        Side::Destination => (headers.source, translation.address),
    };
    let Ok(NextHop { ifindex, macs: Some(macs), .. }) =
        fib::next_hop(packet.md, context, headers, source, destination, headers.l3_bytes)
    else {
        return Ok(XDP_PASS);
    };
    let is_same = ifindex == context.ingress_ifindex;
    if !is_same && !interface(ifindex).may_send() {
        return Ok(XDP_PASS);
    }
    commit(&Maps, decision)?;
    let length_bytes = packet.length_bytes() as u32;
    translate(packet, &decision.translation).map_err(|EditError| DropReason::EditFailed)?;
    packet.write_macs(macs).ok_or(DropReason::EditFailed)?;
    count::forwarded(Hook::Xdp as u32, context, headers, decision, length_bytes);
    if is_same {
        return Ok(XDP_TX);
    }
    // SAFETY: the helper only notes where the packet goes once the program has returned.
    Ok(unsafe { bpf_redirect(ifindex, 0) } as u32)
}

/// What the agent says of an interface.
#[inline(always)]
fn interface(ifindex: u32) -> XdpInterface {
    XDP_INTERFACES.get(ifindex).map_or(XdpInterface::NONE, |raw| XdpInterface::from_raw(*raw))
}

/// A frame.
struct XdpPacket {
    md: *mut xdp_md,
}

impl XdpPacket {
    #[inline(always)]
    fn bounds(&self) -> (usize, usize) {
        // SAFETY: the context is valid while the program runs.
        unsafe { ((*self.md).data as usize, (*self.md).data_end as usize) }
    }

    #[inline(always)]
    fn ingress_ifindex(&self) -> u32 {
        // SAFETY: as above.
        unsafe { (*self.md).ingress_ifindex }
    }

    #[inline(always)]
    fn pointer<const N: usize>(&self, offset: usize) -> Option<*mut [u8; N]> {
        let (data, end) = self.bounds();
        window::pointer(data, end, offset)
    }

    /// Whether the frame is for this interface. A switch floods frames of unknown receivers, and a
    /// promiscuous interface takes them; forwarded, they would arrive twice.
    #[inline(always)]
    fn is_for(&self, interface: XdpInterface) -> bool {
        self.window::<6>(0).is_some_and(|destination| interface.receives(*destination))
    }

    /// Whether the checksum of TCP or UDP may be `CHECKSUM_PARTIAL`: a sender on this machine leaves
    /// the sum of the pseudo header in the field, for a device to finish. XDP has no way to say so,
    /// and the arithmetic for such a field has the opposite sign; so whatever looks like it goes to
    /// TC, where helpers know. One in 65,536 complete checksums looks like it, too, and takes the
    /// longer way.
    #[inline(always)]
    fn has_partial_checksum<A: FamilyMaps>(&self, headers: &Headers<A>) -> bool {
        // Fragments have no such checksum: who makes them finishes it first.
        if !headers.is_transport() {
            return false;
        }
        // By way of the whole header: the verifier cannot follow an offset within it.
        let field = if headers.protocol == PROTOCOL_TCP {
            let Some(tcp) = self.window::<TCP_HEADER_BYTES>(headers.l4_offset) else { return true };
            [tcp[16], tcp[17]]
        } else {
            let Some(udp) = self.window::<UDP_HEADER_BYTES>(headers.l4_offset) else { return true };
            [udp[6], udp[7]]
        };
        let mut sum = u64::from(headers.source.sum()) + u64::from(headers.destination.sum());
        sum += u64::from((headers.protocol as u16).to_be());
        sum += u64::from((headers.l4_bytes() as u16).to_be());
        checksum::fold(checksum::fold_wide(sum)) == u16::from_ne_bytes(field)
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
        // SAFETY: as above. Volatile, so that LLVM does not see that a long packet makes the check of
        // a window needless: the verifier wants every check.
        unsafe {
            let end = (&raw const (*self.md).data_end).read_volatile();
            let data = (&raw const (*self.md).data).read_volatile();
            (end - data) as usize
        }
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

impl Rewrite for XdpPacket {
    #[inline(always)]
    fn fix_udp_checksum(&mut self, offset: usize, change: Change) -> Result<(), EditError> {
        rewrite_udp_checksum(self, offset, change)
    }

    /// XDP has no such sum.
    #[inline(always)]
    fn fix_device_sum(&mut self, _difference: u32) {}
}
