//! Objects in videos.
//!
//! * [`Session`]: points, boxes and masks on some frames -> those objects on every frame;
//! * [`concept::ConceptSession`]: a text -> every instance on every frame;
//! * [`simple::SimpleSession`] and [`detections::DetectionSession`]: the same, for models without a
//!   tracker.
//!
//! ```no_run
//! use candle_sam3::predict::video::{Options, Session};
//! use candle_sam3::{Checkpoint, Image, LoadOptions, Run, VisualPrompt, models};
//!
//! let options = LoadOptions { tracking: true, ..LoadOptions::default() };
//! let model = models::load(&Checkpoint::open("sam3.pt")?, &options)?;
//! let mut session = Session::new(model.as_tracking()?, Options::default())?;
//! let run = &mut Run::default();
//! for i in 0..100 {
//!     let mut found = session.push(&Image::open(format!("{i:05}.jpg"))?, run)?;
//!     if i == 0 {
//!         found = session.prompt(0, 1, &VisualPrompt::point(320., 180.))?;
//!     }
//!     for object in &found.objects {
//!         println!("{i}: object {} has {} pixels", object.id, object.mask.area());
//!     }
//! }
//! # Ok::<(), candle_sam3::Error>(())
//! ```

pub mod concept;
pub mod detections;
pub(crate) mod ffmpeg;
mod frames;
#[cfg(test)]
mod full_size;
mod group;
#[cfg(test)]
mod multiplex_tests;
#[cfg(test)]
mod sam2_tests;
pub mod session;
#[cfg(test)]
mod session_tests;
pub mod simple;
mod state;
#[cfg(test)]
mod tests;
#[cfg(test)]
mod toy;

pub use concept::{ConceptMasks, ConceptObject, ConceptSession};
pub use detections::DetectionSession;
pub use ffmpeg::ffmpeg_is_there;
pub use frames::{About, Folder, FrameReader, Frames};
pub use session::{Grouping, Keep, Options, Session, Span};
pub use simple::SimpleSession;

use crate::mask::Mask;

/// The objects on one frame.
#[derive(Debug, Clone, PartialEq)]
pub struct FrameMasks {
    /// Number of the frame, from 0 on.
    pub frame: usize,
    /// The objects that are known there, by id.
    pub objects: Vec<ObjectMask>,
}

/// One object on one frame.
#[derive(Debug, Clone, PartialEq)]
pub struct ObjectMask {
    /// The number that it was given.
    pub id: u32,
    /// Its pixels, at the size of the frame; none where it is not visible.
    pub mask: Mask,
    /// Logit of its being visible, above 0 if it is, where the model predicts one.
    pub object_score: Option<f32>,
    /// Predicted IoU of the mask, in 0..1.
    pub iou_score: f32,
}
