//! The end of a socket: what is remembered of it outside of it goes, too, and it is counted no longer.

use aya_ebpf::{
    EbpfContext as _, helpers::bpf_get_socket_cookie, macros::cgroup_sock, programs::SockContext,
};
use lb_common::abi::{PROTOCOL_TCP, PROTOCOL_UDP};

use super::{PROTOCOL_MPTCP, storage};
use crate::maps::CONNECTED_DATAGRAMS;

/// The last descriptor of a socket is closed.
#[cgroup_sock(sock_release)]
pub fn lb_sock_release(ctx: SockContext) -> i32 {
    // SAFETY: the kernel's context, which lives as long as the program runs.
    let protocol = unsafe { (&raw const (*ctx.sock).protocol).read_volatile() };
    if protocol == u32::from(PROTOCOL_TCP) || protocol == PROTOCOL_MPTCP {
        storage::forget_closed(&ctx);
    }
    if protocol == u32::from(PROTOCOL_UDP) {
        // SAFETY: the context is a socket's.
        let socket = unsafe { bpf_get_socket_cookie(ctx.as_ptr()) };
        let _ = CONNECTED_DATAGRAMS.remove(&socket);
    }
    super::GO_ON
}
