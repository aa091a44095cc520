//! Programs of socket calls on a cgroup: all of them are there, whatever becomes of it and of them.

use std::{
    ffi::CString,
    fs, io,
    os::{
        fd::{AsRawFd as _, FromRawFd as _, OwnedFd},
        unix::{ffi::OsStrExt as _, fs::MetadataExt as _},
    },
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use lb_agent::datapath::{CgroupOptions, Datapath, Options, TcMode};
use lb_common::abi::program_names;
use nix::libc;

use crate::{
    sandbox::{Sandbox, skip, tree},
    sandboxed,
};

/// Every program with the kernel's number of the call that it is for.
const CALLS: [(&str, u64); 9] = [
    (program_names::CONNECT4, 10),
    (program_names::CONNECT6, 11),
    (program_names::GETPEERNAME4, 29),
    (program_names::GETPEERNAME6, 30),
    (program_names::RECVMSG4, 19),
    (program_names::RECVMSG6, 20),
    (program_names::SENDMSG4, 14),
    (program_names::SENDMSG6, 15),
    (program_names::SOCK_RELEASE, 34),
];

/// A cgroup without processes that goes with the test.
struct Cgroup(PathBuf);

impl Cgroup {
    /// Where one can be made, below the root of cgroup v2; `None`: nowhere, which is told.
    fn absent(test: &str) -> Option<Self> {
        let mounts = fs::read_to_string("/proc/self/mounts").unwrap();
        let root = mounts.lines().find_map(|line| {
            let mut fields = line.split(' ').skip(1);
            let (point, kind) = (fields.next()?, fields.next()?);
            (kind == "cgroup2").then(|| PathBuf::from(point))
        });
        if root.is_none() {
            skip(test, "no cgroup v2 is mounted");
        }
        Some(Self(root?.join(format!("lb-datapath-{}-{test}", std::process::id()))))
    }

    fn make(&self) {
        fs::create_dir(&self.0).unwrap();
    }

    fn remove(&self) {
        fs::remove_dir(&self.0).unwrap();
    }

    fn id(&self) -> u64 {
        fs::metadata(&self.0).unwrap().ino()
    }
}

impl Drop for Cgroup {
    fn drop(&mut self) {
        drop(fs::remove_dir(&self.0));
    }
}

fn open(sandbox: &Sandbox, path: &Path) -> Datapath {
    let cgroup = CgroupOptions {
        path: Some(path.to_owned()),
        routes_across: true,
        ..CgroupOptions::default()
    };
    let options = Options { cgroup: Some(cgroup), ..sandbox.options(TcMode::Auto) };
    Datapath::open(&options).unwrap()
}

fn pin(sandbox: &Sandbox, name: &str) -> PathBuf {
    sandbox.pins().join("sockets").join(name)
}

/// Begins as the kernel's `union bpf_attr` does for the two calls below.
#[repr(C)]
#[derive(Default)]
struct Attributes {
    path: u64,
    rest: u64,
}

fn bpf(command: libc::c_int, attributes: &Attributes) -> libc::c_int {
    // SAFETY: the kernel reads `attributes`, whose size it is told, and a path that ends with a zero.
    let result = unsafe {
        libc::syscall(
            libc::SYS_bpf,
            command,
            std::ptr::from_ref(attributes),
            size_of::<Attributes>(),
        )
    };
    assert!(result >= 0, "bpf({command}): {}", io::Error::last_os_error());
    libc::c_int::try_from(result).unwrap()
}

fn open_link(sandbox: &Sandbox, name: &str) -> OwnedFd {
    const BPF_OBJ_GET: libc::c_int = 7;
    let path = CString::new(pin(sandbox, name).as_os_str().as_bytes()).unwrap();
    let attributes = Attributes { path: path.as_ptr() as u64, ..Attributes::default() };
    // SAFETY: the kernel has just opened it, for nobody else.
    unsafe { OwnedFd::from_raw_fd(bpf(BPF_OBJ_GET, &attributes)) }
}

/// What the kernel says of a pinned link.
fn told(sandbox: &Sandbox, name: &str, key: &str) -> u64 {
    let link = open_link(sandbox, name);
    let number = link.as_raw_fd();
    let text = fs::read_to_string(format!("/proc/self/fdinfo/{number}")).unwrap();
    let value = text.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix(':'));
    value.unwrap_or_else(|| panic!("{key} in {text}")).trim().parse().unwrap()
}

/// Every program is on this cgroup, for its call, and the status says so.
#[track_caller]
fn check_all_on(sandbox: &Sandbox, datapath: &Datapath, cgroup: &Cgroup) {
    let mut names = CALLS.map(|(name, _)| name.to_owned());
    names.sort();
    assert_eq!(tree(&sandbox.pins().join("sockets")), names);
    for (name, attach_type) in CALLS {
        let told = ["cgroup_id", "attach_type"].map(|key| told(sandbox, name, key));
        assert_eq!(told, [cgroup.id(), attach_type], "{name}");
    }
    let status = datapath.sockets();
    assert_eq!(status.cgroup.as_ref(), Some(&cgroup.0));
    assert!(status.sees_ends && status.routes_across && !status.is_left, "{status:?}");
    assert_eq!(status.trouble, None);
}

/// Nothing is on a cgroup, and the status says why.
#[track_caller]
fn check_none_on(datapath: &Datapath, cgroup: &Cgroup) {
    let status = datapath.sockets();
    let trouble = status.trouble.as_deref().unwrap_or_default();
    let path = cgroup.0.display().to_string();
    assert!(trouble.contains(&path) && trouble.contains("No such file"), "{status:?}");
    assert!(!trouble.contains("attached all the same"), "{status:?}");
    let is_on = status.cgroup.is_some() || status.sees_ends || status.is_left;
    assert!(!is_on && status.routes_across, "{status:?}");
}

/// Takes a program off, as anybody may who can open its link.
fn detach(sandbox: &Sandbox, name: &str) {
    const BPF_LINK_DETACH: libc::c_int = 34;
    let link = open_link(sandbox, name);
    // Its first four bytes.
    let number = u64::from(link.as_raw_fd().cast_unsigned()).to_le();
    bpf(BPF_LINK_DETACH, &Attributes { path: number, ..Attributes::default() });
    assert_eq!(told(sandbox, name, "cgroup_id"), 0);
}

/// The kernel lets go of a cgroup that was removed a little later.
fn wait_until_off(sandbox: &Sandbox) {
    let begun = Instant::now();
    while CALLS.iter().any(|(name, _)| told(sandbox, name, "cgroup_id") != 0) {
        assert!(begun.elapsed() < Duration::from_secs(10), "links outlive their cgroup");
        std::thread::sleep(Duration::from_millis(10));
    }
}

/// Link ids, by name.
fn link_ids(sandbox: &Sandbox) -> [u64; 9] {
    CALLS.map(|(name, _)| told(sandbox, name, "link_id"))
}

sandboxed! {
    fn programs_of_calls_that_somebody_took_off_come_back(sandbox) {
        let Some(cgroup) = Cgroup::absent("programs_of_calls_that_somebody_took_off_come_back") else { return };
        cgroup.make();
        let mut datapath = open(sandbox, &cgroup.0);
        check_all_on(sandbox, &datapath, &cgroup);
        let before = link_ids(sandbox);
        // Where all is well nothing is touched.
        datapath.ensure_calls();
        assert_eq!(link_ids(sandbox), before);

        detach(sandbox, program_names::CONNECT4);
        detach(sandbox, program_names::SOCK_RELEASE);
        fs::remove_file(pin(sandbox, program_names::RECVMSG6)).unwrap();
        datapath.ensure_calls();
        check_all_on(sandbox, &datapath, &cgroup);
        // The others are as they were.
        let after = link_ids(sandbox);
        let is_other = |index: &usize| after[*index] != before[*index];
        let lost: Vec<&str> = (0..9).filter(is_other).map(|index| CALLS[index].0).collect();
        assert_eq!(lost, ["lb_connect4", "lb_recvmsg6", "lb_sock_release"]);

        for (name, _) in CALLS {
            fs::remove_file(pin(sandbox, name)).unwrap();
        }
        datapath.ensure_calls();
        check_all_on(sandbox, &datapath, &cgroup);
    }

    fn a_cgroup_that_was_made_again_gets_the_programs_of_calls(sandbox) {
        let Some(cgroup) = Cgroup::absent("a_cgroup_that_was_made_again_gets_the_programs_of_calls") else { return };
        cgroup.make();
        let mut datapath = open(sandbox, &cgroup.0);
        // Between two looks, and seen to be away.
        cgroup.remove();
        cgroup.make();
        datapath.ensure_calls();
        check_all_on(sandbox, &datapath, &cgroup);

        cgroup.remove();
        wait_until_off(sandbox);
        datapath.ensure_calls();
        check_none_on(&datapath, &cgroup);
        datapath.ensure_calls();
        check_none_on(&datapath, &cgroup);
        cgroup.make();
        datapath.ensure_calls();
        check_all_on(sandbox, &datapath, &cgroup);
    }

    fn a_cgroup_that_is_made_after_the_start_gets_the_programs_of_calls(sandbox) {
        let Some(cgroup) = Cgroup::absent("a_cgroup_that_is_made_after_the_start_gets_the_programs_of_calls") else { return };
        let mut datapath = open(sandbox, &cgroup.0);
        check_none_on(&datapath, &cgroup);
        assert!(datapath.take_reaper().unwrap().is_some(), "its sockets are ended from then on");
        datapath.ensure_calls();
        check_none_on(&datapath, &cgroup);
        cgroup.make();
        datapath.ensure_calls();
        check_all_on(sandbox, &datapath, &cgroup);
        // A later agent finds them where they are.
        let links = link_ids(sandbox);
        drop(datapath);
        let datapath = open(sandbox, &cgroup.0);
        assert_eq!(link_ids(sandbox), links);
        check_all_on(sandbox, &datapath, &cgroup);
    }
}
