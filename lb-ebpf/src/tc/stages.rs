//! The stages of a packet, each a function of its own, which the kernel verifies one by one and whose
//! stack comes on top only while it runs. A usual packet of IPv4 passes through one.

use aya_ebpf::bindings::__sk_buff;
use lb_common::{
    abi::{Hook, NetAddr6, NetU32},
    engine::{front_other, front_transport, reply_other, reply_transport},
};

use super::{
    DROP, FORWARD, OTHER, PASS,
    answers::{lb_tc_answer_v4, lb_tc_answer_v6},
    forward::forward,
    packet::TcPacket,
    settle,
};
use crate::{
    fib::FibAddress,
    maps::Scratch,
    tables::{FamilyMaps, Maps},
};

/// The stages of a family. Each reads and writes this CPU's [`Scratch`].
pub trait Stages: FamilyMaps + FibAddress {
    /// Parses the packet whose IP header begins there, and deals with it if it has ports. The result
    /// is an action of TC, [`super::ANSWER`] or [`OTHER`].
    fn with_ports(skb: *mut __sk_buff, l3_offset: u32, hook: u32) -> i32;
    /// Decides on a packet without ports that came in on a front interface.
    fn front_other(skb: *mut __sk_buff) -> i32;
    /// Decides on a packet without ports that a container sends.
    fn reply_other(skb: *mut __sk_buff) -> i32;
    /// Carries out a decision to forward; the result is an action of TC, or [`super::ANSWER`].
    fn forward(skb: *mut __sk_buff, hook: u32) -> i32;
    /// Answers the packet; the result is an action of TC.
    fn answer(skb: *mut __sk_buff) -> i32;
}

impl Stages for NetU32 {
    #[inline(always)]
    fn with_ports(skb: *mut __sk_buff, l3_offset: u32, hook: u32) -> i32 {
        match hook_of(hook) {
            Hook::TcReply => lb_tc_reply_v4(skb, l3_offset),
            _ => lb_tc_front_v4(skb, l3_offset),
        }
    }

    #[inline(always)]
    fn front_other(skb: *mut __sk_buff) -> i32 {
        lb_tc_front_other_v4(skb)
    }

    #[inline(always)]
    fn reply_other(skb: *mut __sk_buff) -> i32 {
        lb_tc_reply_other_v4(skb)
    }

    #[inline(always)]
    fn forward(skb: *mut __sk_buff, hook: u32) -> i32 {
        lb_tc_forward_v4(skb, hook)
    }

    #[inline(always)]
    fn answer(skb: *mut __sk_buff) -> i32 {
        lb_tc_answer_v4(skb)
    }
}

impl Stages for NetAddr6 {
    #[inline(always)]
    fn with_ports(skb: *mut __sk_buff, l3_offset: u32, hook: u32) -> i32 {
        if lb_tc_parse_v6(skb, l3_offset) != 0 {
            return OTHER;
        }
        let hook = hook_of(hook);
        match hook {
            Hook::TcReply => lb_tc_reply_v6(),
            _ => lb_tc_front_v6(),
        };
        let Some(scratch) = Self::scratch() else { return PASS };
        let action = settle(skb, hook, scratch);
        if action == FORWARD { Self::forward(skb, hook as u32) } else { action }
    }

    #[inline(always)]
    fn front_other(skb: *mut __sk_buff) -> i32 {
        lb_tc_front_other_v6(skb)
    }

    #[inline(always)]
    fn reply_other(skb: *mut __sk_buff) -> i32 {
        lb_tc_reply_other_v6(skb)
    }

    #[inline(always)]
    fn forward(skb: *mut __sk_buff, hook: u32) -> i32 {
        lb_tc_forward_v6(skb, hook)
    }

    #[inline(always)]
    fn answer(skb: *mut __sk_buff) -> i32 {
        lb_tc_answer_v6(skb)
    }
}

macro_rules! stages {
    ($($(#[doc = $doc:literal])+ $name:ident($skb:ident $(, $word:ident)*) => $body:expr;)+) => {
        $(
            $(#[doc = $doc])+
            #[unsafe(no_mangle)]
            #[inline(never)]
            extern "C" fn $name($skb: *mut __sk_buff $(, $word: u32)*) -> i32 {
                $body
            }
        )+
    };
}

stages! {
    /// [`Stages::with_ports`] of IPv4 on a front interface.
    lb_tc_front_v4(skb, l3_offset) => with_ports_v4(skb, l3_offset, Hook::TcFront);
    /// [`Stages::with_ports`] of IPv4 from a container.
    lb_tc_reply_v4(skb, l3_offset) => with_ports_v4(skb, l3_offset, Hook::TcReply);
    /// Parses IPv6; not 0: the packet has no ports.
    lb_tc_parse_v6(skb, l3_offset) => match NetAddr6::scratch() {
        Some(scratch) => parse_headers(skb, l3_offset, scratch),
        None => PASS,
    };
    /// [`Stages::front_other`] of IPv4.
    lb_tc_front_other_v4(skb) => decide_front_other::<NetU32>(skb);
    /// [`Stages::front_other`] of IPv6.
    lb_tc_front_other_v6(skb) => decide_front_other::<NetAddr6>(skb);
    /// [`Stages::reply_other`] of IPv4.
    lb_tc_reply_other_v4(skb) => decide_reply_other::<NetU32>(skb);
    /// [`Stages::reply_other`] of IPv6.
    lb_tc_reply_other_v6(skb) => decide_reply_other::<NetAddr6>(skb);
    /// [`Stages::forward`] of IPv4.
    lb_tc_forward_v4(skb, hook) => carry_out::<NetU32, true>(skb, hook);
    /// [`Stages::forward`] of IPv6.
    lb_tc_forward_v6(skb, hook) => carry_out::<NetAddr6, true>(skb, hook);
}

// An argument that is not used would be left out of the call, and missed by the verifier.

/// Decides on IPv6 with ports that came in on a front interface.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn lb_tc_front_v6() -> i32 {
    NetAddr6::scratch().map_or(0, decide_front)
}

/// Decides on IPv6 with ports that a container sends.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn lb_tc_reply_v6() -> i32 {
    NetAddr6::scratch().map_or(0, decide_reply)
}

#[inline(always)]
fn with_ports_v4(skb: *mut __sk_buff, l3_offset: u32, hook: Hook) -> i32 {
    let Some(scratch) = NetU32::scratch() else { return PASS };
    if parse_headers(skb, l3_offset, scratch) != 0 {
        return OTHER;
    }
    match hook {
        Hook::TcReply => decide_reply(scratch),
        _ => decide_front(scratch),
    };
    let action = settle(skb, hook, scratch);
    if action == FORWARD {
        forward::<NetU32, false>(&mut TcPacket::new(skb), hook as u32, scratch)
    } else {
        action
    }
}

#[inline(always)]
fn parse_headers<A: FamilyMaps>(
    skb: *mut __sk_buff,
    l3_offset: u32,
    scratch: &mut Scratch<A>,
) -> i32 {
    // Ethernet and two tags at most: the bound is for the verifier.
    let l3_offset = (l3_offset & 31) as usize;
    A::parse_into(&TcPacket::new(skb), l3_offset, &mut scratch.headers);
    i32::from(!scratch.headers.is_transport())
}

#[inline(always)]
fn decide_front<A: FamilyMaps>(scratch: &mut Scratch<A>) -> i32 {
    let Scratch { context, headers, decision, .. } = scratch;
    front_transport(headers, &Maps, context, decision);
    0
}

#[inline(always)]
fn decide_reply<A: FamilyMaps>(scratch: &mut Scratch<A>) -> i32 {
    let Scratch { context, headers, decision, .. } = scratch;
    reply_transport(headers, &Maps, context, decision);
    0
}

#[inline(always)]
fn decide_front_other<A: FamilyMaps>(skb: *mut __sk_buff) -> i32 {
    let Some(Scratch { context, headers, decision, .. }) = A::scratch() else { return 0 };
    front_other(&TcPacket::new(skb), headers, &Maps, context, decision);
    0
}

#[inline(always)]
fn decide_reply_other<A: FamilyMaps>(skb: *mut __sk_buff) -> i32 {
    let Some(Scratch { context, headers, decision, .. }) = A::scratch() else { return 0 };
    reply_other(&TcPacket::new(skb), headers, &Maps, context, decision);
    0
}

#[inline(always)]
fn carry_out<A: FamilyMaps + FibAddress, const ERRORS: bool>(
    skb: *mut __sk_buff,
    hook: u32,
) -> i32 {
    let Some(scratch) = A::scratch() else { return DROP };
    forward::<A, ERRORS>(&mut TcPacket::new(skb), hook, scratch)
}

/// From a number: calls between functions carry no more than words.
#[inline(always)]
const fn hook_of(hook: u32) -> Hook {
    if hook == Hook::TcReply as u32 { Hook::TcReply } else { Hook::TcFront }
}
