//! Tables of names: data only.

mod sam;
mod sam3;
mod sam3_hf;

use super::layout::Layout;
pub(super) use sam::{SAM, SAM_HF};
pub(super) use sam3::SAM3;
pub(super) use sam3_hf::{SAM3_HF, SAM3_LITETEXT_HF};

/// Every layout, the most telling signatures first.
pub(super) const ALL: [&Layout; 5] = [&SAM3_LITETEXT_HF, &SAM3_HF, &SAM_HF, &SAM, &SAM3];
