//! Nothing of ours stays, and nothing of others goes.

use lb_agent::datapath::{Datapath, FrontInterface, Options, TcMode, XdpMode, uninstall};

use nix::mount::MsFlags;

use crate::{
    sandbox::{Sandbox, add_veth, delete, filters, ifindex, run, tree},
    sandboxed,
};

const MODES: [TcMode; 2] = [TcMode::Tcx, TcMode::Clsact];

sandboxed! {
    fn everything_is_as_before(sandbox) {
        let before = sandbox.traces();
        for mode in MODES {
            let fronts = vec![FrontInterface { name: "front0".to_owned(), xdp: XdpMode::Generic }];
            let options = Options { fronts, ..sandbox.options(mode) };
            let mut datapath = Datapath::open(&options).unwrap();
            datapath.attach_reply(ifindex("cont0")).unwrap();
            drop(datapath);
            assert_ne!(sandbox.traces(), before);
            // As without a configuration: neither fronts nor mode are known.
            let known = Options {
                pin_path: options.pin_path,
                state_path: options.state_path,
                ..Options::default()
            };
            let report = uninstall(&known, false).unwrap();
            assert_eq!(report.left, Vec::<String>::new(), "{report}");
            assert_eq!(sandbox.traces(), before, "{report}");
            let again = uninstall(&known, false).unwrap();
            assert_eq!(again.to_string(), "nothing to remove\n");
        }
    }

    fn dry_run_tells_the_same_and_changes_nothing(sandbox) {
        for mode in MODES {
            let mut datapath = sandbox.open(mode);
            datapath.attach_reply(ifindex("cont0")).unwrap();
            let before = sandbox.traces();
            // Also while the agent runs.
            let planned = uninstall(&sandbox.options(mode), true).unwrap();
            assert_eq!(sandbox.traces(), before);
            let refusal = uninstall(&sandbox.options(mode), false).unwrap_err().to_string();
            assert!(refusal.contains("another lb-agent"), "{refusal}");
            drop(datapath);
            let done = uninstall(&sandbox.options(mode), false).unwrap();
            assert_eq!((planned.removed, planned.left), (done.removed, done.left));
            assert!(planned.is_dry_run && !done.is_dry_run);
        }
    }

    fn foreign_filter_and_its_qdisc_survive(sandbox) {
        let before = run("tc", &["qdisc", "show", "dev", "front1"]);
        let mut datapath = sandbox.open(TcMode::Clsact);
        datapath.attach_reply(ifindex("cont0")).unwrap();
        datapath.attach_reply(ifindex("front1")).unwrap();
        // A stranger uses the qdiscs that we made: one before our filter, one on egress.
        run("tc", &[
            "filter", "add", "dev", "front0", "ingress", "pref", "7", "protocol", "ip", "u32",
            "match", "u32", "0", "0", "flowid", "1:1",
        ]);
        run("tc", &[
            "filter", "add", "dev", "cont0", "egress", "pref", "7", "protocol", "ip", "u32",
            "match", "u32", "0", "0", "flowid", "1:1",
        ]);
        drop(datapath);
        let report = uninstall(&sandbox.options(TcMode::Clsact), false).unwrap();
        assert!(filters("front0").contains("pref 7"), "{}", filters("front0"));
        assert!(!filters("front0").contains("lb_tc_"), "{}", filters("front0"));
        let egress = run("tc", &["filter", "show", "dev", "cont0", "egress"]);
        assert!(egress.contains("pref 7"), "{egress}");
        assert_eq!(run("tc", &["qdisc", "show", "dev", "front1"]), before);
        let left = report.to_string();
        for interface in ["front0", "cont0"] {
            let line = format!("left clsact qdisc of interface `{interface}`: others");
            assert!(left.contains(&line), "{left}");
        }

        // When the strangers are gone another run finishes the work.
        run("tc", &["filter", "del", "dev", "front0", "ingress"]);
        run("tc", &["filter", "del", "dev", "cont0", "egress"]);
        let report = uninstall(&sandbox.options(TcMode::Clsact), false).unwrap();
        assert_eq!(report.left, Vec::<String>::new(), "{report}");
        let qdiscs = run("tc", &["qdisc", "show"]);
        assert!(!qdiscs.contains("clsact"), "{qdiscs}");
        assert!(!sandbox.state_path().exists());
    }

    fn works_when_the_interfaces_are_gone(sandbox) {
        for mode in MODES {
            let mut datapath = sandbox.open(mode);
            datapath.attach_reply(ifindex("cont0")).unwrap();
            drop(datapath);
            delete("front0");
            delete("cont0");
            let report = uninstall(&sandbox.options(mode), false).unwrap();
            assert_eq!(report.left, Vec::<String>::new(), "{report}");
            assert!(!sandbox.pins().exists() && !sandbox.state_path().exists(), "{report}");
            add_veth(["front0", "front1"]);
            add_veth(["cont0", "cont1"]);
        }
    }

    fn works_when_the_pins_are_lost(sandbox) {
        let mut datapath = sandbox.open(TcMode::Clsact);
        datapath.attach_reply(ifindex("cont0")).unwrap();
        drop(datapath);
        std::fs::remove_dir_all(sandbox.pins()).unwrap();
        let report = uninstall(&sandbox.options(TcMode::Clsact), false).unwrap();
        assert_eq!(report.left, Vec::<String>::new(), "{report}");
        let qdiscs = run("tc", &["qdisc", "show"]);
        assert!(!qdiscs.contains("clsact"), "{qdiscs}");
    }

    fn files_of_others_are_left_and_named(sandbox) {
        drop(sandbox.open(TcMode::Tcx));
        let foreign = sandbox.state_path().join("notes.txt");
        std::fs::write(&foreign, "mine").unwrap();
        std::fs::create_dir(sandbox.pins().join("other")).unwrap();
        let report = uninstall(&sandbox.options(TcMode::Tcx), false).unwrap();
        assert!(foreign.exists() && sandbox.pins().join("other").exists());
        assert!(report.to_string().contains("1 entries that are not ours"), "{report}");
        assert!(!sandbox.pins().join("maps").exists());
    }

    fn bpffs_is_mounted_where_one_belongs_and_unmounted_again(sandbox) {
        let options = |sandbox: &Sandbox| Options {
            pin_path: "/sys/fs/bpf/lb_datapath_test".into(),
            ..sandbox.options(TcMode::Auto)
        };
        if !is_init() {
            // With a PID 1 of its own, this machine's mounts stay as they are.
            return run_as_init("uninstall::bpffs_is_mounted_where_one_belongs_and_unmounted_again");
        }
        while nix::mount::umount("/sys/fs/bpf").is_ok() {}
        let is_mounted = || {
            let mounts = std::fs::read_to_string("/proc/self/mountinfo").unwrap();
            mounts.lines().filter(|line| line.contains(" /sys/fs/bpf ")).count()
        };
        drop(Datapath::open(&options(sandbox)).unwrap());
        drop(Datapath::open(&options(sandbox)).unwrap());
        assert_eq!(is_mounted(), 1);
        assert_eq!(tree("/sys/fs/bpf".as_ref())[0], "lb_datapath_test");

        std::fs::create_dir("/sys/fs/bpf/foreign").unwrap();
        let planned = uninstall(&options(sandbox), true).unwrap();
        let report = uninstall(&options(sandbox), false).unwrap();
        assert_eq!(planned.left, report.left);
        assert!(report.left[0].contains("bpffs on /sys/fs/bpf: it holds 1 entries"), "{report}");
        assert_eq!(is_mounted(), 1);

        std::fs::remove_dir("/sys/fs/bpf/foreign").unwrap();
        let report = uninstall(&options(sandbox), false).unwrap();
        assert_eq!(report.left, Vec::<String>::new(), "{report}");
        assert_eq!(is_mounted(), 0);
    }

    fn bpffs_of_others_stays(sandbox) {
        if !is_init() {
            return run_as_init("uninstall::bpffs_of_others_stays");
        }
        let flags = MsFlags::empty();
        nix::mount::mount(Some("bpf"), "/sys/fs/bpf", Some("bpf"), flags, None::<&str>).unwrap();
        let options = Options {
            pin_path: "/sys/fs/bpf/lb_datapath_test".into(),
            ..sandbox.options(TcMode::Auto)
        };
        drop(Datapath::open(&options).unwrap());
        let report = uninstall(&options, false).unwrap();
        assert_eq!(report.left, Vec::<String>::new(), "{report}");
        let mounts = std::fs::read_to_string("/proc/self/mountinfo").unwrap();
        assert!(mounts.contains(" /sys/fs/bpf "), "{report}");
    }
}

fn is_init() -> bool {
    std::process::id() == 1
}

/// Runs one test of this program as PID 1 in namespaces of its own.
fn run_as_init(test: &str) {
    let program = std::env::current_exe().unwrap();
    let program = program.to_str().unwrap();
    let out = run(
        "unshare",
        &[
            "--pid",
            "--fork",
            "--mount",
            "--mount-proc",
            "--propagation",
            "private",
            program,
            test,
            "--exact",
            "--nocapture",
        ],
    );
    assert!(out.contains("1 passed"), "{out}");
}
