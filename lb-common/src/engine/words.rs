//! Words and addresses in windows. Every place must be a constant after inlining: an index that is not
//! leaves a panic behind, which the kernel refuses.

use crate::abi::{NetAddr6, NetU32};

/// An address from words as they lie in memory.
#[inline(always)]
pub(super) const fn from_words(words: [u32; 4]) -> NetAddr6 {
    zerocopy::transmute!(words)
}

/// The word at `at`.
#[inline(always)]
pub(super) const fn word_at<const N: usize>(window: &[u8; N], at: usize) -> u32 {
    u32::from_ne_bytes([window[at], window[at + 1], window[at + 2], window[at + 3]])
}

/// The IPv4 address at `at`.
#[inline(always)]
pub(super) const fn v4_at<const N: usize>(window: &[u8; N], at: usize) -> NetU32 {
    NetU32::from_raw(word_at(window, at))
}

/// The IPv6 address at `at`.
#[inline(always)]
pub(super) const fn v6_at<const N: usize>(window: &[u8; N], at: usize) -> NetAddr6 {
    from_words([
        word_at(window, at),
        word_at(window, at + 4),
        word_at(window, at + 8),
        word_at(window, at + 12),
    ])
}

/// Writes a word as it lies in memory.
#[inline(always)]
pub(super) const fn write_word<const N: usize>(window: &mut [u8; N], at: usize, word: u32) {
    let bytes = word.to_ne_bytes();
    window[at] = bytes[0];
    window[at + 1] = bytes[1];
    window[at + 2] = bytes[2];
    window[at + 3] = bytes[3];
}

/// Writes four words as they lie in memory.
#[inline(always)]
pub(super) const fn write_words<const N: usize>(window: &mut [u8; N], at: usize, words: [u32; 4]) {
    write_word(window, at, words[0]);
    write_word(window, at + 4, words[1]);
    write_word(window, at + 8, words[2]);
    write_word(window, at + 12, words[3]);
}

/// Writes two bytes as they lie in memory.
#[inline(always)]
pub(super) const fn write_half<const N: usize>(window: &mut [u8; N], at: usize, half: u16) {
    let bytes = half.to_ne_bytes();
    window[at] = bytes[0];
    window[at + 1] = bytes[1];
}
