//! Defaults of replies and recorded flows, step by step.

use std::collections::BTreeSet;

use insta::assert_snapshot;
use lb_common::abi::META_REPLY_DEFAULTS;

use super::{Node, backend, frontend, service, snapshot};
use crate::{
    model::{
        Backend, FrontendAddress, IpPrefix, LocalKind, LocalPrefixes, Ports, Protocol, Service,
        Snapshot, WaysIn,
    },
    plan::{Plan, Sight},
};

const POOL: u32 = 16 * 1021;
/// Longer than the settle time.
const SETTLE_MS: u64 = 8_401_000;

/// A container that nobody else leads to.
fn hidden(place: &str, instance: u64, host: u8) -> Backend {
    let mut backend = backend(place, instance, host);
    backend.replies.ways_in = WaysIn::OnlyOurs;
    backend
}

fn vip1() -> Service {
    service("one", &[80], vec![hidden("1", 1, 1)])
}

/// Another service, whose container shares the network of the first one's.
fn vip2() -> Service {
    service("two", &[81], vec![hidden("1", 2, 1)])
}

fn seen(node: &Node) -> Sight {
    Sight { front_ifindex: 3, ..node.sight() }
}

/// What is planned about replies, and executed with the rest.
fn step(node: &mut Node, services: Vec<Service>) -> String {
    let snapshot = snapshot(services);
    let mut shown = String::new();
    for _ in 0..5 {
        let sight = seen(node);
        let plan = node.planner.plan(&node.kernel, &snapshot, &sight);
        if plan.actions.is_empty() {
            return shown;
        }
        shown += &about_replies(&plan);
        for action in plan.actions {
            node.kernel.absorb(action);
        }
    }
    panic!("it is never settled:\n{shown}");
}

fn about_replies(plan: &Plan) -> String {
    let is_about = |line: &&str| {
        ["repl", "flags", "frontend", "detach", "refused"].iter().any(|word| line.contains(word))
    };
    let text = plan.to_string();
    text.lines().filter(is_about).flat_map(|line| [line, "\n"]).collect()
}

/// The state of the only port, as the tables have it.
fn tables(node: &Node) -> String {
    let text = node.kernel.to_string();
    let is_about = |line: &&str| {
        ["replies of", "frontend ", "backend "].iter().any(|word| line.starts_with(word))
    };
    text.lines().filter(is_about).flat_map(|line| [line, "\n"]).collect()
}

#[test]
fn the_default_comes_before_the_backend() {
    let mut node = Node::new(POOL);
    let sight = seen(&node);
    let plan = node.planner.plan(&node.kernel, &snapshot(vec![vip1()]), &sight);
    assert_snapshot!(plan, @"
    flags: 0x2
    veth 1: attach
    replies of tcp://10.0.0.1:8080 at veth 1: put 192.0.2.10:80 of backend 1 by front 3
    service 0: write #5252dcbc
    backend 1: write #f9e0781d 10.0.0.1:8080 by veth 1, service 0, generation 1, takes new and old, replies by default
    ring 0: publish 1021 slots at 0, epoch 1: 1 x 1021
    vip 192.0.2.10: put
    frontend tcp://192.0.2.10:80: put service 0
    ");
    step(&mut node, vec![vip1()]);
    node.restart();
    assert_eq!(step(&mut node, vec![vip1()]), "");
}

/// E1.
#[test]
fn a_second_service_changes_nothing_for_the_flows_of_the_first() {
    let mut node = Node::new(POOL);
    step(&mut node, vec![vip1()]);
    let sight = seen(&node);
    let plan = node.planner.plan(&node.kernel, &snapshot(vec![vip1(), vip2()]), &sight);
    assert_snapshot!(plan, @"
    replies of tcp://10.0.0.1:8080 at veth 1: put 192.0.2.10:80 of backend 1 by front 3, ambiguous
    service 1: write #9bd26a39
    backend 2: write #cce255d7 10.0.0.1:8080 by veth 1, service 1, generation 1, takes new and old
    ring 4: publish 1021 slots at 1021, epoch 1: 2 x 1021
    frontend tcp://192.0.2.10:81: put service 1
    ");
    step(&mut node, vec![vip1(), vip2()]);
    assert_snapshot!(tables(&node), @"
    frontend tcp://192.0.2.10:80 -> service 0
    frontend tcp://192.0.2.10:81 -> service 2
    backend 1: #f9e0781d 10.0.0.1:8080 by veth 1, service 0, generation 1, takes new and old, replies by default
    backend 3: #cce255d7 10.0.0.1:8080 by veth 1, service 2, generation 1, takes new and old
    replies of tcp://10.0.0.1:8080 at veth 1: 192.0.2.10:80 of backend 1 by front 3, ambiguous
    ");

    // The first one goes: its flows keep their default.
    assert_snapshot!(step(&mut node, vec![vip2()]), @"frontend tcp://192.0.2.10:80: delete");
    node.now_ms += 2000;
    assert_snapshot!(step(&mut node, vec![vip2()]), @"replies of tcp://10.0.0.1:8080 at veth 1: put 192.0.2.10:80 of backend 0 by front 3, ambiguous");
    node.now_ms += SETTLE_MS - 3000;
    assert_snapshot!(step(&mut node, vec![vip2()]), @"");
    // They are over: the second one has the default.
    node.now_ms += 3000;
    assert_snapshot!(step(&mut node, vec![vip2()]), @"
    replies of tcp://10.0.0.1:8080 at veth 1: put 192.0.2.10:81 of backend 3 by front 3, ambiguous
    backend 3: replies by default
    ");
    node.now_ms += SETTLE_MS;
    assert_snapshot!(step(&mut node, vec![vip2()]), @"replies of tcp://10.0.0.1:8080 at veth 1: put 192.0.2.10:81 of backend 3 by front 3");
    assert_snapshot!(tables(&node), @"
    frontend tcp://192.0.2.10:81 -> service 2
    backend 3: #cce255d7 10.0.0.1:8080 by veth 1, service 2, generation 1, takes new and old, replies by default
    backend 1: free, generation 1
    replies of tcp://10.0.0.1:8080 at veth 1: 192.0.2.10:81 of backend 3 by front 3
    ");
}

#[test]
fn a_second_service_that_goes_again_leaves_no_lookup() {
    let mut node = Node::new(POOL);
    step(&mut node, vec![vip1()]);
    step(&mut node, vec![vip1(), vip2()]);
    assert_snapshot!(step(&mut node, vec![vip1()]), @"frontend tcp://192.0.2.10:81: delete");
    // An agent that is started anew does not know since when.
    node.now_ms += SETTLE_MS / 2;
    node.restart();
    assert_eq!(step(&mut node, vec![vip1()]), "");
    node.now_ms += SETTLE_MS / 2;
    step(&mut node, vec![vip1()]);
    node.now_ms += SETTLE_MS / 2;
    assert_snapshot!(step(&mut node, vec![vip1()]), @"replies of tcp://10.0.0.1:8080 at veth 1: put 192.0.2.10:80 of backend 1 by front 3");
}

/// E2.
#[test]
fn a_default_outlives_its_service_but_not_its_container() {
    for is_container_gone in [false, true] {
        let mut node = Node::new(POOL);
        step(&mut node, vec![vip1()]);
        step(&mut node, vec![]);
        node.now_ms += 2000;
        step(&mut node, vec![]);
        assert_eq!(node.kernel.backends.len(), 0);
        assert_eq!(node.kernel.reply_interfaces, [1].into(), "still needed");
        assert_eq!(node.kernel.reply_defaults.len(), 1);
        // The number may be somebody else's from now on.
        assert!(node.kernel.reply_defaults.values().all(|default| default.backend == 0));
        if is_container_gone {
            node.kernel.reply_interfaces.clear();
        } else {
            node.now_ms += SETTLE_MS;
        }
        let shown = step(&mut node, vec![]);
        assert_eq!(node.kernel.reply_defaults.len(), 0, "{shown}");
        assert_eq!(node.kernel.reply_interfaces, [].into(), "{shown}");
        assert_eq!(node.kernel.flags, 0, "{shown}");
    }
}

#[test]
fn a_service_that_comes_back_in_time_finds_its_default() {
    let mut node = Node::new(POOL);
    step(&mut node, vec![vip1()]);
    step(&mut node, vec![]);
    node.now_ms += SETTLE_MS - 1000;
    step(&mut node, vec![]);
    assert_snapshot!(step(&mut node, vec![vip1()]), @"
    replies of tcp://10.0.0.1:8080 at veth 1: put 192.0.2.10:80 of backend 2 by front 3
    backend 2: write #f9e0781d 10.0.0.1:8080 by veth 1, service 1, generation 1, takes new and old, replies by default
    frontend tcp://192.0.2.10:80: put service 1
    ");
    assert_snapshot!(tables(&node), @"
    frontend tcp://192.0.2.10:80 -> service 1
    backend 2: #f9e0781d 10.0.0.1:8080 by veth 1, service 1, generation 1, takes new and old, replies by default
    backend 1: free, generation 1
    replies of tcp://10.0.0.1:8080 at veth 1: 192.0.2.10:80 of backend 2 by front 3
    ");
}

/// E3, E4, E5: who has other ways in is recorded.
#[track_caller]
fn check_recorded(change: impl Fn(&mut Service)) {
    let mut node = Node::new(POOL);
    let mut service = vip1();
    change(&mut service);
    step(&mut node, vec![service.clone()]);
    assert_eq!(node.kernel.reply_defaults, [].into());
    let frontends: BTreeSet<_> = service.frontends.iter().copied().collect();
    let is_recorded = node.kernel.backends.values().all(|it| it.records_replies)
        || node.kernel.recorded_frontends == frontends;
    assert!(is_recorded, "{}", node.kernel);
    assert_eq!(node.kernel.flags & META_REPLY_DEFAULTS, 0);
}

#[test]
fn ports_with_other_ways_in_have_no_default() {
    for ways_in in [WaysIn::Published, WaysIn::Direct, WaysIn::Unknown] {
        check_recorded(|service| service.backends[0].replies.ways_in = ways_in);
    }
    check_recorded(|service| service.backends[0].path = crate::model::BackendPath::Routed);
    check_recorded(|service| service.backends[0].address.set_port(0));
    // Datagrams that are no answers.
    let udp = |port| FrontendAddress { protocol: Protocol::Udp, ..frontend(port) };
    check_recorded(|service| service.frontends = [udp(53)].into());
}

#[test]
fn datagrams_have_a_default_where_they_are_answers() {
    let udp = FrontendAddress { protocol: Protocol::Udp, ..frontend(53) };
    let mut service = vip1();
    service.frontends.insert(udp);
    let mut node = Node::new(POOL);
    assert_snapshot!(step(&mut node, vec![service.clone()]), @"
    flags: 0x2
    replies of tcp://10.0.0.1:8080 at veth 1: put 192.0.2.10:80 of backend 1 by front 3
    backend 1: write #f9e0781d 10.0.0.1:8080 by veth 1, service 0, generation 1, takes new and old, replies by default
    frontend tcp://192.0.2.10:80: put service 0
    frontend udp://192.0.2.10:53: put service 0, recorded
    ");
    service.backends[0].replies.only_answers = true;
    assert_snapshot!(step(&mut node, vec![service]), @"
    replies of udp://10.0.0.1:8080 at veth 1: put 192.0.2.10:53 of backend 1 by front 3, ambiguous
    frontend udp://192.0.2.10:53: put service 0
    ");
}

/// E4: as it cannot happen with Docker, but through other sources.
#[test]
fn a_port_that_is_published_later_keeps_its_default() {
    let mut node = Node::new(POOL);
    step(&mut node, vec![vip1()]);
    let mut published = vip1();
    published.backends[0].replies.ways_in = WaysIn::Published;
    assert_snapshot!(step(&mut node, vec![published.clone()]), @"
    backend 1: record replies
    replies of tcp://10.0.0.1:8080 at veth 1: put 192.0.2.10:80 of backend 1 by front 3, ambiguous, other ways in
    ");
    node.now_ms += SETTLE_MS;
    assert_eq!(step(&mut node, vec![published]), "");
    // And is not, later: those who came that way are done when no more can have come for long.
    assert_eq!(step(&mut node, vec![vip1()]), "");
    node.now_ms += SETTLE_MS;
    assert_snapshot!(step(&mut node, vec![vip1()]), @"
    replies of tcp://10.0.0.1:8080 at veth 1: put 192.0.2.10:80 of backend 1 by front 3
    backend 1: replies by default
    ");
}

#[test]
fn of_several_frontends_of_a_service_the_first_is_not_recorded() {
    let mut node = Node::new(POOL);
    let ports = |ports: &[u16]| vec![service("one", ports, vec![hidden("1", 1, 1)])];
    assert_snapshot!(step(&mut node, ports(&[81])), @"
    flags: 0x2
    replies of tcp://10.0.0.1:8080 at veth 1: put 192.0.2.10:81 of backend 1 by front 3
    backend 1: write #f9e0781d 10.0.0.1:8080 by veth 1, service 0, generation 1, takes new and old, replies by default
    frontend tcp://192.0.2.10:81: put service 0
    ");
    assert_snapshot!(step(&mut node, ports(&[80, 81])), @"
    replies of tcp://10.0.0.1:8080 at veth 1: put 192.0.2.10:81 of backend 1 by front 3, ambiguous
    frontend tcp://192.0.2.10:80: put service 0, recorded
    ");
    // The first one goes, and comes back to where another one is first by now.
    assert_snapshot!(step(&mut node, ports(&[80])), @"
    backend 1: record replies
    frontend tcp://192.0.2.10:81: delete
    frontend tcp://192.0.2.10:80: put service 0
    ");
    node.now_ms += SETTLE_MS;
    assert_snapshot!(step(&mut node, ports(&[80])), @"
    replies of tcp://10.0.0.1:8080 at veth 1: put 192.0.2.10:80 of backend 1 by front 3, ambiguous
    backend 1: replies by default
    ");
    assert_snapshot!(step(&mut node, ports(&[80, 81])), @"frontend tcp://192.0.2.10:81: put service 0, recorded");
}

/// Tables of an agent that knew no defaults.
#[test]
fn what_was_recorded_gets_a_default_that_is_ambiguous_at_first() {
    let mut node = Node::new(POOL);
    let sight = Sight { local: None, ..seen(&node) };
    for action in node.planner.plan(&node.kernel, &snapshot(vec![vip1()]), &sight).actions {
        node.kernel.absorb(action);
    }
    assert_eq!(node.kernel.reply_defaults, [].into());
    assert_snapshot!(step(&mut node, vec![vip1()]), @"
    flags: 0x2
    replies of tcp://10.0.0.1:8080 at veth 1: put 192.0.2.10:80 of backend 1 by front 3, ambiguous
    backend 1: replies by default
    ");
    node.now_ms += SETTLE_MS;
    assert_snapshot!(step(&mut node, vec![vip1()]), @"replies of tcp://10.0.0.1:8080 at veth 1: put 192.0.2.10:80 of backend 1 by front 3");
}

#[test]
fn addresses_of_the_node_are_followed() {
    let mut node = Node::new(POOL);
    let mut local = |addresses: &[&str]| {
        let prefix = |text: &&str| {
            let is_primary = text.ends_with('*');
            let address = text.trim_end_matches('*').parse().unwrap();
            let kind = if is_primary { LocalKind::Primary } else { LocalKind::Node };
            (IpPrefix::host(address), kind)
        };
        let local = Some(addresses.iter().map(prefix).collect());
        let sight = Sight { local, ..node.sight() };
        let plan = node.planner.plan(&node.kernel, &Snapshot::default(), &sight);
        for action in &plan.actions {
            node.kernel.absorb(action.clone());
        }
        plan.to_string()
    };
    assert_snapshot!(local(&["192.0.2.1", "10.0.0.1"]), @"
    local 10.0.0.1/32: put, node
    local 192.0.2.1/32: put, node
    ");
    assert_snapshot!(local(&["192.0.2.1", "192.0.2.2"]), @"
    local 192.0.2.2/32: put, node
    local 10.0.0.1/32: delete
    ");
    assert_eq!(local(&["192.0.2.1", "192.0.2.2"]), "");
    assert_snapshot!(local(&["192.0.2.1*", "192.0.2.2"]), @"local 192.0.2.1/32: put, node, primary");
}

#[test]
fn too_many_addresses_are_said_and_no_default_is_made() {
    let mut node = Node::new(POOL);
    let address = |low: u32| std::net::Ipv4Addr::from(0x0a00_0000 + low).into();
    let address = |low: u32| (IpPrefix::host(address(low)), LocalKind::Node);
    let mut local: LocalPrefixes = (0..4097).map(address).collect();
    // Without this one the node may be cut off.
    local.extend([(IpPrefix::host([192, 0, 2, 10].into()), LocalKind::Primary)]);
    let sight = Sight { local: Some(local), ..node.sight() };
    let plan = node.planner.plan(&node.kernel, &snapshot(vec![vip1()]), &sight);
    assert!(plan.to_string().contains("local 192.0.2.10/32: put, node, primary"), "{plan}");
    assert_snapshot!(about_replies(&plan), @"
    frontend tcp://192.0.2.10:80: put service 0
    refused: the node: has 4098 addresses and container subnets of one family, and the tables have room for 4096: replies are translated by records only, which costs a lookup for each packet; remove addresses that nobody needs
    ");
}

#[test]
fn all_ports_of_the_nodes_own_address_are_refused() {
    let mut node = Node::new(POOL);
    let mut all = vip1();
    let one = frontend(80);
    all.frontends = [one, FrontendAddress { ports: Ports::ALL, ..one }].into();
    let snapshot = snapshot(vec![all]);
    let mut look = |is_known: bool, kind: Option<LocalKind>| {
        let local = kind.map(|kind| (IpPrefix::host(one.vip), kind)).into_iter().collect();
        let sight = Sight { local: is_known.then_some(local), ..seen(&node) };
        let plan = node.planner.plan(&node.kernel, &snapshot, &sight);
        for action in &plan.actions {
            node.kernel.absorb(action.clone());
        }
        about_replies(&plan)
    };
    assert_snapshot!(look(false, None), @"
    frontend tcp://192.0.2.10:80: put service 0
    refused: service `one`: the frontend tcp://192.0.2.10:* is not served: it is not known yet whether the address is the node's own, and so many ports are those of the node's own programs, too, and of the answers to what they send; name fewer ports, or give the service an address of its own
    ");
    assert_snapshot!(look(true, Some(LocalKind::Primary)), @"
    flags: 0x2
    replies of tcp://10.0.0.1:8080 at veth 1: put 192.0.2.10:80 of backend 1 by front 3, ambiguous
    backend 1: replies by default
    refused: service `one`: the frontend tcp://192.0.2.10:* is not served: the address is the node's own, and so many ports are those of the node's own programs, too, and of the answers to what they send; name fewer ports, or give the service an address of its own
    ");
    // While it is away, too: it may come back.
    assert_snapshot!(look(true, None), @"refused: service `one`: the frontend tcp://192.0.2.10:* is not served: the address was the node's own, and may be again, and so many ports are those of the node's own programs, too, and of the answers to what they send; name fewer ports, or give the service an address of its own");
    assert_snapshot!(look(true, Some(LocalKind::Node)), @"frontend tcp://192.0.2.10:*: put service 0, recorded");
    // Whoever is served stays so when the address comes to this node.
    assert_snapshot!(look(true, Some(LocalKind::Primary)), @"");
}

#[test]
fn an_address_that_the_node_calls_from_is_kept_while_it_is_virtual() {
    let mut node = Node::new(POOL);
    let vip = IpPrefix::host(frontend(80).vip);
    let mut step = |services: Vec<Service>, local: &[LocalKind]| {
        let local = Some(local.iter().map(|kind| (vip, *kind)).collect());
        let sight = Sight { local, ..seen(&node) };
        let plan = node.planner.plan(&node.kernel, &snapshot(services), &sight);
        for action in &plan.actions {
            node.kernel.absorb(action.clone());
        }
        let text = plan.to_string();
        let is_about = |line: &&str| line.starts_with("local") || line.starts_with("VIP");
        text.lines().filter(is_about).collect::<Vec<_>>().join("; ")
    };
    assert_snapshot!(step(vec![], &[LocalKind::Primary]), @"local 192.0.2.10/32: put, node, primary");
    assert_snapshot!(step(vec![], &[LocalKind::Node]), @"local 192.0.2.10/32: put, node");
    assert_snapshot!(step(vec![], &[LocalKind::Primary]), @"local 192.0.2.10/32: put, node, primary");
    // It goes at the moment in which it becomes virtual.
    assert_snapshot!(step(vec![vip1()], &[]), @"");
    assert_snapshot!(step(vec![vip1()], &[LocalKind::Primary]), @"");
    // Its route is lost.
    assert_snapshot!(step(vec![vip1()], &[LocalKind::Unclear]), @"");
    assert_snapshot!(step(vec![vip1()], &[LocalKind::Node]), @"local 192.0.2.10/32: put, node");
    assert_snapshot!(step(vec![vip1()], &[LocalKind::Unclear]), @"");
    assert_snapshot!(step(vec![vip1()], &[]), @"local 192.0.2.10/32: delete");
    assert_snapshot!(step(vec![vip1()], &[LocalKind::Primary]), @"local 192.0.2.10/32: put, node, primary");
    // With the service it ends.
    assert_snapshot!(step(vec![], &[]), @"");
    assert_snapshot!(step(vec![], &[]), @"local 192.0.2.10/32: delete");
}
