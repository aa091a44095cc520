//! Fixtures of the end-to-end and in-kernel tests.

pub mod packets;
