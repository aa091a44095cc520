//! The bounds check of packet memory in the form that the verifier understands: a pointer compared
//! with the end, not a length.

/// Beyond all headers that are understood; one less than a power of two.
const OFFSET_MAX: usize = 0x7ff;

/// Address of `N` bytes from `offset`, or `None` when the packet ends before.
#[inline(always)]
pub fn pointer<const N: usize>(
    data: usize,
    data_end: usize,
    offset: usize,
) -> Option<*mut [u8; N]> {
    if offset > OFFSET_MAX {
        return None;
    }
    let offset =
        if core::intrinsics::is_val_statically_known(offset) { offset } else { bounded(offset) };
    let start = data + offset;
    if start + N > data_end {
        return None;
    }
    Some(start as *mut [u8; N])
}

/// Tells the verifier what the comparison has told LLVM, which may have turned it into one that the
/// verifier cannot use: offsets that went through a map have no bound for it.
#[inline(always)]
fn bounded(offset: usize) -> usize {
    let mut offset = offset;
    // SAFETY: an operation on a register, which changes nothing here.
    unsafe {
        core::arch::asm!(
            "{offset} &= {max}",
            offset = inout(reg) offset,
            max = const OFFSET_MAX,
            options(pure, nomem, nostack),
        );
    };
    offset
}
