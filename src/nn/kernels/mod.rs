//! Fast CPU paths behind the functions of [`crate::nn`].
