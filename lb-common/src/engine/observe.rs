//! What packets show of a backend's health: refused connections, and SYNs that nobody answers.
//!
//! Counted where a backend's packets are counted anyway, per CPU, and told now and then while it
//! lasts. What is told is a hint and no verdict: a client can make a healthy backend refuse (by a SYN
//! on a connection that is half closed) or keep silent (by a SYN with a wrong checksum), and an answer
//! may come in on another CPU. Resets in mid-stream mean nothing here.

use crate::abi::BackendCounters;

/// SYNs in a row without an answer that are told: a client sends its second one after a second.
pub const UNANSWERED_MIN: u32 = 3;
/// Time without an answer, in moments: those to a burst of SYNs come behind it, on this machine within
/// one.
pub const SILENCE_MIN: u32 = 20;
/// Time without a SYN after which it begins anew, in moments: whoever has come back is not suspected for
/// what was before. A client that waits sends its SYN again after one second, and again after two.
pub const PAUSE_MAX: u32 = 2000;
/// Time between two observations of one backend on one CPU, in moments.
pub const SPACING: u32 = 8;

/// A SYN was forwarded. True: it is to be told that the backend is silent.
#[inline(always)]
pub fn note_syn(counters: &mut BackendCounters, now_moment: u32) -> bool {
    let pause = now_moment.wrapping_sub(counters.syn_at);
    counters.syn_at = now_moment;
    if counters.unanswered == 0 || pause > PAUSE_MAX {
        counters.unanswered = 0;
        counters.unanswered_since = now_moment;
    }
    counters.unanswered = counters.unanswered.saturating_add(1);
    let silence = now_moment.wrapping_sub(counters.unanswered_since);
    counters.unanswered >= UNANSWERED_MIN && silence >= SILENCE_MIN && is_due(counters, now_moment)
}

/// A packet came from the backend: whatever it is, it lives.
#[inline(always)]
pub fn note_reply(counters: &mut BackendCounters) {
    counters.unanswered = 0;
}

/// A connection was refused. True: it is to be told.
#[inline(always)]
pub fn note_refusal(counters: &mut BackendCounters, now_moment: u32) -> bool {
    counters.refusals = counters.refusals.wrapping_add(1);
    is_due(counters, now_moment)
}

#[inline(always)]
fn is_due(counters: &mut BackendCounters, now_moment: u32) -> bool {
    if now_moment.wrapping_sub(counters.told_at) < SPACING {
        return false;
    }
    counters.told_at = now_moment;
    true
}

#[cfg(test)]
mod tests {
    use std::{string::String, vec::Vec};

    use super::*;
    use crate::{
        abi::{NetAddr6, NetU32},
        engine::{
            host::HostPacket,
            testing::{BACKEND, BACKEND6, CLIENT, CLIENT6, ip, tcp},
            wire::{Headers, TCP_ACK, TCP_FIN, TCP_RST, TCP_SYN, parse_v4, parse_v6},
        },
    };

    /// A TCP packet of a backend with these flags and this sequence number.
    fn is_refusing(flags: u8, sequence: u32) -> [bool; 2] {
        let mut segment = tcp((80, 4000), flags, &[]);
        segment[4..8].copy_from_slice(&sequence.to_be_bytes());
        let framed = |packet: Vec<u8>| HostPacket([std::vec![0; 14], packet].concat());
        let v4 = framed(ip(BACKEND, CLIENT, 6, &segment));
        let v6 = framed(ip(BACKEND6, CLIENT6, 6, &segment));
        let headers_v4: Headers<NetU32> = parse_v4(&v4, 14);
        let headers_v6: Headers<NetAddr6> = parse_v6(&v6, 14);
        [headers_v4.is_refusal(), headers_v6.is_refusal()]
    }

    #[test]
    fn a_closed_port_refuses_and_a_reset_in_mid_stream_does_not() {
        const RST_ACK: u8 = (TCP_RST | TCP_ACK) as u8;
        const PSH: u8 = 0x08;
        for (name, flags, sequence, expected) in [
            ("a closed port", RST_ACK, 0, true),
            ("with a flag that means nothing here", RST_ACK | PSH, 0, true),
            ("in mid-stream", RST_ACK, 1, false),
            ("in mid-stream, of high numbers", RST_ACK, u32::MAX, false),
            ("to an acknowledgement nobody knows", TCP_RST as u8, 0, false),
            ("a SYN+ACK that begins at 0", (TCP_SYN | TCP_ACK) as u8, 0, false),
            ("a FIN that comes to 0", (TCP_FIN | TCP_ACK) as u8, 0, false),
            ("no flags that go together", RST_ACK | TCP_SYN as u8, 0, false),
            ("data", TCP_ACK as u8, 0, false),
        ] {
            assert_eq!(is_refusing(flags, sequence), [expected; 2], "{name}");
        }
    }

    /// `s` a SYN to the backend, `r` a reply, `R` a refusal, `.` ten moments in which nothing happens.
    /// Expected: what is told, `!` for what each SYN and refusal leads to.
    #[track_caller]
    fn check(history: &str, expected: &str) {
        for start in [0, 5, u32::MAX - 15] {
            let mut counters =
                BackendCounters { told_at: start.wrapping_sub(100), ..Default::default() };
            let mut now = start;
            let mut told = String::new();
            for event in history.chars() {
                let is_told = match event {
                    '.' => {
                        now = now.wrapping_add(10);
                        continue;
                    }
                    'r' => {
                        note_reply(&mut counters);
                        continue;
                    }
                    's' => note_syn(&mut counters, now),
                    _ => {
                        note_reply(&mut counters);
                        note_refusal(&mut counters, now)
                    }
                };
                told.push(if is_told { '!' } else { '-' });
            }
            assert_eq!(told, expected, "{history} from {start}");
        }
    }

    #[test]
    fn only_a_lasting_silence_is_told() {
        check("s.s.s", "--!");
        check("s......s", "--");
        // Who comes back after being out for long.
        let pause = ".".repeat(201);
        check(&format!("sss..s{pause}s.s.s"), "---!--!");
        check(&format!("s{}s{}s", ".".repeat(96), ".".repeat(191)), "--!");
        check("ssssssss", "--------");
        // Retransmissions of one client, and what comes while it lasts.
        check("s..........s..........s..........s", "--!!");
        check("sss..s.s.s", "---!!!");
        check("sss..sss.s", "---!--!");
    }

    #[test]
    fn any_answer_ends_a_silence() {
        check("sss.r.sss.", "------");
        check("s.s.rs.s.rs.s.r", "------");
        check("ss..rs..s..s", "----!");
        check("sss.R.sss", "---!---");
    }

    #[test]
    fn refusals_are_told_now_and_then() {
        check("sRsRsR.sR", "-!-----!");
        check("R.R.R", "!!!");
    }
}
