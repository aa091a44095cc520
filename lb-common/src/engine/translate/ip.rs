//! The IP header's part of a translation.

use super::Rewrite;
use crate::engine::{
    EditError, Side, checksum,
    wire::Address,
    words::{write_half, write_word, write_words},
};

const V4_HOP_LIMIT: usize = 8;
const V4_CHECKSUM: usize = 10;
const V4_SOURCE: usize = 12;
const V4_DESTINATION: usize = 16;
const V6_HOP_LIMIT: usize = 7;
const V6_SOURCE: usize = 8;
const V6_DESTINATION: usize = 24;

/// Writes an address, whose difference to the one before is `difference`, and takes one from the hop
/// limit. An error leaves the packet as it was.
#[inline(always)]
pub(super) fn rewrite<P: Rewrite, A: Address>(
    packet: &mut P,
    l3_offset: usize,
    side: Side,
    address: A,
    difference: u32,
) -> Result<(), EditError> {
    if A::IS_V6 {
        rewrite_v6(packet, l3_offset, side, address.words(), difference)
    } else {
        rewrite_v4(packet, l3_offset, side, address.words()[0], difference)
    }
}

#[inline(always)]
fn rewrite_v4<P: Rewrite>(
    packet: &mut P,
    l3_offset: usize,
    side: Side,
    address: u32,
    difference: u32,
) -> Result<(), EditError> {
    let header = packet.window_mut::<20>(l3_offset).ok_or(EditError)?;
    if header[V4_HOP_LIMIT] <= 1 {
        return Err(EditError);
    }
    match side {
        Side::Source => write_word(header, V4_SOURCE, address),
        Side::Destination => write_word(header, V4_DESTINATION, address),
    }
    let hop = lower_hop_limit(header, V4_HOP_LIMIT);
    rewrite_field(header, V4_CHECKSUM, checksum::add(difference, hop));
    Ok(())
}

#[inline(always)]
fn rewrite_v6<P: Rewrite>(
    packet: &mut P,
    l3_offset: usize,
    side: Side,
    address: [u32; 4],
    difference: u32,
) -> Result<(), EditError> {
    let header = packet.window_mut::<40>(l3_offset).ok_or(EditError)?;
    if header[V6_HOP_LIMIT] <= 1 {
        return Err(EditError);
    }
    match side {
        Side::Source => write_words(header, V6_SOURCE, address),
        Side::Destination => write_words(header, V6_DESTINATION, address),
    }
    // The even byte of its word is the next header.
    let hop = lower_hop_limit(header, V6_HOP_LIMIT);
    packet.fix_device_sum(checksum::add(difference, hop));
    Ok(())
}

/// Takes one from the hop limit and leaves the addresses.
#[inline(always)]
pub(super) fn lower_hop_limit_only<P: Rewrite, A: Address>(
    packet: &mut P,
    l3_offset: usize,
) -> Result<(), EditError> {
    if A::IS_V6 {
        let header = packet.window_mut::<40>(l3_offset).ok_or(EditError)?;
        if header[V6_HOP_LIMIT] <= 1 {
            return Err(EditError);
        }
        let hop = lower_hop_limit(header, V6_HOP_LIMIT);
        packet.fix_device_sum(hop);
        return Ok(());
    }
    let header = packet.window_mut::<20>(l3_offset).ok_or(EditError)?;
    if header[V4_HOP_LIMIT] <= 1 {
        return Err(EditError);
    }
    let hop = lower_hop_limit(header, V4_HOP_LIMIT);
    rewrite_field(header, V4_CHECKSUM, hop);
    Ok(())
}

/// Writes an address into an embedded header, whose hop limit is history. Returns what that does to a
/// sum over the header.
#[inline(always)]
pub(super) fn rewrite_embedded<P: Rewrite, A: Address>(
    packet: &mut P,
    l3_offset: usize,
    side: Side,
    address: A,
    difference: u32,
) -> Result<u32, EditError> {
    if A::IS_V6 {
        let header = packet.window_mut::<40>(l3_offset).ok_or(EditError)?;
        match side {
            Side::Source => write_words(header, V6_SOURCE, address.words()),
            Side::Destination => write_words(header, V6_DESTINATION, address.words()),
        }
        return Ok(difference);
    }
    let header = packet.window_mut::<20>(l3_offset).ok_or(EditError)?;
    match side {
        Side::Source => write_word(header, V4_SOURCE, address.words()[0]),
        Side::Destination => write_word(header, V4_DESTINATION, address.words()[0]),
    }
    Ok(checksum::add(difference, rewrite_field(header, V4_CHECKSUM, difference)))
}

/// Brings a checksum in line with a difference; returns the difference of the checksum itself.
#[inline(always)]
fn rewrite_field(header: &mut [u8; 20], at: usize, difference: u32) -> u32 {
    let old = u16::from_ne_bytes([header[at], header[at + 1]]);
    let new = checksum::apply(old, difference);
    write_half(header, at, new);
    checksum::difference(u32::from(old), u32::from(new))
}

/// Takes one from the byte at `at`; returns the difference of the word that it is part of.
#[inline(always)]
fn lower_hop_limit<const N: usize>(header: &mut [u8; N], at: usize) -> u32 {
    let word = at & !1;
    let before = u16::from_ne_bytes([header[word], header[word + 1]]);
    header[at] = header[at].wrapping_sub(1);
    let after = u16::from_ne_bytes([header[word], header[word + 1]]);
    checksum::difference(u32::from(before), u32::from(after))
}
