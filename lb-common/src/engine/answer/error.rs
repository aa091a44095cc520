//! ICMP errors (RFC 792, RFC 4443).

use super::{
    Answer, AnswerKind, QUOTED_BYTES_MAX_V4, QUOTED_BYTES_MAX_V6, Rebuild,
    headers::{exchange_macs, pseudo_sum, write_ip},
};
use crate::engine::{
    EditError, Packet, checksum,
    translate::{ICMP_CHECKSUM_OFFSET, TCP_CHECKSUM_OFFSET, UDP_CHECKSUM_OFFSET},
    wire::{
        Address, ICMP_HEADER_BYTES, PROTOCOL_TCP, PROTOCOL_UDP, TCP_HEADER_BYTES, UDP_HEADER_BYTES,
    },
    words::{word_at, write_half, write_word},
};

const WORD_BYTES: usize = 4;
const _: () = assert!(QUOTED_BYTES_MAX_V4 < 128 && QUOTED_BYTES_MAX_V6 < 128);
/// "Internetwork control", as RFC 1812 section 4.3.2.5 wants it for IPv4.
const PRECEDENCE_V4: u32 = 0xc0;

#[inline(always)]
pub(super) fn write<P: Rebuild, A: Address>(
    packet: &mut P,
    answer: &Answer<A>,
) -> Result<(), EditError> {
    let l3_offset = answer.l3_offset;
    let unfinished = unfinished_field(packet, answer)?;
    packet.resize(l3_offset, answer.kept_bytes(), answer.added_bytes())?;

    let l4_offset = l3_offset + A::HEADER_BYTES;
    let quotation_offset = l4_offset + ICMP_HEADER_BYTES;
    let quoted_bytes = answer.quoted_bytes as usize;
    let quotation_sum = match unfinished {
        None => sum_of(packet, quotation_offset, quoted_bytes)?,
        // The device makes the sum of all from the transport header on the inverse of the field.
        Some(field) => {
            let header_bytes = answer.l4_offset - l3_offset;
            let header_sum = sum_of(packet, quotation_offset, header_bytes)?;
            checksum::add(header_sum, u32::from(!field))
        }
    };
    let ends = (answer.source, answer.destination);
    let l4_bytes = (ICMP_HEADER_BYTES + quoted_bytes) as u32;
    let traffic_class = if A::IS_V6 { 0 } else { PRECEDENCE_V4 };
    exchange_macs(packet).ok_or(EditError)?;
    write_ip(packet, l3_offset, ends, A::PROTOCOL_ICMP, traffic_class, l4_bytes)?;
    let icmp = packet.window_mut::<ICMP_HEADER_BYTES>(l4_offset).ok_or(EditError)?;
    let first = type_and_code::<A>(answer.kind).to_be();
    let second = if answer.kind as u32 == AnswerKind::TooBig as u32 { answer.mtu } else { 0 };
    // IPv4 has half a word for it.
    let second = if A::IS_V6 { second } else { second & 0xffff };
    write_word(icmp, 0, first);
    write_word(icmp, 4, second.to_be());
    let mut sum = checksum::add(quotation_sum, checksum::add(first, second.to_be()));
    if A::IS_V6 {
        sum = checksum::add(sum, pseudo_sum(ends, A::PROTOCOL_ICMP, l4_bytes));
    }
    write_half(icmp, ICMP_CHECKSUM_OFFSET, !checksum::fold(sum));
    Ok(())
}

/// The field of the quoted packet that a device will write to.
#[inline(always)]
fn unfinished_field<P: Rebuild, A: Address>(
    packet: &mut P,
    answer: &Answer<A>,
) -> Result<Option<u16>, EditError> {
    let (protocol, l4_offset) = (answer.protocol, answer.l4_offset);
    if protocol != PROTOCOL_TCP && protocol != PROTOCOL_UDP {
        return Ok(None);
    }
    if !packet.has_unfinished_checksum(protocol, l4_offset)? {
        return Ok(None);
    }
    let (field, field_end) = if protocol == PROTOCOL_TCP {
        let tcp = packet.window::<TCP_HEADER_BYTES>(l4_offset).ok_or(EditError)?;
        ([tcp[TCP_CHECKSUM_OFFSET], tcp[TCP_CHECKSUM_OFFSET + 1]], TCP_CHECKSUM_OFFSET + 2)
    } else {
        let udp = packet.window::<UDP_HEADER_BYTES>(l4_offset).ok_or(EditError)?;
        ([udp[UDP_CHECKSUM_OFFSET], udp[UDP_CHECKSUM_OFFSET + 1]], UDP_CHECKSUM_OFFSET + 2)
    };
    // It would write behind the end.
    if l4_offset + field_end > answer.kept_bytes() {
        return Err(EditError);
    }
    Ok(Some(u16::from_ne_bytes(field)))
}

/// Sum of so many bytes, a multiple of four below 128, by powers of two: of a loop over words, LLVM
/// makes arithmetic on the packet's end, which the verifier refuses.
#[inline(always)]
fn sum_of<P: Packet>(packet: &P, offset: usize, bytes: usize) -> Result<u32, EditError> {
    let mut rest = Rest { sum: 0, offset };
    rest.add::<P, 64>(packet, bytes)?;
    rest.add::<P, 32>(packet, bytes)?;
    rest.add::<P, 16>(packet, bytes)?;
    rest.add::<P, 8>(packet, bytes)?;
    rest.add::<P, 4>(packet, bytes)?;
    Ok(rest.sum)
}

/// How far a sum has come.
struct Rest {
    sum: u32,
    /// Of what is still to be summed.
    offset: usize,
}

impl Rest {
    /// Adds `N` bytes if they are part of `bytes`.
    #[inline(always)]
    fn add<P: Packet, const N: usize>(
        &mut self,
        packet: &P,
        bytes: usize,
    ) -> Result<(), EditError> {
        if bytes & N == 0 {
            return Ok(());
        }
        let window = packet.window::<N>(self.offset).ok_or(EditError)?;
        for index in 0..N / WORD_BYTES {
            self.sum = checksum::add(self.sum, word_at(window, index * WORD_BYTES));
        }
        self.offset += N;
        Ok(())
    }
}

/// Type and code in the upper half of a word.
#[inline(always)]
const fn type_and_code<A: Address>(kind: AnswerKind) -> u32 {
    let (v4, v6) = match kind {
        AnswerKind::HostUnreachable => ((3, 1), (1, 3)),
        AnswerKind::TooBig => ((3, 4), (2, 0)),
        AnswerKind::TimeExceeded => ((11, 0), (3, 0)),
        // The two that are no errors do not come here.
        AnswerKind::PortUnreachable | AnswerKind::EchoReply | AnswerKind::Reset => ((3, 3), (1, 4)),
    };
    let (kind, code): (u32, u32) = if A::IS_V6 { v6 } else { v4 };
    kind << 24 | code << 16
}
