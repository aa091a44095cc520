//! Command-line options: `--key value` pairs and flags. Unknown ones are refused.

use std::{net::SocketAddr, str::FromStr, time::Duration};

const FLAGS: [&str; 2] = ["until-eof", "each"];
const KEYS: [&str; 12] = [
    "port",
    "name",
    "target",
    "count",
    "rate",
    "timeout-ms",
    "path",
    "seconds",
    "interval-ms",
    "size",
    "bytes",
    "direction",
];

/// Options of one subcommand.
#[derive(Debug, Default)]
pub(crate) struct Args {
    values: Vec<(String, String)>,
    flags: Vec<String>,
}

impl Args {
    /// Takes the words after the subcommand.
    pub(crate) fn parse(mut words: impl Iterator<Item = String>) -> Result<Self, String> {
        let mut args = Self::default();
        while let Some(word) = words.next() {
            let key = word.strip_prefix("--").ok_or(format!("`{word}` is no option"))?;
            if FLAGS.contains(&key) {
                args.flags.push(key.to_owned());
            } else if KEYS.contains(&key) {
                let value = words.next().ok_or(format!("--{key} needs a value"))?;
                args.values.push((key.to_owned(), value));
            } else {
                return Err(format!("no such option: --{key}"));
            }
        }
        Ok(args)
    }

    /// Whether the flag was given.
    pub(crate) fn flag(&self, key: &str) -> bool {
        self.flags.iter().any(|flag| flag == key)
    }

    /// Last value given for the key.
    pub(crate) fn text<'a>(&'a self, key: &'a str) -> Option<&'a str> {
        self.all(key).last()
    }

    /// Every value given for the key.
    pub(crate) fn all<'a>(&'a self, key: &'a str) -> impl Iterator<Item = &'a str> {
        self.values.iter().filter(move |(name, _)| name == key).map(|(_, value)| value.as_str())
    }

    /// A number, or the default.
    pub(crate) fn number<T: FromStr>(&self, key: &str, default: T) -> Result<T, String> {
        match self.text(key) {
            None => Ok(default),
            Some(text) => text.parse().map_err(|_| format!("--{key}: `{text}` is no number")),
        }
    }

    /// A time in seconds, if given.
    pub(crate) fn seconds(&self, key: &str) -> Result<Option<Duration>, String> {
        let Some(text) = self.text(key) else { return Ok(None) };
        text.parse()
            .ok()
            .and_then(|seconds| Duration::try_from_secs_f64(seconds).ok())
            .map(Some)
            .ok_or(format!("--{key}: `{text}` is no time in seconds"))
    }

    /// Where to connect.
    pub(crate) fn target(&self) -> Result<SocketAddr, String> {
        let text = self.text("target").ok_or("--target IP:PORT is missing")?;
        text.parse().map_err(|_| format!("--target: `{text}` is no IP:PORT"))
    }
}
