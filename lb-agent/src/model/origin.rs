//! Where a value comes from: the default, the configuration, a label, a variable.

use std::{fmt, sync::Arc};

use serde::{Deserialize, Serialize};

/// What somebody wrote: the object, and the key in it.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
pub struct Written {
    /// ``container `redis-1` ``, ``service `web` in lb.toml, line 12``.
    pub object: String,
    /// The label, variable or key.
    pub key: String,
}

/// Where a value comes from. What stands later goes before what stands earlier.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase", tag = "from")]
pub enum Origin {
    /// Nobody said anything.
    #[default]
    Default,
    /// Registrator has it so when nobody says anything.
    Registrator,
    /// A key of the configuration.
    Config(Arc<Written>),
    /// Something was asked for that is not understood, and this stands in for it.
    Instead(Arc<Written>),
    /// A variable of a container's environment.
    Environment(Arc<Written>),
    /// A label of a container or of its service.
    Label(Arc<Written>),
}

/// A value, and where it comes from.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct Setting<T> {
    /// The value.
    pub value: T,
    /// Where it comes from.
    pub origin: Origin,
}

impl Origin {
    /// A key of the configuration.
    pub fn config(object: impl Into<String>, key: impl Into<String>) -> Self {
        Self::Config(Arc::new(Written { object: object.into(), key: key.into() }))
    }

    /// A variable of a container.
    pub fn environment(object: impl Into<String>, key: impl Into<String>) -> Self {
        Self::Environment(Arc::new(Written { object: object.into(), key: key.into() }))
    }

    /// A label of a container.
    pub fn label(object: impl Into<String>, key: impl Into<String>) -> Self {
        Self::Label(Arc::new(Written { object: object.into(), key: key.into() }))
    }

    /// What stands in for a label or variable of a container.
    pub fn instead(object: impl Into<String>, key: impl Into<String>) -> Self {
        Self::Instead(Arc::new(Written { object: object.into(), key: key.into() }))
    }

    /// What was written, and where; nothing for a default.
    #[must_use]
    pub fn written(&self) -> Option<&Written> {
        match self {
            Self::Default | Self::Registrator => None,
            Self::Config(written)
            | Self::Instead(written)
            | Self::Environment(written)
            | Self::Label(written) => Some(written),
        }
    }

    /// The same with another word for the object.
    #[must_use]
    pub fn of_object(&self, object: impl FnOnce(&str) -> String) -> Self {
        let renamed = |written: &Written| {
            Arc::new(Written { object: object(&written.object), key: written.key.clone() })
        };
        match self {
            Self::Default => Self::Default,
            Self::Registrator => Self::Registrator,
            Self::Config(written) => Self::Config(renamed(written)),
            Self::Instead(written) => Self::Instead(renamed(written)),
            Self::Environment(written) => Self::Environment(renamed(written)),
            Self::Label(written) => Self::Label(renamed(written)),
        }
    }

    /// Containers go before the configuration, and that before the default. What stands in for a wish
    /// goes behind a wish.
    pub(super) fn rank(&self) -> u8 {
        match self {
            Self::Default | Self::Registrator => 0,
            Self::Config(_) => 1,
            Self::Instead(_) => 2,
            Self::Environment(_) | Self::Label(_) => 3,
        }
    }
}

impl<T> Setting<T> {
    /// A value that somebody asked for.
    pub fn new(value: T, origin: Origin) -> Self {
        Self { value, origin }
    }
}

impl fmt::Display for Origin {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Default => formatter.write_str("default"),
            Self::Registrator => formatter.write_str("default of Registrator"),
            Self::Instead(written) => {
                let Written { object, key } = &**written;
                write!(formatter, "{object}, instead of `{key}`, which is not understood")
            }
            Self::Config(written) => write!(formatter, "{}, `{}`", written.object, written.key),
            Self::Environment(written) => {
                write!(formatter, "{}, variable `{}`", written.object, written.key)
            }
            Self::Label(written) => {
                write!(formatter, "{}, label `{}`", written.object, written.key)
            }
        }
    }
}
