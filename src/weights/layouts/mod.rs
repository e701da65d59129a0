//! Tables of names: data only.

mod sam;
mod sam2;
mod sam3;
mod sam3_hf;

use super::layout::{Layout, Section};
use super::names::matches;
pub(super) use sam::SAM;
pub(super) use sam2::SAM2;
pub(super) use sam3::{SAM3, SAM31};

/// Every layout, the most specific signatures first.
const ALL: [&Layout; 8] = [
    &sam3_hf::SAM3_LITETEXT_HF,
    &sam3_hf::SAM3_HF,
    &sam2::SAM2_HF,
    &SAM2,
    &sam::SAM_HF,
    &SAM,
    &SAM31,
    &SAM3,
];

/// (asked, stored) of a [`Section`].
type Rows = &'static [(&'static str, &'static str)];

const fn section(asked: &'static str, stored: &'static str, rows: Rows) -> Section {
    Section {
        asked,
        stored,
        rows,
    }
}

/// The first layout whose signature one of the names has.
pub(super) fn of<'a>(names: impl Iterator<Item = &'a str> + Clone) -> &'static Layout {
    let fits = |layout: &&&Layout| {
        let has = |pattern: &&str| names.clone().any(|name| matches(name, pattern).is_some());
        layout.signature.is_empty() || layout.signature.iter().any(has)
    };
    ALL.iter().find(fits).unwrap_or(&&SAM3)
}
