//! Floor 4: results as files.
