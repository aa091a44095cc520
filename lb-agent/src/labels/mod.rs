//! Labels of containers -> claims. One pure parser per schema; nothing here awaits, and nothing knows
//! the kernel or Docker's API.
//!
//! Whoever may start a container may write any label, so every label is hostile until parsed: what
//! is repeated in messages and names is cut and escaped, and one bad label never affects another.

pub mod aliyun;
mod container;
pub mod known;
pub mod lb;
pub mod registrator;
mod replica;
mod text;

pub use aliyun::BalancerIndex;
pub use container::{
    ContainerFacts, ContainerPort, LocalAddress, Reader, SWARM_SERVICE_ID, asks_for_frontend,
    may_want_balancing,
};
pub use text::shown;
