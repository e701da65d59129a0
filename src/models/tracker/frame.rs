//! A frame of a video as a tracker sees it.

use std::fmt;
use std::sync::{Arc, OnceLock};

use candle::{Result, Tensor};

use crate::Size;
use crate::models::head::ImageTokens;
use crate::models::{bytes_of, get_or_try_init};

/// A frame as every object of it sees it: cheap to clone.
#[derive(Debug, Clone)]
pub struct FrameFeatures {
    /// Features of the neck, without the "no memory" embedding.
    pub image: ImageTokens,
    /// Size of the original frame.
    pub size: Size,
    /// The first self-attention of the memory attention, the same for all objects; computed when
    /// the frame is first tracked.
    attended: Arc<OnceLock<Tensor>>,
    /// What prompts look at, where that is not [`FrameFeatures::image`].
    interactive: Option<Deferred>,
}

/// Features that few frames need, computed when they are first asked for.
#[derive(Clone)]
struct Deferred {
    made: Arc<OnceLock<ImageTokens>>,
    make: Arc<dyn Fn() -> Result<ImageTokens> + Send + Sync>,
}

impl fmt::Debug for Deferred {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Deferred").field(&self.made).finish()
    }
}

impl FrameFeatures {
    /// A frame that was not tracked yet.
    pub fn new(image: ImageTokens, size: Size) -> Self {
        Self {
            image,
            size,
            attended: Arc::default(),
            interactive: None,
        }
    }

    /// With other features for prompts, which `make` computes if there are any.
    #[must_use]
    pub fn with_interactive(
        mut self,
        make: impl Fn() -> Result<ImageTokens> + Send + Sync + 'static,
    ) -> Self {
        self.interactive = Some(Deferred {
            made: Arc::default(),
            make: Arc::new(make),
        });
        self
    }

    /// What prompts look at.
    ///
    /// # Errors
    /// If a tensor operation fails.
    pub fn interactive(&self) -> Result<&ImageTokens> {
        let Some(Deferred { made, make }) = &self.interactive else {
            return Ok(&self.image);
        };
        get_or_try_init(made, || make())
    }

    /// The first self-attention, from `attend` when it is first asked for.
    pub(super) fn attended(&self, attend: impl FnOnce() -> Result<Tensor>) -> Result<&Tensor> {
        get_or_try_init(&self.attended, attend)
    }

    /// Memory that the features keep, in bytes.
    pub fn bytes(&self) -> usize {
        let attended = bytes_of(self.attended.get());
        let interactive = self
            .interactive
            .as_ref()
            .and_then(|deferred| deferred.made.get());
        self.image.bytes() + attended + interactive.map_or(0, ImageTokens::bytes)
    }
}
