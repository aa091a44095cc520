//! Words that translation and the packets themselves share.

/// Which end of the packet is translated.
#[repr(u32)]
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Side {
    /// Source address and port.
    Source,
    /// Destination address and port.
    Destination,
}

/// The packet could not be changed; it may be half changed and must be dropped.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct EditError;
