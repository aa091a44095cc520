//! Everything about a node's network that lb could have changed, as text, for comparison.

use std::{collections::BTreeMap, fmt::Write as _, path::Path};

use anyhow::Result;
use aya::programs::{SchedClassifier, tc::TcAttachType};

use crate::{bpffs, namespace::Namespace};

/// The state of a network namespace and of some directories.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Snapshot {
    sections: BTreeMap<String, Vec<String>>,
    links: Vec<String>,
}

/// Sections that say something of each link, whether or not lb did anything to it.
const OF_LINKS: [&str; 5] = ["addresses", "links", "routes", "qdiscs", "sysctls"];

/// Sysctls that count something and thus change by themselves.
const VOLATILE_SYSCTLS: [&str; 4] =
    ["nf_conntrack_count", "kernel.random", "icmp_msgs", "inet_peer"];

impl Snapshot {
    /// Takes one of the namespace and of the trees below the directories.
    pub fn take(namespace: &Namespace, directories: &[&Path]) -> Result<Self> {
        let mut sections = BTreeMap::new();
        let mut add = |name: &str, text: String| {
            sections.insert(name.to_owned(), text.lines().map(str::to_owned).collect());
        };
        add("nft list ruleset", without_counters(&namespace.run("nft list ruleset")?));
        add("addresses", namespace.ip("-o addr")?);
        // Without statistics; with XDP programs, flags, MTU.
        add("links", without_timers(&namespace.ip("-o -d link")?));
        add("routes", namespace.ip("route show table all")?);
        add("rules", namespace.ip("rule")?);
        add("qdiscs", namespace.run("tc qdisc show")?);
        let sysctls = namespace.run("sysctl -a --pattern ^net\\.")?;
        let steady = |line: &&str| !VOLATILE_SYSCTLS.iter().any(|name| line.contains(name));
        add("sysctls", sysctls.lines().filter(steady).collect::<Vec<_>>().join("\n"));

        let mut filters = String::new();
        let links = links(namespace)?;
        for link in &links {
            for side in ["ingress", "egress"] {
                let shown = namespace.run(&format!("tc filter show dev {link} {side}"))?;
                for line in shown.lines() {
                    let _infallible = writeln!(filters, "{link} {side}: {line}");
                }
            }
        }
        add("tc filters", filters);
        add("tcx", namespace.enter(|| tcx(&links))?);
        for directory in directories {
            add(&directory.display().to_string(), bpffs::tree(directory).join("\n"));
        }
        Ok(Self { sections, links })
    }

    /// Lines that are only here (`-`) or only in the later one (`+`); empty when they are the same.
    #[must_use]
    pub fn difference(&self, later: &Self) -> String {
        let mut out = String::new();
        for (name, before) in &self.sections {
            let after = later.sections.get(name).map_or(&[][..], Vec::as_slice);
            let gone = before.iter().filter(|line| !after.contains(line)).map(|line| ('-', line));
            let new = after.iter().filter(|line| !before.contains(line)).map(|line| ('+', line));
            for (sign, line) in gone.chain(new) {
                let _infallible = writeln!(out, "{name}: {sign} {line}");
            }
        }
        out
    }

    /// Like [`Self::difference`], when containers came or went in between: what merely exists with
    /// a link that is only in one of them is left out. What is attached to such a link is not.
    #[must_use]
    pub fn difference_but_links(&self, later: &Self) -> String {
        let both = |link: &&String| self.links.contains(*link) && later.links.contains(*link);
        let either = self.links.iter().chain(&later.links);
        let changed: Vec<_> = either.filter(|link| !both(link)).collect();
        let is_theirs = |line: &&str| {
            let of_links = OF_LINKS.iter().any(|section| line.starts_with(section));
            of_links
                && !line.contains("clsact")
                && changed.iter().any(|link| line.contains(link.as_str()))
        };
        let difference = self.difference(later);
        difference.lines().filter(|line| !is_theirs(line)).collect::<Vec<_>>().join("\n")
    }
}

/// Names of the namespace's links.
pub fn links(namespace: &Namespace) -> Result<Vec<String>> {
    let shown = namespace.ip("-o link")?;
    let name = |line: &str| {
        let word = line.split_whitespace().nth(1)?;
        Some(word.trim_end_matches(':').split('@').next()?.to_owned())
    };
    Ok(shown.lines().filter_map(name).collect())
}

/// Programs attached by TCX, which `tc` does not show.
fn tcx(links: &[String]) -> String {
    let mut out = String::new();
    for link in links {
        for side in [TcAttachType::Ingress, TcAttachType::Egress] {
            if let Ok((_, programs)) = SchedClassifier::query_tcx(link, side) {
                for program in programs {
                    let name = program.name_as_str().unwrap_or("?").to_owned();
                    let _infallible = writeln!(out, "{link} {side:?}: {name} {}", program.id());
                }
            }
        }
    }
    out
}

/// `counter packets 12 bytes 3456` of Docker's own rules changes with traffic.
fn without_counters(ruleset: &str) -> String {
    blank_after(ruleset, |word| matches!(word, "packets" | "bytes"))
}

/// Bridges have timers that run.
fn without_timers(links: &str) -> String {
    blank_after(links, |word| word.ends_with("_timer"))
}

/// Replaces every word that follows such a word.
fn blank_after(text: &str, is_volatile: impl Fn(&str) -> bool) -> String {
    let line = |line: &str| {
        let mut words: Vec<&str> = line.split(' ').filter(|word| !word.is_empty()).collect();
        for index in 1..words.len() {
            if is_volatile(words[index - 1]) {
                words[index] = "N";
            }
        }
        words.join(" ")
    };
    text.lines().map(line).collect::<Vec<_>>().join("\n")
}

#[cfg(test)]
mod tests {
    use super::without_counters;

    #[test]
    fn counters_do_not_count() {
        let rule = "oifname \"docker0\" counter packets 12 bytes 3456 jump DOCKER";
        let expected = "oifname \"docker0\" counter packets N bytes N jump DOCKER";
        assert_eq!(without_counters(rule), expected);
    }
}
