//! The file that keeps orders while no agent runs.
//!
//! It is replaced as a whole, so that an agent that is killed while it writes leaves the former one.

use std::{
    fs::{self, File, OpenOptions},
    io::{self, Read as _, Write as _},
    os::unix::fs::OpenOptionsExt as _,
    path::{Path, PathBuf},
};

use serde::{Deserialize, Serialize};

use super::{Steering, Subject};
use crate::api::steer::SteeringView;

/// Name of the file in the agent's runtime directory.
const FILE: &str = "steering.json";
/// Its name until it is complete.
const UNFINISHED: &str = "steering.json.new";
/// What the file looks like.
const VERSION: u32 = 1;
/// A longer file is not ours: 65,536 orders at under 512 bytes each.
const BYTES_MAX: u64 = 32 * 1024 * 1024;

/// Where orders are kept.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Store {
    directory: PathBuf,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Content {
    version: u32,
    orders: Vec<Kept>,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Kept {
    subject: Subject,
    order: SteeringView,
}

/// A text on one line, without control characters and not too long.
fn fit_to_show(text: &str) -> String {
    const CHARS_MAX: usize = 500;
    let shown = text.chars().take(CHARS_MAX);
    shown.map(|char| if char.is_control() { char::REPLACEMENT_CHARACTER } else { char }).collect()
}

impl Store {
    /// In this directory, which is there.
    pub fn at(directory: &Path) -> Self {
        Self { directory: directory.to_owned() }
    }

    /// Names of its files, for whoever removes them.
    pub const FILES: [&str; 2] = [FILE, UNFINISHED];

    /// What a predecessor kept; nothing if there is no file. An error says what is wrong with it.
    pub fn load(&self) -> Result<Steering, String> {
        let path = self.directory.join(FILE);
        let failed = |cause: &dyn std::fmt::Display| {
            format!(
                "orders of operators cannot be read from `{}`: {cause}; backends are what their \
                 providers and probes say, give the orders again",
                path.display()
            )
        };
        let file = match File::open(&path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Steering::default()),
            opened => opened.map_err(|error| failed(&error))?,
        };
        let mut text = Vec::new();
        file.take(BYTES_MAX + 1).read_to_end(&mut text).map_err(|error| failed(&error))?;
        if text.len() as u64 > BYTES_MAX {
            return Err(failed(&format!("it is longer than {BYTES_MAX} bytes")));
        }
        // It quotes the file, which may hold anything.
        let content: Content = serde_json::from_slice(&text)
            .map_err(|error| failed(&fit_to_show(&error.to_string())))?;
        if content.version != VERSION {
            return Err(failed(&format!("it has version {}, not {VERSION}", content.version)));
        }
        let orders = content.orders.into_iter().map(|kept| (kept.subject, kept.order));
        Ok(Steering { orders: orders.collect() })
    }

    /// Keeps these orders and no others.
    pub fn save(&self, steering: &Steering) -> io::Result<()> {
        let orders = steering.orders.iter();
        let orders =
            orders.map(|(subject, order)| Kept { subject: subject.clone(), order: order.clone() });
        let content = Content { version: VERSION, orders: orders.collect() };
        let text = serde_json::to_vec_pretty(&content).map_err(io::Error::other)?;
        let unfinished = self.directory.join(UNFINISHED);
        let mut file = OpenOptions::new()
            .create(true)
            .truncate(true)
            .write(true)
            .mode(0o600)
            .open(&unfinished)?;
        file.write_all(&text)?;
        file.sync_all()?;
        fs::rename(&unfinished, self.directory.join(FILE))
    }
}
