//! Log lines for a debug object (`cargo xtask build-ebpf --debug-trace`). Without the feature `trace`
//! nothing of this is compiled: a log line costs 2,000 verified instructions and 20 ns even when
//! nobody reads it.

use aya_ebpf::EbpfContext;
use lb_common::{abi::Hook, engine::Decision};

/// Logs what was decided on a packet that is ours.
#[cfg(feature = "trace")]
#[inline(always)]
pub fn decision(ctx: &impl EbpfContext, hook: Hook, decision: &Decision) {
    if decision.verdict as u32 == lb_common::abi::Verdict::Pass as u32 {
        return;
    }
    aya_log_ebpf::info!(
        ctx,
        "hook {} verdict {} reason {} backend {} interface {}",
        hook as u32,
        decision.verdict as u32,
        decision.reason as u32,
        decision.backend,
        decision.ifindex
    );
}

/// Nothing.
#[cfg(not(feature = "trace"))]
#[inline(always)]
pub fn decision(_ctx: &impl EbpfContext, _hook: Hook, _decision: &Decision) {}
