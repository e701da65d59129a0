//! Every stage's tensors of one run, for finding the first stage that differs from a reference.
//!
//! ```no_run
//! use candle_sam3::{Trace, image::Image, models::sam3::Sam3};
//!
//! fn stages(model: &Sam3, image: &Image) -> candle_sam3::Result<()> {
//!     let mut trace = Trace::on();
//!     model.encode_image_traced(image, &mut trace)?;
//!     trace.save("stages.safetensors")
//! }
//! ```

use std::collections::BTreeMap;
use std::path::Path;

use candle::Tensor;

use crate::{Error, Result};

/// Collects named tensors when it is on; costs one branch per stage when it is off.
#[derive(Debug, Default, Clone)]
pub struct Trace {
    tensors: Option<BTreeMap<String, Tensor>>,
    prefix: String,
}

impl Trace {
    /// Records nothing.
    pub fn off() -> Self {
        Self::default()
    }

    /// Records every stage.
    pub fn on() -> Self {
        Self {
            tensors: Some(BTreeMap::new()),
            prefix: String::new(),
        }
    }

    /// Puts `prefix` before the names recorded from here on.
    pub fn set_prefix(&mut self, prefix: impl Into<String>) {
        self.prefix = prefix.into();
    }

    /// Whether anything is recorded.
    pub(crate) fn is_on(&self) -> bool {
        self.tensors.is_some()
    }

    pub(crate) fn record(&mut self, name: &str, tensor: &Tensor) {
        if let Some(tensors) = &mut self.tensors {
            tensors.insert(format!("{}{name}", self.prefix), tensor.clone());
        }
    }

    /// The tensors recorded so far, by name.
    pub fn tensors(&self) -> impl Iterator<Item = (&str, &Tensor)> {
        self.tensors
            .iter()
            .flatten()
            .map(|(name, tensor)| (name.as_str(), tensor))
    }

    /// Writes the recorded tensors to a safetensors file, replacing it in one step.
    pub fn save(&self, path: impl AsRef<Path>) -> Result<()> {
        let path = path.as_ref();
        let mut temporary = path.as_os_str().to_owned();
        temporary.push(".part");
        let tensors = self
            .tensors
            .iter()
            .flatten()
            .map(|(name, t)| Ok((name, t.contiguous()?)));
        let tensors = tensors.collect::<candle::Result<Vec<_>>>()?;
        let written = safetensors::serialize_to_file(tensors, None, temporary.as_ref())
            .map_err(|e| Error::Tensor(e.into()))
            .and_then(|()| std::fs::rename(&temporary, path).map_err(|e| Error::io(path, e)));
        if written.is_err() {
            let _ = std::fs::remove_file(&temporary); // the first error is the one to report
        }
        written
    }
}
