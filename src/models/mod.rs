//! Floor 2: whole models.

pub mod sam3;
