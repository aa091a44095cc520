//! Fixtures of the end-to-end tests and of the demo: whole small worlds of namespaces, a Docker
//! daemon, containers, an agent, and clients, each removed when it goes out of scope.
//!
//! Owns everything that it makes: names begin with [`names::PREFIX`] and the pid of the process
//! that made them, so that leftovers of a process that was killed can be told apart and swept. It
//! must not touch anything else on the machine, above all not its own interfaces and namespaces.

pub mod agent;
pub mod binaries;
pub mod bpffs;
pub mod callers;
pub mod calling;
pub mod cluster;
pub mod compose;
pub mod container;
pub mod datagrams;
pub mod docker;
pub mod eastwest;
pub mod exposition;
pub mod https;
pub mod ipam;
pub mod manager;
pub mod names;
pub mod namespace;
pub mod odd_programs;
pub mod other_programs;
pub mod packets;
pub mod process;
pub mod proxy;
pub mod skip;
pub mod snapshot;
pub mod talk;
pub mod tracing;
pub mod traffic;
pub mod trunk;
pub mod wire;
pub mod world;

pub use agent::{Agent, AgentConfig};
pub use bpffs::BpfFs;
pub use cluster::Cluster;
pub use container::Container;
pub use docker::{Docker, DockerNode, DockerOptions};
pub use manager::Manager;
pub use namespace::Namespace;
pub use snapshot::Snapshot;
pub use traffic::{Load, Summary};
pub use world::{RemoteHost, World};
