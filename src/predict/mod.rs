//! Floor 3: what a user calls.
