//! Who calls, as operators name him, and as they are told of him. Pure.

use std::collections::{BTreeMap, BTreeSet};

use super::{Clients, ContainerClient};
use crate::api::explain::CallQuery;

/// Characters of a container's id that are enough to mean it.
const ID_MIN: usize = 12;
/// Containers that a refusal names.
const NAMED_MAX: usize = 5;

impl Clients {
    /// Cookie of the namespace from which somebody calls, 0 if it could not be told: of a container by its
    /// name or the beginning of its id, or of [`CallQuery::NODE`], which is never a container. Of one that
    /// is not known, only who it is not.
    pub fn cookie_of(&self, from: &str) -> Result<u64, String> {
        if from == CallQuery::NODE {
            return Ok(self.node);
        }
        let mut named = self.containers.iter().filter(|(id, container)| {
            container.name == from || (from.len() >= ID_MIN && id.starts_with(from))
        });
        match named.next() {
            Some((_, container)) => Ok(container.cookie),
            None => Err(self.nobody(from)),
        }
    }

    fn nobody(&self, from: &str) -> String {
        let known: BTreeSet<&str> = self.containers.iter().map(called).collect();
        let mut shown: Vec<&str> = known.iter().copied().take(NAMED_MAX).collect();
        if known.is_empty() {
            shown.push("none");
        } else if known.len() > shown.len() {
            shown.push("…");
        }
        let not_all = if self.is_partial { ", and others that are not known yet" } else { "" };
        format!(
            "no container `{from}` runs on this node, where there are {}{not_all}; `docker ps` lists all, \
             and `{}` stands for the node's own processes",
            shown.join(", "),
            CallQuery::NODE
        )
    }

    /// Who calls from each namespace that could be told, by its cookie: all containers that share it, or
    /// the node, which those on its network are to everybody.
    #[must_use]
    pub fn names(&self) -> BTreeMap<u64, String> {
        let mut sharing: BTreeMap<u64, BTreeSet<&str>> = BTreeMap::new();
        for (id, container) in &self.containers {
            sharing.entry(container.cookie).or_default().insert(called((id, container)));
        }
        sharing.insert(self.node, [CallQuery::NODE].into());
        sharing.remove(&0);
        let joined = |names: BTreeSet<&str>| names.into_iter().collect::<Vec<_>>().join(",");
        sharing.into_iter().map(|(cookie, names)| (cookie, joined(names))).collect()
    }
}

/// What a container is called where the node is, too: by its name, which `cookie_of` finds, or by its id
/// where that name means the node.
fn called<'a>((id, container): (&'a String, &'a ContainerClient)) -> &'a str {
    if container.name == CallQuery::NODE { id.get(..ID_MIN).unwrap_or(id) } else { &container.name }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `containers`: id, name and cookie of each.
    fn clients(containers: &[(&str, &str, u64)]) -> Clients {
        let containers = containers.iter().map(|(id, name, cookie)| {
            let name = (*name).to_owned();
            let container = ContainerClient { name, cookie: *cookie, ..Default::default() };
            ((*id).to_owned(), container)
        });
        Clients { node: 1, containers: containers.collect(), ..Clients::default() }
    }

    const SOME: &[(&str, &str, u64)] = &[
        ("0123456789abcdef", "web-1", 100),
        ("112233445566", "sidecar", 100),
        ("223344556677", "on-host", 1),
        ("334455667788", "odd", 0),
    ];

    #[test]
    fn a_caller_is_found_by_name_or_id() {
        let check = |from: &str, expected: Option<u64>| {
            assert_eq!(clients(SOME).cookie_of(from).ok(), expected, "{from}");
        };
        check("node", Some(1));
        check("web-1", Some(100));
        check("sidecar", Some(100));
        check("on-host", Some(1));
        check("odd", Some(0));
        check("0123456789abcdef", Some(100));
        check("0123456789ab", Some(100));
        // Too short to mean it, and not the beginning.
        check("0123456789a", None);
        check("456789abcdef", None);
        check("web", None);
        check("", None);
    }

    #[test]
    fn a_container_called_like_the_node_goes_by_its_id() {
        let like_it = clients(&[SOME, &[("99aabbccddeeff00", "node", 200)]].concat());
        assert_eq!(like_it.cookie_of("node"), Ok(1));
        assert_eq!(like_it.cookie_of("99aabbccddee"), Ok(200));
        let names = like_it.names();
        assert_eq!(names.get(&1).map(String::as_str), Some("node"));
        assert_eq!(names.get(&200).map(String::as_str), Some("99aabbccddee"));
        let said = like_it.cookie_of("shop").expect_err("there is none");
        assert!(said.contains("there are 99aabbccddee, odd, on-host, sidecar, web-1;"), "{said}");
    }

    #[test]
    fn who_is_not_known_is_told_who_is() {
        let check = |clients: &Clients, expected: &str| {
            let said = clients.cookie_of("shop").expect_err("there is none");
            let said = said.strip_prefix("no container `shop` runs on this node, where there are ");
            let rest = "; `docker ps` lists all, and `node` stands for the node's own processes";
            assert_eq!(said.and_then(|it| it.strip_suffix(rest)), Some(expected));
        };
        check(&clients(&[]), "none");
        let partial = Clients { is_partial: true, ..clients(&[]) };
        check(&partial, "none, and others that are not known yet");
        check(&clients(SOME), "odd, on-host, sidecar, web-1");
        let many = [("1", "a", 2), ("2", "b", 3), ("3", "c", 4), ("4", "d", 5), ("5", "e", 6)];
        check(&clients(&many), "a, b, c, d, e");
        check(&clients(&[&many[..], SOME].concat()), "a, b, c, d, e, …");
    }

    #[test]
    fn namespaces_are_named_by_all_who_call_from_there() {
        let check = |clients: &Clients, expected: &[(u64, &str)]| {
            let names = clients.names();
            let names: Vec<_> = names.iter().map(|(it, name)| (*it, name.as_str())).collect();
            assert_eq!(names, expected);
        };
        check(&clients(SOME), &[(1, "node"), (100, "sidecar,web-1")]);
        // The kernel does not say which namespace is the node's.
        check(&Clients { node: 0, ..clients(SOME) }, &[(1, "on-host"), (100, "sidecar,web-1")]);
        check(&Clients::default(), &[]);
    }
}
