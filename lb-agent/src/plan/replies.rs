//! By what the replies of backends are translated: defaults of ports, or records of flows.
//!
//! The invariant: every living flow through us is recorded, or its replies follow from the default of
//! its backend's port. A flow is recorded if its backend or its frontend says so, and the data path
//! looks for a record before the default where the default is ambiguous. What follows from it:
//!
//! - A port gets a default only where nobody else leads clients there: TCP, one port, a network whose
//!   addresses are hidden, not published. The default is of the frontend that leads there first.
//! - Of the frontends of a ring, one is the first; flows of the others are recorded. A backend whose
//!   ports have other defaults than the first frontends of its rings is recorded as a whole.
//! - Somebody who comes later never changes where the replies of those before go: the default
//!   becomes ambiguous, then the later flows begin, recorded. A default does not end as long as its
//!   frontend leads to the port, nor before its last flow is over.
//! - While a container lives, so do its default and the reply program, until its last flow is over,
//!   whatever becomes of service, frontend and backend number. With its veth they end.
//! - A container's own traffic is no reply. Datagrams have a default only where somebody says that
//!   the port merely answers; the node itself and its containers are excluded by `LOCAL`; as long as
//!   that is not known no default is made.
//!
//! Transitions while packets flow. The path byte of a backend, the flags of a frontend and a default
//! are one store or one replaced entry each, and a reader sees the old one or the new one:
//! - *To recorded* is safe at any time: a record that is not looked for does no harm, and a flow that
//!   has none yet belongs to the default, which stays. It goes before all else.
//! - *To not recorded* needs the default, which says the same as the flow's record would. Records of
//!   other frontends' flows may still count, so such a default is ambiguous until those are over. Only
//!   where the veth has had no reply program yet it begins otherwise.
//! - *Ambiguous* comes before the second frontend leads anybody there (its backend is written and its
//!   frontend put later), and goes when all flows but the default's have been over for the settle time.
//! - *Another default* replaces one whose frontend has led nobody there for the settle time: all that
//!   lives is recorded then.
//! - *Published later* (E4): flows are recorded from then on, then the default says that clients come
//!   without us, and stays for those before. When they do no more, it says so for the settle time.
//!
//! Since when a port is left or alone is not in the tables: after a restart the time begins anew. So
//! it takes longer, and nothing breaks.

use std::{collections::HashMap, net::SocketAddr};

use lb_common::abi::{BACKEND_NONE, TICK_NS, ring_number};

use super::{
    Action, KernelBackend, ReplyDefault, ReplyPort,
    draft::Draft,
    fronts::{AllFronts, address_of},
    numbers::{Clocks, NumberSet},
    planner::Planner,
    protocol_number,
    sight::Times,
    trouble::Subject,
};
use crate::model::{
    Backend, BackendPath, BackendState, FrontendAddress, Protocol, ReplyFacts, WaysIn,
};

/// A backend that clients are led to.
#[derive(Clone, Copy, Debug)]
pub(super) struct Led {
    service: u32,
    number: u32,
    address: SocketAddr,
    path: BackendPath,
    facts: ReplyFacts,
    /// It has flows, or may get some.
    has_flows: bool,
    /// Whether its flows are recorded; `None`: the kernel does not hold it yet.
    is_recorded: Option<bool>,
}

/// How long ports have been as they are.
#[derive(Clone, Debug)]
pub(super) struct ReplyClocks {
    /// The default's frontend leads nobody there.
    left: Clocks<ReplyPort>,
    /// No other frontend does.
    alone: Clocks<ReplyPort>,
    /// No backend and no default needs the reply program there.
    pub(super) links: Clocks,
}

impl ReplyClocks {
    pub(super) fn new(times: &Times) -> Self {
        // Of a flow with a packet per settle time, the last one may just have missed a change.
        let settle_ms = (u64::from(times.tcp.settle_ticks) * TICK_NS).div_ceil(1_000_000);
        Self {
            left: Clocks::new(settle_ms),
            alone: Clocks::new(settle_ms),
            links: Clocks::new(settle_ms),
        }
    }

    pub(super) fn next_over_ms(&self, now_ms: u64) -> Option<u64> {
        let ports = [&self.left, &self.alone].map(|clocks| clocks.next_over_ms(now_ms));
        ports.into_iter().chain([self.links.next_over_ms(now_ms)]).flatten().min()
    }
}

/// Who leads to a port.
#[derive(Default)]
struct Leads {
    rings: Vec<u32>,
    /// First frontends whose backends have no other ways in, with their backends' numbers.
    candidates: Vec<(SocketAddr, u32)>,
    /// Backends by the rings that lead to them.
    numbers: Vec<(u32, u32)>,
    /// Clients may come without us.
    has_other_ways_in: bool,
}

/// What is known of all ports while a plan is made.
struct Ports {
    fronts: AllFronts,
    leads: HashMap<ReplyPort, Leads>,
}

impl Draft<'_> {
    /// Says that clients will be led to a backend.
    pub(super) fn lead(
        &mut self,
        service: u32,
        (number, held): (u32, Option<&KernelBackend>),
        backend: &Backend,
    ) {
        if !backend.replies.only_answers {
            self.unasked.insert(ring_of_datagrams(service, backend.address));
        }
        self.led.push(Led {
            service,
            number,
            is_recorded: held.map(|held| held.records_replies),
            address: backend.address,
            path: backend.path,
            facts: backend.replies,
            has_flows: !matches!(
                backend.state,
                BackendState::Starting | BackendState::Disabled | BackendState::Gone
            ),
        });
    }
}

impl Planner {
    /// Decides what is recorded, and by which defaults the rest is translated; puts the frontends.
    pub(super) fn replies(&mut self, draft: &mut Draft<'_>) {
        let is_local_known = draft.local();
        let local_trouble = self.troubles.current(Subject::Local, draft.now_ms).is_some();
        let mut ports = Ports { fronts: AllFronts::new(draft), leads: HashMap::new() };
        let may_have_defaults = is_local_known && !local_trouble;
        self.look_at_ports(draft, &mut ports, may_have_defaults);
        let defaults = self.reply_defaults(draft, &ports);
        records(draft, &ports, &defaults);
        draft.put_frontends(|ring| ports.fronts.of(ring).and_then(|fronts| fronts.first));
    }

    fn look_at_ports(&self, draft: &Draft<'_>, ports: &mut Ports, may_have_defaults: bool) {
        let Ports { fronts, leads } = ports;
        for led in draft.led.iter().filter(|led| led.has_flows) {
            for (port, ring) in ports_of(led.service, led.path, led.address) {
                let Some(fronts) = fronts.of(ring) else { continue };
                let has_trouble = || {
                    let subject = Subject::ReplyDefault(port);
                    self.troubles.current(subject, draft.now_ms).is_some()
                };
                let lead = leads.entry(port).or_default();
                lead.rings.push(ring);
                lead.numbers.push((ring, led.number));
                lead.has_other_ways_in |= led.facts.ways_in != WaysIn::OnlyOurs;
                if let Some(first) = fronts.first
                    && may_have_defaults
                    && is_eligible(led)
                    && !has_trouble()
                {
                    lead.candidates.push((address_of(&first), led.number));
                }
            }
        }
        for (_, backend) in draft.kernel.backends.local() {
            for (port, ring) in ports_of(backend.service, backend.path, backend.address) {
                let is_asked =
                    leads.contains_key(&port) || draft.kernel.reply_defaults.contains_key(&port);
                if is_asked {
                    let lead = leads.entry(port).or_default();
                    // Until its state is stored, clients are led to it.
                    if backend.state != 0 && fronts.of(ring).is_some() {
                        lead.rings.push(ring);
                    }
                }
            }
        }
    }

    /// The defaults after this plan: whose frontends they are of.
    fn reply_defaults(
        &mut self,
        draft: &mut Draft<'_>,
        ports: &Ports,
    ) -> HashMap<ReplyPort, ReplyDefault> {
        self.reply_clocks.left.begin();
        self.reply_clocks.alone.begin();
        let kernel = draft.kernel;
        let mut defaults = HashMap::new();
        let new = ports.leads.iter().filter(|(port, lead)| {
            !lead.candidates.is_empty() && !kernel.reply_defaults.contains_key(port)
        });
        let mut all: Vec<ReplyPort> = new.map(|(port, _)| *port).collect();
        all.extend(kernel.reply_defaults.keys());
        all.sort_unstable();
        let nobody = Leads::default();
        for port in all {
            let lead = ports.leads.get(&port).unwrap_or(&nobody);
            let held = kernel.reply_defaults.get(&port).copied();
            let wanted = match held {
                Some(held) => self.next_default(draft, ports, port, held, lead),
                None => first_default(draft, ports, port, lead),
            };
            let Some(wanted) = wanted else {
                draft.push(Action::DeleteReplyDefault { port });
                continue;
            };
            draft.reply_default_links.insert(port.ifindex);
            defaults.insert(port, wanted);
            if held != Some(wanted) {
                draft.push(Action::PutReplyDefault { port, default: wanted });
            }
        }
        defaults
    }

    /// What becomes of a default.
    fn next_default(
        &mut self,
        draft: &Draft<'_>,
        ports: &Ports,
        port: ReplyPort,
        held: ReplyDefault,
        lead: &Leads,
    ) -> Option<ReplyDefault> {
        let kernel = draft.kernel;
        if !ports.leads_from(lead, held.vip) {
            let is_link_gone = !kernel.reply_interfaces.contains(&port.ifindex)
                && !draft.replies_wanted.contains(&port.ifindex);
            if is_link_gone {
                return None;
            }
            if self.reply_clocks.left.is_over(port, draft.now_ms) {
                return first_default(draft, ports, port, lead);
            }
        }
        let leading = lead
            .numbers
            .iter()
            .find(|(ring, _)| ports.fronts.of(*ring).is_some_and(|fronts| fronts.has(held.vip)));
        let is_held = |backend: &KernelBackend| {
            (backend.path, backend.address)
                == (BackendPath::Local { ifindex: port.ifindex }, port.address)
        };
        let backend = match leading {
            Some((_, number)) => *number,
            None if kernel.backends.get(&held.backend).is_some_and(is_held) => held.backend,
            // The number may become somebody else's.
            None => BACKEND_NONE,
        };
        let is_shared = lead.has_other_ways_in || ports.has_others(lead, held.vip);
        let is_ambiguous = is_shared
            || (held.is_ambiguous && !self.reply_clocks.alone.is_over(port, draft.now_ms));
        let has_other_ways = lead.has_other_ways_in || (held.has_other_ways && is_ambiguous);
        let front_ifindex = draft.sight.front_ifindex;
        Some(ReplyDefault { backend, front_ifindex, is_ambiguous, has_other_ways, ..held })
    }
}

impl Ports {
    /// Whether a frontend leads to the port.
    fn leads_from(&self, lead: &Leads, vip: SocketAddr) -> bool {
        let mut fronts = lead.rings.iter().filter_map(|ring| self.fronts.of(*ring));
        fronts.any(|fronts| fronts.has(vip))
    }

    /// Whether others do.
    fn has_others(&self, lead: &Leads, vip: SocketAddr) -> bool {
        let mut fronts = lead.rings.iter().filter_map(|ring| self.fronts.of(*ring));
        fronts.any(|fronts| fronts.has_other_than(vip))
    }
}

/// The default of a port that has none, or no more.
fn first_default(
    draft: &Draft<'_>,
    ports: &Ports,
    port: ReplyPort,
    lead: &Leads,
) -> Option<ReplyDefault> {
    let (vip, backend) = lead.candidates.iter().min().copied()?;
    // There may be recorded flows where there was a reply program.
    let is_in_use = draft.kernel.reply_interfaces.contains(&port.ifindex);
    let has_other_ways = lead.has_other_ways_in;
    let is_ambiguous = is_in_use || has_other_ways || ports.has_others(lead, vip);
    let front_ifindex = draft.sight.front_ifindex;
    Some(ReplyDefault { vip, backend, front_ifindex, is_ambiguous, has_other_ways })
}

/// Says of each backend whether its flows are recorded.
fn records(draft: &mut Draft<'_>, ports: &Ports, defaults: &HashMap<ReplyPort, ReplyDefault>) {
    let mut written = HashMap::new();
    let mut changed = Vec::new();
    for led in &draft.led {
        let records_replies = !has_defaults(led, ports, defaults);
        match led.is_recorded {
            Some(is_recorded) if is_recorded != records_replies => {
                changed.push(Action::SetRecordsReplies { number: led.number, records_replies });
            }
            Some(_) => {}
            None => {
                written.insert(led.number, records_replies);
            }
        }
    }
    // Nobody wants these, but they may have flows until their state is stored, or as long as what they
    // belong to is protected.
    let mut led = NumberSet::new();
    for one in &draft.led {
        led.insert(one.number);
    }
    for (number, held) in draft.kernel.backends.local() {
        let needs_records = |(port, ring): (ReplyPort, u32)| {
            let first = ports.fronts.of(ring).and_then(|fronts| fronts.first);
            let default = defaults.get(&port);
            first.is_some_and(|first| !is_default_for(default, &first))
                || default.is_some_and(|default| default.has_other_ways)
        };
        let is_trusted = held.state != 0 && !held.records_replies && !led.contains(number);
        if is_trusted && ports_of(held.service, held.path, held.address).any(needs_records) {
            changed.push(Action::SetRecordsReplies { number, records_replies: true });
        }
    }
    draft.set_records_replies(&written);
    for action in changed {
        draft.push(action);
    }
}

/// Whether replies of all flows that only their backend could have recorded follow from defaults.
fn has_defaults(led: &Led, ports: &Ports, defaults: &HashMap<ReplyPort, ReplyDefault>) -> bool {
    let mut has_any = false;
    if !led.has_flows || !is_eligible(led) {
        return false;
    }
    for (port, ring) in ports_of(led.service, led.path, led.address) {
        let Some(fronts) = ports.fronts.of(ring) else { continue };
        if fronts.is_unsettled() && fronts.first.is_none() {
            return false;
        }
        if let Some(first) = fronts.first {
            if !is_default_for(defaults.get(&port), &first) {
                return false;
            }
            has_any = true;
        }
    }
    has_any
}

/// Whether flows of a frontend need no record. Where clients come without us, too, all of ours do.
fn is_default_for(default: Option<&ReplyDefault>, first: &FrontendAddress) -> bool {
    default.is_some_and(|it| it.vip == address_of(first) && !it.has_other_ways)
}

/// Whether only we lead to the port, and lead to this one.
fn is_eligible(led: &Led) -> bool {
    led.facts.ways_in == WaysIn::OnlyOurs && led.address.port() != 0
}

/// The ring of datagrams to a backend.
pub(super) fn ring_of_datagrams(service: u32, address: SocketAddr) -> u32 {
    ring_for(service, address, Protocol::Udp)
}

fn ring_for(service: u32, address: SocketAddr, protocol: Protocol) -> u32 {
    let family = super::family_of(address.ip());
    ring_number(service, family, protocol_number(protocol))
}

/// The ports of a container, each with the ring that may lead there. What is routed has none: anybody
/// can use its address.
fn ports_of(
    service: u32,
    path: BackendPath,
    address: SocketAddr,
) -> impl Iterator<Item = (ReplyPort, u32)> {
    let ifindex = match path {
        BackendPath::Local { ifindex } => Some(ifindex),
        BackendPath::Routed => None,
    };
    ifindex.into_iter().flat_map(move |ifindex| {
        [Protocol::Tcp, Protocol::Udp].map(|protocol| {
            let port = ReplyPort { ifindex, address, protocol };
            (port, ring_for(service, address, protocol))
        })
    })
}
