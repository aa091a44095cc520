//! Classes of records: how far a connection has come.

/// Record class: the client has sent its SYN only.
pub const CLASS_HALF_OPEN: u32 = 0;
/// Record class: the client has sent more than a SYN.
pub const CLASS_ESTABLISHED: u32 = 1;
/// Record class: the client has sent a FIN.
pub const CLASS_CLOSING_BY_CLIENT: u32 = 2;
/// Record class: the backend has sent a FIN.
pub const CLASS_CLOSING_BY_BACKEND: u32 = 3;
/// Record class: both sides have sent a FIN. Of replies: and the backend has acknowledged the client's.
pub const CLASS_CLOSED: u32 = 4;
/// Record class: UDP.
pub const CLASS_DATAGRAM: u32 = 5;
/// Record class, of replies only: the backend has answered, the client not yet.
pub const CLASS_ANSWERED: u32 = 6;
/// Record class: the client has sent a RST, if it was the client: data of it says that it was not.
pub const CLASS_RESET: u32 = 7;
/// Record class, of replies only: both sides have sent a FIN, and the backend has one acknowledgement
/// to send yet: that of the client's FIN.
pub const CLASS_LAST_ACK: u32 = 8;
/// Record class, of replies only: the client has sent something in mid-stream that had no record, and
/// the backend nothing since.
pub const CLASS_RESUMED: u32 = 9;
/// Record class, of replies only: the client has sent a SYN for a flow that was closing, and the backend
/// has not accepted it.
pub const CLASS_REOPENED: u32 = 10;

/// Bits of the class in the `class` of a record of replies. Those above are the low ones of the sequence
/// number behind the client's FIN, once it has sent one; of [`CLASS_RESUMED`] the high ones of that of
/// the client's latest packet.
const REPLY_CLASS_BITS: u32 = 4;

/// The `CLASS_*` in the `class` of a record of replies.
#[inline(always)]
#[must_use]
pub const fn reply_class(word: u16) -> u32 {
    word as u32 & ((1 << REPLY_CLASS_BITS) - 1)
}

/// The bits of a sequence number, in their place in the `class` of a record of replies.
#[inline(always)]
#[must_use]
pub const fn reply_end(sequence: u32) -> u16 {
    (sequence << REPLY_CLASS_BITS) as u16
}

/// The bits of the sequence number in the `class` of a record of replies, in their place.
#[inline(always)]
#[must_use]
pub const fn reply_end_of(word: u16) -> u16 {
    word >> REPLY_CLASS_BITS << REPLY_CLASS_BITS
}

/// The high bits of a sequence number, in the place of [`reply_end`].
#[inline(always)]
#[must_use]
pub const fn reply_place(sequence: u32) -> u16 {
    reply_end_of((sequence >> 16) as u16)
}

/// Whether an acknowledgement is about what is around the [`reply_place`] in the `class` of a record of
/// replies: less than 1 to 2 MiB before or behind it.
#[inline(always)]
#[must_use]
pub const fn is_near_reply_place(word: u16, acknowledgement: u32) -> bool {
    const STEP: u16 = 1 << REPLY_CLASS_BITS;
    let distance = reply_place(acknowledgement).wrapping_sub(reply_end_of(word));
    distance.wrapping_add(STEP) <= 2 * STEP
}

/// Whether a record of this class opens no more: some side has sent a FIN or RST.
#[inline(always)]
#[must_use]
pub const fn is_closing(class: u32) -> bool {
    const CLOSING: u32 = (1 << CLASS_CLOSING_BY_CLIENT)
        | (1 << CLASS_CLOSING_BY_BACKEND)
        | (1 << CLASS_CLOSED)
        | (1 << CLASS_RESET)
        | (1 << CLASS_LAST_ACK);
    CLOSING >> (class & 31) & 1 != 0
}
