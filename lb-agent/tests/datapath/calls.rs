//! The tables of socket calls: what somebody else did to them is seen and set right.

use std::{sync::Arc, time::Duration};

use lb_agent::{
    datapath::{Datapath, TcMode},
    sockets::{Reach, SocketTables},
};
use lb_common::abi::{
    CLIENT_CONTAINER, ClassNetwork, Client, ReachEntry, ReachKey, ReachList, ServiceScope,
    VISIBLE_TO_CONTAINERS, VISIBLE_TO_NODE, map_names,
};

use crate::{sandbox::Sandbox, sandboxed};

const COOKIE: u64 = 4711;
const CLASS: u64 = 77;
const NETWORK: u64 = 99;
const SERVICE: u32 = 3;
const BACKEND: u32 = 5;
const KEY: ReachKey = ReachKey { class: CLASS, service: SERVICE, family: 0 };
const ON: ClassNetwork = ClassNetwork { class: CLASS, network: NETWORK };

fn wanted() -> SocketTables {
    let far = vec![ReachEntry::new(SERVICE, 0, BACKEND, 1), ReachEntry::new(SERVICE, 0, 6, 1)];
    let scope = ServiceScope { flags: VISIBLE_TO_CONTAINERS, ..ServiceScope::default() };
    let client = Client { kind: CLIENT_CONTAINER, reserved: 0, class: CLASS };
    SocketTables {
        clients: [(COOKIE, client), (COOKIE + 1, client)].into(),
        class_networks: [ON].into(),
        reach: [(KEY, Arc::new(Reach { far, ..Reach::default() }))].into(),
        scopes: [(SERVICE, scope)].into(),
        networks: [(BACKEND, NETWORK)].into(),
        ..SocketTables::default()
    }
}

/// What the tables say of what is wanted, and how many entries the ones have that can grow.
fn held(sandbox: &Sandbox) -> String {
    let clients = sandbox.hash_map::<u64, Client>(map_names::CLIENTS);
    let networks = sandbox.hash_map::<ClassNetwork, u64>(map_names::CLASS_NETWORKS);
    let lists = sandbox.hash_map::<ReachKey, ReachList>(map_names::REACH_LISTS);
    let entries = sandbox.array::<u64>(map_names::REACH_ENTRIES);
    let list = lists.get(&KEY, 0).map(|list| {
        let all = (list.start..).take((list.slots + list.near + list.far) as usize);
        let entries = all.map(|index| entries.get(&index, 0).unwrap());
        (list.slots, list.near, list.far, entries.collect::<Vec<_>>())
    });
    let scope = sandbox.array::<ServiceScope>(map_names::SERVICE_SCOPES).get(&SERVICE, 0).unwrap();
    let reached = sandbox.array::<u64>(map_names::BACKEND_NETWORKS);
    format!(
        "{:?} {:?} of {}, {:?} of {}, {list:?} of {}, {}, {:?} {:?}",
        clients.get(&COOKIE, 0).ok(),
        clients.get(&(COOKIE + 1), 0).ok(),
        clients.keys().count(),
        networks.get(&ON, 0).ok(),
        networks.keys().count(),
        lists.keys().count(),
        scope.flags,
        reached.get(&BACKEND, 0).unwrap(),
        reached.get(&(BACKEND + 1), 0).unwrap(),
    )
}

fn repair(datapath: &mut Datapath) {
    datapath.read_state().unwrap();
    datapath.set_socket_tables(&wanted()).unwrap();
}

sandboxed! {
    fn what_somebody_else_did_to_the_tables_of_calls_is_set_right(sandbox) {
        let mut datapath = sandbox.open(TcMode::Auto);
        datapath.set_socket_tables(&wanted()).unwrap();
        let right = held(sandbox);
        assert!(right.contains("of 2, Some(1) of 1, Ok((0, 0, 2, ["), "{right}");

        let mut clients = sandbox.hash_map::<u64, Client>(map_names::CLIENTS);
        let mut networks = sandbox.hash_map::<ClassNetwork, u64>(map_names::CLASS_NETWORKS);
        let mut lists = sandbox.hash_map::<ReachKey, ReachList>(map_names::REACH_LISTS);
        let mut entries = sandbox.array::<u64>(map_names::REACH_ENTRIES);
        let mut scopes = sandbox.array::<ServiceScope>(map_names::SERVICE_SCOPES);
        let mut reached = sandbox.array::<u64>(map_names::BACKEND_NETWORKS);
        let list = lists.get(&KEY, 0).unwrap();

        // Changed, deleted, and added.
        let other = Client { class: CLASS + 1, ..clients.get(&COOKIE, 0).unwrap() };
        clients.insert(COOKIE, other, 0).unwrap();
        clients.remove(&(COOKIE + 1)).unwrap();
        clients.insert(COOKIE + 2, other, 0).unwrap();
        networks.remove(&ON).unwrap();
        networks.insert(ClassNetwork { class: CLASS + 1, network: NETWORK }, 1, 0).unwrap();
        lists.remove(&KEY).unwrap();
        lists.insert(ReachKey { class: CLASS + 1, ..KEY }, list, 0).unwrap();
        let open = ServiceScope { flags: VISIBLE_TO_NODE, ..ServiceScope::default() };
        scopes.set(SERVICE, open, 0).unwrap();
        reached.set(BACKEND, 0, 0).unwrap();
        reached.set(BACKEND + 1, NETWORK, 0).unwrap();
        assert_ne!(held(sandbox), right);
        // Whoever does not look does not see it.
        datapath.set_socket_tables(&wanted()).unwrap();
        assert_ne!(held(sandbox), right);
        repair(&mut datapath);
        assert_eq!(held(sandbox), right);

        // Within a list, and a list that lies beyond all entries.
        let list = lists.get(&KEY, 0).unwrap();
        entries.set(list.start, 0, 0).unwrap();
        repair(&mut datapath);
        assert_eq!(held(sandbox), right);
        let beyond = ReachList { start: u32::MAX - 1, slots: u32::MAX, near: 7, far: 9 };
        lists.insert(KEY, beyond, 0).unwrap();
        repair(&mut datapath);
        assert_eq!(held(sandbox), right);

        // Without anybody's doing nothing moves, and what a list has left is used again.
        let list = lists.get(&KEY, 0).unwrap();
        repair(&mut datapath);
        assert_eq!(lists.get(&KEY, 0).unwrap(), list);
        std::thread::sleep(Duration::from_millis(1100));
        for _ in 0..3 {
            lists.remove(&KEY).unwrap();
            repair(&mut datapath);
            assert_eq!(held(sandbox), right);
        }
    }
}
