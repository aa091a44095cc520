//! Who runs on this node, in which cgroup and which network namespace.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
};

use super::parse;
use crate::{
    api::types::CallerView,
    doctor::facts::{ProcessFacts, RawSockets, Stranger},
};

/// Processes that are looked at; there are rarely more than a tenth of that.
const PROCESSES_MAX: usize = 65_536;

/// Programs that handle the same packets or calls.
const SOFTWARE: [(&str, &str); 5] = [
    ("kube-proxy", "kube-proxy"),
    ("cilium-agent", "Cilium"),
    ("calico-node", "Calico"),
    ("kube-router", "kube-router"),
    ("keepalived", "keepalived"),
];

/// A process as it was found.
struct Found {
    pid: u32,
    name: String,
    cgroup: String,
    namespace: Option<String>,
}

/// Looks at all processes. `cgroup`: whose calls are seen; `callers`: containers that are known, if
/// anybody knows any.
pub(super) fn look(
    cgroup: Option<&str>,
    callers: Option<&[CallerView]>,
) -> (ProcessFacts, BTreeMap<String, String>) {
    let found = list();
    let mut facts = ProcessFacts { count: found.len(), ..ProcessFacts::default() };
    let mut software = BTreeMap::new();
    let mut namespaces: BTreeMap<&str, &Found> = BTreeMap::new();
    for process in &found {
        if let Some(cgroup) = cgroup
            && !parse::is_below(&process.cgroup, cgroup)
        {
            *facts.outside.entry(process.name.clone()).or_default() += 1;
        }
        match &process.namespace {
            Some(namespace) => {
                namespaces.entry(namespace).or_insert(process);
            }
            None => facts.unreadable += 1,
        }
        if let Some((_, name)) = SOFTWARE.iter().find(|(program, _)| *program == process.name) {
            software.insert((*name).to_owned(), format!("runs as process {}", process.pid));
        }
    }
    let own = namespace_of("self");
    let known: BTreeMap<String, &CallerView> = callers
        .unwrap_or_default()
        .iter()
        .filter_map(|caller| Some((namespace_of(&caller.pid.to_string())?, caller)))
        .collect();
    for (namespace, process) in namespaces {
        let is_own = own.as_deref() == Some(namespace);
        let caller = known.get(namespace);
        let owner = if is_own {
            String::new()
        } else {
            caller.map_or_else(|| process.name.clone(), |caller| caller.name.clone())
        };
        facts.raw.extend(raw_sockets(process.pid, owner));
        // A namespace without interfaces calls nobody.
        let is_stranger = !is_own && caller.is_none() && callers.is_some();
        if is_stranger && has_interfaces(process.pid) {
            let (process, pid, cgroup) =
                (process.name.clone(), process.pid, process.cgroup.clone());
            facts.strangers.push(Stranger { process, pid, cgroup });
        }
    }
    facts.raw.sort_by(|one, other| one.owner.cmp(&other.owner));
    (facts, software)
}

fn list() -> Vec<Found> {
    let Ok(entries) = fs::read_dir("/proc") else { return Vec::new() };
    let pids: BTreeSet<u32> = entries
        .filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok())
        .take(PROCESSES_MAX)
        .collect();
    pids.into_iter().filter_map(look_at).collect()
}

/// `None`: a thread of the kernel, or it has ended.
fn look_at(pid: u32) -> Option<Found> {
    let text = text(&format!("/proc/{pid}/stat"))?;
    let (name, is_program) = parse::stat(&text)?;
    if !is_program {
        return None;
    }
    let cgroup = self::text(&format!("/proc/{pid}/cgroup"))?;
    Some(Found {
        pid,
        name: name.to_owned(),
        cgroup: parse::cgroup_of(&cgroup)?.to_owned(),
        namespace: namespace_of(&pid.to_string()),
    })
}

/// A file in which anybody's names are: in those may be any bytes.
fn text(path: &str) -> Option<String> {
    Some(String::from_utf8_lossy(&fs::read(path).ok()?).into_owned())
}

fn namespace_of(process: &str) -> Option<String> {
    let link = fs::read_link(format!("/proc/{process}/ns/net")).ok()?;
    Some(link.to_str()?.to_owned())
}

fn has_interfaces(pid: u32) -> bool {
    let devices = fs::read_to_string(format!("/proc/{pid}/net/dev")).unwrap_or_default();
    devices.lines().skip(2).any(|line| !line.trim_start().starts_with("lo:"))
}

fn raw_sockets(pid: u32, owner: String) -> Option<RawSockets> {
    let count = |table: &str| {
        let text = fs::read_to_string(format!("/proc/{pid}/net/{table}"));
        text.map_or(0, |text| parse::sockets(&text))
    };
    let (raw, packet) = (count("raw") + count("raw6"), count("packet"));
    (raw + packet > 0).then_some(RawSockets { owner, raw, packet })
}

#[cfg(all(test, feature = "agent"))]
mod tests {
    use super::*;

    #[test]
    fn a_process_may_have_a_name_that_is_no_text() {
        let mut child = crate::mangle::sleeper_without_name().expect("it starts");
        let found = look_at(child.id());
        child.kill().expect("our own child");
        child.wait().expect("our own child");
        let found = found.expect("it runs");
        assert_eq!(found.name, "s\u{fffd}) S 1");
        assert!(found.cgroup.starts_with('/') && found.namespace == namespace_of("self"));
    }
}
