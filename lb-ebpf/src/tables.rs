//! The engine's view of the maps.

use aya_ebpf::btf_maps::{HashMap, LruHashMap, lpm_trie::Key};
use lb_common::{
    abi::{
        FlowInsertions, FlowRecord, FlowRoom, Frontend, HalfOpenRate, Limits, NetAddr6, NetU16,
        NetU32, PROTOCOL_ANY, REPLY_DEFAULT_FOREIGN, Refusals, RingDescriptor, SCOPE_FRONT, Slot,
    },
    engine::{
        Backend, Family, Packet, RecordTables, TableFull, Tables,
        wire::{Headers, parse_network_v6, parse_transport, parse_v4},
    },
    frontends,
};

use crate::{
    frontends::{FrontendsV4, FrontendsV6},
    maps::{
        BACKENDS, BACKENDS_V4, BACKENDS_V6, FLOW_INSERTIONS, FLOW_ROOM, FLOWS_V4, FLOWS_V6,
        FRAGMENTED, FRAGMENTS_V4, FRAGMENTS_V6, HALF_FLOWS_V4, HALF_FLOWS_V6, HALF_OPEN_RATE,
        HALF_OPEN_RECORDS, HALF_REPLIES_V4, HALF_REPLIES_V6, LOCAL_V4, LOCAL_V6, META, RECORDS,
        REFUSALS, REPLIES_V4, REPLIES_V6, REPLY_DEFAULTS_V4, REPLY_DEFAULTS_V6, RING_SLOTS, RINGS,
        SCRATCH_V4, SCRATCH_V6, Scratch,
    },
};

/// The maps of this object as the engine's tables.
pub struct Maps;

/// The maps of a family.
pub trait FamilyMaps: Family {
    /// Parses a packet into its place.
    fn parse_into<P: Packet>(packet: &P, l3_offset: usize, headers: &mut Headers<Self>);
    /// Where this CPU decides.
    fn scratch() -> Option<&'static mut Scratch<Self>>;
    /// Looks up a destination.
    fn frontend(key: &Self::FrontendKey) -> Frontend;
    /// Whether an address may be a VIP, by one bit.
    fn may_be_vip(address: Self) -> bool;
    /// Looks up `BACKENDS_*`.
    fn backend_record(number: u32) -> Option<&'static Self::BackendRecord>;
    /// `FLOWS_*`.
    fn flows() -> &'static HashMap<Self::FlowKey, FlowRecord, RECORDS>;
    /// `HALF_FLOWS_*`.
    fn half_flows() -> &'static LruHashMap<Self::FlowKey, FlowRecord, HALF_OPEN_RECORDS>;
    /// `REPLIES_*`.
    fn replies() -> &'static HashMap<Self::ReplyKey, Self::ReplyRecord, RECORDS>;
    /// `HALF_REPLIES_*`.
    fn half_replies() -> &'static LruHashMap<Self::ReplyKey, Self::ReplyRecord, HALF_OPEN_RECORDS>;
    /// `REPLY_DEFAULTS_*`.
    fn reply_defaults() -> &'static HashMap<Self::ReplyDefaultKey, Self::ReplyDefault, BACKENDS>;
    /// `FRAGMENTS_*`.
    fn fragments() -> &'static LruHashMap<Self::FragmentKey, Self::FragmentRecord, FRAGMENTED>;
    /// Looks up `LOCAL_*`.
    fn local(address: Self) -> u32;
    /// Stores time, class and front interface in place.
    fn touch_reply(known: *mut Self::ReplyRecord, record: &Self::ReplyRecord);
    /// Stores in place that there are records of foreign flows.
    fn mark_reply_default(known: *mut Self::ReplyDefault);
}

/// A key of `LOCAL_*` at a place where its address is aligned: it may be stored by eight bytes, and the
/// verifier wants those aligned.
#[repr(C, align(8))]
struct LocalKey<A> {
    before: u32,
    key: Key<A>,
}

macro_rules! family_maps {
    (
        $family:ty, $parse_into:ident, $scratch:ident, $frontends:ident, $backends:ident, $flows:ident,
        $half_flows:ident, $replies:ident, $half_replies:ident, $defaults:ident, $local:ident,
        $fragments:ident, $bits:literal
    ) => {
        impl FamilyMaps for $family {
            #[inline(always)]
            fn parse_into<P: Packet>(packet: &P, l3_offset: usize, headers: &mut Headers<Self>) {
                $parse_into(packet, l3_offset, headers);
            }

            #[inline(always)]
            fn scratch() -> Option<&'static mut Scratch<Self>> {
                let scratch = $scratch.get_ptr_mut(0)?;
                // SAFETY: this CPU's element, which nothing else uses while the program runs; zeros
                // are a value of every field, and only values are written.
                Some(unsafe { &mut *scratch })
            }

            #[inline(always)]
            fn frontend(key: &Self::FrontendKey) -> Frontend {
                frontends::lookup(&$frontends, key)
            }

            #[inline(always)]
            fn may_be_vip(address: Self) -> bool {
                let port = NetU16::new(0);
                let key = Self::frontend_key(address, port, PROTOCOL_ANY, SCOPE_FRONT);
                frontends::may_be_vip(&$frontends, &key)
            }

            #[inline(always)]
            fn backend_record(number: u32) -> Option<&'static Self::BackendRecord> {
                $backends.get(number)
            }

            #[inline(always)]
            fn flows() -> &'static HashMap<Self::FlowKey, FlowRecord, RECORDS> {
                &$flows
            }

            #[inline(always)]
            fn half_flows() -> &'static LruHashMap<Self::FlowKey, FlowRecord, HALF_OPEN_RECORDS> {
                &$half_flows
            }

            #[inline(always)]
            fn replies() -> &'static HashMap<Self::ReplyKey, Self::ReplyRecord, RECORDS> {
                &$replies
            }

            #[inline(always)]
            fn half_replies()
            -> &'static LruHashMap<Self::ReplyKey, Self::ReplyRecord, HALF_OPEN_RECORDS> {
                &$half_replies
            }

            #[inline(always)]
            fn reply_defaults()
            -> &'static HashMap<Self::ReplyDefaultKey, Self::ReplyDefault, BACKENDS> {
                &$defaults
            }

            #[inline(always)]
            fn fragments()
            -> &'static LruHashMap<Self::FragmentKey, Self::FragmentRecord, FRAGMENTED> {
                &$fragments
            }

            #[inline(always)]
            fn local(address: Self) -> u32 {
                let place = LocalKey { before: 0, key: Key::new($bits, address) };
                $local.get(&core::hint::black_box(&place).key).copied().unwrap_or(0)
            }

            #[inline(always)]
            fn touch_reply(known: *mut Self::ReplyRecord, record: &Self::ReplyRecord) {
                // SAFETY: as for flows, see `touch_flow`.
                unsafe {
                    (&raw mut (*known).last_seen_tick).write_volatile(record.last_seen_tick);
                    (&raw mut (*known).class).write_volatile(record.class);
                    (&raw mut (*known).ifindex).write_volatile(record.ifindex);
                    // The other side may have set its own on another CPU since we read the record.
                    set_end(&raw mut (*known).client_end, record.client_end);
                    set_end(&raw mut (*known).backend_end, record.backend_end);
                }
            }

            #[inline(always)]
            fn mark_reply_default(known: *mut Self::ReplyDefault) {
                // SAFETY: as for flows, see `touch_flow`. CPUs may store at once: the same. Of the
                // agent, which replaces the whole element, see `lb-agent/src/datapath/replies.rs`.
                unsafe {
                    let flags = (&raw const (*known).flags).read_volatile();
                    (&raw mut (*known).flags).write_volatile(flags | REPLY_DEFAULT_FOREIGN);
                }
            }
        }
    };
}

family_maps!(
    NetU32,
    parse_into_v4,
    SCRATCH_V4,
    FrontendsV4,
    BACKENDS_V4,
    FLOWS_V4,
    HALF_FLOWS_V4,
    REPLIES_V4,
    HALF_REPLIES_V4,
    REPLY_DEFAULTS_V4,
    LOCAL_V4,
    FRAGMENTS_V4,
    32
);
family_maps!(
    NetAddr6,
    parse_into_v6,
    SCRATCH_V6,
    FrontendsV6,
    BACKENDS_V6,
    FLOWS_V6,
    HALF_FLOWS_V6,
    REPLIES_V6,
    HALF_REPLIES_V6,
    REPLY_DEFAULTS_V6,
    LOCAL_V6,
    FRAGMENTS_V6,
    128
);

#[inline(always)]
fn parse_into_v4<P: Packet>(packet: &P, l3_offset: usize, headers: &mut Headers<NetU32>) {
    *headers = parse_v4(packet, l3_offset);
}

/// In two parts, between which the verifier forgets by which extension headers it came.
#[inline(always)]
fn parse_into_v6<P: Packet>(packet: &P, l3_offset: usize, headers: &mut Headers<NetAddr6>) {
    *headers = parse_network_v6(packet, l3_offset);
    let headers = core::hint::black_box(headers);
    *headers = parse_transport(packet, *headers);
}

impl<A: FamilyMaps> Tables<A> for Maps {
    #[inline(always)]
    fn limits(&self) -> Limits {
        META.get(0).map_or(Limits::default(), |meta| meta.limits)
    }

    #[inline(always)]
    fn frontend(&self, key: &A::FrontendKey) -> Frontend {
        A::frontend(key)
    }

    #[inline(always)]
    fn may_be_vip(&self, address: A) -> bool {
        A::may_be_vip(address)
    }

    #[inline(always)]
    fn ring(&self, ring: u32) -> Option<RingDescriptor> {
        RINGS.get(ring).map(|raw| RingDescriptor::from_raw(*raw))
    }

    #[inline(always)]
    fn slot(&self, index: u32) -> Option<Slot> {
        RING_SLOTS.get(index).map(|raw| Slot::from_raw(*raw))
    }

    #[inline(always)]
    fn backend(&self, number: u32) -> Option<Backend<A>> {
        A::backend_record(number).map(A::backend)
    }

    #[inline(always)]
    fn flow(&self, key: &A::FlowKey) -> Option<FlowRecord> {
        // SAFETY: an element that is removed and given to another flow while we copy it may yield
        // that flow's record, or parts of both: the generation rejects a backend that is not the
        // record's, and at worst one packet goes where its sender's next one does not.
        unsafe { A::flows().get(key) }.copied()
    }

    #[inline(always)]
    fn half_flow(&self, key: &A::FlowKey) -> Option<FlowRecord> {
        // SAFETY: as above.
        unsafe { A::half_flows().get(key) }.copied()
    }

    #[inline(always)]
    fn refusals(&self, ring: u32) -> Refusals {
        REFUSALS.get(ring).copied().unwrap_or_default()
    }

    #[inline(always)]
    fn half_open_count(&self, tick: u32) -> u32 {
        HALF_OPEN_RATE.get(0).map_or(0, |rate| if rate.tick == tick { rate.count } else { 0 })
    }

    #[inline(always)]
    fn flow_room(&self) -> u32 {
        flow_room(A::NUMBER).left(FLOW_INSERTIONS.get(A::NUMBER).copied().unwrap_or_default())
    }

    #[inline(always)]
    fn reply_default(&self, key: &A::ReplyDefaultKey) -> Option<A::ReplyDefault> {
        // SAFETY: only the agent writes; elements of a hash map are swapped.
        unsafe { A::reply_defaults().get(key) }.copied()
    }

    #[inline(always)]
    fn local(&self, address: A) -> u32 {
        A::local(address)
    }

    #[inline(always)]
    fn reply(&self, key: &A::ReplyKey) -> Option<A::ReplyRecord> {
        // SAFETY: as for flows; a record is removed only long after its flow's last packet.
        unsafe { A::replies().get(key) }.copied()
    }

    #[inline(always)]
    fn half_reply(&self, key: &A::ReplyKey) -> Option<A::ReplyRecord> {
        // SAFETY: an evicted element that is given to another flow while we copy it may yield parts
        // of both: one reply is lost, as the record is.
        unsafe { A::half_replies().get(key) }.copied()
    }

    #[inline(always)]
    fn fragment(&self, key: &A::FragmentKey) -> Option<A::FragmentRecord> {
        // SAFETY: an evicted element that is given to another packet while we copy it may yield parts
        // of both: one fragment is lost, as its packet's record is.
        unsafe { A::fragments().get(key) }.copied()
    }
}

impl<A: FamilyMaps> RecordTables<A> for Maps {
    #[inline(always)]
    fn put_flow(&self, key: &A::FlowKey, record: &FlowRecord) -> Result<(), TableFull> {
        A::flows().insert(key, record, 0).map_err(|_| TableFull)
    }

    #[inline(always)]
    fn put_half_flow(&self, key: &A::FlowKey, record: &FlowRecord) -> Result<(), TableFull> {
        A::half_flows().insert(key, record, 0).map_err(|_| TableFull)
    }

    #[inline(always)]
    fn touch_flow(&self, key: &A::FlowKey, record: &FlowRecord) {
        touch_flow(A::flows().get_ptr_mut(key), record);
    }

    #[inline(always)]
    fn touch_half_flow(&self, key: &A::FlowKey, record: &FlowRecord) {
        touch_flow(A::half_flows().get_ptr_mut(key), record);
    }

    #[inline(always)]
    fn remove_flow(&self, key: &A::FlowKey) {
        // Absent is fine, here and below.
        let _ = A::flows().remove(key);
    }

    #[inline(always)]
    fn remove_half_flow(&self, key: &A::FlowKey) {
        let _ = A::half_flows().remove(key);
    }

    #[inline(always)]
    fn note_refusal(&self, ring: u32, tick: u32, is_full: bool) {
        let Some(note) = REFUSALS.get_ptr_mut(ring) else { return };
        // SAFETY: the element of an array stays where it is. CPUs may store at once: each stores a
        // tick that is now.
        unsafe {
            (&raw mut (*note).refused_tick).write_volatile(tick);
            if is_full {
                (&raw mut (*note).full_tick).write_volatile(tick);
            }
        }
    }

    #[inline(always)]
    fn count_half_open(&self, tick: u32) {
        let Some(rate) = HALF_OPEN_RATE.get_ptr_mut(0) else { return };
        // SAFETY: the pointer is to this CPU's element.
        unsafe {
            if (*rate).tick == tick {
                (*rate).count += 1;
            } else {
                *rate = HalfOpenRate { tick, count: 1 };
            }
        }
    }

    #[inline(always)]
    fn uncount_half_open(&self, tick: u32) {
        let Some(rate) = HALF_OPEN_RATE.get_ptr_mut(0) else { return };
        // SAFETY: as above.
        unsafe {
            if (*rate).tick == tick {
                (*rate).count = (*rate).count.saturating_sub(1);
            }
        }
    }

    #[inline(always)]
    fn count_insertion(&self) {
        let epoch = flow_room(A::NUMBER).epoch;
        let Some(inserted) = FLOW_INSERTIONS.get_ptr_mut(A::NUMBER) else { return };
        // SAFETY: the pointer is to this CPU's element.
        unsafe {
            let count = (*inserted).since(epoch).saturating_add(1);
            *inserted = FlowInsertions { epoch, count };
        }
    }

    #[inline(always)]
    fn put_reply(&self, key: &A::ReplyKey, record: &A::ReplyRecord) -> Result<(), TableFull> {
        A::replies().insert(key, record, 0).map_err(|_| TableFull)
    }

    #[inline(always)]
    fn put_half_reply(&self, key: &A::ReplyKey, record: &A::ReplyRecord) -> Result<(), TableFull> {
        A::half_replies().insert(key, record, 0).map_err(|_| TableFull)
    }

    #[inline(always)]
    fn touch_reply(&self, key: &A::ReplyKey, record: &A::ReplyRecord) {
        if let Some(known) = A::replies().get_ptr_mut(key) {
            A::touch_reply(known, record);
        }
    }

    #[inline(always)]
    fn touch_half_reply(&self, key: &A::ReplyKey, record: &A::ReplyRecord) {
        if let Some(known) = A::half_replies().get_ptr_mut(key) {
            A::touch_reply(known, record);
        }
    }

    #[inline(always)]
    fn remove_reply(&self, key: &A::ReplyKey) {
        let _ = A::replies().remove(key);
    }

    #[inline(always)]
    fn remove_half_reply(&self, key: &A::ReplyKey) {
        let _ = A::half_replies().remove(key);
    }

    #[inline(always)]
    fn mark_reply_default(&self, key: &A::ReplyDefaultKey) {
        if let Some(known) = A::reply_defaults().get_ptr_mut(key) {
            A::mark_reply_default(known);
        }
    }

    #[inline(always)]
    fn put_fragment(&self, key: &A::FragmentKey, record: &A::FragmentRecord) {
        // The oldest makes room; without a record the fragments to come are dropped.
        let _ = A::fragments().insert(key, record, 0);
    }
}

#[inline(always)]
fn flow_room(family: u32) -> FlowRoom {
    FLOW_ROOM.get(family).copied().unwrap_or_default()
}

/// Stores the end of a side in place, unless it is none that we know of.
///
/// # Safety
///
/// `known` is a field of an element of a map.
#[inline(always)]
unsafe fn set_end(known: *mut u16, end: u16) {
    // SAFETY: the caller's. Without a branch: fewer ways for the verifier to follow.
    unsafe {
        let kept = known.read_volatile() & 0_u16.wrapping_sub((end == 0) as u16);
        known.write_volatile(end | kept);
    }
}

/// Stores time and class in place. Volatile, so that each is one store of its own width.
#[inline(always)]
fn touch_flow(known: Option<*mut FlowRecord>, record: &FlowRecord) {
    let Some(known) = known else { return };
    // SAFETY: the element stays readable and writable until the program ends, even if it is removed
    // meanwhile; given to another flow, it would be a packet fresher than it is.
    unsafe {
        (&raw mut (*known).last_seen_tick).write_volatile(record.last_seen_tick);
        (&raw mut (*known).class).write_volatile(record.class);
    }
}
