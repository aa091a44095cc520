//! Names for the numbers of the data path. A number that has none is a defect, and shown as `?`.

use lb_common::{
    abi::{DropReason, Hook, Verdict},
    engine::{
        answer::AnswerKind,
        wire::{PROTOCOL_ICMP, PROTOCOL_ICMPV6, PROTOCOL_TCP, PROTOCOL_UDP},
    },
};

const UNKNOWN: &str = "?";

fn name_of(names: &[&'static str], number: u32) -> &'static str {
    usize::try_from(number).ok().and_then(|index| names.get(index)).copied().unwrap_or(UNKNOWN)
}

/// Of a [`Hook`].
pub(crate) fn hook(number: u32) -> &'static str {
    let hook = Hook::ALL.iter().find(|hook| **hook as u32 == number);
    hook.map_or(UNKNOWN, |hook| hook.name())
}

/// Of a [`Verdict`].
pub(crate) fn verdict(number: u32) -> &'static str {
    let verdict = Verdict::ALL.iter().find(|verdict| **verdict as u32 == number);
    verdict.map_or(UNKNOWN, |verdict| verdict.name())
}

/// Of a [`DropReason`].
pub(crate) fn reason(number: u32) -> &'static str {
    let reason = DropReason::ALL.iter().find(|reason| **reason as u32 == number);
    reason.map_or(UNKNOWN, |reason| reason.name())
}

/// Of an [`AnswerKind`].
pub(crate) fn answer(number: u32) -> &'static str {
    const NAMES: [(AnswerKind, &str); 6] = [
        (AnswerKind::EchoReply, "echo_reply"),
        (AnswerKind::Reset, "reset"),
        (AnswerKind::PortUnreachable, "port_unreachable"),
        (AnswerKind::HostUnreachable, "host_unreachable"),
        (AnswerKind::TooBig, "too_big"),
        (AnswerKind::TimeExceeded, "time_exceeded"),
    ];
    let found = NAMES.iter().find(|(kind, _)| *kind as u32 == number);
    found.map_or(UNKNOWN, |(_, name)| name)
}

/// Of a record's `CLASS_*`.
pub(crate) fn class(number: u32) -> &'static str {
    const NAMES: [&str; 11] = [
        "half_open",
        "established",
        "closing_by_client",
        "closing_by_backend",
        "closed",
        "datagram",
        "answered",
        "reset",
        "last_ack",
        "resumed",
        "reopened",
    ];
    name_of(&NAMES, number)
}

/// Of a `FlowChange` of the engine; `None`: nothing changes.
pub(crate) fn flow_change(number: u32) -> Option<&'static str> {
    const NAMES: [&str; 7] =
        ["keep", "touch", "touch_half", "put_half", "put", "promote", "forget"];
    (number != 0).then(|| name_of(&NAMES, number))
}

/// Of a `ReplyChange` of the engine; `None`: nothing changes.
pub(crate) fn reply_change(number: u32) -> Option<&'static str> {
    const NAMES: [&str; 7] =
        ["keep", "touch", "touch_half", "put_half", "put", "forget", "put_foreign"];
    (number != 0).then(|| name_of(&NAMES, number))
}

/// Of an IP protocol.
pub(crate) fn protocol(number: u32) -> String {
    match number {
        PROTOCOL_TCP => "tcp".to_owned(),
        PROTOCOL_UDP => "udp".to_owned(),
        PROTOCOL_ICMP => "icmp".to_owned(),
        PROTOCOL_ICMPV6 => "icmpv6".to_owned(),
        number => number.to_string(),
    }
}

/// What a packet is: TCP's flags, or the engine's kind.
pub(crate) fn packet(kind: u32, tcp_flags: u32) -> String {
    const KINDS: [&str; 7] =
        ["other", "tcp", "", "echo_request", "icmp_error", "later_fragment", "broken"];
    const FLAGS: [(u32, char); 6] =
        [(0x02, 'S'), (0x01, 'F'), (0x04, 'R'), (0x08, 'P'), (0x10, 'A'), (0x20, 'U')];
    match name_of(&KINDS, kind) {
        "tcp" => {
            let set = FLAGS.iter().filter(|(bit, _)| tcp_flags & bit != 0);
            set.map(|(_, letter)| letter).collect()
        }
        name => name.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use lb_common::{
        abi::{CLASS_ANSWERED, CLASS_CLOSED, CLASS_ESTABLISHED},
        engine::{FlowChange, ReplyChange, wire::Kind},
    };

    use super::*;

    #[test]
    fn numbers_have_their_names() {
        assert_eq!(class(CLASS_ESTABLISHED), "established");
        assert_eq!(class(CLASS_CLOSED), "closed");
        assert_eq!(class(CLASS_ANSWERED), "answered");
        assert_eq!(flow_change(FlowChange::Keep as u32), None);
        assert_eq!(flow_change(FlowChange::PutHalf as u32), Some("put_half"));
        assert_eq!(flow_change(FlowChange::Promote as u32), Some("promote"));
        assert_eq!(flow_change(FlowChange::Forget as u32), Some("forget"));
        assert_eq!(reply_change(ReplyChange::Put as u32), Some("put"));
        assert_eq!(reply_change(ReplyChange::Forget as u32), Some("forget"));
        assert_eq!(reply_change(ReplyChange::PutForeign as u32), Some("put_foreign"));
        assert_eq!(packet(Kind::Tcp as u32, 0x12), "SA");
        assert_eq!(packet(Kind::Udp as u32, 0), "");
        assert_eq!(packet(Kind::LaterFragment as u32, 0), "later_fragment");
        assert_eq!(packet(Kind::Broken as u32, 0), "broken");
        assert_eq!(answer(AnswerKind::TimeExceeded as u32), "time_exceeded");
        assert_eq!(reason(DropReason::NoFrontend as u32), "no_frontend");
        for number in [99, u32::MAX] {
            assert_eq!([hook(number), verdict(number), answer(number)], ["?"; 3]);
        }
    }
}
