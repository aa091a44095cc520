//! Programs of somebody else, which do nothing: where they are attached is what counts.

use std::{
    fs::File,
    os::fd::{AsRawFd, FromRawFd as _, OwnedFd},
    path::Path,
};

use anyhow::{Result, ensure};

const PROG_LOAD: libc::c_long = 5;
const PROG_ATTACH: libc::c_long = 8;
const PROG_DETACH: libc::c_long = 9;
const LINK_CREATE: libc::c_long = 28;

/// Before all others on TC ingress of an interface of this thread's network, called `cil_odd`. Both
/// descriptors keep it there.
pub fn first_on_interface(interface: &str) -> Result<[OwnedFd; 2]> {
    const SCHED_CLS: u32 = 3;
    const TCX_INGRESS: u32 = 46;
    const BEFORE: u32 = 1 << 3;
    // r0 = TC_ACT_UNSPEC; exit
    let program = load(SCHED_CLS, 0, 0xffff_ffff_0000_00b7, b"cil_odd")?;
    let index = nix::net::if_::if_nametoindex(interface)?;
    let link = call(LINK_CREATE, &[descriptor(&program)?, index, TCX_INGRESS, BEFORE])?;
    Ok([program, made(link)?])
}

/// On `connect` to addresses of IPv4, of the processes of a cgroup, called `odd`; it allows no other there.
/// Taken off on drop.
#[derive(Debug)]
pub struct Exclusive {
    program: OwnedFd,
    cgroup: File,
}

impl Exclusive {
    const CONNECT4: u32 = 10;

    /// Attaches it.
    pub fn on(cgroup: &Path) -> Result<Self> {
        const CGROUP_SOCK_ADDR: u32 = 18;
        // r0 = 1; exit
        let program = load(CGROUP_SOCK_ADDR, Self::CONNECT4, 0x0000_0001_0000_00b7, b"odd")?;
        let exclusive = Self { program, cgroup: File::open(cgroup)? };
        call(PROG_ATTACH, &exclusive.words()?)?;
        Ok(exclusive)
    }

    fn words(&self) -> Result<[u32; 4]> {
        Ok([descriptor(&self.cgroup)?, descriptor(&self.program)?, Self::CONNECT4, 0])
    }
}

impl Drop for Exclusive {
    fn drop(&mut self) {
        if let Err(error) = self.words().and_then(|words| call(PROG_DETACH, &words)) {
            println!("a program stays attached: {error:#}");
        }
    }
}

fn load(kind: u32, attach_type: u32, first: u64, name: &[u8]) -> Result<OwnedFd> {
    let instructions: [u64; 2] = [first, 0x95];
    let [code, license] = [instructions.as_ptr() as u64, c"GPL".as_ptr() as u64];
    let halves = |word: u64| [word as u32, (word >> 32) as u32];
    let mut words = [0; 18];
    words[..2].copy_from_slice(&[kind, 2]);
    words[2..4].copy_from_slice(&halves(code));
    words[4..6].copy_from_slice(&halves(license));
    for (word, bytes) in words[12..16].iter_mut().zip(name.chunks(4)) {
        let mut whole = [0; 4];
        whole[..bytes.len()].copy_from_slice(bytes);
        *word = u32::from_ne_bytes(whole);
    }
    words[17] = attach_type;
    made(call(PROG_LOAD, &words)?)
}

fn descriptor(fd: &impl AsRawFd) -> Result<u32> {
    Ok(u32::try_from(fd.as_raw_fd())?)
}

fn made(fd: libc::c_long) -> Result<OwnedFd> {
    // SAFETY: the kernel has just made it for us.
    Ok(unsafe { OwnedFd::from_raw_fd(i32::try_from(fd)?) })
}

/// `words`: the attributes, or their beginning; the kernel reads the rest as zero.
fn call(command: libc::c_long, words: &[u32]) -> Result<libc::c_long> {
    // SAFETY: the attributes are alive, and as long as is said; what they point to outlives the call.
    let result =
        unsafe { libc::syscall(libc::SYS_bpf, command, words.as_ptr(), size_of_val(words)) };
    ensure!(result >= 0, "bpf({command}): {}", std::io::Error::last_os_error());
    Ok(result)
}
