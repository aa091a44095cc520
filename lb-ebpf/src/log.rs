//! Log lines for a debug object (`cargo xtask build-ebpf --debug-trace`). Without the feature `trace`
//! nothing of this is compiled: a log line costs 2,000 verified instructions and 20 ns even when
//! nobody reads it.

use lb_common::{
    abi::Hook,
    engine::{Decision, Family},
};

/// Logs what was decided on a packet that is ours.
#[cfg(feature = "trace")]
#[inline(always)]
pub fn decision<C, A: Family>(ctx: *mut C, hook: Hook, decision: &Decision<A>) {
    if decision.verdict as u32 == lb_common::abi::Verdict::Pass as u32 {
        return;
    }
    let context = Place(ctx.cast());
    aya_log_ebpf::info!(
        &context,
        "hook {} verdict {} reason {} backend {} interface {}",
        hook as u32,
        decision.verdict as u32,
        decision.reason as u32,
        decision.backend,
        decision.ifindex
    );
}

/// A program's context, for the log.
#[cfg(feature = "trace")]
struct Place(*mut core::ffi::c_void);

#[cfg(feature = "trace")]
impl aya_ebpf::EbpfContext for Place {
    fn as_ptr(&self) -> *mut core::ffi::c_void {
        self.0
    }
}

/// Nothing.
#[cfg(not(feature = "trace"))]
#[inline(always)]
pub fn decision<C, A: Family>(_ctx: *mut C, _hook: Hook, _decision: &Decision<A>) {}
