//! The internet checksum (RFC 1071) and its incremental update (RFC 1624).
//!
//! Sums are over 16-bit words as they lie in memory. RFC 1071 section 2(B): the sum is the same in
//! either byte order as long as the result is stored the way the words were read, so nothing here
//! swaps bytes.
//!
//! The difference of two words is itself a one's complement sum, `!old + new`, so that several
//! differences can be added before the checksum is touched once. RFC 1624 equation 3 then gives
//! `HC' = ~(~HC + ~m + m')`, which, unlike equation 2 of RFC 1141, never yields the wrong zero.

/// What a change of header fields does to the checksum of TCP or UDP.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Change {
    /// Difference of the words of the pseudo header: the addresses.
    pub pseudo: u32,
    /// Difference of the words that the checksum covers itself: the ports.
    pub payload: u32,
}

/// Adds two one's complement sums. Folded to 16 bits and a few more: of a carry out of 32 bits BPF
/// makes a branch, which is mispredicted every other time and doubles the verifier's work.
#[inline(always)]
#[must_use]
pub const fn add(left: u32, right: u32) -> u32 {
    fold_wide(left as u64 + right as u64)
}

/// Folds the sum of few words into one, of which 0 is zero words only.
#[inline(always)]
#[must_use]
pub const fn fold_wide(sum: u64) -> u32 {
    ((sum & 0xffff) + ((sum >> 16) & 0xffff) + (sum >> 32)) as u32
}

/// The difference that turns word `old` into word `new`.
#[inline(always)]
#[must_use]
pub const fn difference(old: u32, new: u32) -> u32 {
    add(!old, new)
}

/// Folds a sum into 16 bits.
#[inline(always)]
#[must_use]
pub const fn fold(sum: u32) -> u16 {
    let once = (sum & 0xffff) + (sum >> 16);
    ((once & 0xffff) + (once >> 16)) as u16
}

/// The checksum after a difference (RFC 1624, equation 3).
#[inline(always)]
#[must_use]
pub const fn apply(checksum: u16, difference: u32) -> u16 {
    !fold(add(!checksum as u32 & 0xffff, difference))
}

/// Brings a complete checksum of TCP or UDP in line with a change.
#[inline(always)]
pub const fn rewrite(field: &mut [u8; 2], change: Change) {
    let sum = add(change.pseudo, change.payload);
    *field = apply(u16::from_ne_bytes(*field), sum).to_ne_bytes();
}

/// Whether a difference leaves every checksum as it is.
#[inline(always)]
#[must_use]
pub const fn is_neutral(difference: u32) -> bool {
    let folded = fold(difference);
    folded == 0 || folded == u16::MAX
}

/// Sum of bytes, from zero; an odd last byte is padded with zero.
#[cfg(any(feature = "std", test))]
#[must_use]
pub fn sum(bytes: &[u8]) -> u32 {
    let mut total = 0;
    for pair in bytes.chunks(2) {
        let word = [pair[0], pair.get(1).copied().unwrap_or(0)];
        total = add(total, u32::from(u16::from_ne_bytes(word)));
    }
    total
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn incremental_update_equals_sum_from_zero(
            mut bytes in proptest::collection::vec(any::<u8>(), 20..64),
            at in 0usize..4,
            new in any::<[u8; 4]>(),
        ) {
            bytes.truncate(bytes.len() & !3);
            let before = !fold(sum(&bytes));
            let range = at * 4..at * 4 + 4;
            let old: [u8; 4] = bytes[range.clone()].try_into().expect("four bytes");
            bytes[range].copy_from_slice(&new);
            let changed = difference(u32::from_ne_bytes(old), u32::from_ne_bytes(new));
            let after = apply(before, changed);
            // Both encodings of zero verify; what a receiver checks is the sum with the checksum.
            prop_assert_eq!(fold(add(sum(&bytes), u32::from(after))), 0xffff);
        }
    }

    #[test]
    fn rfc_1624_example() {
        // Section 4: HC = 0xDD2F, m = 0x5555, m' = 0x3285 must give 0x0000, not 0xFFFF.
        assert_eq!(apply(0xdd2f, difference(0x5555, 0x3285)), 0x0000);
    }
}
