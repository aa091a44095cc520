//! TCP resets without a connection (RFC 9293, section 3.10.7.1).

use super::{
    Answer, Rebuild, has_ack,
    headers::{exchange_macs, pseudo_sum, write_ip},
};
use crate::{
    abi::NetU32,
    engine::{
        EditError, Packet, checksum,
        translate::TCP_CHECKSUM_OFFSET,
        wire::{
            Address, Fragment, Headers, PROTOCOL_TCP, TCP_ACK, TCP_FIN, TCP_HEADER_BYTES, TCP_RST,
            TCP_SYN, tcp_numbers,
        },
        words::{write_half, write_word},
    },
};

/// Sequence number, acknowledgement number and flags of the reset for a packet.
#[inline(always)]
pub(super) fn numbers<P: Packet, A: Address>(
    packet: &P,
    headers: &Headers<A>,
) -> Option<(NetU32, NetU32, u32)> {
    let numbers = tcp_numbers(packet, headers)?;
    if headers.is_reset() {
        return None;
    }
    if has_ack(headers.tcp_flags) {
        return Some((numbers.acknowledgement, NetU32::new(0), TCP_RST));
    }
    // How long the segment is only the whole packet tells.
    if headers.fragment as u32 != Fragment::Whole as u32 {
        return None;
    }
    let data_bytes = headers.l4_bytes().wrapping_sub(numbers.header_bytes);
    let flags =
        u32::from(headers.tcp_flags & TCP_SYN != 0) + u32::from(headers.tcp_flags & TCP_FIN != 0);
    let acknowledgement = numbers.sequence.get().wrapping_add(data_bytes).wrapping_add(flags);
    Some((NetU32::new(0), NetU32::new(acknowledgement), TCP_RST | TCP_ACK))
}

#[inline(always)]
pub(super) fn write<P: Rebuild, A: Address>(
    packet: &mut P,
    answer: &Answer<A>,
) -> Result<(), EditError> {
    let l3_offset = answer.l3_offset;
    let l4_offset = l3_offset + A::HEADER_BYTES;
    let is_unfinished = packet.has_unfinished_checksum(PROTOCOL_TCP, answer.l4_offset)?;
    // The device would write its sum where the packet had its TCP header.
    if is_unfinished && answer.l4_offset != l4_offset {
        return Err(EditError);
    }
    packet.resize(l3_offset, answer.kept_bytes(), answer.added_bytes())?;

    let ends = (answer.source, answer.destination);
    let l4_bytes = TCP_HEADER_BYTES as u32;
    exchange_macs(packet).ok_or(EditError)?;
    write_ip(packet, l3_offset, ends, PROTOCOL_TCP, 0, l4_bytes)?;
    let tcp = packet.window_mut::<TCP_HEADER_BYTES>(l4_offset).ok_or(EditError)?;
    let (from, to) = (answer.source_port.to_wire(), answer.destination_port.to_wire());
    let ports = u32::from_ne_bytes([from[0], from[1], to[0], to[1]]);
    let (sequence, acknowledgement) = (answer.sequence.raw(), answer.acknowledgement.raw());
    let offset_and_flags = ((l4_bytes / 4) << 28 | answer.tcp_flags << 16).to_be();
    write_word(tcp, 0, ports);
    write_word(tcp, 4, sequence);
    write_word(tcp, 8, acknowledgement);
    write_word(tcp, 12, offset_and_flags);
    write_word(tcp, 16, 0);
    let pseudo = pseudo_sum(ends, PROTOCOL_TCP, l4_bytes);
    let mut sum = checksum::add(checksum::add(ports, sequence), acknowledgement);
    sum = checksum::add(sum, checksum::add(offset_and_flags, pseudo));
    // The device starts from the pseudo header's sum.
    let field = if is_unfinished { checksum::fold(pseudo) } else { !checksum::fold(sum) };
    write_half(tcp, TCP_CHECKSUM_OFFSET, field);
    Ok(())
}
