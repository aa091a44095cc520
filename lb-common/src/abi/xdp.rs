//! What XDP knows of interfaces.

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

const ADDRESS_BITS: u32 = 48;
const ADDRESS_MASK: u64 = (1 << ADDRESS_BITS) - 1;
const RECEIVES: u64 = 1 << ADDRESS_BITS;
const SENDS: u64 = 1 << (ADDRESS_BITS + 1);

/// Value of the array `XDP_INTERFACES`, indexed by interface: its hardware address, and whether XDP may
/// send by it. One word, so that one store changes it; zero: an interface that XDP leaves alone.
#[repr(transparent)]
#[derive(FromBytes, IntoBytes, Immutable, KnownLayout, Clone, Copy, PartialEq, Eq, Default)]
pub struct XdpInterface(u64);

impl XdpInterface {
    /// XDP leaves it alone.
    pub const NONE: Self = Self(0);

    /// One that receives frames for `address`.
    #[must_use]
    pub const fn receiving(address: [u8; 6]) -> Self {
        Self(word(address) | RECEIVES)
    }

    /// One that receives frames for `address`, and that XDP may send by.
    #[must_use]
    pub const fn sending(address: [u8; 6]) -> Self {
        Self(word(address) | RECEIVES | SENDS)
    }

    /// From the word in the map.
    #[must_use]
    pub const fn from_raw(raw: u64) -> Self {
        Self(raw)
    }

    /// The word for the map.
    #[must_use]
    pub const fn raw(self) -> u64 {
        self.0
    }

    /// Whether a frame with this destination is for the interface, and for no other.
    #[inline(always)]
    #[must_use]
    pub const fn receives(self, destination: [u8; 6]) -> bool {
        self.0 & (RECEIVES | ADDRESS_MASK) == word(destination) | RECEIVES
    }

    /// Whether XDP may send by it.
    #[inline(always)]
    #[must_use]
    pub const fn may_send(self) -> bool {
        self.0 & SENDS != 0
    }
}

/// The bytes in memory order, whatever the machine's is.
#[inline(always)]
const fn word(address: [u8; 6]) -> u64 {
    let [b0, b1, b2, b3, b4, b5] = address;
    u64::from_le_bytes([b0, b1, b2, b3, b4, b5, 0, 0])
}

impl core::fmt::Debug for XdpInterface {
    fn fmt(&self, formatter: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        for byte in &self.0.to_le_bytes()[..6] {
            write!(formatter, "{byte:02x}:")?;
        }
        write!(formatter, " receives {}, sends {}", self.0 & RECEIVES != 0, self.may_send())
    }
}

const _: () = assert!(size_of::<XdpInterface>() == 8);

#[cfg(test)]
mod tests {
    use super::XdpInterface;

    const OWN: [u8; 6] = [2, 0, 0, 0, 0, 0xfe];

    #[test]
    fn frames_are_for_whom_they_name() {
        for interface in [XdpInterface::receiving(OWN), XdpInterface::sending(OWN)] {
            assert!(interface.receives(OWN));
            assert!(!interface.receives([2, 0, 0, 0, 0, 0xff]), "another");
            assert!(!interface.receives([0xff; 6]), "everybody");
            assert!(!interface.receives([3, 0, 0, 0, 0, 0xfe]), "a group");
        }
        assert!(!XdpInterface::receiving(OWN).may_send());
        assert!(XdpInterface::sending(OWN).may_send());
    }

    #[test]
    fn an_unknown_interface_receives_nothing() {
        assert!(!XdpInterface::NONE.receives([0; 6]));
        assert!(!XdpInterface::NONE.may_send());
        assert!(XdpInterface::receiving([0; 6]).receives([0; 6]));
    }
}
