//! Fast CPU paths behind the functions of [`crate::nn`].

pub mod depthwise;
