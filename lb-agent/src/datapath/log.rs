//! What the kernel programs log: only those of a debug object do (`cargo xtask build-ebpf
//! --debug-trace`), never those that are shipped.

use std::fmt;

use aya::Ebpf;
use aya_log::EbpfLogger;
use tokio::io::{Interest, unix::AsyncFd};

/// Log lines of the programs, for [`Self::follow`].
pub struct ProgramLog(EbpfLogger<&'static dyn log::Log>);

impl fmt::Debug for ProgramLog {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("ProgramLog")
    }
}

/// The log of an object; `None` for one that has none.
pub(super) fn take(ebpf: &mut Ebpf) -> Option<ProgramLog> {
    EbpfLogger::init(ebpf).ok().map(ProgramLog)
}

impl ProgramLog {
    /// Hands the lines to the agent's own log, for as long as it is polled.
    pub async fn follow(self) {
        // SAFETY: the logger owns the file descriptor of its ring buffer from its beginning to its
        // end, and `as_raw_fd` returns that one each time.
        let lines = unsafe { AsyncFd::register_with_interest(self.0, Interest::READABLE) };
        let mut lines = match lines {
            Ok(lines) => lines,
            Err(error) => {
                tracing::warn!("cannot follow the log of the programs: {error}");
                return;
            }
        };
        tracing::info!("a debug object is loaded: its programs log every decision");
        while let Ok(mut guard) = lines.readable_mut().await {
            guard.get_inner_mut().flush();
            guard.clear_ready();
        }
    }
}
