//! Others' programs on a cgroup, which may leave no room for ours: it is told whose, where, and what to do.

use std::{
    fs::{self, File},
    os::fd::{AsRawFd, FromRawFd as _, OwnedFd},
    path::{Path, PathBuf},
};

use nix::{
    libc,
    mount::{MntFlags, MsFlags},
};

use crate::{
    cgroups::{CALLS, Cgroup, bpf, check_all_on, detach, open, pin, told},
    sandbox::{Sandbox, tree},
    sandboxed,
};

/// Programs for a call that let every call pass, on a cgroup.
struct Others {
    cgroup: File,
    call: u64,
    program: OwnedFd,
    links: Vec<OwnedFd>,
}

impl Others {
    /// Its name, as the kernel keeps it.
    const NAME: &str = "odd";

    fn load(cgroup: &Path, call: u64) -> Self {
        const BPF_PROG_LOAD: libc::c_int = 5;
        const CGROUP_SOCK_ADDR: u64 = 18;
        // r0 = 1; exit
        let instructions: [u64; 2] = [0x0000_0001_0000_00b7, 0x95];
        let mut attributes = [0_u64; 9];
        attributes[0] = CGROUP_SOCK_ADDR | 2 << 32;
        attributes[1] = instructions.as_ptr() as u64;
        attributes[2] = c"GPL".as_ptr() as u64;
        attributes[6] = u64::from_ne_bytes(*b"odd\0\0\0\0\0");
        attributes[8] = call << 32;
        // SAFETY: a new descriptor, which is nobody else's.
        let program = unsafe { OwnedFd::from_raw_fd(bpf(BPF_PROG_LOAD, &attributes)) };
        Self { cgroup: File::open(cgroup).unwrap(), call, program, links: Vec::new() }
    }

    /// Who is attached to a cgroup, and how, as two commands of bpf(2) have it.
    fn attach_words(&self, flags: u64) -> [u64; 2] {
        let number = |fd: &dyn AsRawFd| u64::from(fd.as_raw_fd().cast_unsigned());
        [number(&self.cgroup) | number(&self.program) << 32, self.call | flags << 32]
    }

    /// One of them, as programs were attached before there were links.
    fn attach(cgroup: &Path, call: u64, flags: u64) -> Self {
        const BPF_PROG_ATTACH: libc::c_int = 8;
        let others = Self::load(cgroup, call);
        bpf(BPF_PROG_ATTACH, &others.attach_words(flags));
        others
    }

    /// So many of them beside each other.
    fn link(cgroup: &Path, call: u64, count: usize) -> Self {
        const BPF_LINK_CREATE: libc::c_int = 28;
        let mut others = Self::load(cgroup, call);
        let [both, call] = others.attach_words(0);
        // The program comes first here.
        let attributes = [both.rotate_left(32), call];
        for _ in 0..count {
            // SAFETY: as above.
            others.links.push(unsafe { OwnedFd::from_raw_fd(bpf(BPF_LINK_CREATE, &attributes)) });
        }
        others
    }
}

impl Drop for Others {
    fn drop(&mut self) {
        const BPF_PROG_DETACH: libc::c_int = 9;
        if self.links.is_empty() && !std::thread::panicking() {
            bpf(BPF_PROG_DETACH, &self.attach_words(0));
        }
    }
}

/// Mounts a cgroup where nothing above it is one.
struct Mounted(PathBuf);

impl Mounted {
    fn at(sandbox: &Sandbox, cgroup: &Path) -> Self {
        let at = sandbox.state_path().with_file_name("cgroup");
        fs::create_dir_all(&at).unwrap();
        nix::mount::mount(Some(cgroup), &at, None::<&str>, MsFlags::MS_BIND, None::<&str>).unwrap();
        Self(at)
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        if let Err(error) = nix::mount::umount2(&self.0, MntFlags::MNT_DETACH) {
            eprintln!("{} stays mounted: {error}", self.0.display());
        }
    }
}

/// Not one program is attached there, and the status says this of it; when what is in the way has gone, all
/// are.
#[track_caller]
fn check_obstacle(sandbox: &Sandbox, cgroup: &Cgroup, path: &Path, others: Others, said: &[&str]) {
    let mut datapath = open(sandbox, path);
    let status = datapath.sockets().clone();
    let trouble = status.trouble.as_deref().unwrap_or_default();
    let whose = format!("the cgroup `{}`: ", path.display());
    assert!(trouble.contains(&whose), "{trouble}");
    assert!(said.iter().all(|it| trouble.contains(it)), "{said:#?}: {trouble}");
    assert!(status.cgroup.is_none() && !status.is_left, "{status:?}");
    assert_eq!(tree(&sandbox.pins().join("sockets")), [""; 0], "{trouble}");
    drop(others);
    datapath.ensure_calls();
    let on = datapath.sockets().cgroup.clone();
    assert_eq!(on.as_deref(), Some(path), "{:?}", datapath.sockets());
    for (name, _) in CALLS {
        assert_eq!(told(sandbox, name, "cgroup_id"), cgroup.id(), "{name}");
        detach(sandbox, name);
        fs::remove_file(pin(sandbox, name)).unwrap();
    }
}

sandboxed! {
    fn what_is_in_the_way_of_programs_of_calls_is_named(sandbox) {
        let Some(above) = Cgroup::absent("what_is_in_the_way_of_programs_of_calls_is_named") else { return };
        above.make();
        let cgroup = Cgroup(above.0.join("below"));
        cgroup.make();
        let (over, own) = (above.0.display().to_string(), cgroup.0.display().to_string());
        let check = |others, said: &[&str]| check_obstacle(sandbox, &cgroup, &cgroup.0, others, said);
        let [connect4, connect6, recvmsg6] = [10, 11, 20];
        let exclusive = |path: &str, call: &str| {
            format!("the program `{}` (id ", Others::NAME) + "|" + &format!(
                ") on `{path}` allows no other for `{call}` there and below|`bpftool cgroup detach {path} \
                 {call} id |takes it off|or let `path` in [cgroup] of the config name another cgroup"
            )
        };
        let said = exclusive(&over, "connect4") + "|`lb_connect4` cannot be attached";
        check(Others::attach(&above.0, connect4, 0), &said.split('|').collect::<Vec<_>>());
        // One that may be replaced below, and not beside it.
        for flags in [0, 1] {
            let said = exclusive(&own, "connect6") + "|`lb_connect6` cannot be attached";
            check(Others::attach(&cgroup.0, connect6, flags), &said.split('|').collect::<Vec<_>>());
        }
        let full = [
            "`lb_recvmsg6` cannot be attached",
            &format!("64 programs are on `{own}` for `recvmsg6`, which are as many as the kernel takes"),
            &format!("`bpftool cgroup show {own}` lists them: take off what nobody needs, or let `path`"),
        ];
        check(Others::link(&cgroup.0, recvmsg6, 64), &full);
        // What is above cannot be seen everywhere.
        let mounted = Mounted::at(sandbox, &cgroup.0);
        let hint = "cannot attach: Operation not permitted (os error 1); somebody's program on a cgroup \
                    above, which cannot be seen from here, may allow no other";
        let others = Others::attach(&above.0, recvmsg6, 0);
        let datapath = open(sandbox, &mounted.0);
        let trouble = datapath.sockets().trouble.clone().unwrap_or_default();
        assert!(trouble.contains(hint), "{trouble}");
        drop((datapath, others, mounted));
    }

    fn what_is_on_another_cgroup_stays_until_there_is_room_for_all(sandbox) {
        let name = "what_is_on_another_cgroup_stays_until_there_is_room_for_all";
        let Some(before) = Cgroup::absent(name) else { return };
        before.make();
        drop(open(sandbox, &before.0));
        let cgroup = Cgroup(before.0.with_extension("new"));
        cgroup.make();
        let others = Others::attach(&cgroup.0, 20, 0);
        let mut datapath = open(sandbox, &cgroup.0);
        for (name, _) in CALLS {
            assert_eq!(told(sandbox, name, "cgroup_id"), before.id(), "{name}");
        }
        let status = datapath.sockets();
        let trouble = status.trouble.as_deref().unwrap_or_default();
        assert!(status.is_left && trouble.contains("`lb_recvmsg6` cannot be attached"), "{status:?}");
        drop(others);
        datapath.ensure_calls();
        check_all_on(sandbox, &datapath, &cgroup);
    }

    fn programs_that_allow_others_are_in_nobodys_way(sandbox) {
        let Some(above) = Cgroup::absent("programs_that_allow_others_are_in_nobodys_way") else { return };
        above.make();
        let cgroup = Cgroup(above.0.join("below"));
        cgroup.make();
        let below = Cgroup(cgroup.0.join("deeper"));
        below.make();
        let _others = [
            // By any of two ways to say so, and beside one of which not even that is said, further below.
            Others::attach(&above.0, 10, 1),
            Others::attach(&above.0, 11, 2),
            Others::attach(&cgroup.0, 14, 2),
            Others::link(&cgroup.0, 15, 63),
            Others::attach(&below.0, 19, 0),
        ];
        let datapath = open(sandbox, &cgroup.0);
        check_all_on(sandbox, &datapath, &cgroup);
        for (name, _) in CALLS {
            fs::remove_file(pin(sandbox, name)).unwrap();
        }
    }
}
