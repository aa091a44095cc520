//! The bounds check of packet memory in the form that the verifier understands: a pointer compared
//! with the end, not a length.

/// Beyond all headers that are understood.
const OFFSET_MAX: usize = 0x7ff;

/// Address of `N` bytes from `offset`, or `None` when the packet ends before.
#[inline(always)]
pub fn pointer<const N: usize>(
    data: usize,
    data_end: usize,
    offset: usize,
) -> Option<*mut [u8; N]> {
    // Offsets that went through a map have no bound that the verifier knows.
    if offset > OFFSET_MAX {
        return None;
    }
    let start = data + offset;
    if start + N > data_end {
        return None;
    }
    Some(start as *mut [u8; N])
}
