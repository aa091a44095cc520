//! Builds, tests and shows lb.

fn main() {}
