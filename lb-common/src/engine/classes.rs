//! Classes of records of replies: what a packet of either side makes of one.
//!
//! Written down as matches, run as tables of 16 classes in a word each: the kernel's verifier would
//! follow every arm of a match, and all that comes after it.

use super::{
    PacketKind,
    record::{closed_by, reset_from},
    wire::{Address, Headers},
};
use crate::abi::{
    CLASS_ANSWERED, CLASS_CLOSED, CLASS_CLOSING_BY_BACKEND, CLASS_CLOSING_BY_CLIENT,
    CLASS_DATAGRAM, CLASS_ESTABLISHED, CLASS_HALF_OPEN, CLASS_LAST_ACK, CLASS_REOPENED,
    CLASS_RESET, CLASS_RESUMED, is_closing,
};

/// In place of a class: there is no record of the flow.
pub(super) const NONE: u32 = 15;

/// What a packet says to a record.
#[derive(Clone, Copy)]
enum Event {
    Syn,
    /// An acknowledgement and nothing else.
    BareAck,
    Data,
    Fin,
    Reset,
    Datagram,
    /// What proves nothing.
    Stray,
    /// The backend answers a SYN.
    SynAck,
    /// Any other packet of the backend.
    Answer,
    BackendFin,
    /// A FIN that also acknowledges that of the client.
    BackendFinAck,
    /// An acknowledgement of the client's FIN and nothing else.
    LastAck,
}

/// The class after a packet of the client. Whatever that is, it proves no connection by itself: anybody
/// may have sent it.
const fn by_client(before: u32, event: Event) -> u32 {
    match event {
        Event::Reset => match before {
            NONE => CLASS_HALF_OPEN,
            CLASS_HALF_OPEN | CLASS_RESUMED => before,
            _ => reset_from(before),
        },
        Event::Fin if matches!(before, NONE | CLASS_HALF_OPEN | CLASS_RESUMED) => CLASS_RESUMED,
        Event::Fin => unacknowledged(closed_by(before, CLASS_CLOSING_BY_CLIENT)),
        Event::Syn if before != NONE && is_closing(before) => CLASS_REOPENED,
        Event::BareAck | Event::Data => match before {
            NONE | CLASS_HALF_OPEN | CLASS_REOPENED => CLASS_RESUMED,
            CLASS_ANSWERED | CLASS_RESET => CLASS_ESTABLISHED,
            // It is sent again, and so will be its acknowledgement.
            CLASS_CLOSED if matches!(event, Event::Data) => CLASS_LAST_ACK,
            _ => before,
        },
        Event::Datagram if before == CLASS_ANSWERED => CLASS_DATAGRAM,
        _ if before == NONE => CLASS_HALF_OPEN,
        _ => before,
    }
}

/// The class after a packet of the backend that is no RST. Who answers what came in mid-stream knows the
/// connection.
const fn by_backend(before: u32, event: Event) -> u32 {
    match (before, event) {
        (_, Event::BackendFinAck) => closed_by(before, CLASS_CLOSING_BY_BACKEND),
        (_, Event::BackendFin) => unacknowledged(closed_by(before, CLASS_CLOSING_BY_BACKEND)),
        (CLASS_LAST_ACK, Event::LastAck) => CLASS_CLOSED,
        (CLASS_RESUMED | CLASS_REOPENED, Event::SynAck) | (CLASS_HALF_OPEN, _) => CLASS_ANSWERED,
        (CLASS_RESUMED, _) => CLASS_ESTABLISHED,
        _ => before,
    }
}

/// If both sides have sent a FIN now, the backend has to acknowledge the client's.
const fn unacknowledged(class: u32) -> u32 {
    if class == CLASS_CLOSED { CLASS_LAST_ACK } else { class }
}

/// The classes after an event, four bits for each before it.
const fn table(event: Event) -> u64 {
    let mut table = 0;
    let mut before = 0;
    while before <= NONE {
        let class = match event {
            Event::SynAck
            | Event::Answer
            | Event::BackendFin
            | Event::BackendFinAck
            | Event::LastAck => by_backend(before, event),
            _ => by_client(before, event),
        };
        table |= (class as u64) << (4 * before);
        before += 1;
    }
    table
}

#[inline(always)]
const fn look_up(table: u64, before: u32) -> u32 {
    (table >> (4 * (before & 15))) as u32 & 15
}

/// Class of a record of replies after a packet of the client; before it [`NONE`] for a new one.
#[inline(always)]
pub(super) const fn after_client<A: Address>(
    before: u32,
    kind: PacketKind,
    headers: &Headers<A>,
) -> u32 {
    let table = match kind {
        PacketKind::Syn => const { table(Event::Syn) },
        PacketKind::Data if headers.is_bare_ack() => const { table(Event::BareAck) },
        PacketKind::Data => const { table(Event::Data) },
        PacketKind::Fin => const { table(Event::Fin) },
        PacketKind::Reset => const { table(Event::Reset) },
        PacketKind::Datagram => const { table(Event::Datagram) },
        PacketKind::Stray | PacketKind::Aside => const { table(Event::Stray) },
    };
    look_up(table, before)
}

/// Class of a record of replies after a packet of the backend that is no RST.
#[inline(always)]
pub(super) const fn after_backend<A: Address>(
    before: u32,
    headers: &Headers<A>,
    acknowledges_end: bool,
) -> u32 {
    let table = if headers.is_closing() {
        if acknowledges_end {
            const { table(Event::BackendFinAck) }
        } else {
            const { table(Event::BackendFin) }
        }
    } else if headers.is_syn_ack() {
        const { table(Event::SynAck) }
    } else if acknowledges_end & headers.is_bare_ack() {
        const { table(Event::LastAck) }
    } else {
        const { table(Event::Answer) }
    };
    look_up(table, before)
}
