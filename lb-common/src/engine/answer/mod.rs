//! Answers to packets that cannot be served: TCP reset, ICMP errors, echo replies.
//!
//! [`answer`] says whether a packet may be answered and what the answer is, a value; [`write`] turns the
//! packet into it. The answer goes back the way the packet came, from the address that the packet was
//! sent to. How many there may be is the hook's business ([`super::rate`]), and so is counting.
//!
//! An ICMP error grows out of the packet that it quotes: the frame is cut behind the quotation, room is
//! made before its IP header, and new headers are written there. A reset is written over the packet's
//! own headers.

mod echo;
mod error;
mod headers;
mod reset;
#[cfg(test)]
mod tests;

use super::{
    EditError, Packet,
    translate::Rewrite,
    wire::{Address, Fragment, Headers, ICMP_HEADER_BYTES, Kind, TCP_ACK, TCP_HEADER_BYTES},
};
use crate::abi::{NetU16, NetU32};

/// Bytes that an ICMP error quotes at most: an IPv4 header with all options and a TCP header.
pub const QUOTED_BYTES_MAX_V4: u32 = 80;
/// Bytes that an `ICMPv6` error quotes at most. RFC 4443 wants as many as fit 1280; but all a receiver
/// needs is the ports, and each byte has to be summed.
pub const QUOTED_BYTES_MAX_V6: u32 = 120;
/// Bytes of the transport header that an error must quote.
const QUOTED_L4_BYTES_MIN: usize = 8;

/// What an answer says.
#[repr(u32)]
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum AnswerKind {
    /// An echo reply.
    EchoReply = 0,
    /// A TCP reset.
    Reset = 1,
    /// Nobody listens on the port.
    PortUnreachable = 2,
    /// The host cannot be reached.
    HostUnreachable = 3,
    /// The packet exceeds the MTU of the way ahead.
    TooBig = 4,
    /// The hop limit is used up.
    TimeExceeded = 5,
}

/// Buckets that tokens for answers are taken from: a flood of what one kind answers must not use up
/// those of another, least of all of what path MTU discovery depends on.
pub const ANSWER_BUCKET_COUNT: u32 = 3;

impl AnswerKind {
    /// Which bucket its token is from, below [`ANSWER_BUCKET_COUNT`].
    #[inline(always)]
    #[must_use]
    pub const fn bucket(self) -> u32 {
        match self {
            Self::EchoReply => 0,
            Self::TooBig => 1,
            Self::Reset | Self::PortUnreachable | Self::HostUnreachable | Self::TimeExceeded => 2,
        }
    }
}

/// What a packet must be able to do to become its own answer.
pub trait Rebuild: Rewrite {
    /// Whether the TCP or UDP checksum of the transport header at `l4_offset` is yet to be finished by
    /// a device: the device will do so in the answer, too, at the place that it remembers.
    ///
    /// In TC, where the bytes do not show it, a difference applied by `bpf_l4_csum_replace` without
    /// `BPF_F_PSEUDO_HDR` leaves just such a field alone. XDP has left such packets to TC.
    fn has_unfinished_checksum(
        &mut self,
        protocol: u32,
        l4_offset: usize,
    ) -> Result<bool, EditError>;

    /// Cuts the frame to `kept_bytes`, then makes room of `added_bytes` between its link header and its
    /// IP header, at `l3_offset`. What is in the room is undefined; a device's sum of the packet is
    /// void afterwards. Invalidates windows.
    ///
    /// In TC: `bpf_skb_change_tail`, which ends segmentation, too, then `bpf_skb_adjust_room` with
    /// `BPF_ADJ_ROOM_MAC`. In XDP: `bpf_xdp_adjust_tail`, then `bpf_xdp_adjust_head`, and the
    /// link header is copied to the new start.
    fn resize(
        &mut self,
        l3_offset: usize,
        kept_bytes: usize,
        added_bytes: usize,
    ) -> Result<(), EditError>;
}

/// An answer to a packet.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Answer<A> {
    /// What it says.
    pub kind: AnswerKind,
    /// Where it comes from: where the packet was sent to.
    pub source: A,
    /// Where it goes: where the packet came from.
    pub destination: A,
    /// Of a reset: source port.
    pub source_port: NetU16,
    /// Of a reset: destination port.
    pub destination_port: NetU16,
    /// Of a reset: sequence number.
    pub sequence: NetU32,
    /// Of a reset: acknowledgement number.
    pub acknowledgement: NetU32,
    /// Of a reset: flags.
    pub tcp_flags: u32,
    /// Of [`AnswerKind::TooBig`]: the MTU.
    pub mtu: u32,
    /// Protocol of the packet that is answered.
    pub protocol: u32,
    /// Where the IP header of both begins.
    pub l3_offset: usize,
    /// Where the transport header of the packet that is answered begins.
    pub l4_offset: usize,
    /// Bytes from the IP header of the packet that is answered on that the answer keeps.
    pub quoted_bytes: u32,
}

impl<A: Address> Answer<A> {
    /// Bytes that the frame is cut to first.
    #[inline(always)]
    #[must_use]
    pub const fn kept_bytes(&self) -> usize {
        self.l3_offset + self.quoted_bytes as usize
    }

    /// Bytes that are added before the IP header then.
    #[inline(always)]
    #[must_use]
    pub const fn added_bytes(&self) -> usize {
        match self.kind {
            AnswerKind::EchoReply | AnswerKind::Reset => 0,
            _ => A::HEADER_BYTES + ICMP_HEADER_BYTES,
        }
    }
}

/// The answer to a packet, or `None` if it must not or cannot be answered. Nothing is said to groups,
/// to senders that cannot be one host, about ICMP errors, about later fragments, about resets
/// (RFC 1122 section 3.2.2, RFC 4443 section 2.4, RFC 9293 section 3.10.7.1).
#[inline(always)]
pub fn answer<P: Packet, A: Address>(
    packet: &P,
    headers: &Headers<A>,
    kind: AnswerKind,
    mtu: u32,
) -> Option<Answer<A>> {
    let is_to_group = packet.window::<6>(0)?[0] & 1 != 0;
    if is_to_group
        || !headers.source.is_one_host()
        || !headers.destination.is_one_host()
        || headers.source.is_same(headers.destination)
    {
        return None;
    }
    let answer = Answer {
        kind,
        source: headers.destination,
        destination: headers.source,
        source_port: headers.destination_port,
        destination_port: headers.source_port,
        sequence: NetU32::new(0),
        acknowledgement: NetU32::new(0),
        tcp_flags: 0,
        mtu,
        protocol: headers.protocol,
        l3_offset: headers.l3_offset,
        l4_offset: headers.l4_offset,
        quoted_bytes: headers.l3_bytes,
    };
    match kind {
        AnswerKind::EchoReply => {
            // Options would have to be answered, too (RFC 1122, section 3.2.2.6).
            let is_plain = headers.l3_header_bytes() == A::HEADER_BYTES;
            (headers.kind as u32 == Kind::EchoRequest as u32 && is_plain).then_some(answer)
        }
        AnswerKind::Reset => {
            let (sequence, acknowledgement, tcp_flags) = reset::numbers(packet, headers)?;
            let quoted_bytes = (A::HEADER_BYTES + TCP_HEADER_BYTES) as u32;
            Some(Answer { sequence, acknowledgement, tcp_flags, quoted_bytes, ..answer })
        }
        _ => Some(Answer { quoted_bytes: quoted_bytes(headers)?, ..answer }),
    }
}

/// How much of a packet an error quotes, or `None` if there must be none.
#[inline(always)]
fn quoted_bytes<A: Address>(headers: &Headers<A>) -> Option<u32> {
    let may_have_error = match headers.kind {
        Kind::Tcp | Kind::Udp | Kind::EchoRequest => true,
        // Other messages may be errors, or redirects.
        Kind::Other => headers.protocol != A::PROTOCOL_ICMP && headers.l3_bytes != 0,
        Kind::IcmpError | Kind::LaterFragment | Kind::Broken => false,
    };
    let is_later = headers.fragment as u32 == Fragment::Later as u32;
    let bytes_max = if A::IS_V6 { QUOTED_BYTES_MAX_V6 } else { QUOTED_BYTES_MAX_V4 };
    let fits = headers.l3_header_bytes() + QUOTED_L4_BYTES_MIN <= bytes_max as usize;
    if !may_have_error || is_later || !fits {
        return None;
    }
    // Whole words, which are summed.
    Some(if headers.l3_bytes < bytes_max { headers.l3_bytes & !3 } else { bytes_max })
}

/// Turns a packet into its answer. On error the packet must not be sent anywhere.
#[inline(always)]
pub fn write<P: Rebuild, A: Address>(packet: &mut P, answer: &Answer<A>) -> Result<(), EditError> {
    match answer.kind {
        AnswerKind::EchoReply => echo::write(packet, answer),
        AnswerKind::Reset => reset::write(packet, answer),
        _ => error::write(packet, answer),
    }
}

/// Sequence number, acknowledgement number and flags of an answer without a connection.
#[inline(always)]
const fn has_ack(flags: u32) -> bool {
    flags & TCP_ACK != 0
}

#[cfg(any(feature = "std", test))]
impl Rebuild for super::host::HostPacket {
    fn has_unfinished_checksum(
        &mut self,
        _protocol: u32,
        _l4_offset: usize,
    ) -> Result<bool, EditError> {
        Ok(false)
    }

    fn resize(
        &mut self,
        l3_offset: usize,
        kept_bytes: usize,
        added_bytes: usize,
    ) -> Result<(), EditError> {
        if kept_bytes > self.0.len() || l3_offset > kept_bytes {
            return Err(EditError);
        }
        self.0.truncate(kept_bytes);
        self.0.splice(l3_offset..l3_offset, core::iter::repeat_n(0x5a, added_bytes));
        Ok(())
    }
}
