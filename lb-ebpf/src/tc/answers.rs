//! Answers to packets that are not forwarded: each family a function of its own, called rarely.

use aya_ebpf::{
    bindings::__sk_buff,
    helpers::{bpf_ktime_get_ns, bpf_redirect},
};
use lb_common::{
    abi::{NetAddr6, NetU32},
    engine::{answer, rate::Rate},
};

use super::{DROP, packet::TcPacket};
use crate::{
    maps::{ANSWER_BUCKETS, Scratch},
    tables::FamilyMaps,
};

/// Answers per CPU and bucket: enough for every client that a service has lost, and no weapon.
const RATE: Rate = Rate::per_second(10_000, 1_000);

/// Makes the packet its own answer and sends it back the way it came, or says to drop it.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn lb_tc_answer_v4(skb: *mut __sk_buff) -> i32 {
    answer_of::<NetU32>(skb)
}

/// [`lb_tc_answer_v4`] for IPv6.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn lb_tc_answer_v6(skb: *mut __sk_buff) -> i32 {
    answer_of::<NetAddr6>(skb)
}

#[inline(always)]
fn answer_of<A: FamilyMaps>(skb: *mut __sk_buff) -> i32 {
    let mut packet = TcPacket::new(skb);
    let Some(scratch) = A::scratch() else { return DROP };
    let Scratch { headers, decision, .. } = scratch;
    let Some(answer) = answer::answer(&packet, headers, decision.answer, decision.mtu) else {
        return DROP;
    };
    if !take_token(decision.answer.bucket()) || answer::write(&mut packet, &answer).is_err() {
        return DROP;
    }
    // SAFETY: the helper only notes where the packet goes once the program has returned.
    unsafe { bpf_redirect(packet.ingress_ifindex(), 0) as i32 }
}

#[inline(always)]
fn take_token(bucket: u32) -> bool {
    let Some(bucket) = ANSWER_BUCKETS.get_ptr_mut(bucket) else { return false };
    // SAFETY: the pointer is to this CPU's element; the helper has no preconditions.
    unsafe {
        let Some(next) = RATE.take(*bucket, bpf_ktime_get_ns()) else { return false };
        *bucket = next;
    }
    true
}
