//! The `sam3` command.

fn main() {}
