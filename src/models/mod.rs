//! Floor 2: whole models.
