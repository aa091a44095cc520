//! The ports of a frontend: one, a range, or all.

use std::{fmt, ops::RangeInclusive, str::FromStr};

use serde::{Deserialize, Serialize};

/// Ports from 1 to 65535, at least one. In text `80`, `8000-8999` or `*`; in JSON a single port is a
/// number.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
#[serde(try_from = "Written", into = "Written")]
pub struct Ports {
    first: u16,
    last: u16,
}

impl Ports {
    /// Every port there is.
    pub const ALL: Self = Self { first: 1, last: u16::MAX };
    /// The first in order.
    pub const LOWEST: Self = Self { first: 1, last: 1 };

    /// A single port; 0 is none.
    #[must_use]
    pub const fn one(port: u16) -> Option<Self> {
        Self::range(port, port)
    }

    /// The ports from `first` to `last`, which are both in it.
    #[must_use]
    pub const fn range(first: u16, last: u16) -> Option<Self> {
        if first != 0 && first <= last { Some(Self { first, last }) } else { None }
    }

    /// The first one.
    #[must_use]
    pub fn first(self) -> u16 {
        self.first
    }

    /// The last one.
    #[must_use]
    pub fn last(self) -> u16 {
        self.last
    }

    /// Whether there is more than one.
    #[must_use]
    pub fn is_wide(self) -> bool {
        self.first != self.last
    }

    /// Whether they are half of all ports or more, so that not many programs have one beside them.
    #[must_use]
    pub fn are_most(self) -> bool {
        self.last - self.first >= u16::MAX / 2
    }

    /// Whether some port is in both.
    #[must_use]
    pub fn overlap(self, other: Self) -> bool {
        self.first <= other.last && other.first <= self.last
    }

    /// From the first to the last.
    #[must_use]
    pub fn to_range(self) -> RangeInclusive<u16> {
        self.first..=self.last
    }
}

impl fmt::Display for Ports {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Self::ALL => formatter.write_str("*"),
            Self { first, last } if first == last => write!(formatter, "{first}"),
            Self { first, last } => write!(formatter, "{first}-{last}"),
        }
    }
}

impl FromStr for Ports {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if text == "*" {
            return Ok(Self::ALL);
        }
        let (first, last) = text.split_once('-').unwrap_or((text, text));
        let (first, last) = (number(first)?, number(last)?);
        Self::range(first, last).ok_or_else(|| {
            format!("the range {first}-{last} is empty; the smaller port goes first")
        })
    }
}

fn number(text: &str) -> Result<u16, String> {
    let is_number = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    if !is_number {
        let shown = text.escape_debug();
        return Err(format!("`{shown}` is no port; ports are 80, 8000-8999, or * for all"));
    }
    match text.parse() {
        Ok(0) | Err(_) => Err(format!("port {text} does not exist; ports are 1 to 65535")),
        Ok(port) => Ok(port),
    }
}

/// How ports stand in JSON.
#[derive(Serialize, Deserialize)]
#[serde(untagged)]
enum Written {
    One(u16),
    Text(String),
}

impl TryFrom<Written> for Ports {
    type Error = String;

    fn try_from(written: Written) -> Result<Self, String> {
        match written {
            Written::One(port) => Self::one(port).ok_or_else(|| "port 0 does not exist".to_owned()),
            Written::Text(text) => text.parse(),
        }
    }
}

impl From<Ports> for Written {
    fn from(ports: Ports) -> Self {
        if ports.is_wide() { Self::Text(ports.to_string()) } else { Self::One(ports.first) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ports_are_read_as_they_are_written() {
        let check = |text: &str, first, last, json: &str| {
            let ports: Ports = text.parse().unwrap();
            assert_eq!((ports.first(), ports.last()), (first, last), "{text}");
            assert_eq!(serde_json::to_string(&ports).unwrap(), json, "{text}");
            assert_eq!(serde_json::from_str::<Ports>(json).unwrap(), ports, "{text}");
            assert_eq!(ports.to_string().parse::<Ports>().unwrap(), ports, "{text}");
        };
        check("80", 80, 80, "80");
        check("8000-8999", 8000, 8999, "\"8000-8999\"");
        check("80-80", 80, 80, "80");
        check("*", 1, 65535, "\"*\"");
        check("1-65535", 1, 65535, "\"*\"");
    }

    #[test]
    fn what_is_no_port_is_said() {
        let check = |text: &str, expected: &str| {
            let message = text.parse::<Ports>().unwrap_err();
            assert!(message.contains(expected), "{text}: {message}");
        };
        check("", "`` is no port");
        check("http", "`http` is no port; ports are 80, 8000-8999, or * for all");
        check("+80", "`+80` is no port");
        check("0", "port 0 does not exist");
        check("65536", "port 65536 does not exist; ports are 1 to 65535");
        check("90-80", "the range 90-80 is empty");
        check("80-", "`` is no port");
        check("1-2-3", "`2-3` is no port");
        check("0-10", "port 0 does not exist");
        assert!(serde_json::from_str::<Ports>("0").is_err());
    }

    #[test]
    fn overlap_needs_a_common_port() {
        let ports = |text: &str| text.parse::<Ports>().unwrap();
        let check = |one, other, expected| {
            assert_eq!(ports(one).overlap(ports(other)), expected, "{one} {other}");
            assert_eq!(ports(other).overlap(ports(one)), expected, "{other} {one}");
        };
        check("80", "80", true);
        check("80", "81", false);
        check("8000-8999", "8999", true);
        check("8000-8999", "9000-9999", false);
        check("8000-9000", "9000-9999", true);
        check("*", "1", true);
    }
}
