//! Programs of socket calls on a cgroup: all of them are there, whatever becomes of it and of them.

use std::{
    collections::BTreeSet,
    ffi::CString,
    fs,
    io::{self, Read as _},
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpStream, UdpSocket},
    os::{
        fd::{AsRawFd as _, FromRawFd as _, OwnedFd},
        unix::{ffi::OsStrExt as _, fs::MetadataExt as _},
    },
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use lb_agent::{
    datapath::{CgroupOptions, Datapath, Options, TcMode},
    netlink::{Cookies, Process},
    plan::{Action, Kernel as _},
};
use lb_common::abi::program_names;
use nix::libc;

use crate::{
    sandbox::{Sandbox, run, skip, tree},
    sandboxed,
};

/// Virtual addresses without services.
const VIPS: [IpAddr; 2] = [
    IpAddr::V4(Ipv4Addr::new(203, 0, 113, 10)),
    IpAddr::V6(Ipv6Addr::new(0x2001, 0xdb8, 0xf, 0, 0, 0, 0, 0x10)),
];

/// Every program with the kernel's number of the call that it is for.
pub(crate) const CALLS: [(&str, u64); 9] = [
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
pub(crate) struct Cgroup(pub(crate) PathBuf);

impl Cgroup {
    /// Where one can be made, below the root of cgroup v2; `None`: nowhere, which is told.
    pub(crate) fn absent(test: &str) -> Option<Self> {
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

    pub(crate) fn make(&self) {
        fs::create_dir(&self.0).unwrap();
    }

    fn remove(&self) {
        fs::remove_dir(&self.0).unwrap();
    }

    pub(crate) fn id(&self) -> u64 {
        fs::metadata(&self.0).unwrap().ino()
    }
}

impl Drop for Cgroup {
    fn drop(&mut self) {
        drop(fs::remove_dir(&self.0));
    }
}

pub(crate) fn open(sandbox: &Sandbox, path: &Path) -> Datapath {
    open_asked(sandbox, path, Cookies::default())
}

/// With programs that answer the question by which an agent learns cookies.
fn open_asked(sandbox: &Sandbox, path: &Path, cookies: Cookies) -> Datapath {
    let cgroup = CgroupOptions {
        path: Some(path.to_owned()),
        routes_across: true,
        cookie_question: cookies.question(),
        ..CgroupOptions::default()
    };
    let options = Options { cgroup: Some(cgroup), ..sandbox.options(TcMode::Auto) };
    Datapath::open(&options).unwrap()
}

pub(crate) fn pin(sandbox: &Sandbox, name: &str) -> PathBuf {
    sandbox.pins().join("sockets").join(name)
}

/// A command whose attributes are words, two numbers of the kernel's in each where they are short.
pub(crate) fn bpf(command: libc::c_int, attributes: &[u64]) -> libc::c_int {
    // SAFETY: the kernel reads `attributes`, whose size it is told, and texts that end with a zero.
    let result = unsafe {
        libc::syscall(libc::SYS_bpf, command, attributes.as_ptr(), size_of_val(attributes))
    };
    assert!(result >= 0, "bpf({command}): {}", io::Error::last_os_error());
    libc::c_int::try_from(result).unwrap()
}

fn open_link(sandbox: &Sandbox, name: &str) -> OwnedFd {
    const BPF_OBJ_GET: libc::c_int = 7;
    let path = CString::new(pin(sandbox, name).as_os_str().as_bytes()).unwrap();
    // SAFETY: the kernel has just opened it, for nobody else.
    unsafe { OwnedFd::from_raw_fd(bpf(BPF_OBJ_GET, &[path.as_ptr() as u64, 0])) }
}

/// What the kernel says of a pinned link.
pub(crate) fn told(sandbox: &Sandbox, name: &str, key: &str) -> u64 {
    let link = open_link(sandbox, name);
    let number = link.as_raw_fd();
    let text = fs::read_to_string(format!("/proc/self/fdinfo/{number}")).unwrap();
    let value = text.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix(':'));
    value.unwrap_or_else(|| panic!("{key} in {text}")).trim().parse().unwrap()
}

/// Every program is on this cgroup, for its call, and the status says so.
#[track_caller]
pub(crate) fn check_all_on(sandbox: &Sandbox, datapath: &Datapath, cgroup: &Cgroup) {
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

/// Takes a program off, as anybody may who can open its link. It is off then, which it is not when its pin
/// is removed: the kernel ends a link that nobody holds a moment later.
pub(crate) fn detach(sandbox: &Sandbox, name: &str) {
    const BPF_LINK_DETACH: libc::c_int = 34;
    let link = open_link(sandbox, name);
    bpf(BPF_LINK_DETACH, &[u64::from(link.as_raw_fd().cast_unsigned()), 0]);
    assert_eq!(told(sandbox, name, "cgroup_id"), 0);
}

/// This process in a cgroup, until it goes out of scope; and others that it starts meanwhile.
struct Inside {
    before: PathBuf,
    cgroup: PathBuf,
}

impl Inside {
    fn of(cgroup: &Cgroup) -> Self {
        let text = fs::read_to_string("/proc/self/cgroup").unwrap();
        let path = text.lines().find_map(|line| line.strip_prefix("0::/")).unwrap();
        let before = cgroup.0.parent().unwrap().join(path);
        let inside = Self { before, cgroup: cgroup.0.clone() };
        fs::write(cgroup.0.join("cgroup.procs"), std::process::id().to_string()).unwrap();
        inside
    }
}

impl Drop for Inside {
    fn drop(&mut self) {
        let back = self.before.join("cgroup.procs");
        drop(fs::write(&back, std::process::id().to_string()));
        // Children of other tests.
        for pid in fs::read_to_string(self.cgroup.join("cgroup.procs")).unwrap_or_default().lines()
        {
            drop(fs::write(&back, pid));
        }
    }
}

/// A process in a network namespace of its own, until it goes out of scope.
struct Elsewhere(Child);

impl Elsewhere {
    fn start() -> Self {
        let script = "ip link set lo up && echo there && exec sleep 60";
        let mut command = Command::new("unshare");
        command.args(["--net", "--kill-child", "sh", "-c", script]).stdout(Stdio::piped());
        let mut child = command.spawn().unwrap();
        let mut said = [0; 6];
        child.stdout.take().unwrap().read_exact(&mut said).unwrap();
        Self(child)
    }
}

impl Drop for Elsewhere {
    fn drop(&mut self) {
        drop(self.0.kill());
        drop(self.0.wait());
    }
}

/// Whether programs of this kernel say which error it is (`bpf_set_retval`, Linux 6.1).
fn kernel_chooses() -> bool {
    let release = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap();
    let mut numbers = release.split('.').map(|number| number.trim().parse::<u32>().unwrap_or(0));
    (numbers.next(), numbers.next()) >= (Some(6), Some(1))
}

/// Errors of calls to a port where nobody serves: of connections and of datagrams, of both families.
fn errors_of_calls() -> [Option<i32>; 4] {
    let [four, six] = VIPS.map(|vip| SocketAddr::new(vip, 81));
    let error = |result: io::Result<()>| result.unwrap_err().raw_os_error();
    let send = |to: SocketAddr| {
        let any = if to.is_ipv4() { "0.0.0.0:0" } else { "[::]:0" };
        UdpSocket::bind(any)?.send_to(b"?", to).map(drop)
    };
    [
        error(TcpStream::connect(four).map(drop)),
        error(TcpStream::connect(six).map(drop)),
        error(send(four)),
        error(send(six)),
    ]
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

    fn refused_calls_get_the_error_that_programs_of_the_kernel_can_give(sandbox) {
        let name = "refused_calls_get_the_error_that_programs_of_the_kernel_can_give";
        let Some(cgroup) = Cgroup::absent(name) else { return };
        cgroup.make();
        let as_on = |as_on_kernel| {
            let calls = CgroupOptions { path: Some(cgroup.0.clone()), ..CgroupOptions::default() };
            let options = sandbox.options(TcMode::Auto);
            Datapath::open(&Options { cgroup: Some(calls), as_on_kernel, ..options }).unwrap()
        };
        let mut datapath = as_on(Some((5, 10)));
        for vip in VIPS {
            datapath.execute(&Action::PutVip { vip }).unwrap();
        }
        let inside = Inside::of(&cgroup);
        assert_eq!(errors_of_calls(), [Some(libc::EPERM); 4]);
        drop(datapath);
        // The node gets a newer kernel's programs.
        let _datapath = as_on(None);
        let expected = if kernel_chooses() { libc::ECONNREFUSED } else { libc::EPERM };
        assert_eq!(errors_of_calls(), [Some(expected); 4]);
        drop(inside);
    }

    fn namespaces_are_told_by_a_call_where_the_kernel_tells_only_programs(sandbox) {
        let name = "namespaces_are_told_by_a_call_where_the_kernel_tells_only_programs";
        let Some(cgroup) = Cgroup::absent(name) else { return };
        cgroup.make();
        run("ip", &["link", "set", "lo", "up"]);
        let others = [Elsewhere::start(), Elsewhere::start()];
        let pids = [std::process::id(), others[0].0.id(), others[1].0.id()];
        let processes = pids.map(|pid| Process::open(pid).unwrap());
        let asked = Cookies::by_question();
        let _datapath = open_asked(sandbox, &cgroup.0, asked);
        let unseen = asked.of(None).unwrap_err().to_string();
        let remedy = "run the agent in the cgroup that `path` in [cgroup] names, or leave it out";
        assert!(unseen.contains(remedy), "{unseen}");

        let _inside = Inside::of(&cgroup);
        let mut seen = BTreeSet::new();
        for process in [None].into_iter().chain(processes.iter().map(Some)) {
            let cookie = asked.of(process).unwrap();
            seen.insert(cookie);
            // Of the same one the same.
            assert_eq!(asked.of(process).unwrap(), cookie);
            if Cookies::of_this_kernel() == Cookies::default() {
                assert_eq!(Cookies::default().of(process).unwrap(), cookie, "{process:?}");
            }
        }
        assert_eq!(seen.len(), 4, "{seen:?}");
        // Nobody else's question is answered.
        assert!(Cookies::by_question().of(None).is_err());
    }
}
