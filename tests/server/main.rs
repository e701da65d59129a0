//! The server as its clients see it, with the demo model.

mod api;
mod clients;
mod hostile;
mod hover;
mod load;
mod openapi;
mod refusals;
mod support;
