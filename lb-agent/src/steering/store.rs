//! The file that keeps orders while no agent runs.

use std::{io, path::Path};

use serde::{Deserialize, Serialize};

use super::{Steering, Subject};
use crate::{api::steer::SteeringView, kept::KeptFile};

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
pub struct Store(KeptFile);

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
        Self(KeptFile::at(directory, Self::FILES, BYTES_MAX))
    }

    /// Names of its files, for whoever removes them.
    pub const FILES: [&str; 2] = [FILE, UNFINISHED];

    /// What a predecessor kept; nothing if there is no file. An error says what is wrong with it.
    pub fn load(&self) -> Result<Steering, String> {
        let failed = |cause: &dyn std::fmt::Display| {
            format!(
                "orders of operators cannot be read from `{}`: {cause}; backends are what their \
                 providers and probes say, give the orders again",
                self.0.path().display()
            )
        };
        let Some(text) = self.0.read().map_err(|error| failed(&error))? else {
            return Ok(Steering::default());
        };
        // It quotes the file, which may hold anything.
        let content: Content = serde_json::from_slice(&text)
            .map_err(|error| failed(&fit_to_show(&error.to_string())))?;
        if content.version != VERSION {
            return Err(failed(&format!("it has version {}, not {VERSION}", content.version)));
        }
        let orders = content.orders.into_iter().map(|Kept { subject, order }| {
            // Others have kept places also of those that have an instance.
            (Subject::of(subject.service, &subject.place, subject.instance), order)
        });
        Ok(Steering { orders: orders.collect() })
    }

    /// Keeps these orders and no others.
    pub fn save(&self, steering: &Steering) -> io::Result<()> {
        let orders = steering.orders.iter();
        let orders =
            orders.map(|(subject, order)| Kept { subject: subject.clone(), order: order.clone() });
        let content = Content { version: VERSION, orders: orders.collect() };
        self.0.replace(&content)
    }
}
