//! What Prometheus reads: its text format, version 0.0.4, with the rules that its own linter has for
//! names. Stricter than Prometheus itself, which forgives much.

use std::{
    collections::{BTreeMap, BTreeSet},
    io::{Read as _, Write as _},
    net::{SocketAddr, TcpStream},
    process::{Command, Stdio},
    time::Duration,
};

use anyhow::{Context as _, Result, bail, ensure};

use crate::namespace::Namespace;

/// What is served as `/metrics` at this address in a namespace.
pub fn scrape(namespace: &Namespace, address: &str) -> Result<String> {
    let address: SocketAddr = address.parse()?;
    namespace.enter(|| -> Result<String> {
        let mut stream = TcpStream::connect_timeout(&address, Duration::from_secs(5))?;
        stream.set_read_timeout(Some(Duration::from_secs(10)))?;
        // This version knows no chunks.
        stream.write_all(b"GET /metrics HTTP/1.0\r\nHost: node\r\n\r\n")?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer)?;
        let (head, body) = answer.split_once("\r\n\r\n").context("no head")?;
        ensure!(head.starts_with("HTTP/1.0 200"), "{head}");
        Ok(body.to_owned())
    })?
}

/// The whole number of the only sample of this name that has all of these labels.
pub fn value(text: &str, name: &str, labels: &[&str]) -> Result<u64> {
    let is_it = |line: &&str| {
        let series = line.split(' ').next().unwrap_or_default();
        let its = series.split('{').next() == Some(name);
        its && labels.iter().all(|label| series.contains(label))
    };
    let lines: Vec<&str> = text.lines().filter(is_it).collect();
    let [line] = lines[..] else { anyhow::bail!("{name} {labels:?}: {lines:?}") };
    Ok(line.rsplit(' ').next().context("no value")?.parse()?)
}

/// A family while its lines are read.
#[derive(Default)]
struct Family {
    kind: String,
    has_help: bool,
    /// Buckets by their other labels, with the counts that they must end with.
    buckets: BTreeMap<String, Vec<(f64, f64)>>,
    counts: BTreeMap<String, f64>,
}

/// Checks a whole text, by our own rules, and by `promtool` where it is installed.
pub fn check(text: &str) -> Result<()> {
    check_format(text)?;
    check_by_promtool(text)
}

/// By our own rules.
pub fn check_format(text: &str) -> Result<()> {
    ensure!(text.ends_with('\n'), "the last line has no end");
    let mut families: BTreeMap<&str, Family> = BTreeMap::new();
    let mut series = BTreeSet::new();
    let mut current = "";
    for line in text.lines() {
        let context = || format!("`{line}`");
        if let Some(rest) = line.strip_prefix("# ") {
            let mut words = rest.splitn(3, ' ');
            let (Some(word), Some(name)) = (words.next(), words.next()) else {
                bail!("a comment: {line}");
            };
            let rest = words.next().unwrap_or_default();
            if name != current {
                ensure!(!families.contains_key(name), "{name} comes in two pieces");
                check_name(name).with_context(context)?;
                current = name;
            }
            let family = families.entry(name).or_default();
            match word {
                "HELP" => {
                    ensure!(!rest.is_empty() && !family.has_help, "{line}");
                    family.has_help = true;
                }
                "TYPE" => {
                    ensure!(family.kind.is_empty(), "{name}: two types");
                    ensure!(["counter", "gauge", "histogram"].contains(&rest), "{line}");
                    rest.clone_into(&mut family.kind);
                }
                _ => bail!("a comment: {line}"),
            }
            continue;
        }
        let family = families.get_mut(current).with_context(context)?;
        ensure!(series.insert(line.rsplit_once(' ').with_context(context)?.0), "twice: {line}");
        family.sample(current, line).with_context(context)?;
    }
    ensure!(!families.is_empty(), "nothing at all");
    families.iter().try_for_each(|(name, family)| family.check(name))
}

impl Family {
    fn sample(&mut self, family: &str, line: &str) -> Result<()> {
        let (series, value) = line.rsplit_once(' ').context("no value")?;
        let value: f64 = value.parse()?;
        let (name, labels) = match series.split_once('{') {
            Some((name, labels)) => (name, labels.strip_suffix('}').context("no end of labels")?),
            None => (series, ""),
        };
        let mut labels = parse_labels(labels)?;
        let suffix = name.strip_prefix(family).context("of another family")?;
        if self.kind == "histogram" {
            ensure!(value >= 0.0, "less than nothing");
            let bound = labels.remove("le");
            let key = format!("{labels:?}");
            match (suffix, bound) {
                ("_bucket", Some(bound)) => {
                    let bound = if bound == "+Inf" { f64::INFINITY } else { bound.parse()? };
                    self.buckets.entry(key).or_default().push((bound, value));
                }
                ("_count", None) => drop(self.counts.insert(key, value)),
                ("_sum", None) => {}
                _ => bail!("no part of a histogram"),
            }
            return Ok(());
        }
        ensure!(suffix.is_empty(), "of another family");
        ensure!(!labels.contains_key("le"), "`le` is for buckets");
        ensure!(self.kind != "counter" || value >= 0.0, "a counter below nothing");
        Ok(())
    }

    /// What can be said when all lines are read.
    fn check(&self, name: &str) -> Result<()> {
        ensure!(self.has_help && !self.kind.is_empty(), "{name}: HELP and TYPE");
        let is_total = name.ends_with("_total");
        ensure!(
            (self.kind == "counter") == is_total,
            "{name}: counters, and only they, are totals"
        );
        for (labels, buckets) in &self.buckets {
            let is_rising = |pair: &[(f64, f64)]| pair[0].0 < pair[1].0 && pair[0].1 <= pair[1].1;
            ensure!(buckets.windows(2).all(is_rising), "{name} {labels}: {buckets:?}");
            let last = buckets.last().copied();
            let count = self.counts.get(labels).copied();
            ensure!(last == count.map(|count| (f64::INFINITY, count)), "{name} {labels}: {last:?}");
        }
        ensure!(self.kind != "histogram" || self.buckets.len() == self.counts.len(), "{name}");
        Ok(())
    }
}

/// Words in lower case, and base units.
fn check_name(name: &str) -> Result<()> {
    let is_word = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'_';
    ensure!(name.bytes().all(is_word) && name.starts_with(|it: char| it.is_ascii_lowercase()));
    let units = ["milliseconds", "microseconds", "minutes", "hours", "kilobytes", "percent"];
    ensure!(!name.split('_').any(|word| units.contains(&word)), "no base unit");
    let words = ["counter", "gauge", "histogram", "metric"];
    ensure!(!name.split('_').any(|word| words.contains(&word)), "its type is in the name");
    Ok(())
}

/// `a="b",c="d"`, where values escape backslashes, quotes and ends of lines.
fn parse_labels(mut text: &str) -> Result<BTreeMap<String, String>> {
    let mut labels = BTreeMap::new();
    while !text.is_empty() {
        let (name, rest) = text.split_once("=\"").context("a label without value")?;
        check_name(name)?;
        let mut value = String::new();
        let mut characters = rest.char_indices();
        let end = loop {
            match characters.next().context("a value without end")? {
                (at, '"') => break at,
                (_, '\\') => match characters.next().context("half an escape")?.1 {
                    'n' => value.push('\n'),
                    escaped @ ('\\' | '"') => value.push(escaped),
                    other => bail!("an escaped `{other}`"),
                },
                (_, character) => value.push(character),
            }
        };
        ensure!(labels.insert(name.to_owned(), value).is_none(), "label {name} twice");
        text = &rest[end + 1..];
        if let Some(more) = text.strip_prefix(',') {
            ensure!(!more.is_empty(), "a comma at the end");
            text = more;
        } else {
            ensure!(text.is_empty(), "no comma before `{text}`");
        }
    }
    Ok(labels)
}

/// By Prometheus' own linter, where it is installed.
fn check_by_promtool(text: &str) -> Result<()> {
    let mut command = Command::new("promtool");
    command.args(["check", "metrics"]).stdin(Stdio::piped()).stdout(Stdio::piped());
    let Ok(mut child) = command.stderr(Stdio::piped()).spawn() else { return Ok(()) };
    child.stdin.take().context("its input")?.write_all(text.as_bytes())?;
    let output = child.wait_with_output()?;
    let said = [output.stdout, output.stderr].concat();
    ensure!(output.status.success(), "promtool: {}", String::from_utf8_lossy(&said));
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::check_format;

    const GOOD: &str = "# HELP lb_a_total A.\n# TYPE lb_a_total counter\nlb_a_total{b=\"c\\\"\\n\"} 1\n\
        # HELP lb_d_seconds D.\n# TYPE lb_d_seconds histogram\nlb_d_seconds_bucket{le=\"0.5\"} 1\n\
        lb_d_seconds_bucket{le=\"+Inf\"} 2\nlb_d_seconds_sum 1.5\nlb_d_seconds_count 2\n";

    /// What becomes of the good text when something in it is replaced.
    #[track_caller]
    fn check(from: &str, to: &str, is_good: bool) {
        assert!(GOOD.contains(from), "{from}");
        let text = GOOD.replace(from, to);
        let checked = check_format(&text);
        assert_eq!(checked.is_ok(), is_good, "{text}\n{checked:?}");
    }

    #[test]
    fn good_text_is_good() {
        check("A.", "What it counts.", true);
        check("} 1\nlb", "} 2\nlb", true);
    }

    #[test]
    fn bad_text_is_bad() {
        for (from, to) in [
            ("# HELP lb_a_total A.\n", ""),
            ("# TYPE lb_a_total counter\n", ""),
            ("counter", "count"),
            ("lb_a_total", "lb_a"),
            ("lb_a_total", "lb_A_total"),
            ("lb_d_seconds", "lb_d_milliseconds"),
            ("lb_a_total{b=\"c\\\"\\n\"} 1\n", "lb_a_total 1\nlb_a_total 1\n"),
            ("lb_a_total{b=\"c\\\"\\n\"} 1", "lb_a_total{b=\"c\\\"\\n\"} -1"),
            ("lb_a_total{b=\"c\\\"\\n\"} 1", "lb_other 1"),
            ("\\n\"}", "\\n\",}"),
            ("\\n\"}", "\\t\"}"),
            ("\\n\"}", "\\n}"),
            ("\\n\"}", "\\n\",b=\"\"}"),
            ("{le=\"+Inf\"} 2", "{le=\"+Inf\"} 1"),
            ("{le=\"0.5\"} 1", "{le=\"0.5\"} 3"),
            ("lb_d_seconds_bucket{le=\"+Inf\"} 2\n", ""),
            ("lb_d_seconds_count 2\n", ""),
            ("lb_d_seconds_count 2\n", "lb_d_seconds_count 2"),
            ("lb_d_seconds_sum 1.5", "lb_d_seconds_sum much"),
        ] {
            check(from, to, false);
        }
    }
}
