//! How full the tables of the data path are, and who is told. Pure.

use std::collections::BTreeSet;

use lb_common::abi;

use super::node::NodeCounters;
use crate::{api::types::TableView, model::FrontendAddress, plan::KernelState};

/// From here on a table is nearly full.
const WARN_PERCENT: u64 = 80;
/// Below this it is no longer.
const CALM_PERCENT: u64 = 75;

/// Every table that can be full.
pub(super) fn tables(kernel: &KernelState, counters: &NodeCounters) -> Vec<TableView> {
    let ring_slots: usize = kernel.rings.values().map(|ring| ring.slots.len()).sum();
    let count = |count: usize| u64::try_from(count).unwrap_or(u64::MAX);
    let mut tables = vec![
        table("services", count(kernel.services.len()), abi::MAX_SERVICES, REMOVE),
        table("backends", count(kernel.backends.len()), abi::MAX_BACKENDS, REMOVE),
    ];
    // Until it has been asked, nobody knows how many there are.
    if counters.ring_slots > 0 {
        tables.push(view("ring_slots", count(ring_slots), counters.ring_slots, RING_SLOTS));
    }
    for (is_v4, frontends, lists) in
        [(true, "frontends_v4", "port_lists_v4"), (false, "frontends_v6", "port_lists_v6")]
    {
        let (entries, port_lists) = frontend_entries(kernel, is_v4);
        tables.push(table(frontends, entries, abi::MAX_FRONTENDS, REMOVE));
        tables.push(table(lists, port_lists, abi::MAX_PORT_LISTS, REMOVE));
    }
    for (is_v4, defaults, local) in
        [(true, "reply_defaults_v4", "local_v4"), (false, "reply_defaults_v6", "local_v6")]
    {
        let ports = kernel.reply_defaults.keys().filter(|port| port.address.is_ipv4() == is_v4);
        tables.push(table(defaults, count(ports.count()), abi::MAX_BACKENDS, REMOVE));
        let prefixes = kernel.local.keys().filter(|prefix| prefix.address().is_ipv4() == is_v4);
        tables.push(table(local, count(prefixes.count()), abi::MAX_LOCAL, NETWORKS));
    }
    if let Some(records) = &counters.records {
        for (name, used) in [
            ("flows_v4", records.flows_v4),
            ("flows_v6", records.flows_v6),
            ("replies_v4", records.replies_v4),
            ("replies_v6", records.replies_v6),
        ] {
            tables.push(view(name, used, records.limit, RECORDS));
        }
    }
    tables
}

const NETWORKS: &str = "answers to addresses that have no room here are taken for answers to clients: remove networks \
                        of Docker that nobody uses";
const REMOVE: &str = "what has no room is not served: move services to other nodes";
const RING_SLOTS: &str = "new services find no room for their rings: raise `ring_slots` in [tables] \
                          of the config, then `lb-agent uninstall` and start";
const RECORDS: &str = "flows that find no room are not recorded: raise `records` in [tables] of the \
                       config, then `lb-agent uninstall` and start";

fn table(name: &str, used: u64, limit: u32, cure: &str) -> TableView {
    view(name, used, limit.into(), cure)
}

fn view(name: &str, used: u64, limit: u64, cure: &str) -> TableView {
    let table = TableView { name: name.to_owned(), used, limit, trouble: None };
    let trouble = (table.percent() >= WARN_PERCENT).then(|| format!("nearly full; {cure}"));
    TableView { trouble, ..table }
}

/// Entries and lists of ranges, as the data path has them: one entry for each VIP, for each frontend
/// of one port, and for each list.
fn frontend_entries(kernel: &KernelState, is_v4: bool) -> (u64, u64) {
    let of_family = |frontend: &&FrontendAddress| frontend.vip.is_ipv4() == is_v4;
    let (mut single, mut lists) = (0, BTreeSet::new());
    for frontend in kernel.frontends.keys().filter(of_family) {
        if frontend.ports.is_wide() {
            lists.insert((frontend.vip, frontend.protocol));
        } else {
            single += 1;
        }
    }
    let vips = kernel.vips.iter().filter(|vip| vip.is_ipv4() == is_v4).count();
    let lists = u64::try_from(lists.len()).unwrap_or(u64::MAX);
    (single + u64::try_from(vips).unwrap_or(u64::MAX) + lists, lists)
}

/// Which tables have been called nearly full.
#[derive(Debug, Default)]
pub(super) struct Alarms(BTreeSet<String>);

impl Alarms {
    /// What is to be said now: each table once, until it has calmed down.
    pub(super) fn look(&mut self, tables: &[TableView]) -> Vec<String> {
        let mut messages = Vec::new();
        for table in tables {
            match &table.trouble {
                Some(trouble) if self.0.insert(table.name.clone()) => messages.push(format!(
                    "table `{}` holds {} of {} entries ({}%): {trouble}",
                    table.name,
                    table.used,
                    table.limit,
                    table.percent()
                )),
                None if table.percent() < CALM_PERCENT => {
                    self.0.remove(&table.name);
                }
                _ => {}
            }
        }
        messages
    }
}

#[cfg(test)]
mod tests {
    use insta::assert_snapshot;

    use super::*;
    use crate::{
        api::types::RecordsView,
        model::{Ports, Protocol},
    };

    fn frontend(vip: &str, ports: &str) -> FrontendAddress {
        let ports: Ports = ports.parse().unwrap();
        FrontendAddress { vip: vip.parse().unwrap(), protocol: Protocol::Tcp, ports }
    }

    #[test]
    fn entries_are_counted_as_the_tables_hold_them() {
        let frontends = [
            frontend("192.0.2.10", "80"),
            frontend("192.0.2.10", "8000-8999"),
            frontend("192.0.2.10", "9000-9999"),
            frontend("192.0.2.11", "*"),
            frontend("2001:db8::1", "80"),
        ];
        let kernel = KernelState {
            vips: frontends.iter().map(|frontend| frontend.vip).collect(),
            frontends: frontends.into_iter().map(|frontend| (frontend, 0)).collect(),
            services: [(0, [1, 1])].into(),
            ..KernelState::default()
        };
        let records = RecordsView { flows_v4: 80, limit: 100, ..RecordsView::default() };
        let counters =
            NodeCounters { ring_slots: 1021, records: Some(records), ..NodeCounters::default() };
        let shown: Vec<String> = tables(&kernel, &counters)
            .iter()
            .map(|it| {
                format!(
                    "{} {}/{} {}",
                    it.name,
                    it.used,
                    it.limit,
                    it.trouble.as_deref().unwrap_or("fine")
                )
            })
            .collect();
        assert_snapshot!(shown.join("\n"), @"
        services 1/4096 fine
        backends 0/65536 fine
        ring_slots 0/1021 fine
        frontends_v4 5/16384 fine
        port_lists_v4 2/1024 fine
        frontends_v6 2/16384 fine
        port_lists_v6 0/1024 fine
        reply_defaults_v4 0/65536 fine
        local_v4 0/4096 fine
        reply_defaults_v6 0/65536 fine
        local_v6 0/4096 fine
        flows_v4 80/100 nearly full; flows that find no room are not recorded: raise `records` in [tables] of the config, then `lb-agent uninstall` and start
        flows_v6 0/100 fine
        replies_v4 0/100 fine
        replies_v6 0/100 fine
        ");
    }

    #[test]
    fn a_full_table_is_told_once_until_it_has_calmed_down() {
        let mut alarms = Alarms::default();
        let mut check = |used, expected: usize| {
            let messages = alarms.look(&[view("flows_v4", used, 100, RECORDS)]);
            assert_eq!(messages.len(), expected, "{used}: {messages:?}");
        };
        check(79, 0);
        check(80, 1);
        check(100, 0);
        check(79, 0);
        check(81, 0);
        check(74, 0);
        check(80, 1);
    }
}
