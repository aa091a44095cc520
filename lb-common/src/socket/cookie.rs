//! The cookie of a network namespace in the words of an address: how the agent learns it where the
//! kernel tells it to programs only.
//!
//! 22 bits are in an address `127.64.0.0/10`, 15 in a port that is never 0. Cookies count up from 1 with
//! the namespaces of a machine, and its processors take them by the thousand, so 37 bits are enough.

/// `127.64.0.0`.
const ADDRESS: u32 = 0x7f40_0000;
const ADDRESS_BITS: u32 = 22;
const PORT: u16 = 0x8000;
const PORT_BITS: u32 = 15;

/// Address and port that tell a cookie; `None`: it is too large to be told.
#[inline(always)]
#[must_use]
pub const fn tell_cookie(cookie: u64) -> Option<(u32, u16)> {
    if cookie >> (ADDRESS_BITS + PORT_BITS) != 0 {
        return None;
    }
    let port = cookie as u16 & (PORT - 1);
    Some((ADDRESS | (cookie >> PORT_BITS) as u32, PORT | port))
}

/// The cookie that an address tells; `None`: it tells none.
#[cfg(any(feature = "std", test))]
#[must_use]
pub fn cookie_told(address: std::net::SocketAddrV4) -> Option<u64> {
    let (word, port) = (address.ip().to_bits(), address.port());
    if word >> ADDRESS_BITS != ADDRESS >> ADDRESS_BITS || port & PORT == 0 {
        return None;
    }
    let high = u64::from(word & ((1 << ADDRESS_BITS) - 1));
    Some(high << PORT_BITS | u64::from(port & (PORT - 1)))
}

#[cfg(test)]
mod tests {
    use std::net::{Ipv4Addr, SocketAddrV4};

    use super::*;

    #[test]
    fn cookies_are_told_whole_or_not_at_all() {
        for cookie in [0, 1, 77, 0x7fff, 0x8000, 0x12_3456_789a, (1 << 37) - 1] {
            let (address, port) = tell_cookie(cookie).expect("it fits");
            let address = SocketAddrV4::new(Ipv4Addr::from_bits(address), port);
            assert_eq!(cookie_told(address), Some(cookie), "{address}");
        }
        assert_eq!(tell_cookie(1 << 37), None);
        assert_eq!(cookie_told("127.0.0.1:40000".parse().expect("an address")), None);
        assert_eq!(cookie_told("127.64.0.1:80".parse().expect("an address")), None);
    }
}
