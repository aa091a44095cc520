//! The bounds check of packet memory in the form that the verifier understands: a pointer compared
//! with the end, not a length.

/// Address of `N` bytes from `offset`, or `None` when the packet ends before.
#[inline(always)]
pub fn pointer<const N: usize>(
    data: usize,
    data_end: usize,
    offset: usize,
) -> Option<*mut [u8; N]> {
    let start = data + offset;
    if start + N > data_end {
        return None;
    }
    Some(start as *mut [u8; N])
}
