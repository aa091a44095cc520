//! What a probe does, of its parts: a word for the kind, and what goes with it.

use std::ops::RangeInclusive;

use crate::model::{HttpProbe, ProbeKind};

/// Longest command, and most words of it.
const COMMAND_BYTES_MAX: usize = 4096;
const COMMAND_WORDS_MAX: usize = 64;
/// Longest text that an answer is searched for.
const BODY_CHARS_MAX: usize = 1024;

/// Kinds of probes, as they are written.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum ProbeWord {
    /// No probe.
    None,
    /// Connects.
    Tcp,
    /// Asks by HTTP.
    Http,
    /// Asks by HTTPS.
    Https,
    /// Runs a command.
    Command,
    /// Believes Docker's HEALTHCHECK.
    Docker,
}

/// What goes with the kind of a probe.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct ProbeParts {
    /// Port, when it is not the backend's.
    pub port: Option<u16>,
    /// Path and query.
    pub path: Option<String>,
    /// Method.
    pub method: Option<String>,
    /// `Host` header.
    pub host: Option<String>,
    /// Statuses that are successes.
    pub status: Option<Vec<RangeInclusive<u16>>>,
    /// Text that the answer must contain.
    pub body: Option<String>,
    /// Name sent as SNI.
    pub server_name: Option<String>,
    /// Whether the certificate counts.
    pub verify: Option<bool>,
    /// Program and arguments.
    pub command: Option<Vec<String>>,
}

impl ProbeWord {
    /// `none`, `tcp`, `http`, `https`, `command`, `docker`.
    pub fn parse(text: &str) -> Result<Self, String> {
        Ok(match text {
            "none" => Self::None,
            "tcp" => Self::Tcp,
            "http" => Self::Http,
            "https" => Self::Https,
            "command" => Self::Command,
            "docker" => Self::Docker,
            _ => return Err("is none of none, tcp, http, https, command, docker".to_owned()),
        })
    }

    fn is_http(self) -> bool {
        matches!(self, Self::Http | Self::Https)
    }
}

impl ProbeParts {
    /// The probe. The error names a part that does not go with the kind, or is missing, and says
    /// so.
    pub fn assemble(self, word: ProbeWord) -> Result<Option<ProbeKind>, (&'static str, String)> {
        let has_port = word.is_http() || word == ProbeWord::Tcp;
        let fits = [
            ("port", self.port.is_some(), has_port, "tcp, http and https"),
            ("path", self.path.is_some(), word.is_http(), "http and https"),
            ("method", self.method.is_some(), word.is_http(), "http and https"),
            ("host", self.host.is_some(), word.is_http(), "http and https"),
            ("status", self.status.is_some(), word.is_http(), "http and https"),
            ("body", self.body.is_some(), word.is_http(), "http and https"),
            ("server_name", self.server_name.is_some(), word == ProbeWord::Https, "https"),
            ("verify", self.verify.is_some(), word == ProbeWord::Https, "https"),
            ("command", self.command.is_some(), word == ProbeWord::Command, "command"),
        ];
        if let Some((part, .., kinds)) = fits.iter().find(|(_, given, fits, _)| *given && !*fits) {
            return Err((
                part,
                format!("goes with probes of the kind {kinds}; the probe is {word:?}")
                    .to_lowercase(),
            ));
        }
        if self.body.is_some() && self.method.as_deref() == Some("HEAD") {
            let message =
                "is looked for in the answer, and that of HEAD has none; use another method";
            return Err(("body", message.to_owned()));
        }
        Ok(match word {
            ProbeWord::None => None,
            ProbeWord::Tcp => Some(ProbeKind::Tcp { port: self.port }),
            ProbeWord::Docker => Some(ProbeKind::Docker),
            ProbeWord::Http => Some(ProbeKind::Http(self.request())),
            ProbeWord::Https => Some(ProbeKind::Https(self.request())),
            ProbeWord::Command => {
                let missing = "is missing; a probe of the kind command needs it";
                let argv = self.command.ok_or_else(|| ("command", missing.to_owned()))?;
                Some(ProbeKind::Command { argv })
            }
        })
    }

    fn request(self) -> HttpProbe {
        let default = HttpProbe::default();
        HttpProbe {
            port: self.port,
            path: self.path.unwrap_or(default.path),
            method: self.method.unwrap_or(default.method),
            host: self.host,
            expect_status: self.status.unwrap_or(default.expect_status),
            expect_body: self.body,
            server_name: self.server_name,
            verify_certificate: self.verify.unwrap_or(default.verify_certificate),
        }
    }
}

/// Text that an answer is searched for.
pub fn body(text: &str) -> Result<String, String> {
    match text.chars().count() {
        1..=BODY_CHARS_MAX => Ok(text.to_owned()),
        _ => Err(format!("is not 1 to {BODY_CHARS_MAX} characters long")),
    }
}

/// `["redis-cli", "ping"]` as it stands; anything else by the container's shell, also a test
/// like `[ -e /tmp/ready ]`.
pub fn command(text: &str) -> Result<Vec<String>, String> {
    if text.is_empty() || text.len() > COMMAND_BYTES_MAX || text.contains('\0') {
        return Err(format!("is no command of 1 to {COMMAND_BYTES_MAX} bytes"));
    }
    match serde_json::from_str::<Vec<String>>(text) {
        Ok(list) => words(list),
        Err(_) if text.starts_with('[') && !text.starts_with("[ ") && !text.starts_with("[[ ") => {
            Err(not_words())
        }
        Err(_) => Ok(["/bin/sh", "-c", text].map(str::to_owned).into()),
    }
}

/// A command word by word.
pub fn words(words: Vec<String>) -> Result<Vec<String>, String> {
    let bytes: usize = words.iter().map(String::len).sum();
    let is_command = (1..=COMMAND_WORDS_MAX).contains(&words.len())
        && !words[0].is_empty()
        && bytes <= COMMAND_BYTES_MAX
        && !words.iter().any(|word| word.contains('\0'));
    if is_command { Ok(words) } else { Err(not_words()) }
}

fn not_words() -> String {
    format!("is no list of 1 to {COMMAND_WORDS_MAX} words; write it like [\"redis-cli\", \"ping\"]")
}
