//! Models by name: what is downloaded, kept, resumed and refused, against a local server.

mod clip;
mod download;
mod home;
mod names;
mod refusals;
mod resume;
mod server;
mod trust;
