//! Floor 1: image encoders.
