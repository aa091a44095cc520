//! What a restarted agent takes over, and what it refuses.

use std::path::Path;

use aya::maps::MapData;
use lb_agent::{
    datapath::{Datapath, Options, RecordTimes, TcMode, uninstall},
    model::{IpPrefix, LocalKind, LocalPrefixes},
    plan::{Action, Kernel as _},
};
use lb_common::abi::{
    ABI_VERSION, LOCAL_CONTAINERS, LOCAL_NODE, LOCAL_PRIMARY, Limits, Meta, map_names,
    ticks_from_seconds,
};
use nix::{
    mount::{MntFlags, MsFlags},
    sched::CloneFlags,
};

use crate::{
    sandbox::{Sandbox, ifindex, tree},
    sandboxed,
};

fn refusal(options: &Options) -> String {
    match Datapath::open(options) {
        Ok(_) => panic!("was adopted"),
        Err(error) => format!("{error:#}"),
    }
}

/// Pins one of our maps under the name of another.
fn misplace(sandbox: &Sandbox, map: &str, name: &str) {
    let maps = sandbox.pins().join("maps");
    std::fs::remove_file(maps.join(name)).unwrap();
    MapData::from_pin(maps.join(map)).unwrap().pin(maps.join(name)).unwrap();
}

sandboxed! {
    fn restarted_agent_adopts_everything(sandbox) {
        let mut first = sandbox.open(TcMode::Auto);
        assert!(!first.has_adopted());
        first.execute(&Action::WriteService { number: 3, name_hash: [1, 2] }).unwrap();
        first.execute(&Action::PutVip { vip: "192.0.2.10".parse().unwrap() }).unwrap();
        first.attach_reply(ifindex("cont0")).unwrap();
        let state = first.read_state().unwrap();
        assert_eq!(state.services[&3], [1, 2]);
        assert!(state.reply_interfaces.contains(&ifindex("cont0")));
        drop(first);

        let mut second = sandbox.open(TcMode::Auto);
        assert!(second.has_adopted());
        assert_eq!(second.read_state().unwrap(), state);
    }

    fn what_local_addresses_are_is_read_back_as_it_is(sandbox) {
        let mut first = sandbox.open(TcMode::Auto);
        let wanted: LocalPrefixes = [
            ("172.17.0.0", 16, LocalKind::Containers),
            ("192.0.2.1", 32, LocalKind::Primary),
            ("fd00:17::", 48, LocalKind::Containers),
            ("2001:db8::1", 128, LocalKind::Node),
        ]
        .into_iter()
        .map(|(address, length, kind)| (IpPrefix::of(address.parse().unwrap(), length), kind))
        .collect();
        for (prefix, kind) in &wanted {
            first.execute(&Action::PutLocal { prefix: *prefix, kind: *kind }).unwrap();
        }
        let kinds = [LOCAL_CONTAINERS, LOCAL_PRIMARY, LOCAL_CONTAINERS, LOCAL_NODE];
        assert_eq!(sandbox.local_kinds(|_| {}), kinds);
        drop(first);
        assert_eq!(sandbox.open(TcMode::Auto).read_state().unwrap().local, wanted);
        // As it was before there were kinds: none is what it is to be, and the next plan says so.
        sandbox.local_kinds(|kind| *kind = LOCAL_CONTAINERS);
        let local = sandbox.open(TcMode::Auto).read_state().unwrap().local;
        assert_eq!(local.keys().collect::<Vec<_>>(), wanted.keys().collect::<Vec<_>>());
        assert!(local.values().all(|kind| *kind == LocalKind::Containers), "{local:?}");
    }

    fn second_agent_is_refused_while_the_first_runs(sandbox) {
        let first = sandbox.open(TcMode::Auto);
        let words = refusal(&sandbox.options(TcMode::Auto));
        assert!(words.contains("another lb-agent") && words.contains("state_path"), "{words}");
        let elsewhere = Options {
            state_path: sandbox.state_path().join("other"),
            ..sandbox.options(TcMode::Auto)
        };
        let words = refusal(&elsewhere);
        assert!(words.contains("another lb-agent") && words.contains("pin_path"), "{words}");
        drop(first);
        sandbox.open(TcMode::Auto);
    }

    fn seed_of_the_first_start_stays(sandbox) {
        let options = |hash_seed| Options { hash_seed, ..sandbox.options(TcMode::Auto) };
        let seed = Datapath::open(&options(None)).unwrap().hash_seed();
        assert_eq!(Datapath::open(&options(None)).unwrap().hash_seed(), seed);
        assert_eq!(Datapath::open(&options(Some(!seed))).unwrap().hash_seed(), seed);
        uninstall(&options(None), false).unwrap();
        assert_eq!(Datapath::open(&options(Some(!seed))).unwrap().hash_seed(), !seed);
    }

    fn times_of_records_are_those_of_the_latest_start(sandbox) {
        let defaults = sandbox.options(TcMode::Auto);
        let mut datapath = Datapath::open(&defaults).unwrap();
        datapath.execute(&Action::SetFlags { flags: 1 }).unwrap();
        drop(datapath);
        let meta = || sandbox.array::<Meta>(map_names::META).get(&0, 0).unwrap();
        let before = meta();
        assert_eq!(before.limits.established_ticks, ticks_from_seconds(8400));
        let times = RecordTimes { established_seconds: 900, grace_seconds: 0, ..defaults.times };
        drop(Datapath::open(&Options { times, ..defaults.clone() }).unwrap());
        let limits = Limits {
            established_ticks: ticks_from_seconds(900),
            grace_ticks: 0,
            ..before.limits
        };
        assert_eq!(meta(), Meta { limits, ..before });
        drop(Datapath::open(&defaults).unwrap());
        assert_eq!(meta(), before);
    }

    fn table_of_another_size_is_refused_by_its_key(sandbox) {
        drop(sandbox.open(TcMode::Auto));
        let words = refusal(&Options { records: 8_192, ..sandbox.options(TcMode::Auto) });
        assert!(words.contains("4096 entries, and `tables.records` asks for 8192"), "{words}");
        assert!(words.contains("lb-agent uninstall"), "{words}");
        sandbox.open(TcMode::Auto);
    }

    fn foreign_map_under_our_name_is_refused_and_stays(sandbox) {
        drop(sandbox.open(TcMode::Auto));
        misplace(sandbox, map_names::FLOWS_V4, map_names::RINGS);
        let before = tree(&sandbox.bpffs());
        let words = refusal(&sandbox.options(TcMode::Auto));
        assert!(words.contains("maps/RINGS"), "{words}");
        assert!(words.contains("BPF_MAP_TYPE_HASH") && words.contains("BPF_MAP_TYPE_ARRAY"), "{words}");
        misplace(sandbox, map_names::BACKENDS_V4, map_names::RINGS);
        let words = refusal(&sandbox.options(TcMode::Auto));
        assert!(words.contains("its value size is 16, and should be 8"), "{words}");
        assert_eq!(tree(&sandbox.bpffs()), before);
    }

    fn missing_map_is_refused(sandbox) {
        drop(sandbox.open(TcMode::Auto));
        std::fs::remove_file(sandbox.pins().join("maps/DROPS")).unwrap();
        let words = refusal(&sandbox.options(TcMode::Auto));
        assert!(words.contains("maps/DROPS") && words.contains("lb-agent uninstall"), "{words}");
    }

    fn another_abi_version_is_refused(sandbox) {
        drop(sandbox.open(TcMode::Auto));
        let mut meta = sandbox.array::<Meta>(map_names::META);
        let present = meta.get(&0, 0).unwrap();
        assert_eq!(present.abi_version, ABI_VERSION);
        meta.set(0, Meta { abi_version: 99, ..present }, 0).unwrap();
        let words = refusal(&sandbox.options(TcMode::Auto));
        assert!(words.contains(&format!("ABI version 99, and this lb-agent has {ABI_VERSION}")), "{words}");
        assert!(words.contains("lb-agent uninstall"), "{words}");
    }

    fn tables_of_impossible_size_are_refused(sandbox) {
        let options = |ring_slots, records| Options {
            ring_slots,
            records,
            ..sandbox.options(TcMode::Auto)
        };
        assert!(refusal(&options(0, 1)).contains("`tables.ring_slots` is 0"));
        assert!(refusal(&options(1 << 29, 1)).contains("`tables.ring_slots` is 536870912"));
        assert!(refusal(&options(65_536, 0)).contains("`tables.records` is 0"));
    }

    fn half_made_maps_are_made_anew(sandbox) {
        drop(sandbox.open(TcMode::Auto));
        let maps = sandbox.pins().join("maps");
        // As if the agent had been killed before it could rename them.
        std::fs::rename(&maps, sandbox.pins().join("maps_new")).unwrap();
        let datapath = sandbox.open(TcMode::Auto);
        assert!(!datapath.has_adopted());
        assert!(maps.join("META").exists());
        assert!(!sandbox.pins().join("maps_new").exists());
    }

    fn pin_path_beside_a_bpffs_is_refused(sandbox) {
        let beside = sandbox.state_path().with_file_name("elsewhere");
        let words = refusal(&Options { pin_path: beside, ..sandbox.options(TcMode::Auto) });
        assert!(words.contains("is not on a bpffs"), "{words}");
        assert!(words.contains("mount -t bpf bpf"), "{words}");
        let below = sandbox.bpffs().join("missing/lb");
        let words = refusal(&Options { pin_path: below, ..sandbox.options(TcMode::Auto) });
        assert!(words.contains("the parent of pin_path"), "{words}");
    }

    fn mount_namespace_that_would_lose_the_pins_is_refused(sandbox) {
        // In a thread, so that this one can unmount what it has mounted.
        std::thread::scope(|scope| {
            let thread = scope.spawn(|| in_private_mount_namespace(sandbox));
            thread.join().expect("see above");
        });
    }
}

fn in_private_mount_namespace(sandbox: &Sandbox) {
    nix::sched::unshare(CloneFlags::CLONE_NEWNS).unwrap();
    let private = MsFlags::MS_REC | MsFlags::MS_PRIVATE;
    nix::mount::mount(None::<&str>, "/", None::<&str>, private, None::<&str>).unwrap();
    // The one of the sandbox is also PID 1's.
    drop(sandbox.open(TcMode::Auto));

    let options = |pin_path: &Path| Options {
        pin_path: pin_path.to_path_buf(),
        state_path: sandbox.bpffs().with_file_name("run2"),
        ..sandbox.options(TcMode::Auto)
    };
    let own = sandbox.state_path();
    nix::mount::mount(Some("bpf"), &own, Some("bpf"), MsFlags::empty(), None::<&str>).unwrap();
    let words = refusal(&options(&own.join("lb")));
    assert!(words.contains("only this mount namespace shows"), "{words}");

    while nix::mount::umount2("/sys/fs/bpf", MntFlags::MNT_DETACH).is_ok() {}
    let words = refusal(&options(Path::new("/sys/fs/bpf/lb_datapath_test")));
    assert!(words.contains("a mount namespace of its own"), "{words}");
}
