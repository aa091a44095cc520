//! Ethernet and IP headers of answers.

use crate::engine::{
    EditError, Packet, checksum,
    wire::Address,
    words::{word_at, write_half, write_word, write_words},
};

/// Hop limit of what starts here.
pub(super) const HOP_LIMIT: u8 = 64;
const DONT_FRAGMENT: u32 = 0x4000;
const V4_CHECKSUM: usize = 10;

/// Makes the Ethernet header lead back.
#[inline(always)]
pub(super) fn exchange_macs<P: Packet>(packet: &mut P) -> Option<()> {
    let macs = packet.window_mut::<12>(0)?;
    let first = word_at(macs, 0).to_ne_bytes();
    let second = word_at(macs, 4).to_ne_bytes();
    let third = word_at(macs, 8).to_ne_bytes();
    write_word(macs, 0, u32::from_ne_bytes([second[2], second[3], third[0], third[1]]));
    write_word(macs, 4, u32::from_ne_bytes([third[2], third[3], first[0], first[1]]));
    write_word(macs, 8, u32::from_ne_bytes([first[2], first[3], second[0], second[1]]));
    Some(())
}

/// Writes an IP header without options.
#[inline(always)]
pub(super) fn write_ip<P: Packet, A: Address>(
    packet: &mut P,
    l3_offset: usize,
    (source, destination): (A, A),
    protocol: u32,
    traffic_class: u32,
    l4_bytes: u32,
) -> Result<(), EditError> {
    let hop_limit = u32::from(HOP_LIMIT);
    if A::IS_V6 {
        let header = packet.window_mut::<40>(l3_offset).ok_or(EditError)?;
        write_word(header, 0, (6 << 28 | traffic_class << 20).to_be());
        write_word(header, 4, (l4_bytes << 16 | protocol << 8 | hop_limit).to_be());
        write_words(header, 8, source.words());
        write_words(header, 24, destination.words());
        return Ok(());
    }
    let header = packet.window_mut::<20>(l3_offset).ok_or(EditError)?;
    let first = (0x45 << 24 | traffic_class << 16 | (20 + l4_bytes)).to_be();
    // An atomic datagram may have any identification (RFC 6864).
    let second = DONT_FRAGMENT.to_be();
    let third = (hop_limit << 24 | protocol << 16).to_be();
    write_word(header, 0, first);
    write_word(header, 4, second);
    write_word(header, 8, third);
    write_word(header, 12, source.words()[0]);
    write_word(header, 16, destination.words()[0]);
    let mut sum = checksum::add(checksum::add(first, second), third);
    sum = checksum::add(sum, checksum::add(source.sum(), destination.sum()));
    write_half(header, V4_CHECKSUM, !checksum::fold(sum));
    Ok(())
}

/// Sum of the pseudo header.
#[inline(always)]
pub(super) fn pseudo_sum<A: Address>(
    (source, destination): (A, A),
    protocol: u32,
    l4_bytes: u32,
) -> u32 {
    let addresses = checksum::add(source.sum(), destination.sum());
    checksum::add(addresses, checksum::add(protocol.to_be(), l4_bytes.to_be()))
}
