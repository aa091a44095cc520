//! How a service is balanced: every setting with its default, what objects wish, and what becomes of
//! wishes that contradict each other. Pure; what a setting does is the business of those who use it.

use serde::{Deserialize, Serialize};

use super::{HttpProbe, Origin, Preference, Probe, ProbeKind, ProbePlace, Setting, Visibility};

/// Whether connections of one client go to one backend.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase", tag = "by")]
pub enum Affinity {
    /// Every connection is balanced by itself.
    #[default]
    None,
    /// Clients that have the same first bits of their address go to the same backend.
    Client {
        /// Bits of an IPv4 address, 1 to 32.
        prefix_v4: u8,
        /// Bits of an IPv6 address, 1 to 128.
        prefix_v6: u8,
    },
}

/// What a client is told when no backend can be reached.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Unreachable {
    /// It is told at once: RST, or ICMP unreachable.
    #[default]
    Reject,
    /// It is told nothing.
    Drop,
}

/// What a UDP service does.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Datagrams {
    /// It may send first: flows are recorded.
    #[default]
    Records,
    /// It only answers, from the port that was asked: no flow needs a record.
    Answers,
}

/// What a backend is before its first probe has ended.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum InitialState {
    /// It takes nothing until its probe passes.
    #[default]
    Starting,
    /// It is trusted until its probe fails.
    Healthy,
}

/// One setting, for people.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Row {
    /// Its name.
    pub name: &'static str,
    /// Its value.
    pub value: String,
    /// Where the value comes from.
    pub origin: Origin,
}

/// Two objects of one service wish different things.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Disagreement {
    /// The setting.
    pub name: &'static str,
    /// What is in force, and who wished it.
    pub granted: (String, Origin),
    /// What is not, and who wished that.
    pub refused: (String, Origin),
}

/// Declares every setting once: its name in both structs, its type, its default, and how it is shown.
macro_rules! settings {
    ($($(#[$doc:meta])* $name:ident: $type:ty = $default:expr, $show:expr;)*) => {
        /// How a service is balanced.
        #[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
        pub struct Policy {
            $($(#[$doc])* pub $name: Setting<$type>,)*
        }

        /// What one object wishes for its service, and for its own backend.
        #[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
        pub struct Wishes {
            $($(#[$doc])* pub $name: Option<Setting<$type>>,)*
            /// Share of new flows, relative to the other backends. Of the backend.
            pub weight: Option<Setting<u16>>,
            /// While such a backend takes new flows, the others of the service take none. Of the
            /// backend.
            pub exclusive: Option<Setting<bool>>,
        }

        impl Default for Policy {
            fn default() -> Self {
                Self { $($name: Setting::new($default, Origin::Default),)* }
            }
        }

        impl Wishes {
            /// Takes from `lower` what is not wished here. What stands in for a probe gives way to one.
            pub fn or(&mut self, lower: &Self) {
                let has_probe = lower.probe.as_ref().is_some_and(|probe| probe.value.is_some());
                if has_probe && self.has_stand_in() {
                    self.probe = None;
                }
                $(if self.$name.is_none() { self.$name.clone_from(&lower.$name); })*
                if self.weight.is_none() { self.weight.clone_from(&lower.weight); }
                if self.exclusive.is_none() { self.exclusive.clone_from(&lower.exclusive); }
            }
        }

        impl Policy {
            /// The policy of a service whose objects wish this, those that are to be heard first
            /// in front. A wish of a container goes before one of the configuration, whoever is
            /// heard first.
            pub fn agreed<'a>(
                wishes: impl Iterator<Item = &'a Wishes> + Clone,
            ) -> (Self, Vec<Disagreement>) {
                let mut disagreements = Vec::new();
                let policy = Self { $($name: agree(
                    stringify!($name),
                    wishes.clone().filter_map(|wishes| wishes.$name.as_ref()),
                    || $default,
                    $show,
                    &mut disagreements,
                ),)* };
                (policy, disagreements)
            }

            /// Every setting with its origin.
            #[must_use]
            pub fn rows(&self) -> Vec<Row> {
                vec![$(row(stringify!($name), &self.$name, $show),)*]
            }
        }
    };
}

settings! {
    /// Whether connections of one client go to one backend.
    affinity: Affinity = Affinity::None, |it: &Affinity| affinity(*it);
    /// What a client is told when no backend can be reached.
    unreachable: Unreachable = Unreachable::Reject, word;
    /// Time for which a draining backend keeps its flows.
    drain_seconds: u32 = 300, |it: &u32| seconds(*it);
    /// Time for which an unhealthy backend keeps its established flows.
    unhealthy_grace_seconds: u32 = 300, |it: &u32| seconds(*it);
    /// When less than this part of the backends is healthy, all that live take new flows; 0: never.
    panic_percent: u32 = 10, |percent: &u32| format!("{percent} %");
    /// Whether failures that the data path sees in the traffic take a backend out.
    passive: bool = true, ToString::to_string;
    /// Time in which a backend that has become healthy reaches its full weight.
    slow_start_seconds: u32 = 0, |it: &u32| seconds(*it);
    /// What a UDP service does.
    datagrams: Datagrams = Datagrams::Records, word;
    /// Which of this node's own clients see it.
    visible: Visibility = Visibility::default(), ToString::to_string;
    /// Which backend they would rather have.
    prefer: Preference = Preference::Any, word;
    /// Slots of the ring; `None`: chosen when the service is made.
    ring_size: Option<u32> = None, |size: &Option<u32>| or_dash(size.as_ref());
    /// Name under which several services share their frontends.
    share: Option<String> = None, |name: &Option<String>| or_dash(name.as_ref());
    /// What a probe does; `None`: a backend is healthy while it runs.
    probe: Option<ProbeKind> = None, |it: &Option<ProbeKind>| probe(it.as_ref());
    /// Time between two probes of a backend whose state is settled.
    probe_interval_ms: u32 = 2000, |it: &u32| milliseconds(*it);
    /// Time after which an unfinished probe has failed.
    probe_timeout_ms: u32 = 2000, |it: &u32| milliseconds(*it);
    /// Time from the moment when a backend becomes known to its first probe.
    probe_initial_delay_ms: u32 = 0, |it: &u32| milliseconds(*it);
    /// Successes in a row that make a backend healthy.
    probe_rise: u32 = 2, ToString::to_string;
    /// Failures in a row that make a backend unhealthy.
    probe_fall: u32 = 3, ToString::to_string;
    /// Where a backend is probed from.
    probe_place: ProbePlace = ProbePlace::Auto, word;
    /// What a backend is before its first probe has ended.
    probe_initial: InitialState = InitialState::Starting, word;
    /// Replicas that the user expects.
    scale: Option<u32> = None, |scale: &Option<u32>| or_dash(scale.as_ref());
    /// Replicas that the user expects to be replaced at a time.
    rolling_updates: Option<u32> = None, |count: &Option<u32>| or_dash(count.as_ref());
    /// Services that the user wants to be there first.
    depends: Vec<String> = Vec::new(), |names: &Vec<String>| {
        or_dash((!names.is_empty()).then(|| names.join(",")).as_ref())
    };
}

impl Wishes {
    /// The same without anything about probes.
    #[must_use]
    pub fn without_probe(&self) -> Self {
        Self {
            probe: None,
            probe_interval_ms: None,
            probe_timeout_ms: None,
            probe_initial_delay_ms: None,
            probe_rise: None,
            probe_fall: None,
            probe_place: None,
            probe_initial: None,
            ..self.clone()
        }
    }

    /// A probe that stands in for one that is not understood. Who asks for one must not be served
    /// unseen, and a slip of the pen must not take down what works: connections are what all of TCP has.
    #[must_use]
    pub fn stand_in(object: &str, key: &str) -> Setting<Option<ProbeKind>> {
        Setting::new(Some(ProbeKind::Tcp { port: None }), Origin::instead(object, key))
    }

    fn has_stand_in(&self) -> bool {
        self.probe.as_ref().is_some_and(|probe| matches!(probe.origin, Origin::Instead(_)))
    }

    /// The same without what only a container can be asked for.
    #[must_use]
    pub fn without_container(&self) -> Self {
        let mut wishes = self.clone();
        wishes.probe =
            wishes.probe.filter(|it| !it.value.as_ref().is_some_and(ProbeKind::is_inside));
        wishes.probe_place = wishes.probe_place.filter(|it| it.value != ProbePlace::Container);
        wishes
    }

    /// The same where no traffic is of TCP: nobody need listen at the port of the traffic, so whoever
    /// asks for probes in general does not ask for one there. That is shown with its reason.
    #[must_use]
    pub fn without_tcp(&self) -> Self {
        let mut wishes = self.clone();
        if wishes.has_probe_of_traffic() {
            wishes.leave_probe_out();
        }
        wishes
    }

    /// Whether somebody asks for a probe that connects to the port of the traffic; what stands in for one
    /// is none.
    #[must_use]
    pub fn has_probe_of_traffic(&self) -> bool {
        let kind = self.probe.as_ref().and_then(|probe| probe.value.as_ref());
        kind.is_some_and(ProbeKind::is_of_traffic) && !self.has_stand_in()
    }

    /// Nobody is probed, and the origin says why: no frontend is of TCP.
    pub fn leave_probe_out(&mut self) {
        if let Some(probe) = &mut self.probe {
            probe.value = None;
            probe.origin = probe.origin.of_object(|it| format!("no frontend is of TCP: {it}"));
        }
    }

    /// Takes from another schema what is not wished here. A probe and its times are one thing to
    /// those who wrote them: where there is a probe already, the other's times mean nothing.
    pub fn or_schema(&mut self, lower: &Self) {
        if self.probe.is_some() && !(self.has_stand_in() && lower.probe.is_some()) {
            self.or(&lower.without_probe());
        } else {
            self.or(lower);
        }
    }
}

impl Policy {
    /// How backends are probed; `None`: they are healthy while they run.
    #[must_use]
    pub fn probe(&self) -> Option<Probe> {
        let count = |count: u32| u16::try_from(count).unwrap_or(u16::MAX);
        Some(Probe {
            kind: self.probe.value.clone()?,
            interval_ms: self.probe_interval_ms.value,
            timeout_ms: self.probe_timeout_ms.value,
            initial_delay_ms: self.probe_initial_delay_ms.value,
            rise: count(self.probe_rise.value),
            fall: count(self.probe_fall.value),
            place: self.probe_place.value,
        })
    }
}

fn agree<'a, T: Clone + PartialEq + 'a>(
    name: &'static str,
    wishes: impl Iterator<Item = &'a Setting<T>> + Clone,
    default: impl Fn() -> T,
    show: impl Fn(&T) -> String,
    disagreements: &mut Vec<Disagreement>,
) -> Setting<T> {
    let Some(rank) = wishes.clone().map(|wish| wish.origin.rank()).max() else {
        return Setting::new(default(), Origin::Default);
    };
    let mut equals = wishes.filter(|wish| wish.origin.rank() == rank);
    let Some(granted) = equals.next() else {
        return Setting::new(default(), Origin::Default);
    };
    for refused in equals.filter(|wish| wish.value != granted.value) {
        disagreements.push(Disagreement {
            name,
            granted: (show(&granted.value), granted.origin.clone()),
            refused: (show(&refused.value), refused.origin.clone()),
        });
    }
    granted.clone()
}

// === How values are shown: as labels have them ===

fn row<T>(name: &'static str, setting: &Setting<T>, show: impl Fn(&T) -> String) -> Row {
    Row { name, value: show(&setting.value), origin: setting.origin.clone() }
}

fn or_dash(value: Option<&impl ToString>) -> String {
    value.map_or_else(|| "-".to_owned(), ToString::to_string)
}

fn seconds(seconds: u32) -> String {
    format!("{seconds} s")
}

fn milliseconds(milliseconds: u32) -> String {
    match milliseconds {
        whole if whole % 1000 == 0 => format!("{} s", whole / 1000),
        _ => format!("{milliseconds} ms"),
    }
}

/// Variants that are one word are shown as their names.
fn word(value: &impl std::fmt::Debug) -> String {
    format!("{value:?}").to_lowercase()
}

fn affinity(affinity: Affinity) -> String {
    match affinity {
        Affinity::None => "none".to_owned(),
        Affinity::Client { prefix_v4, prefix_v6 } => format!("client/{prefix_v4},{prefix_v6}"),
    }
}

fn probe(probe: Option<&ProbeKind>) -> String {
    let at = |port: Option<u16>| port.map_or_else(String::new, |port| format!(" port {port}"));
    match probe {
        None => "none".to_owned(),
        Some(ProbeKind::Docker) => "docker".to_owned(),
        Some(ProbeKind::Tcp { port }) => format!("tcp{}", at(*port)),
        Some(ProbeKind::Http(request)) => format!("http{} {}", at(request.port), asked(request)),
        Some(ProbeKind::Https(request)) => {
            format!("https{} {}", at(request.port), asked(request))
        }
        Some(ProbeKind::Command { argv }) => format!("command {argv:?}"),
    }
}

fn asked(request: &HttpProbe) -> String {
    let statuses = request.expect_status.iter().map(|range| match (range.start(), range.end()) {
        (first, last) if first == last => first.to_string(),
        (first, last) => format!("{first}-{last}"),
    });
    let statuses = format!("status {}", statuses.collect::<Vec<_>>().join(","));
    let named =
        |name: &str, value: &Option<String>| value.as_ref().map(|value| format!("{name} {value}"));
    let body = request.expect_body.as_ref().map(|body| format!("body with {body:?}"));
    let verified = request.verify_certificate.then(|| "certificate verified".to_owned());
    let parts = [
        Some(format!("{} {}", request.method, request.path)),
        named("host", &request.host),
        named("server name", &request.server_name),
        Some(statuses),
        body,
        verified,
    ];
    parts.into_iter().flatten().collect::<Vec<_>>().join(", ")
}
