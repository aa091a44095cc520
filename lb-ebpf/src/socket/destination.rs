//! The look-up of a destination, as functions that the kernel verifies by themselves, once for a
//! program: behind them all ways through the look-up are one. What they take and give are words.

use lb_common::{
    abi::{
        Frontend, FrontendKeyV4, FrontendKeyV6, FrontendState, NetAddr6, NetU16, NetU32,
        SCOPE_FRONT, ring_number,
    },
    engine::Family,
};

use crate::tables::FamilyMaps;

/// Flags in the upper half, then the service, then the state.
const SERVICE_SHIFT: u32 = 2;
const STATE_MASK: u64 = (1 << SERVICE_SHIFT) - 1;

/// Looks up a destination of IPv4.
#[inline(always)]
pub fn v4(key: &FrontendKeyV4) -> Frontend {
    let rest = port_and_protocol(key.port, key.protocol);
    unpacked::<NetU32>(lb_destination_v4(key.vip.raw(), rest), key.protocol)
}

/// Looks up a destination of IPv6.
#[inline(always)]
pub fn v6(key: &FrontendKeyV6) -> Frontend {
    let rest = port_and_protocol(key.port, key.protocol);
    let [first, second] = halves(key.vip);
    unpacked::<NetAddr6>(lb_destination_v6(first, second, rest), key.protocol)
}

/// An address of IPv6 as two words.
#[inline(always)]
pub fn halves(address: NetAddr6) -> [u64; 2] {
    let [a, b, c, d] = address.raw();
    [u64::from(a) << 32 | u64::from(b), u64::from(c) << 32 | u64::from(d)]
}

#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn lb_destination_v4(vip: u32, rest: u32) -> u64 {
    looked_up(NetU32::from_raw(vip), rest)
}

#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn lb_destination_v6(first: u64, second: u64, rest: u32) -> u64 {
    let words = [(first >> 32) as u32, first as u32, (second >> 32) as u32, second as u32];
    looked_up(NetAddr6::from_raw(words), rest)
}

#[inline(always)]
fn looked_up<A: FamilyMaps>(vip: A, rest: u32) -> u64 {
    let key = A::frontend_key(vip, NetU16::from_raw((rest >> 8) as u16), rest as u8, SCOPE_FRONT);
    let Frontend { state, service, flags, .. } = A::frontend(&key);
    u64::from(flags) << 32 | u64::from(service) << SERVICE_SHIFT | u64::from(state as u32)
}

#[inline(always)]
fn port_and_protocol(port: NetU16, protocol: u8) -> u32 {
    u32::from(port.raw()) << 8 | u32::from(protocol)
}

#[inline(always)]
fn unpacked<A: Family>(word: u64, protocol: u8) -> Frontend {
    let service = word as u32 >> SERVICE_SHIFT;
    Frontend {
        state: if word & STATE_MASK == FrontendState::Served as u32 as u64 {
            FrontendState::Served
        } else if word & STATE_MASK == FrontendState::Unserved as u32 as u64 {
            FrontendState::Unserved
        } else {
            FrontendState::NotVip
        },
        service,
        ring: ring_number(service, A::NUMBER, protocol),
        flags: (word >> 32) as u32,
    }
}
