//! Floor 0: mask arithmetic in plain Rust.
