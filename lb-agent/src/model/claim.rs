//! What the objects of a provider ask for, before arbitration.

use std::sync::Arc;

use ipnet::IpNet;
use serde::{Deserialize, Serialize};

use super::{Backend, FrontendAddress, ServiceName, Wishes};

/// One object's (a container's label's, a config entry's) wish: serve this backend at this frontend.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Claim {
    /// The service that it makes the backend part of. Claims of one name have one owner.
    pub service: ServiceName,
    /// Where it wants to be reached.
    pub frontend: FrontendAddress,
    /// The backend; `None` asks for the frontend only (a service whose backends are all gone).
    pub backend: Option<Backend>,
    /// Set when the frontend's address is not known before arbitration: it is the one of a name.
    pub pooled: Option<PooledName>,
    /// How it wants its service to be balanced, and its backend's weight. Shared by the claims of
    /// one object.
    pub wishes: Arc<Wishes>,
    /// Age of the claim for arbitration, in milliseconds since the epoch: of two new
    /// owners of one frontend the one with the smallest value gets it. 0 for the config file.
    pub since_ms: u64,
    /// Where it comes from, for messages: ``container `redis-1`, label `aliyun.lb.port_6379` ``.
    pub source: String,
}

/// A name that has a virtual address of its own, out of a pool.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug, Serialize, Deserialize)]
pub struct PooledName {
    /// The name, in lower case: `restserver.local`.
    pub name: String,
    /// Where its address is taken from.
    pub pool: IpNet,
}

/// Something that was asked for and not granted.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug, Serialize, Deserialize)]
pub struct Refusal {
    /// The object: ``container `redis-1` ``, ``service `web` in lb.toml``.
    pub object: String,
    /// The label or key, where there is one.
    pub key: Option<String>,
    /// What is wrong, where, and what to do.
    pub message: String,
}

/// A frontend that a service wants and another has.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug, Serialize, Deserialize)]
pub struct Conflict {
    /// What is wanted.
    pub frontend: FrontendAddress,
    /// Who wants it.
    pub contender: ServiceName,
    /// What the owner has: the same, or one that has ports in common with it.
    pub owned: FrontendAddress,
    /// Who has it.
    pub owner: ServiceName,
    /// The claim by which.
    pub owner_source: String,
    /// The oldest claim of the contender.
    pub contender_source: String,
}

/// Everything that one provider knows at one moment.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct Claims {
    /// What is asked for.
    pub claims: Vec<Claim>,
    /// What the provider itself had to refuse.
    pub refusals: Vec<Refusal>,
    /// The provider knows that it does not know everything. What it does not name may be there all
    /// the same.
    #[serde(default)]
    pub is_partial: bool,
}
