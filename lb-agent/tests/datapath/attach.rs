//! Programs on interfaces: exactly one per hook, whatever happened before.

use std::time::{Duration, Instant};

use aya::programs::Xdp;
use lb_agent::{
    datapath::{Datapath, FrontInterface, Options, TcMode, Way, XdpMode, strips_tags},
    plan::KernelError,
};
use lb_common::abi::{XdpInterface, map_names};

use crate::{
    sandbox::{Sandbox, add_veth, clsact_count, delete, filters, ifindex, run, tcx_programs, tree},
    sandboxed,
};

/// How many programs of ours are on TC ingress of an interface.
#[track_caller]
fn check_one_attachment(interface: &str, way: Way) {
    let tcx = tcx_programs(interface).len();
    let present = (tcx, clsact_count(interface));
    let expected = if way == Way::Tcx { (1, 0) } else { (0, 1) };
    assert_eq!(present, expected, "(TCX, clsact) on {interface}: {}", filters(interface));
}

/// What XDP knows of.
fn xdp_interfaces(sandbox: &Sandbox) -> Vec<(u32, XdpInterface)> {
    let array = sandbox.array::<u64>(map_names::XDP_INTERFACES);
    let all = (0..array.len()).map(|it| (it, XdpInterface::from_raw(array.get(&it, 0).unwrap())));
    all.filter(|(_, interface)| *interface != XdpInterface::NONE).collect()
}

fn address(interface: &str) -> [u8; 6] {
    let shown = run("ip", &["-oneline", "link", "show", "dev", interface]);
    let mut words = shown.split(' ').skip_while(|word| *word != "link/ether").skip(1);
    let bytes = words.next().unwrap().split(':').map(|byte| u8::from_str_radix(byte, 16).unwrap());
    bytes.collect::<Vec<u8>>().try_into().unwrap()
}

fn xdp_options(sandbox: &Sandbox, xdp: XdpMode) -> Options {
    let fronts = vec![FrontInterface { name: "front0".to_owned(), xdp }];
    Options { fronts, ..sandbox.options(TcMode::Auto) }
}

sandboxed! {
    fn first_way_that_works_is_taken(sandbox) {
        let mut datapath = sandbox.open(TcMode::Auto);
        datapath.attach_reply(ifindex("cont0")).unwrap();
        assert_eq!(datapath.fronts()[0].tc, Some(Way::Tcx));
        check_one_attachment("front0", Way::Tcx);
        check_one_attachment("cont0", Way::Tcx);
        assert_eq!(tcx_programs("front0"), ["lb_tc_front"]);
        assert_eq!(tcx_programs("cont0"), ["lb_tc_reply"]);
    }

    fn links_get_the_new_program_in_place(sandbox) {
        let mut first = sandbox.open(TcMode::Tcx);
        first.attach_reply(ifindex("cont0")).unwrap();
        let before = sandbox.link_ids();
        drop(first);
        assert_eq!(sandbox.link_ids(), before, "stopping changes nothing");

        drop(sandbox.open(TcMode::Tcx));
        let after = sandbox.link_ids();
        assert_eq!(before.len(), 2);
        for ((old_link, old_program), (link, program)) in before.into_iter().zip(after) {
            assert_eq!(old_link, link, "the link is the same");
            assert_ne!(old_program, program, "its program is the new agent's");
        }
    }

    fn what_is_expected_is_attached_once(sandbox) {
        let mut datapath = sandbox.open(TcMode::Auto);
        let expected = [ifindex("cont0")].into();
        datapath.expect_replies(&expected, Duration::ZERO);
        datapath.expect_replies(&expected, Duration::ZERO);
        datapath.attach_reply(ifindex("cont0")).unwrap();
        check_one_attachment("cont0", Way::Tcx);
        datapath.expect_replies(&expected, Duration::ZERO);
        datapath.expect_no_more();
        drop(datapath);
        check_one_attachment("cont0", Way::Tcx);
        // Nor by the next one, that finds it attached.
        let mut datapath = sandbox.open(TcMode::Auto);
        datapath.expect_replies(&expected, Duration::ZERO);
        datapath.attach_reply(ifindex("cont0")).unwrap();
        check_one_attachment("cont0", Way::Tcx);
    }

    fn what_nobody_asks_for_is_taken_off_again(sandbox) {
        let mut datapath = sandbox.open(TcMode::Auto);
        datapath.expect_replies(&[ifindex("cont0"), 1_000_000].into(), Duration::ZERO);
        datapath.expect_no_more();
        let deadline = Instant::now() + Duration::from_secs(10);
        while !tcx_programs("cont0").is_empty() {
            assert!(Instant::now() < deadline, "{}", filters("cont0"));
            std::thread::sleep(Duration::from_millis(10));
        }
        // It may be asked for later all the same.
        datapath.attach_reply(ifindex("cont0")).unwrap();
        check_one_attachment("cont0", Way::Tcx);
        datapath.expect_replies(&[1_000_000].into(), Duration::ZERO);
        let error = datapath.attach_reply(1_000_000).unwrap_err();
        assert!(error.is_absent, "{error}");
    }

    fn what_may_take_longer_stays_until_then(sandbox) {
        let mut datapath = sandbox.open(TcMode::Auto);
        datapath.expect_replies(&[ifindex("cont0")].into(), Duration::from_mins(10));
        let deadline = Instant::now() + Duration::from_secs(10);
        while tcx_programs("cont0").is_empty() {
            assert!(Instant::now() < deadline, "{}", filters("cont0"));
            std::thread::sleep(Duration::from_millis(10));
        }
        let before = tcx_programs("cont0");
        datapath.expect_no_more();
        datapath.attach_reply(ifindex("cont0")).unwrap();
        assert_eq!(tcx_programs("cont0"), before, "it is the same");
        check_one_attachment("cont0", Way::Tcx);
    }

    fn what_is_given_back_is_in_nobodys_way(sandbox) {
        let mut datapath = sandbox.open(TcMode::Auto);
        // Asked for at any moment while it goes on or off.
        for moment in 0..40 {
            datapath.expect_replies(&[ifindex("cont0")].into(), Duration::ZERO);
            std::thread::sleep(Duration::from_micros(moment * 500));
            datapath.expect_no_more();
            datapath.attach_reply(ifindex("cont0")).unwrap();
            check_one_attachment("cont0", Way::Tcx);
            datapath.detach_reply(ifindex("cont0")).unwrap();
        }
    }

    fn clsact_filters_get_the_new_program_in_place(sandbox) {
        let mut first = sandbox.open(TcMode::Clsact);
        first.attach_reply(ifindex("cont0")).unwrap();
        check_one_attachment("front0", Way::Clsact);
        let before = [filters("front0"), filters("cont0")];
        drop(first);
        assert_eq!([filters("front0"), filters("cont0")], before, "stopping changes nothing");

        let mut second = sandbox.open(TcMode::Clsact);
        let after = [filters("front0"), filters("cont0")];
        for (before, after) in before.iter().zip(&after) {
            assert_ne!(before, after, "the program is the new agent's");
            assert_eq!(before.lines().count(), after.lines().count());
        }
        check_one_attachment("front0", Way::Clsact);
        let state = second.read_state().unwrap();
        assert!(state.reply_interfaces.contains(&ifindex("cont0")));
    }

    fn switching_the_way_leaves_one_attachment(sandbox) {
        for mode in [TcMode::Clsact, TcMode::Tcx, TcMode::Clsact, TcMode::Auto, TcMode::Clsact] {
            let way = if mode == TcMode::Clsact { Way::Clsact } else { Way::Tcx };
            let mut datapath = sandbox.open(mode);
            datapath.attach_reply(ifindex("cont0")).unwrap();
            check_one_attachment("front0", way);
            check_one_attachment("cont0", way);
            drop(datapath);
            // And without any request of the plan.
            drop(sandbox.open(mode));
            check_one_attachment("cont0", way);
        }
    }

    fn interface_made_anew_under_its_name_is_attached_again(sandbox) {
        for mode in [TcMode::Tcx, TcMode::Clsact] {
            let way = if mode == TcMode::Tcx { Way::Tcx } else { Way::Clsact };
            let mut datapath = sandbox.open(mode);
            let gone = ifindex("cont0");
            datapath.attach_reply(gone).unwrap();
            delete("front0");
            delete("cont0");
            assert!(datapath.read_state().unwrap().reply_interfaces.is_empty());
            add_veth(["front0", "front1"]);
            add_veth(["cont0", "cont1"]);

            datapath.ensure_fronts();
            datapath.attach_reply(ifindex("cont0")).unwrap();
            assert_eq!(datapath.fronts()[0].ifindex, Some(ifindex("front0")));
            check_one_attachment("front0", way);
            check_one_attachment("cont0", way);
            assert!(!datapath.attachments().iter().any(|attachment| attachment.ifindex == gone));
            if way == Way::Tcx {
                assert_eq!(sandbox.links().len(), 2, "{:?}", sandbox.links());
            }
        }
    }

    fn pins_of_deleted_interfaces_are_swept_at_the_next_start(sandbox) {
        let mut first = sandbox.open(TcMode::Tcx);
        first.attach_reply(ifindex("cont0")).unwrap();
        drop(first);
        delete("front0");
        delete("cont0");
        add_veth(["front0", "front1"]);

        let mut second = sandbox.open(TcMode::Tcx);
        assert!(second.read_state().unwrap().reply_interfaces.is_empty());
        assert_eq!(sandbox.links(), [format!("tc_front-tcx-{}", ifindex("front0"))]);
    }

    fn interface_that_takes_an_index_over_is_another(sandbox) {
        run("ip", &["link", "add", "name", "one0", "index", "900", "type", "veth"]);
        let mut datapath = sandbox.open(TcMode::Tcx);
        datapath.attach_reply(900).unwrap();
        delete("one0");
        run("ip", &["link", "add", "name", "two0", "index", "900", "type", "veth"]);
        assert!(!datapath.read_state().unwrap().reply_interfaces.contains(&900));
        datapath.attach_reply(900).unwrap();
        check_one_attachment("two0", Way::Tcx);
    }

    fn absent_interface_is_told_apart(sandbox) {
        for mode in [TcMode::Tcx, TcMode::Clsact] {
            let mut datapath = sandbox.open(mode);
            let KernelError { action, cause, is_absent } = datapath.attach_reply(4_000).unwrap_err();
            assert!(is_absent, "{action}: {cause}");
            assert!(action.contains("interface 4000 (gone)"), "{action}");
            datapath.detach_reply(4_000).unwrap();
        }
    }

    fn detaching_leaves_the_other_hook_and_no_qdisc(sandbox) {
        let qdiscs = run("tc", &["qdisc", "show", "dev", "cont0"]);
        for mode in [TcMode::Tcx, TcMode::Clsact] {
            let mut datapath = sandbox.open(mode);
            for _ in 0..2 {
                datapath.attach_reply(ifindex("cont0")).unwrap();
                datapath.attach_reply(ifindex("front0")).unwrap();
                datapath.detach_reply(ifindex("cont0")).unwrap();
                datapath.detach_reply(ifindex("front0")).unwrap();
                datapath.detach_reply(ifindex("front0")).unwrap();
            }
            assert_eq!(run("tc", &["qdisc", "show", "dev", "cont0"]), qdiscs);
            check_one_attachment("front0", datapath.fronts()[0].tc.unwrap());
        }
    }

    fn front_that_is_no_front_any_more_is_let_go(sandbox) {
        for mode in [TcMode::Tcx, TcMode::Clsact] {
            drop(sandbox.open(mode));
            let fronts = vec![FrontInterface { name: "cont0".to_owned(), xdp: XdpMode::Off }];
            let options = Options { fronts, ..sandbox.options(mode) };
            drop(Datapath::open(&options).unwrap());
            assert_eq!((tcx_programs("front0").len(), clsact_count("front0")), (0, 0));
            assert_eq!(tcx_programs("cont0").len() + clsact_count("cont0"), 1);
        }
    }

    fn missing_front_is_a_trouble_and_all_missing_is_an_error(sandbox) {
        let front = |name: &str| FrontInterface { name: name.to_owned(), xdp: XdpMode::Off };
        let mut options = sandbox.options(TcMode::Auto);
        options.fronts = vec![front("front0"), front("eth9")];
        let datapath = Datapath::open(&options).unwrap();
        assert_eq!(datapath.fronts()[0].troubles, Vec::<String>::new());
        assert_eq!(
            datapath.fronts()[1].troubles,
            ["front interface `eth9`: there is no such interface"],
        );
        drop(datapath);
        options.fronts = vec![front("eth9")];
        let words = Datapath::open(&options).err().unwrap().to_string();
        assert!(words.contains("`eth9`: there is no such interface"), "{words}");
        // What the name should have been goes on as it was.
        options.fronts = vec![front("front0")];
        let datapath = Datapath::open(&options).unwrap();
        assert!(datapath.has_adopted());
        drop(datapath);
        options.fronts = vec![front("eth9")];
        let _refused = Datapath::open(&options);
        let links = tree(&options.pin_path.join("links"));
        assert!(links.iter().any(|name| name.starts_with("tc_front-")), "{links:?}");
    }

    fn clsact_qdisc_of_others_stays(sandbox) {
        run("tc", &["qdisc", "add", "dev", "cont0", "clsact"]);
        let mut datapath = sandbox.open(TcMode::Clsact);
        datapath.attach_reply(ifindex("cont0")).unwrap();
        datapath.detach_reply(ifindex("cont0")).unwrap();
        let qdiscs = run("tc", &["qdisc", "show", "dev", "cont0"]);
        assert!(qdiscs.contains("clsact"), "{qdiscs}");
        assert!(tree(&sandbox.state_path()).iter().all(|note| {
            !note.starts_with(&format!("clsact-{}-", ifindex("cont0")))
        }));
    }

    fn foreign_filter_in_our_place_is_not_replaced(sandbox) {
        run("tc", &["qdisc", "add", "dev", "cont0", "clsact"]);
        let object = sandbox.state_path().with_file_name("other.o");
        std::fs::write(&object, lb_agent::datapath::embedded().unwrap()).unwrap();
        let mut datapath = sandbox.open(TcMode::Clsact);
        datapath.attach_reply(ifindex("cont0")).unwrap();
        datapath.detach_reply(ifindex("cont0")).unwrap();
        // The pinned program is ours, but the filter's name says otherwise.
        let pinned = sandbox.pins().join("programs/lb_tc_front");
        let handle = format!("{:#x}", 0x6c62 + 1);
        run("tc", &[
            "filter", "add", "dev", "cont0", "ingress", "pref", "100", "handle", &handle,
            "bpf", "direct-action", "object-pinned", pinned.to_str().unwrap(),
        ]);
        let before = filters("cont0");
        let refusal = datapath.attach_reply(ifindex("cont0")).unwrap_err();
        assert!(refusal.cause.contains("the place of our filter"), "{}", refusal.cause);
        datapath.detach_reply(ifindex("cont0")).unwrap();
        assert_eq!(filters("cont0"), before);
    }

    fn xdp_follows_its_mode(sandbox) {
        let cases = [
            (XdpMode::Auto, None, "a veth is virtual"),
            (XdpMode::Generic, Some(Way::XdpGeneric), "from off"),
            (XdpMode::Native, Some(Way::XdpNative), "from generic"),
            (XdpMode::Native, Some(Way::XdpNative), "again"),
            (XdpMode::Generic, Some(Way::XdpGeneric), "from native"),
            (XdpMode::Off, None, "from generic"),
        ];
        for (mode, way, case) in cases {
            let datapath = Datapath::open(&xdp_options(sandbox, mode)).unwrap();
            assert_eq!(datapath.fronts()[0].troubles, Vec::<String>::new(), "{case}");
            assert_eq!(datapath.fronts()[0].xdp, way, "{case}");
            drop(datapath);
            let shown = run("ip", &["-details", "link", "show", "dev", "front0"]);
            let expected = match way {
                Some(Way::XdpGeneric) => "xdpgeneric",
                Some(_) => "prog/xdp id",
                None => "",
            };
            assert!(shown.contains(expected), "{case}: {shown}");
            assert_eq!(shown.contains("prog/xdp"), way.is_some(), "{case}: {shown}");
            let front = (ifindex("front0"), XdpInterface::sending(address("front0")));
            assert_eq!(xdp_interfaces(sandbox), way.map(|_| front).into_iter().collect::<Vec<_>>());
        }
    }

    fn xdp_follows_the_address_of_its_interface(sandbox) {
        let mut datapath = Datapath::open(&xdp_options(sandbox, XdpMode::Native)).unwrap();
        let before = address("front0");
        run("ip", &["link", "set", "front0", "address", "02:00:00:00:00:77"]);
        datapath.ensure_fronts();
        let after = [2, 0, 0, 0, 0, 0x77];
        assert_ne!(before, after);
        assert_eq!(xdp_interfaces(sandbox), [(ifindex("front0"), XdpInterface::sending(after))]);
    }

    fn devices_that_hide_tags_are_known(_sandbox) {
        let check = |features: &[&str], expected| {
            run("ethtool", &[&["-K", "front0"], features].concat());
            assert_eq!(strips_tags("front0").unwrap(), expected, "{features:?}");
        };
        check(&["rx-vlan-hw-parse", "off", "rx-vlan-stag-hw-parse", "off"], false);
        check(&["rxvlan", "on"], true);
        check(&["rxvlan", "off", "rx-vlan-stag-hw-parse", "on"], true);
        assert!(!strips_tags("lo").unwrap());
    }

    fn xdp_does_not_serve_an_interface_of_so_great_an_index(sandbox) {
        run("ip", &["link", "add", "name", "far0", "index", "5000", "type", "veth"]);
        let fronts = vec![FrontInterface { name: "far0".to_owned(), xdp: XdpMode::Native }];
        let options = Options { fronts, ..sandbox.options(TcMode::Auto) };
        let datapath = Datapath::open(&options).unwrap();
        let front = &datapath.fronts()[0];
        assert_eq!((front.tc, front.xdp), (Some(Way::Tcx), None));
        assert_eq!(
            front.troubles,
            ["front interface `far0`: XDP: its index is 5000, and XDP serves interfaces below 4096"],
        );
    }

    fn xdp_of_another_is_a_trouble_and_tc_serves(sandbox) {
        let mut object = aya::Ebpf::load(lb_agent::datapath::embedded().unwrap()).unwrap();
        let other: &mut Xdp = object.program_mut("lb_xdp_front").unwrap().try_into().unwrap();
        other.load().unwrap();
        other.attach("front0", aya::programs::XdpMode::Skb).unwrap();
        let datapath = Datapath::open(&xdp_options(sandbox, XdpMode::Generic)).unwrap();
        let front = &datapath.fronts()[0];
        assert_eq!((front.tc, front.xdp), (Some(Way::Tcx), None));
        assert!(front.troubles[0].contains("another XDP program"), "{:?}", front.troubles);
    }
}
