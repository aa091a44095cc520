//! A socket buffer as the engine's packet.

use aya_ebpf::{
    bindings::{
        __sk_buff, BPF_F_MARK_MANGLED_0, BPF_F_PSEUDO_HDR, bpf_adj_room_mode::BPF_ADJ_ROOM_MAC,
    },
    helpers::{
        bpf_check_mtu, bpf_csum_update, bpf_l4_csum_replace, bpf_skb_adjust_room,
        bpf_skb_change_tail, bpf_skb_pull_data, bpf_skb_vlan_pop, bpf_skb_vlan_push,
    },
};
use lb_common::engine::{
    EditError, Packet, Rewrite,
    answer::Rebuild,
    checksum::{self, Change},
    translate::{TCP_CHECKSUM_OFFSET, UDP_CHECKSUM_OFFSET},
    wire::{ETHERNET_HEADER_BYTES, PROTOCOL_TCP, TCP_HEADER_BYTES, UDP_HEADER_BYTES},
};

use crate::{maps::HAS_CHECK_MTU, window};

/// `pkt_type` of a frame whose receiver is this interface.
const PACKET_HOST: u32 = 0;

/// A socket buffer.
pub struct TcPacket {
    skb: *mut __sk_buff,
}

impl TcPacket {
    #[inline(always)]
    pub fn new(skb: *mut __sk_buff) -> Self {
        Self { skb }
    }

    /// The program's context.
    #[inline(always)]
    pub fn skb(&self) -> *mut __sk_buff {
        self.skb
    }

    /// VLAN tags that the kernel has taken out of the bytes.
    #[inline(always)]
    pub fn tags_beside(&self) -> u32 {
        // SAFETY: the context is valid while the program runs; so below.
        u32::from(unsafe { (*self.skb).vlan_present } != 0)
    }

    /// Whether the frame is for this interface.
    #[inline(always)]
    pub fn is_for_this_machine(&self) -> bool {
        // SAFETY: as above.
        unsafe { (*self.skb).pkt_type == PACKET_HOST }
    }

    /// At TC ingress the interface that the program is attached to.
    #[inline(always)]
    pub fn ingress_ifindex(&self) -> u32 {
        // SAFETY: as above.
        unsafe { (*self.skb).ifindex }
    }

    /// Payload of a segment, 0 if the packet is sent as it is.
    #[inline(always)]
    pub fn gso_bytes(&self) -> u32 {
        // SAFETY: as above.
        unsafe { (*self.skb).gso_size }
    }

    /// Whether a connection has sent it that lives. What a container sends keeps its socket on the way
    /// through its veth; what answers in place of a connection that is over has none, or one in another
    /// state.
    #[inline(always)]
    pub fn is_of_connection(&self) -> bool {
        /// `TCP_TIME_WAIT`, `TCP_CLOSE`, `TCP_LISTEN`.
        const OTHERS: u32 = 1 << 6 | 1 << 7 | 1 << 10;
        // SAFETY: as above; a socket is one as long as the program runs.
        unsafe {
            let socket = (*self.skb).__bindgen_anon_2.sk;
            !socket.is_null() && (1 << ((*socket).state & 31)) & OTHERS == 0
        }
    }

    /// The MTU of an interface; 0: unknown, since the kernel is older than 5.12.
    #[inline(always)]
    pub fn mtu_of(&self, ifindex: u32) -> u32 {
        if HAS_CHECK_MTU.load() == 0 {
            return 0;
        }
        let mut mtu = 0_u32;
        // SAFETY: `mtu` is a word that the helper reads and writes. 0 asks about the packet's own
        // length; what the helper says to that is not looked at, as it knows nothing of VLAN tags.
        unsafe { bpf_check_mtu(self.skb.cast(), ifindex, &raw mut mtu, 0, 0) };
        mtu
    }

    /// Removes all tags, of which the outer may be beside the packet.
    #[inline(always)]
    pub fn remove_tags(&self, tags: u32) -> Result<(), EditError> {
        // SAFETY: the helper takes the program's own context.
        if unsafe { bpf_skb_vlan_pop(self.skb) } != 0 {
            return Err(EditError);
        }
        // SAFETY: as above.
        if tags > 1 && unsafe { bpf_skb_vlan_pop(self.skb) } != 0 {
            return Err(EditError);
        }
        Ok(())
    }

    /// Pulls so many bytes into the linear part, or all that there are. Senders of this machine and
    /// drivers leave all but the headers in pages.
    #[inline(always)]
    pub fn make_readable(&self, bytes: u32) -> bool {
        // SAFETY: the helper takes the program's own context.
        !self.lacks(bytes)
            || unsafe {
                bpf_skb_pull_data(self.skb, self.length_bytes().min(bytes as usize) as u32)
            } == 0
    }

    /// Whether some of the first bytes are not in the linear part.
    #[inline(always)]
    pub fn lacks(&self, bytes: u32) -> bool {
        let length = self.length_bytes() as u32;
        let wanted = if length < bytes { length } else { bytes };
        let (data, end) = self.bounds();
        ((end - data) as u32) < wanted
    }

    #[inline(always)]
    fn bounds(&self) -> (usize, usize) {
        // SAFETY: as above. Read again each time: helpers move the packet.
        unsafe { ((*self.skb).data as usize, (*self.skb).data_end as usize) }
    }

    #[inline(always)]
    fn pointer<const N: usize>(&self, offset: usize) -> Option<*mut [u8; N]> {
        let (data, end) = self.bounds();
        window::pointer(data, end, offset)
    }

    #[inline(always)]
    fn replace_l4(&self, offset: usize, difference: u32, flags: u32) -> Result<(), EditError> {
        // SAFETY: as above. Size 0 in the flags: the last argument but one is a difference.
        let result = unsafe {
            bpf_l4_csum_replace(self.skb, offset as u32, 0, u64::from(difference), u64::from(flags))
        };
        if result == 0 { Ok(()) } else { Err(EditError) }
    }

    /// The checksum of TCP or UDP, by way of the whole header: LLVM would turn an offset within it into
    /// arithmetic that the verifier cannot follow.
    #[inline(always)]
    fn checksum_field(&self, is_tcp: bool, l4_offset: usize) -> Option<u16> {
        if is_tcp {
            let tcp = self.window::<TCP_HEADER_BYTES>(l4_offset)?;
            Some(u16::from_ne_bytes([tcp[16], tcp[17]]))
        } else {
            let udp = self.window::<UDP_HEADER_BYTES>(l4_offset)?;
            Some(u16::from_ne_bytes([udp[6], udp[7]]))
        }
    }

    #[inline(always)]
    fn fix(&self, offset: usize, change: Change, flags: u32) -> Result<(), EditError> {
        if !checksum::is_neutral(change.pseudo) {
            self.replace_l4(offset, change.pseudo, BPF_F_PSEUDO_HDR | flags)?;
        }
        if !checksum::is_neutral(change.payload) {
            self.replace_l4(offset, change.payload, flags)?;
        }
        Ok(())
    }
}

impl Packet for TcPacket {
    #[inline(always)]
    fn length_bytes(&self) -> usize {
        // SAFETY: the context is valid while the program runs.
        unsafe { (*self.skb).len as usize }
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
        self.fix(offset, change, 0)
    }
}

impl Rewrite for TcPacket {
    #[inline(always)]
    fn fix_udp_checksum(&mut self, offset: usize, change: Change) -> Result<(), EditError> {
        self.fix(offset, change, BPF_F_MARK_MANGLED_0)
    }

    #[inline(always)]
    fn fix_device_sum(&mut self, difference: u32) {
        // SAFETY: the helper takes the program's own context; it refuses where there is no sum.
        unsafe { bpf_csum_update(self.skb, difference) };
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
        self.replace_l4(offset, DIFFERENCE, 0)?;
        if self.checksum_field(is_tcp, l4_offset).ok_or(EditError)? == before {
            return Ok(true);
        }
        self.replace_l4(offset, !DIFFERENCE, 0)?;
        Ok(false)
    }

    /// Growing makes the kernel forget a device's sum, which writing all headers anew would void.
    /// `bpf_skb_adjust_room` refuses frames that have a tag in their bytes: taking the outer one from
    /// beside the packet puts that one in its place, for as long as room is made.
    #[inline(always)]
    fn resize(
        &mut self,
        l3_offset: usize,
        kept_bytes: usize,
        added_bytes: usize,
    ) -> Result<(), EditError> {
        const GROWTH_BYTES: u32 = 4;
        let kept_bytes = kept_bytes as u32;
        // SAFETY: the helpers take the program's own context; windows are taken anew afterwards.
        let result = unsafe {
            bpf_skb_change_tail(self.skb, kept_bytes, 0)
                | bpf_skb_change_tail(self.skb, kept_bytes + GROWTH_BYTES, 0)
                | bpf_skb_change_tail(self.skb, kept_bytes, 0)
        };
        if result != 0 {
            return Err(EditError);
        }
        if added_bytes == 0 {
            return Ok(());
        }
        let (added_bytes, mode) = (added_bytes as i32, BPF_ADJ_ROOM_MAC);
        let is_stacked = l3_offset > ETHERNET_HEADER_BYTES;
        // SAFETY: as above.
        unsafe {
            let (outer_protocol, outer_tag) = ((*self.skb).vlan_proto, (*self.skb).vlan_tci);
            if is_stacked && bpf_skb_vlan_pop(self.skb) != 0 {
                return Err(EditError);
            }
            if bpf_skb_adjust_room(self.skb, added_bytes, mode, 0) != 0 {
                return Err(EditError);
            }
            let (protocol, tag) = (outer_protocol as u16, outer_tag as u16);
            if is_stacked && bpf_skb_vlan_push(self.skb, protocol, tag) != 0 {
                return Err(EditError);
            }
        }
        Ok(())
    }
}
