//! Which programs are on which interfaces: ours, and whose else. Reads only, in the network namespace
//! of the calling thread.

use aya::programs::{SchedClassifier, TcAttachType, loaded_programs};
use lb_common::abi::program_names::{TC_FRONT, TC_REPLY, XDP_FRONT};

use super::rtnl::{Filter, Rtnl, attribute, number_at, string};

const LINK_HEADER_LENGTH: usize = 16;
const IFLA_IFNAME: u16 = 3;
const IFLA_XDP: u16 = 43;
/// Identifiers of programs by mode: any, generic, of the driver, of the hardware.
const IFLA_XDP_IDS: [u16; 4] = [4, 5, 6, 7];
/// The kernel cuts names of programs off.
const NAME_LENGTH_MAX: usize = 15;
/// Interfaces that are looked at.
const INTERFACES_MAX: usize = 8192;

/// A program on an interface.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct AttachedProgram {
    /// The interface.
    pub interface: String,
    /// `xdp`, `tcx ingress`, `tcx egress`, `tc ingress`, `tc egress`: in the order of packets.
    pub hook: &'static str,
    /// Its name, as the kernel has it.
    pub name: String,
    /// Its number.
    pub id: u32,
    /// Whether it is one of ours.
    pub is_ours: bool,
}

/// All programs of XDP and TC in the namespace, those of an interface in the order in which they run.
pub fn attached_programs() -> anyhow::Result<Vec<AttachedProgram>> {
    let mut rtnl = Rtnl::open()?;
    let header = [0; LINK_HEADER_LENGTH];
    let messages = rtnl.request(libc::RTM_GETLINK, libc::NLM_F_DUMP, &header, &[])?;
    let links = messages.iter().filter(|message| message.kind == libc::RTM_NEWLINK);
    let qdiscs = rtnl.ingress_qdiscs()?;
    let mut all = Vec::new();
    for message in links.take(INTERFACES_MAX) {
        let (header, attributes) = message.split(LINK_HEADER_LENGTH)?;
        let (ifindex, xdp) = (number_at(header, 4), attribute(attributes, IFLA_XDP));
        let interface = attribute(attributes, IFLA_IFNAME).map(string).unwrap_or_default();
        let mut found: Vec<(&'static str, u32, Option<String>)> = Vec::new();
        for id in IFLA_XDP_IDS.into_iter().filter_map(|kind| attribute(xdp?, kind)) {
            if id.len() >= 4 && !found.iter().any(|(_, known, _)| *known == number_at(id, 0)) {
                found.push(("xdp", number_at(id, 0), None));
            }
        }
        let has_qdisc = qdiscs.contains(&ifindex);
        tcx(&interface, "tcx ingress", TcAttachType::Ingress, &mut found);
        if has_qdisc {
            found.extend(rtnl.ingress_filters(ifindex)?.into_iter().map(|it| of("tc ingress", it)));
        }
        tcx(&interface, "tcx egress", TcAttachType::Egress, &mut found);
        if has_qdisc {
            found.extend(rtnl.egress_filters(ifindex)?.into_iter().map(|it| of("tc egress", it)));
        }
        all.extend(found.into_iter().map(|(hook, id, name)| AttachedProgram {
            interface: interface.clone(),
            hook,
            is_ours: name.as_deref().is_some_and(is_ours),
            name: name.unwrap_or_default(),
            id,
        }));
    }
    name_all(&mut all);
    Ok(all)
}

/// Nothing where the kernel has no such links.
fn tcx(
    interface: &str,
    hook: &'static str,
    kind: TcAttachType,
    found: &mut Vec<(&'static str, u32, Option<String>)>,
) {
    if let Ok((_, programs)) = SchedClassifier::query_tcx(interface, kind) {
        found
            .extend(programs.iter().map(|it| (hook, it.id(), it.name_as_str().map(str::to_owned))));
    }
}

fn of(hook: &'static str, filter: Filter) -> (&'static str, u32, Option<String>) {
    match filter.program {
        Some((name, id)) => (hook, id, Some(name)),
        None => (hook, 0, Some("a filter without a program".to_owned())),
    }
}

/// Links tell of XDP by number only.
fn name_all(programs: &mut [AttachedProgram]) {
    if programs.iter().all(|program| !program.name.is_empty()) {
        return;
    }
    for known in loaded_programs().flatten() {
        let nameless = programs.iter_mut().filter(|it| it.name.is_empty() && it.id == known.id());
        for program in nameless {
            known.name_as_str().unwrap_or_default().clone_into(&mut program.name);
            program.is_ours = is_ours(&program.name);
        }
    }
}

fn is_ours(name: &str) -> bool {
    [TC_FRONT, TC_REPLY, XDP_FRONT]
        .iter()
        .any(|own| *own == name || own.get(..NAME_LENGTH_MAX) == Some(name))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ours_are_known_by_their_names_even_if_cut_off() {
        for (name, expected) in [
            ("lb_tc_front", true),
            ("lb_tc_reply", true),
            ("lb_xdp_front", true),
            ("lb_tc", false),
            ("cil_from_netdev", false),
            ("", false),
        ] {
            assert_eq!(is_ours(name), expected, "{name}");
        }
        assert!([TC_FRONT, TC_REPLY, XDP_FRONT].iter().all(|name| name.len() <= NAME_LENGTH_MAX));
    }
}
