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

/// Bits of the class in the `class` of a record of replies. Those above are, of [`CLASS_RESUMED`], the
/// high ones of the sequence number of the client's latest packet.
const REPLY_CLASS_BITS: u32 = 4;

/// The low bits of the sequence number behind a FIN, in a record of replies. Never 0: that is 1, which
/// the side's next number would be, and it has none.
#[inline(always)]
#[must_use]
pub const fn reply_end(sequence: u32) -> u16 {
    let low = sequence as u16;
    low + (low == 0) as u16
}

/// 1 if any bit is set.
#[inline(always)]
const fn any_bit(word: u16) -> u32 {
    0_u32.wrapping_sub(word as u32) >> 31
}

/// The `CLASS_*` of a record of replies. Both sides may end at once, on two CPUs, each from the class
/// before, and the last one stays in the record; so the two ends, each written by its own side, say
/// whether there was another.
#[inline(always)]
#[must_use]
pub const fn reply_class(class: u16, client_end: u16, backend_end: u16) -> u32 {
    const HALF_CLOSED: u32 = (1 << CLASS_CLOSING_BY_CLIENT) | (1 << CLASS_CLOSING_BY_BACKEND);
    let class = class as u32 & ((1 << REPLY_CLASS_BITS) - 1);
    // By arithmetic: fewer ways for the kernel's verifier to follow.
    let is_crossed = HALF_CLOSED >> (class & 31) & any_bit(client_end) & any_bit(backend_end);
    class ^ (class ^ CLASS_LAST_ACK) & 0_u32.wrapping_sub(is_crossed & 1)
}

/// The bits above the class in the `class` of a record of replies.
#[inline(always)]
#[must_use]
pub const fn reply_place_of(word: u16) -> u16 {
    word >> REPLY_CLASS_BITS << REPLY_CLASS_BITS
}

/// The high bits of a sequence number, in their place in the `class` of a record of replies.
#[inline(always)]
#[must_use]
pub const fn reply_place(sequence: u32) -> u16 {
    reply_place_of((sequence >> 16) as u16)
}

/// Whether an acknowledgement is about what is around the [`reply_place`] in the `class` of a record of
/// replies: less than 1 to 2 MiB before or behind it.
#[inline(always)]
#[must_use]
pub const fn is_near_reply_place(word: u16, acknowledgement: u32) -> bool {
    const STEP: u16 = 1 << REPLY_CLASS_BITS;
    let distance = reply_place(acknowledgement).wrapping_sub(reply_place_of(word));
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
