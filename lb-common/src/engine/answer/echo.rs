//! Echo replies: the request with its ends exchanged (RFC 792, RFC 4443 section 4.2).

use super::{
    Answer, Rebuild,
    headers::{HOP_LIMIT, exchange_macs},
};
use crate::engine::{
    EditError, checksum,
    checksum::Change,
    translate::ICMP_CHECKSUM_OFFSET,
    wire::{Address, ICMP_HEADER_BYTES},
    words::{write_half, write_word, write_words},
};

const V4_HOP_LIMIT: usize = 8;
const V4_CHECKSUM: usize = 10;
const V6_NEXT_HEADER: usize = 6;
const V6_HOP_LIMIT: usize = 7;
const REPLY_V4: u8 = 0;
const REPLY_V6: u8 = 129;

#[inline(always)]
pub(super) fn write<P: Rebuild, A: Address>(
    packet: &mut P,
    answer: &Answer<A>,
) -> Result<(), EditError> {
    packet.window::<ICMP_HEADER_BYTES>(answer.l4_offset).ok_or(EditError)?;
    if A::IS_V6 {
        exchange_v6(packet, answer)?;
    } else {
        exchange_v4(packet, answer)?;
    }
    exchange_macs(packet).ok_or(EditError)?;
    let icmp = packet.window_mut::<ICMP_HEADER_BYTES>(answer.l4_offset).ok_or(EditError)?;
    let before = u16::from_ne_bytes([icmp[0], icmp[1]]);
    icmp[0] = if A::IS_V6 { REPLY_V6 } else { REPLY_V4 };
    let after = u16::from_ne_bytes([icmp[0], icmp[1]]);
    let payload = checksum::difference(u32::from(before), u32::from(after));
    let change = Change { pseudo: 0, payload };
    packet.fix_l4_checksum(answer.l4_offset + ICMP_CHECKSUM_OFFSET, change)
}

#[inline(always)]
fn exchange_v4<P: Rebuild, A: Address>(
    packet: &mut P,
    answer: &Answer<A>,
) -> Result<(), EditError> {
    let header = packet.window_mut::<20>(answer.l3_offset).ok_or(EditError)?;
    write_word(header, 12, answer.source.words()[0]);
    write_word(header, 16, answer.destination.words()[0]);
    let before = u16::from_ne_bytes([header[V4_HOP_LIMIT], header[V4_HOP_LIMIT + 1]]);
    header[V4_HOP_LIMIT] = HOP_LIMIT;
    let after = u16::from_ne_bytes([header[V4_HOP_LIMIT], header[V4_HOP_LIMIT + 1]]);
    let old = u16::from_ne_bytes([header[V4_CHECKSUM], header[V4_CHECKSUM + 1]]);
    let difference = checksum::difference(u32::from(before), u32::from(after));
    write_half(header, V4_CHECKSUM, checksum::apply(old, difference));
    Ok(())
}

#[inline(always)]
fn exchange_v6<P: Rebuild, A: Address>(
    packet: &mut P,
    answer: &Answer<A>,
) -> Result<(), EditError> {
    let header = packet.window_mut::<40>(answer.l3_offset).ok_or(EditError)?;
    write_words(header, 8, answer.source.words());
    write_words(header, 24, answer.destination.words());
    let before = u16::from_ne_bytes([header[V6_NEXT_HEADER], header[V6_HOP_LIMIT]]);
    header[V6_HOP_LIMIT] = HOP_LIMIT;
    let after = u16::from_ne_bytes([header[V6_NEXT_HEADER], header[V6_HOP_LIMIT]]);
    packet.fix_device_sum(checksum::difference(u32::from(before), u32::from(after)));
    Ok(())
}
