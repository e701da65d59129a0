//! Points and boxes.
