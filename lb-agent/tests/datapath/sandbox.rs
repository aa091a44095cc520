//! A network namespace and a bpffs that go with the test, and what tests look at.

use std::{
    fs::OpenOptions,
    io::Write as _,
    path::{Path, PathBuf},
    process::Command,
};

use aya::{
    maps::{Array, HashMap, LpmTrie, Map, MapData, PerCpuArray},
    programs::links::{FdLink, PinnedLink},
};
use lb_agent::datapath::{Datapath, FrontInterface, Options, RecordTimes, TcMode, XdpMode};
use lb_common::abi::map_names;
use nix::{
    mount::{MntFlags, MsFlags},
    sched::CloneFlags,
};
use tempfile::TempDir;

/// What a test runs in. The calling thread is in a network namespace of its own, with two veth
/// pairs: `front0` and `front1`, and `cont0` and `cont1`.
pub(crate) struct Sandbox {
    directory: TempDir,
}

/// Runs a test in a sandbox, or says why it cannot.
pub(crate) fn sandbox(name: &str, test: fn(&Sandbox)) {
    if let Some(why) = lacking() {
        return skip(name, &why);
    }
    let thread = std::thread::Builder::new().name(name.to_owned()).spawn(move || {
        nix::sched::unshare(CloneFlags::CLONE_NEWNET).expect("a network namespace");
        let sandbox = Sandbox::new();
        test(&sandbox);
    });
    if let Err(panic) = thread.expect("a thread").join() {
        std::panic::resume_unwind(panic);
    }
}

impl Sandbox {
    fn new() -> Self {
        let directory = tempfile::Builder::new().prefix("lb-datapath-").tempdir().unwrap();
        let bpffs = directory.path().join("bpf");
        std::fs::create_dir(&bpffs).unwrap();
        let sandbox = Self { directory };
        nix::mount::mount(Some("bpf"), &bpffs, Some("bpf"), MsFlags::empty(), None::<&str>)
            .expect("a bpffs");
        for pair in [["front0", "front1"], ["cont0", "cont1"]] {
            add_veth(pair);
        }
        sandbox
    }

    pub(crate) fn bpffs(&self) -> PathBuf {
        self.directory.path().join("bpf")
    }

    pub(crate) fn pins(&self) -> PathBuf {
        self.bpffs().join("lb")
    }

    pub(crate) fn state_path(&self) -> PathBuf {
        self.directory.path().join("run")
    }

    /// Small tables, one front, the given way.
    pub(crate) fn options(&self, tc_mode: TcMode) -> Options {
        Options {
            cgroup: None,
            pin_path: self.pins(),
            state_path: self.state_path(),
            fronts: vec![FrontInterface { name: "front0".to_owned(), xdp: XdpMode::Auto }],
            tc_mode,
            ring_slots: 65_536,
            records: 4_096,
            times: RecordTimes::default(),
            hash_seed: Some(7),
            as_on_kernel: None,
        }
    }

    pub(crate) fn open(&self, tc_mode: TcMode) -> Datapath {
        Datapath::open(&self.options(tc_mode)).unwrap()
    }

    /// A pinned array.
    pub(crate) fn array<V: aya::Pod>(&self, name: &str) -> Array<MapData, V> {
        Array::try_from(Map::Array(self.map(name))).unwrap()
    }

    /// A pinned array with a value for each CPU.
    pub(crate) fn per_cpu_array<V: aya::Pod>(&self, name: &str) -> PerCpuArray<MapData, V> {
        PerCpuArray::try_from(Map::PerCpuArray(self.map(name))).unwrap()
    }

    /// A pinned hash map.
    pub(crate) fn hash_map<K: aya::Pod, V: aya::Pod>(&self, name: &str) -> HashMap<MapData, K, V> {
        HashMap::try_from(Map::HashMap(self.map(name))).unwrap()
    }

    /// A pinned hash map of the kind that evicts.
    pub(crate) fn lru_hash_map<K, V>(&self, name: &str) -> HashMap<MapData, K, V>
    where
        K: aya::Pod,
        V: aya::Pod,
    {
        HashMap::try_from(Map::LruHashMap(self.map(name))).unwrap()
    }

    /// What `LOCAL_*` say of their entries after a change, shorter prefixes first, IPv4 first.
    pub(crate) fn local_kinds(&self, change: impl Fn(&mut u32)) -> Vec<u32> {
        let mut kinds = self.local_kinds_of::<[u8; 4]>(map_names::LOCAL_V4, &change);
        kinds.extend(self.local_kinds_of::<[u8; 16]>(map_names::LOCAL_V6, &change));
        kinds
    }

    fn local_kinds_of<K: aya::Pod>(&self, name: &str, change: &impl Fn(&mut u32)) -> Vec<u32> {
        let mut map: LpmTrie<MapData, K, u32> =
            LpmTrie::try_from(Map::LpmTrie(self.map(name))).unwrap();
        let mut entries = map.iter().collect::<Result<Vec<_>, _>>().unwrap();
        entries.sort_by_key(|(key, _)| key.prefix_len());
        entries
            .into_iter()
            .map(|(key, mut kind)| {
                change(&mut kind);
                map.insert(&key, kind, 0).unwrap();
                kind
            })
            .collect()
    }

    fn map(&self, name: &str) -> MapData {
        MapData::from_pin(self.pins().join("maps").join(name)).unwrap()
    }

    /// Names of pinned links, without the namespace.
    pub(crate) fn links(&self) -> Vec<String> {
        let mut names: Vec<String> = tree(&self.pins().join("links"))
            .iter()
            .map(|name| name.rsplit_once('-').unwrap().0.to_owned())
            .collect();
        names.sort();
        names
    }

    /// (link, program) ids of every pinned link.
    pub(crate) fn link_ids(&self) -> Vec<(u32, u32)> {
        let directory = self.pins().join("links");
        tree(&directory)
            .iter()
            .map(|name| {
                let link = FdLink::from(PinnedLink::from_pin(directory.join(name)).unwrap());
                let info = link.info().unwrap();
                (info.id(), info.program_id())
            })
            .collect()
    }

    /// Everything that an agent could leave behind.
    pub(crate) fn traces(&self) -> String {
        format!(
            "{}\n{}\n{}\n{:?}\n{:?}",
            run("tc", &["qdisc", "show"]),
            run("ip", &["-details", "link", "show"]),
            filters("front0"),
            tree(&self.bpffs()),
            tree(self.directory.path()),
        )
    }
}

impl Drop for Sandbox {
    fn drop(&mut self) {
        let bpffs = self.bpffs();
        if let Err(error) = nix::mount::umount2(&bpffs, MntFlags::MNT_DETACH) {
            eprintln!("{} stays mounted: {error}", bpffs.display());
        }
    }
}

pub(crate) fn add_veth([one, other]: [&str; 2]) {
    run("ip", &["link", "add", one, "type", "veth", "peer", "name", other]);
    for name in [one, other] {
        run("ip", &["link", "set", name, "up"]);
    }
}

pub(crate) fn delete(interface: &str) {
    run("ip", &["link", "delete", interface]);
}

/// Ingress filters of an interface, as tc shows them.
pub(crate) fn filters(interface: &str) -> String {
    run("tc", &["filter", "show", "dev", interface, "ingress"])
}

/// Number of programs of ours on clsact ingress of an interface.
pub(crate) fn clsact_count(interface: &str) -> usize {
    filters(interface).lines().filter(|line| line.contains("lb_tc_")).count()
}

/// Names of programs on TCX ingress of an interface, in the order in which they run.
pub(crate) fn tcx_programs(interface: &str) -> Vec<String> {
    use aya::programs::{SchedClassifier, TcAttachType};
    let (_, programs) = SchedClassifier::query_tcx(interface, TcAttachType::Ingress).unwrap();
    programs.iter().map(|program| program.name_as_str().unwrap_or("?").to_owned()).collect()
}

pub(crate) fn ifindex(interface: &str) -> u32 {
    nix::net::if_::if_nametoindex(interface).unwrap()
}

/// Files below a directory, relative, sorted.
pub(crate) fn tree(root: &Path) -> Vec<String> {
    let mut found = Vec::new();
    let mut directories = vec![root.to_path_buf()];
    while let Some(directory) = directories.pop() {
        for entry in std::fs::read_dir(directory).into_iter().flatten().flatten() {
            let path = entry.path();
            found.push(path.strip_prefix(root).unwrap().display().to_string());
            if entry.file_type().unwrap().is_dir() {
                directories.push(path);
            }
        }
    }
    found.sort();
    found
}

/// Runs a command in the namespace of the calling thread, and returns what it prints.
pub(crate) fn run(program: &str, arguments: &[&str]) -> String {
    let output = Command::new(program).args(arguments).output().expect(program);
    let (out, error) =
        (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{program} {arguments:?}: {error}");
    out.into_owned()
}

fn lacking() -> Option<String> {
    if let Err(error) = lb_agent::datapath::embedded() {
        return Some(error.to_string());
    }
    if !nix::unistd::geteuid().is_root() {
        return Some("needs root".to_owned());
    }
    for program in ["ip", "tc"] {
        if Command::new(program).arg("-V").output().is_err() {
            return Some(format!("needs {program}"));
        }
    }
    None
}

/// In the form that the test runner compares with `skips.toml`.
pub(crate) fn skip(name: &str, why: &str) {
    let line = format!("SKIP {name}: {why}\n");
    print!("{line}");
    if let Some(path) = std::env::var_os("LB_SKIP_LOG") {
        let mut log = OpenOptions::new().create(true).append(true).open(path).unwrap();
        log.write_all(line.as_bytes()).unwrap();
    }
}

/// A test that runs in a sandbox.
#[macro_export]
macro_rules! sandboxed {
    ($($(#[$attribute:meta])* fn $name:ident($sandbox:ident) $body:block)+) => {
        $(
            $(#[$attribute])*
            #[test]
            fn $name() {
                $crate::sandbox::sandbox(stringify!($name), |$sandbox| $body);
            }
        )+
    };
}
