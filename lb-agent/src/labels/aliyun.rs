//! `aliyun.lb.port_$container_port: $scheme://$[slb_name|slb_id]:$front_port`, as Aliyun Container
//! Service for Swarm has it.
//!
//! The balancer and its address come from the config ([`BalancerIndex`]); in the original the user
//! makes them beforehand. The other labels of this schema are read by [`routing`] and [`policy`].

#[cfg(test)]
#[path = "aliyun/tests.rs"]
mod others;
pub mod policy;
pub mod routing;

use std::{collections::BTreeMap, fmt, net::IpAddr};

use super::shown;
use crate::{
    config::Balancer,
    model::{FrontendAddress, Ports, Protocol},
};

/// What the keys of these labels begin with.
pub const PREFIX: &str = "aliyun.lb.port_";

/// A correct value, for messages.
const EXAMPLE: &str = "tcp://slb_redis_app:6379";

/// Balancers that a message lists when one is not found.
const BALANCERS_LISTED_MAX: usize = 10;

/// One label, understood.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct PortLabel {
    /// Port on which the container listens.
    pub container_port: u16,
    /// Scheme of the listener.
    pub scheme: Scheme,
    /// Name or id of the balancer.
    pub balancer: String,
    /// Port on which clients connect.
    pub front_port: u16,
}

/// Scheme of a listener. HTTP and HTTPS are balanced as TCP and pass through untouched.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Scheme {
    /// TCP.
    Tcp,
    /// HTTP, as TCP.
    Http,
    /// HTTPS, as TCP.
    Https,
    /// UDP.
    Udp,
}

/// One label, refused.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct LabelError {
    /// The label's key, safe to show.
    pub key: String,
    /// What is wrong and what to do; names the value.
    pub message: String,
}

impl Scheme {
    /// What is balanced.
    pub fn protocol(self) -> Protocol {
        match self {
            Self::Tcp | Self::Http | Self::Https => Protocol::Tcp,
            Self::Udp => Protocol::Udp,
        }
    }
}

/// Every label of this schema, in the order of the keys; other labels are passed over.
pub fn parse(
    labels: &BTreeMap<String, String>,
) -> impl Iterator<Item = Result<PortLabel, LabelError>> {
    let from_prefix = labels.range(PREFIX.to_owned()..);
    from_prefix.take_while(|(key, _)| key.starts_with(PREFIX)).map(|(key, value)| {
        parse_label(key, value).map_err(|message| LabelError { key: shown(key), message })
    })
}

fn parse_label(key: &str, value: &str) -> Result<PortLabel, String> {
    let container_port = container_port(PREFIX, key, EXAMPLE)?;
    let value = value.trim();
    let fail = |what: &dyn fmt::Display| {
        Err(format!("the value `{}` {what}; write it like {EXAMPLE}", shown(value)))
    };
    if value.is_empty() {
        return Err(format!("the value is empty; write it like {EXAMPLE}"));
    }
    let Some((scheme, rest)) = value.split_once("://") else {
        return fail(&"has no scheme");
    };
    let scheme = match scheme {
        "tcp" => Scheme::Tcp,
        "http" => Scheme::Http,
        "https" => Scheme::Https,
        "udp" => Scheme::Udp,
        _ => {
            let what = format!(
                "has the scheme `{}`, which is none of tcp, http, https, udp",
                shown(scheme)
            );
            return fail(&what);
        }
    };
    let Some((balancer, front_port)) = rest.rsplit_once(':') else {
        return fail(&"has no front port");
    };
    if balancer.is_empty() {
        return fail(&"names no balancer between `://` and the port");
    }
    if balancer.contains(|char: char| char.is_whitespace() || char.is_control()) {
        return fail(&"has a space or control character in the name of the balancer");
    }
    match parse_port(front_port) {
        Ok(front_port) => {
            Ok(PortLabel { container_port, scheme, balancer: balancer.to_owned(), front_port })
        }
        Err(PortError::Empty) => fail(&"has no front port"),
        Err(error) => fail(&format_args!("has the front port `{}`, {error}", shown(front_port))),
    }
}

/// The port at the end of a key. `example` is a correct value, for messages.
fn container_port(prefix: &str, key: &str, example: &str) -> Result<u16, String> {
    let port = key.strip_prefix(prefix).unwrap_or(key);
    let error = match parse_port(port) {
        Ok(port) => return Ok(port),
        Err(error) => error,
    };
    let digits = port.trim_start_matches(|char: char| char.is_ascii_digit());
    let (number, value) = port.split_at(port.len() - digits.len());
    if !number.is_empty() && value.len() > 1 && value.starts_with([':', '=']) {
        let (number, value) = (shown(number), shown(value[1..].trim()));
        return Err(format!(
            "key and value run together, because a space is missing after the colon or the list \
             form has a colon instead of `=`; write `{prefix}{number}: {value}` in a map, or \
             `- {prefix}{number}={value}` in a list"
        ));
    }
    Err(match error {
        PortError::Empty => {
            format!("the key has no container port; write it like {prefix}6379: {example}")
        }
        error => format!(
            "the key has the container port `{}`, {error}; write it like {prefix}6379: {example}",
            shown(port)
        ),
    })
}

#[derive(Clone, Copy, Debug)]
enum PortError {
    Empty,
    NoNumber,
    OutOfRange,
}

impl fmt::Display for PortError {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(match self {
            Self::Empty => "which is empty",
            Self::NoNumber => "which is no port number",
            Self::OutOfRange => "which is out of range: ports are 1 to 65535",
        })
    }
}

/// Decimal digits without sign, spaces or leading zeros: one port has one spelling, so that two
/// labels are never about one port.
fn parse_port(text: &str) -> Result<u16, PortError> {
    if text.is_empty() {
        return Err(PortError::Empty);
    }
    if !text.bytes().all(|byte| byte.is_ascii_digit()) {
        return Err(PortError::NoNumber);
    }
    match text.parse::<u16>() {
        Ok(0) | Err(_) => Err(PortError::OutOfRange),
        Ok(_) if text.starts_with('0') => Err(PortError::NoNumber),
        Ok(port) => Ok(port),
    }
}

/// The balancers of the config by name and by id.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct BalancerIndex {
    vips: BTreeMap<String, IpAddr>,
    names: Vec<String>,
}

impl BalancerIndex {
    /// An index of these. The config has seen to it that names and ids are unique.
    pub fn new(balancers: &[Balancer]) -> Self {
        let mut index = Self::default();
        for balancer in balancers {
            index.names.push(balancer.name.clone());
            for name in std::iter::once(&balancer.name).chain(&balancer.id) {
                index.vips.insert(name.clone(), balancer.vip);
            }
        }
        index
    }

    /// Whether a balancer has this address.
    pub fn has_vip(&self, vip: IpAddr) -> bool {
        self.vips.values().any(|known| *known == vip)
    }

    /// The address of a balancer, by its name or id.
    pub fn vip(&self, name: &str) -> Option<IpAddr> {
        self.vips.get(name).copied()
    }

    /// Where a label wants its container to be reached. The error says which balancers there are.
    pub fn resolve(&self, label: &PortLabel) -> Result<FrontendAddress, String> {
        let vip = self.vip(&label.balancer).ok_or_else(|| self.unknown(&label.balancer))?;
        let ports = Ports::one(label.front_port)
            .ok_or_else(|| "front port 0 does not exist; ports are 1 to 65535".to_owned())?;
        Ok(FrontendAddress { vip, protocol: label.scheme.protocol(), ports })
    }

    /// Says that there is no balancer of this name, and which there are.
    pub(super) fn unknown(&self, name: &str) -> String {
        let listed: Vec<String> =
            self.names.iter().take(BALANCERS_LISTED_MAX).map(|name| shown(name)).collect();
        let known = match (self.names.len(), listed.join(", ")) {
            (0, _) => "the config has no balancer".to_owned(),
            (1..=BALANCERS_LISTED_MAX, listed) => format!("the config has: {listed}"),
            (count, listed) => format!("the config has {count}, among them: {listed}"),
        };
        format!(
            "no balancer has the name or id `{}`; {known}. Correct the label, or add a [[balancer]] \
             to the config",
            shown(name)
        )
    }
}

#[cfg(test)]
mod tests {
    use std::{collections::BTreeMap, fmt::Write as _};

    use insta::assert_snapshot;
    use proptest::prelude::*;

    use super::{BalancerIndex, PREFIX, parse};
    use crate::config::Balancer;

    fn index() -> BalancerIndex {
        let balancer = |name: &str, id: Option<&str>, vip: &str| Balancer {
            name: name.to_owned(),
            id: id.map(str::to_owned),
            vip: vip.parse().unwrap(),
        };
        BalancerIndex::new(&[
            balancer("slb_redis_app", Some("14a7ba06d3b-cn-hangzhou-dg-a01"), "192.0.2.10"),
            balancer("web/front", None, "192.0.2.11"),
        ])
    }

    fn check(labels: &[(&str, &str)]) -> String {
        let mut shown = String::new();
        for (key, value) in labels {
            let labels = BTreeMap::from([((*key).to_owned(), (*value).to_owned())]);
            for parsed in parse(&labels) {
                match parsed.map(|label| (index().resolve(&label), label)) {
                    Ok((Ok(frontend), label)) => {
                        writeln!(shown, "{} -> {frontend}", label.container_port).unwrap();
                    }
                    Ok((Err(message), _)) => writeln!(shown, "{key}: {message}").unwrap(),
                    Err(error) => writeln!(shown, "{}: {}", error.key, error.message).unwrap(),
                }
            }
        }
        shown
    }

    #[test]
    fn what_the_documents_show_is_understood() {
        let shown = check(&[
            ("aliyun.lb.port_6379", "tcp://slb_redis_app:6379"),
            ("aliyun.lb.port_80", "http://slb_redis_app:8080"),
            ("aliyun.lb.port_8080", "https://14a7ba06d3b-cn-hangzhou-dg-a01:80"),
            ("aliyun.lb.port_65535", " tcp://web/front:1 "),
            ("aliyun.routing.port_80", "not://for us"),
            ("aliyun.lb.ports", "nor this"),
        ]);
        assert_snapshot!(shown, @"
        6379 -> tcp://192.0.2.10:6379
        80 -> tcp://192.0.2.10:8080
        8080 -> tcp://192.0.2.10:80
        65535 -> tcp://192.0.2.11:1
        ");
    }

    #[test]
    fn what_is_wrong_is_told_exactly() {
        let shown = check(&[
            ("aliyun.lb.port_", "tcp://slb_redis_app:6379"),
            ("aliyun.lb.port_http", "tcp://slb_redis_app:6379"),
            ("aliyun.lb.port_0", "tcp://slb_redis_app:6379"),
            ("aliyun.lb.port_65536", "tcp://slb_redis_app:6379"),
            ("aliyun.lb.port_+80", "tcp://slb_redis_app:6379"),
            ("aliyun.lb.port_080", "tcp://slb_redis_app:6379"),
            ("aliyun.lb.port_6379:tcp://slb_redis_app:6379", ""),
            ("aliyun.lb.port_6379: tcp://slb_redis_app:6379", ""),
            ("aliyun.lb.port_80", ""),
            ("aliyun.lb.port_80", "slb_redis_app:6379"),
            ("aliyun.lb.port_80", "tcp:/slb_redis_app:6379"),
            ("aliyun.lb.port_80", "udp://slb_redis_app:53"),
            ("aliyun.lb.port_80", "ftp://slb_redis_app:21"),
            ("aliyun.lb.port_80", "TCP://slb_redis_app:21"),
            ("aliyun.lb.port_80", "://slb_redis_app:21"),
            ("aliyun.lb.port_80", "tcp://slb_redis_app"),
            ("aliyun.lb.port_80", "tcp://slb_redis_app:"),
            ("aliyun.lb.port_80", "tcp://:6379"),
            ("aliyun.lb.port_80", "tcp://slb redis:6379"),
            ("aliyun.lb.port_80", "tcp://slb_redis_app:70000"),
            ("aliyun.lb.port_80", "tcp://slb_redis_app:0"),
            ("aliyun.lb.port_80", "tcp://slb_redis_app:6379/"),
            ("aliyun.lb.port_80", "tcp://slb_redis_app:-1"),
            ("aliyun.lb.port_80", "tcp://slb_redis:6379"),
            ("aliyun.lb.port_80\n\u{1b}[2J", "tcp://a\u{7}b:1"),
        ]);
        assert_snapshot!(shown, @r"
        aliyun.lb.port_: the key has no container port; write it like aliyun.lb.port_6379: tcp://slb_redis_app:6379
        aliyun.lb.port_http: the key has the container port `http`, which is no port number; write it like aliyun.lb.port_6379: tcp://slb_redis_app:6379
        aliyun.lb.port_0: the key has the container port `0`, which is out of range: ports are 1 to 65535; write it like aliyun.lb.port_6379: tcp://slb_redis_app:6379
        aliyun.lb.port_65536: the key has the container port `65536`, which is out of range: ports are 1 to 65535; write it like aliyun.lb.port_6379: tcp://slb_redis_app:6379
        aliyun.lb.port_+80: the key has the container port `+80`, which is no port number; write it like aliyun.lb.port_6379: tcp://slb_redis_app:6379
        aliyun.lb.port_080: the key has the container port `080`, which is no port number; write it like aliyun.lb.port_6379: tcp://slb_redis_app:6379
        aliyun.lb.port_6379:tcp://slb_redis_app:6379: key and value run together, because a space is missing after the colon or the list form has a colon instead of `=`; write `aliyun.lb.port_6379: tcp://slb_redis_app:6379` in a map, or `- aliyun.lb.port_6379=tcp://slb_redis_app:6379` in a list
        aliyun.lb.port_6379: tcp://slb_redis_app:6379: key and value run together, because a space is missing after the colon or the list form has a colon instead of `=`; write `aliyun.lb.port_6379: tcp://slb_redis_app:6379` in a map, or `- aliyun.lb.port_6379=tcp://slb_redis_app:6379` in a list
        aliyun.lb.port_80: the value is empty; write it like tcp://slb_redis_app:6379
        aliyun.lb.port_80: the value `slb_redis_app:6379` has no scheme; write it like tcp://slb_redis_app:6379
        aliyun.lb.port_80: the value `tcp:/slb_redis_app:6379` has no scheme; write it like tcp://slb_redis_app:6379
        80 -> udp://192.0.2.10:53
        aliyun.lb.port_80: the value `ftp://slb_redis_app:21` has the scheme `ftp`, which is none of tcp, http, https, udp; write it like tcp://slb_redis_app:6379
        aliyun.lb.port_80: the value `TCP://slb_redis_app:21` has the scheme `TCP`, which is none of tcp, http, https, udp; write it like tcp://slb_redis_app:6379
        aliyun.lb.port_80: the value `://slb_redis_app:21` has the scheme ``, which is none of tcp, http, https, udp; write it like tcp://slb_redis_app:6379
        aliyun.lb.port_80: the value `tcp://slb_redis_app` has no front port; write it like tcp://slb_redis_app:6379
        aliyun.lb.port_80: the value `tcp://slb_redis_app:` has no front port; write it like tcp://slb_redis_app:6379
        aliyun.lb.port_80: the value `tcp://:6379` names no balancer between `://` and the port; write it like tcp://slb_redis_app:6379
        aliyun.lb.port_80: the value `tcp://slb redis:6379` has a space or control character in the name of the balancer; write it like tcp://slb_redis_app:6379
        aliyun.lb.port_80: the value `tcp://slb_redis_app:70000` has the front port `70000`, which is out of range: ports are 1 to 65535; write it like tcp://slb_redis_app:6379
        aliyun.lb.port_80: the value `tcp://slb_redis_app:0` has the front port `0`, which is out of range: ports are 1 to 65535; write it like tcp://slb_redis_app:6379
        aliyun.lb.port_80: the value `tcp://slb_redis_app:6379/` has the front port `6379/`, which is no port number; write it like tcp://slb_redis_app:6379
        aliyun.lb.port_80: the value `tcp://slb_redis_app:-1` has the front port `-1`, which is no port number; write it like tcp://slb_redis_app:6379
        aliyun.lb.port_80: no balancer has the name or id `slb_redis`; the config has: slb_redis_app, web/front. Correct the label, or add a [[balancer]] to the config
        aliyun.lb.port_80\n\u{1b}[2J: the key has the container port `80\n\u{1b}[2J`, which is no port number; write it like aliyun.lb.port_6379: tcp://slb_redis_app:6379
        ");
    }

    #[test]
    fn an_empty_config_says_so() {
        let labels = BTreeMap::from([(format!("{PREFIX}80"), "tcp://a:80".to_owned())]);
        let label = parse(&labels).next().unwrap().unwrap();
        assert_snapshot!(BalancerIndex::default().resolve(&label).unwrap_err(), @"no balancer has the name or id `a`; the config has no balancer. Correct the label, or add a [[balancer]] to the config");
    }

    #[test]
    fn one_bad_label_does_not_affect_another() {
        let labels = BTreeMap::from([
            (format!("{PREFIX}80"), "nonsense".to_owned()),
            (format!("{PREFIX}81"), "tcp://slb_redis_app:81".to_owned()),
            (format!("{PREFIX}x"), "tcp://slb_redis_app:82".to_owned()),
        ]);
        let good: Vec<bool> = parse(&labels).map(|label| label.is_ok()).collect();
        assert_eq!(good, [false, true, false]);
    }

    proptest! {
        #[test]
        fn hostile_labels_yield_bounded_printable_messages(
            key in prop_oneof![any::<String>(), "[0-9]{0,7}", "[0-9:=]{0,9}://\\PC{0,300}"],
            value in prop_oneof![any::<String>(), "(tcp|udp|http)?(://)?[a-z]{0,200}:?[0-9]{0,7}"],
        ) {
            let labels = BTreeMap::from([(format!("{PREFIX}{key}"), value)]);
            for parsed in parse(&labels) {
                let message = match parsed {
                    Ok(label) => match index().resolve(&label) {
                        Ok(_) => continue,
                        Err(message) => message,
                    },
                    Err(error) => error.key + &error.message,
                };
                prop_assert!(message.chars().count() < 1500, "{message}");
                prop_assert!(!message.chars().any(char::is_control), "{message:?}");
            }
        }
    }
}
