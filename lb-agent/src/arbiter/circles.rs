//! Services that wait for each other. Nothing follows from `depends` here, so all of them are served;
//! but no order of starting fulfils it, and whoever starts them is told.

use std::{
    collections::{BTreeMap, BTreeSet},
    mem,
};

use crate::model::{Origin, Refusal, Service, ServiceName};

/// Circles that are told.
const CIRCLES_MAX: usize = 16;
/// Services of a circle that are named.
const NAMES_MAX: usize = 8;

/// What a service waits for, and who says so.
struct Waits<'a> {
    service: &'a ServiceName,
    origin: &'a Origin,
    /// As they are named, then those of them that are there.
    others: BTreeSet<&'a str>,
}

/// Tells of each circle once, at the one of its services whose name comes first.
/// The services are in the order of their names.
pub(super) fn told<'a>(services: impl Iterator<Item = &'a Service> + Clone) -> BTreeSet<Refusal> {
    let mut refusals = BTreeSet::new();
    let mut graph: BTreeMap<&str, Waits<'_>> = BTreeMap::new();
    for Service { name: service, policy, .. } in services.clone() {
        let depends = &policy.depends;
        if !depends.value.is_empty() {
            let waits = || Waits { service, origin: &depends.origin, others: BTreeSet::new() };
            // Several services, one for each port, may be of one that is meant.
            let waits = graph.entry(service.base()).or_insert_with(waits);
            waits.others.extend(depends.value.iter().map(String::as_str));
        }
    }
    if graph.is_empty() {
        return refusals;
    }
    let known: BTreeSet<&str> = services.map(|service| service.name.base()).collect();
    for Waits { service, others, .. } in graph.values_mut() {
        let meant = |other| service.meant(other).find_map(|base| known.get(&*base).copied());
        *others = mem::take(others).into_iter().filter_map(meant).collect();
    }
    for circle in circles(&graph).iter().take(CIRCLES_MAX) {
        let Some(Waits { origin, .. }) = graph.get(circle[0]) else { continue };
        let written = origin.written();
        let object =
            written.map_or_else(|| format!("service `{}`", circle[0]), |it| it.object.clone());
        let key = written.map(|it| it.key.clone());
        refusals.insert(Refusal { object, key, message: message(circle) });
    }
    refusals
}

fn message(circle: &[&str]) -> String {
    let short = |name: &&str| name.rsplit('/').next().unwrap_or(name).to_owned();
    let mut names: Vec<String> = circle.iter().take(NAMES_MAX).map(short).collect();
    if circle.len() > NAMES_MAX {
        names.push(format!("{} more", circle.len() - NAMES_MAX));
    }
    names.extend(circle.first().map(short));
    let names = names.join(" -> ");
    if circle.len() == 1 {
        return format!(
            "the service depends on itself, {names}; it is served all the same. Leave that out"
        );
    }
    format!(
        "the services depend on each other in a circle, {names}, so no order of starting them is \
         right; all are served all the same. Leave one of these out"
    )
}

/// Circles that have no service in common, each from its first name on. Every service and every wait
/// is looked at once.
fn circles<'a>(graph: &BTreeMap<&'a str, Waits<'a>>) -> Vec<Vec<&'a str>> {
    let others = |name: &str| -> Vec<&'a str> {
        let others = graph.get(name).map(|waits| waits.others.iter()).into_iter().flatten();
        // Those that wait for nobody are in no circle.
        others.filter_map(|it| graph.get_key_value(it).map(|(key, _)| *key)).collect()
    };
    let (mut seen, mut told, mut found) = (BTreeSet::new(), BTreeSet::new(), Vec::new());
    for &start in graph.keys() {
        if !seen.insert(start) {
            continue;
        }
        // The way here, and where it can still go from each of its services.
        let mut way = vec![(start, others(start).into_iter())];
        let mut on_way = BTreeSet::from([start]);
        while let Some((name, left)) = way.last_mut() {
            let name = *name;
            match left.next() {
                None => {
                    on_way.remove(name);
                    way.pop();
                }
                Some(next) if on_way.contains(next) => {
                    let names = way.iter().map(|(name, _)| *name);
                    let mut circle: Vec<&str> = names.skip_while(|name| *name != next).collect();
                    let first = circle
                        .iter()
                        .min()
                        .and_then(|first| circle.iter().position(|it| it == first));
                    circle.rotate_left(first.unwrap_or(0));
                    if !circle.iter().any(|name| told.contains(name)) {
                        told.extend(circle.iter().copied());
                        found.push(circle);
                    }
                }
                Some(next) if seen.insert(next) => {
                    on_way.insert(next);
                    way.push((next, others(next).into_iter()));
                }
                Some(_) => {}
            }
        }
    }
    found
}
