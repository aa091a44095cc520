//! The bpf(2) calls that aya has no door to: links by interface index, what a link or program
//! belongs to, and whole batches of map entries.
//!
//! The structures below mirror the members of `union bpf_attr`; the kernel takes any prefix of it
//! and reads the rest as zero. Nothing here decides anything.

use std::{
    ffi::CString,
    io,
    mem::size_of,
    os::{
        fd::{AsRawFd as _, BorrowedFd, FromRawFd as _, OwnedFd, RawFd},
        unix::ffi::OsStrExt as _,
    },
    path::Path,
};

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

const BPF_OBJ_PIN: u32 = 6;
const BPF_OBJ_GET: u32 = 7;
const BPF_PROG_GET_FD_BY_ID: u32 = 13;
const BPF_OBJ_GET_INFO_BY_FD: u32 = 15;
const BPF_PROG_QUERY: u32 = 16;
const BPF_MAP_LOOKUP_AND_DELETE_ELEM: u32 = 21;
const BPF_MAP_LOOKUP_BATCH: u32 = 24;
const BPF_LINK_CREATE: u32 = 28;
const BPF_LINK_UPDATE: u32 = 29;
const BPF_LINK_DETACH: u32 = 34;

/// `BPF_NOEXIST`.
pub(super) const FLAG_NO_EXIST: u64 = 1;
/// `BPF_F_BEFORE` without a relative: at the head of the list.
pub(super) const FLAG_FIRST: u32 = 1 << 3;
/// `XDP_FLAGS_SKB_MODE`.
pub(super) const FLAG_XDP_GENERIC: u32 = 1 << 1;
/// `XDP_FLAGS_DRV_MODE`.
pub(super) const FLAG_XDP_NATIVE: u32 = 1 << 2;

/// `BPF_F_ALLOW_OVERRIDE`: what is attached to a cgroup below replaces it there.
pub(super) const FLAG_ALLOWS_OVERRIDE: u32 = 1;
/// `BPF_F_ALLOW_MULTI`: others may be attached to the same cgroup, and to those below.
pub(super) const FLAG_ALLOWS_OTHERS: u32 = 2;

/// As many programs as the kernel takes on a cgroup for one call (`BPF_CGROUP_MAX_PROGS`).
pub(super) const CGROUP_PROGRAMS_MAX: u32 = 64;

/// `enum bpf_attach_type`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u32)]
pub(super) enum AttachType {
    Connect4 = 10,
    Connect6 = 11,
    Sendmsg4 = 14,
    Sendmsg6 = 15,
    Recvmsg4 = 19,
    Recvmsg6 = 20,
    Getpeername4 = 29,
    Getpeername6 = 30,
    SockRelease = 34,
    Xdp = 37,
    TcxIngress = 46,
}

const LINK_TYPE_XDP: u32 = 6;
const LINK_TYPE_TCX: u32 = 11;

const LINK_TYPE_CGROUP: u32 = 3;

/// What the kernel tells about a program.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct ProgramInfo {
    /// Name, as far as the kernel keeps it (15 bytes).
    pub(super) name: String,
    /// Ids of the maps that it uses.
    pub(super) map_ids: Vec<u32>,
}

#[repr(C)]
#[derive(IntoBytes, FromBytes, Immutable, KnownLayout, Default)]
struct ObjectAttr {
    pathname: u64,
    fd: u32,
    file_flags: u32,
}

#[repr(C)]
#[derive(IntoBytes, FromBytes, Immutable, KnownLayout, Default)]
struct IdAttr {
    id: u32,
    next_id: u32,
    open_flags: u32,
}

#[repr(C)]
#[derive(IntoBytes, FromBytes, Immutable, KnownLayout, Default)]
struct InfoAttr {
    fd: u32,
    length: u32,
    info: u64,
}

#[repr(C)]
#[derive(IntoBytes, FromBytes, Immutable, KnownLayout, Default)]
struct LinkCreateAttr {
    program_fd: u32,
    target: u32,
    attach_type: u32,
    flags: u32,
    relative: u32,
    pad: u32,
    expected_revision: u64,
}

#[repr(C)]
#[derive(IntoBytes, FromBytes, Immutable, KnownLayout, Default)]
struct LinkUpdateAttr {
    link_fd: u32,
    new_program_fd: u32,
    flags: u32,
    old_program_fd: u32,
}

#[repr(C)]
#[derive(IntoBytes, FromBytes, Immutable, KnownLayout, Default)]
struct ElementAttr {
    map_fd: u32,
    pad: u32,
    key: u64,
    value: u64,
    flags: u64,
}

#[repr(C)]
#[derive(IntoBytes, FromBytes, Immutable, KnownLayout, Default)]
struct BatchAttr {
    in_batch: u64,
    out_batch: u64,
    keys: u64,
    values: u64,
    count: u32,
    map_fd: u32,
    element_flags: u64,
    flags: u64,
}

#[repr(C)]
#[derive(IntoBytes, FromBytes, Immutable, KnownLayout, Default)]
struct QueryAttr {
    target: u32,
    attach_type: u32,
    query_flags: u32,
    attach_flags: u32,
    program_ids: u64,
    program_count: u32,
    reserved: u32,
    program_attach_flags: u64,
    link_ids: u64,
    link_attach_flags: u64,
    revision: u64,
}

// Of a cgroup Linux 6.17 and later write the last field, however much is passed (120933984460).
const _: () = assert!(size_of::<QueryAttr>() == 64);

/// The head of `struct bpf_link_info`, for the two link types that we make.
#[repr(C)]
#[derive(IntoBytes, FromBytes, Immutable, KnownLayout, Default)]
struct RawLinkInfo {
    link_type: u32,
    id: u32,
    program_id: u32,
    pad: u32,
    ifindex: u32,
    attach_type: u32,
    reserved: [u64; 4],
}

/// The head of `struct bpf_link_info`, for a link to a cgroup.
#[repr(C)]
#[derive(IntoBytes, FromBytes, Immutable, KnownLayout, Default)]
struct RawCgroupLinkInfo {
    link_type: u32,
    id: u32,
    program_id: u32,
    pad: u32,
    cgroup_id: u64,
    attach_type: u32,
    reserved: [u32; 9],
}

/// The head of `struct bpf_prog_info`.
#[repr(C)]
#[derive(IntoBytes, FromBytes, Immutable, KnownLayout, Default)]
struct RawProgramInfo {
    program_type: u32,
    id: u32,
    tag: [u8; 8],
    jited_length: u32,
    xlated_length: u32,
    jited: u64,
    xlated: u64,
    load_time: u64,
    created_by_uid: u32,
    map_count: u32,
    map_ids: u64,
    name: [u8; 16],
}

fn bpf<T: IntoBytes + FromBytes + Immutable>(command: u32, attr: &mut T) -> io::Result<RawFd> {
    // SAFETY: `attr` is a prefix of `union bpf_attr` of the size that is passed; addresses within it
    // are of buffers that its maker keeps alive and of the size that the command writes.
    let result = unsafe {
        libc::syscall(
            libc::SYS_bpf,
            command,
            std::ptr::from_mut(attr).cast::<libc::c_void>(),
            size_of::<T>(),
        )
    };
    if result < 0 {
        return Err(io::Error::last_os_error());
    }
    RawFd::try_from(result).map_err(io::Error::other)
}

fn owned(fd: RawFd) -> OwnedFd {
    // SAFETY: the kernel has just returned this descriptor from a command that makes one.
    unsafe { OwnedFd::from_raw_fd(fd) }
}

/// A descriptor as the attribute structures hold it.
fn raw(fd: BorrowedFd<'_>) -> u32 {
    fd.as_raw_fd().cast_unsigned()
}

fn c_path(path: &Path) -> io::Result<CString> {
    CString::new(path.as_os_str().as_bytes()).map_err(io::Error::other)
}

/// Pins an object at a path on a bpffs.
pub(super) fn pin(fd: BorrowedFd<'_>, path: &Path) -> io::Result<()> {
    let path = c_path(path)?;
    let mut attr = ObjectAttr { pathname: path.as_ptr() as u64, fd: raw(fd), file_flags: 0 };
    bpf(BPF_OBJ_PIN, &mut attr).map(drop)
}

/// Opens a pinned object.
pub(super) fn open_pin(path: &Path) -> io::Result<OwnedFd> {
    let path = c_path(path)?;
    let mut attr = ObjectAttr { pathname: path.as_ptr() as u64, ..Default::default() };
    bpf(BPF_OBJ_GET, &mut attr).map(owned)
}

/// Attaches a program to the processes of a cgroup and of those below it.
pub(super) fn link_create_cgroup(
    program: BorrowedFd<'_>,
    cgroup: BorrowedFd<'_>,
    attach_type: AttachType,
) -> io::Result<OwnedFd> {
    // Links are always there beside others' programs; the flag that says so is refused.
    link_create(program, raw(cgroup), attach_type, 0)
}

/// What is attached to a cgroup itself for a call.
#[derive(Debug)]
pub(super) struct CgroupPrograms {
    /// How, which is the same for all of them.
    pub(super) flags: u32,
    /// Their numbers.
    pub(super) ids: Vec<u32>,
}

/// Asks for the programs on a cgroup (linux 4.15).
pub(super) fn cgroup_programs(
    cgroup: BorrowedFd<'_>,
    attach_type: AttachType,
) -> io::Result<CgroupPrograms> {
    let mut ids = vec![0_u32; CGROUP_PROGRAMS_MAX as usize];
    let mut attr = QueryAttr {
        target: raw(cgroup),
        attach_type: attach_type as u32,
        program_ids: ids.as_mut_ptr() as u64,
        program_count: CGROUP_PROGRAMS_MAX,
        ..Default::default()
    };
    bpf(BPF_PROG_QUERY, &mut attr)?;
    ids.truncate(attr.program_count as usize);
    Ok(CgroupPrograms { flags: attr.attach_flags, ids })
}

/// Number of the cgroup that a link belongs to, which is the inode number of its directory; 0 when the
/// cgroup is gone, or when the link is of another type.
pub(super) fn link_cgroup(link: BorrowedFd<'_>) -> io::Result<u64> {
    let mut raw_info = RawCgroupLinkInfo::default();
    info(link, &mut raw_info)?;
    Ok(if raw_info.link_type == LINK_TYPE_CGROUP { raw_info.cgroup_id } else { 0 })
}

/// Attaches a program to an interface of the calling thread's network namespace, or to a cgroup by its
/// descriptor.
pub(super) fn link_create(
    program: BorrowedFd<'_>,
    target: u32,
    attach_type: AttachType,
    flags: u32,
) -> io::Result<OwnedFd> {
    let mut attr = LinkCreateAttr {
        program_fd: raw(program),
        target,
        attach_type: attach_type as u32,
        flags,
        ..Default::default()
    };
    bpf(BPF_LINK_CREATE, &mut attr).map(owned)
}

/// Replaces the program of a link, atomically. `ENOLINK`: the interface is gone.
pub(super) fn link_update(link: BorrowedFd<'_>, program: BorrowedFd<'_>) -> io::Result<()> {
    let mut attr =
        LinkUpdateAttr { link_fd: raw(link), new_program_fd: raw(program), ..Default::default() };
    bpf(BPF_LINK_UPDATE, &mut attr).map(drop)
}

/// Takes the program of a link off, at once; closing the last descriptor does it some time later.
pub(super) fn link_detach(link: BorrowedFd<'_>) -> io::Result<()> {
    bpf(BPF_LINK_DETACH, &mut LinkUpdateAttr { link_fd: raw(link), ..Default::default() }).map(drop)
}

fn info<T: IntoBytes + FromBytes + Immutable>(fd: BorrowedFd<'_>, info: &mut T) -> io::Result<()> {
    let length = u32::try_from(size_of::<T>()).map_err(io::Error::other)?;
    let mut attr = InfoAttr { fd: raw(fd), length, info: std::ptr::from_mut(info) as u64 };
    bpf(BPF_OBJ_GET_INFO_BY_FD, &mut attr).map(drop)
}

/// Index of the interface of a link, in the interface's own namespace; 0 when it is gone, or when
/// the link is of a type that has none.
pub(super) fn link_ifindex(link: BorrowedFd<'_>) -> io::Result<u32> {
    let mut raw_info = RawLinkInfo::default();
    info(link, &mut raw_info)?;
    let has_interface = matches!(raw_info.link_type, LINK_TYPE_XDP | LINK_TYPE_TCX);
    Ok(if has_interface { raw_info.ifindex } else { 0 })
}

/// Name and maps of a program in the kernel.
pub(super) fn program_info(id: u32) -> io::Result<ProgramInfo> {
    // A program uses 64 maps at most (MAX_USED_MAPS).
    let mut map_ids = vec![0_u32; 64];
    let program = owned(bpf(BPF_PROG_GET_FD_BY_ID, &mut IdAttr { id, ..Default::default() })?);
    let mut raw_info = RawProgramInfo {
        map_count: 64,
        map_ids: map_ids.as_mut_ptr() as u64,
        ..Default::default()
    };
    info(std::os::fd::AsFd::as_fd(&program), &mut raw_info)?;
    map_ids.truncate(raw_info.map_count as usize);
    let length = raw_info.name.iter().position(|&byte| byte == 0).unwrap_or(16);
    Ok(ProgramInfo {
        name: String::from_utf8_lossy(&raw_info.name[..length]).into_owned(),
        map_ids,
    })
}

/// One batch of a hash map's entries.
#[derive(Debug)]
pub(super) struct Batch {
    /// Entries that were written to the buffers.
    pub(super) count: usize,
    /// Where the next batch begins; `None`: this was the last.
    pub(super) next: Option<u32>,
}

/// Reads entries of a hash map from `cursor` on into `keys` and `values`, which have room for the
/// same number of entries (linux 5.6).
///
/// `ENOSPC`: one bucket holds more entries than there is room for.
pub(super) fn lookup_batch<K, V>(
    map: BorrowedFd<'_>,
    cursor: Option<u32>,
    keys: &mut [K],
    values: &mut [V],
) -> io::Result<Batch>
where
    K: FromBytes + IntoBytes,
    V: FromBytes + IntoBytes,
{
    let mut next = 0_u32;
    let mut attr = BatchAttr {
        in_batch: cursor.as_ref().map_or(0, |cursor| std::ptr::from_ref(cursor) as u64),
        out_batch: std::ptr::from_mut(&mut next) as u64,
        keys: keys.as_mut_ptr() as u64,
        values: values.as_mut_ptr() as u64,
        count: u32::try_from(keys.len().min(values.len())).map_err(io::Error::other)?,
        map_fd: raw(map),
        ..Default::default()
    };
    let result = bpf(BPF_MAP_LOOKUP_BATCH, &mut attr);
    let count = attr.count as usize;
    match result {
        Ok(_) => Ok(Batch { count, next: Some(next) }),
        Err(error) if error.raw_os_error() == Some(libc::ENOENT) => Ok(Batch { count, next: None }),
        Err(error) => Err(error),
    }
}

/// A descriptor of the root of the cgroup v2 hierarchy, where it is mounted nowhere. Nothing is mounted
/// by this either: it ends with the descriptor.
pub(super) fn open_cgroup_root() -> io::Result<OwnedFd> {
    /// `FSCONFIG_CMD_CREATE`.
    const CREATE: libc::c_uint = 6;
    let call = |result: libc::c_long| {
        if result < 0 { Err(io::Error::last_os_error()) } else { Ok(result) }
    };
    let descriptor = |result: libc::c_long| -> io::Result<OwnedFd> {
        Ok(owned(RawFd::try_from(call(result)?).map_err(io::Error::other)?))
    };
    let (none, zero): (*const libc::c_char, libc::c_uint) = (std::ptr::null(), 0);
    // SAFETY: the name is a C string; the calls take no other memory of ours.
    let context =
        descriptor(unsafe { libc::syscall(libc::SYS_fsopen, c"cgroup2".as_ptr(), zero) })?;
    // SAFETY: as above; this command takes neither key nor value.
    call(unsafe {
        libc::syscall(libc::SYS_fsconfig, context.as_raw_fd(), CREATE, none, none, zero)
    })?;
    // SAFETY: as above.
    descriptor(unsafe { libc::syscall(libc::SYS_fsmount, context.as_raw_fd(), zero, zero) })
}

/// Removes an entry of a hash map and says what it was at that moment (Linux 5.14); `None`: there is
/// none.
pub(super) fn lookup_and_delete<K, V>(map: BorrowedFd<'_>, key: &K) -> io::Result<Option<V>>
where
    K: IntoBytes + Immutable,
    V: FromBytes + IntoBytes,
{
    let mut value = V::new_zeroed();
    let mut attr = ElementAttr {
        map_fd: raw(map),
        key: std::ptr::from_ref(key) as u64,
        value: std::ptr::from_mut(&mut value) as u64,
        ..Default::default()
    };
    match bpf(BPF_MAP_LOOKUP_AND_DELETE_ELEM, &mut attr) {
        Ok(_) => Ok(Some(value)),
        Err(error) if error.raw_os_error() == Some(libc::ENOENT) => Ok(None),
        Err(error) => Err(error),
    }
}

/// A number that tells the calling thread's network namespace from every other since boot. On
/// kernels before 5.14, which do not tell it, the inode of the namespace.
pub(super) fn netns_cookie() -> io::Result<u64> {
    use std::os::unix::fs::MetadataExt as _;

    let socket = std::net::UdpSocket::bind((std::net::Ipv4Addr::UNSPECIFIED, 0))?;
    crate::netlink::netns_cookie_of(&socket)
        .or_else(|_| Ok(std::fs::metadata("/proc/thread-self/ns/net")?.ino()))
}

/// The clock of `bpf_ktime_get_ns`.
pub(super) fn monotonic_ns() -> u64 {
    let mut now = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: `now` is a whole structure that lives during the call. The clock always exists.
    unsafe { libc::clock_gettime(libc::CLOCK_MONOTONIC, &raw mut now) };
    now.tv_sec.cast_unsigned() * 1_000_000_000 + now.tv_nsec.cast_unsigned()
}
