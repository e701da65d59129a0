//! The same words, or everything, on many pictures.
//!
//! [`Labeler`] encodes the words once and labels one picture after another; [`label`] decodes ahead on
//! a thread of its own, so that the model does not wait.
//!
//! ```no_run
//! use candle_sam3::image::DecodeOptions;
//! use candle_sam3::predict::dataset::{self, Class, Labeler, Options, Source};
//! use candle_sam3::{Checkpoint, LoadOptions, Run, models};
//!
//! let model = models::load(&Checkpoint::open("sam3.pt")?, &LoadOptions::default())?;
//! let classes = vec![Class::new("car"), Class::new("person")];
//! let labeler = Labeler::of_classes(&model, &Options::new(classes), &mut Run::default())?;
//! let decoding = DecodeOptions::default();
//! let sources = vec![Source::new("a.jpg"), Source::new("b.jpg")];
//! for labeled in dataset::label(&labeler, sources, &decoding, &mut Run::default()) {
//!     match labeled.objects {
//!         Ok(objects) => println!("{}: {} objects", labeled.source.name, objects.len()),
//!         Err(error) => eprintln!("{}: {error}", labeled.source.name),
//!     }
//! }
//! # Ok::<(), candle_sam3::Error>(())
//! ```

#[cfg(feature = "clip")]
mod classifier;
mod decode;
mod labeler;
#[cfg(test)]
mod tests;

use std::collections::VecDeque;
use std::path::PathBuf;
use std::time::{Duration, Instant};

#[cfg(feature = "clip")]
pub use classifier::Classifier;
pub use labeler::{Class, Labeler, Object, Options};

use crate::image::{DecodeOptions, Image};
use crate::{Error, Result, Run};
use decode::{Decoded, Decoder};

/// A picture to label.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Source {
    /// What it is called in results.
    pub name: String,
    /// Where it is.
    pub path: PathBuf,
}

impl Source {
    /// A file, called by its path.
    pub fn new(path: impl Into<PathBuf>) -> Self {
        let path = path.into();
        let name = path.to_string_lossy().replace('\\', "/");
        Self { name, path }
    }
}

/// A picture and what was found in it.
#[derive(Debug)]
pub struct Labeled {
    /// Which picture.
    pub source: Source,
    /// Its pixels; `None` when it could not be decoded.
    pub image: Option<Image>,
    /// What was found, by class and then as the model ranks it; or why nothing could be looked for.
    pub objects: Result<Vec<Object>>,
    /// How long it took to decode, on a thread of its own.
    pub decoding: Duration,
    /// How long the model waited for it.
    pub waiting: Duration,
    /// How long the model took.
    pub labeling: Duration,
}

/// Labels pictures in the order of the list, decoding ahead. `sources` is read on the thread that decodes;
/// several calls can share one list.
///
/// A picture that cannot be decoded or labeled is an item with an error; the next ones follow. After
/// [`Error::Cancelled`] nothing follows. Dropping the iterator stops decoding.
pub fn label<'a, 'r, S>(
    labeler: &'a Labeler<'a>,
    sources: S,
    decoding: &DecodeOptions,
    run: &'a mut Run<'r>,
) -> impl Iterator<Item = Labeled> + use<'a, 'r, S>
where
    S: IntoIterator<Item = Source, IntoIter: Send + 'static>,
{
    let mut decoder = Some(Decoder::start(sources.into_iter(), *decoding));
    let mut labeled = VecDeque::new();
    std::iter::from_fn(move || {
        if labeled.is_empty() {
            let batch = decoder.as_ref()?.take(labeler.batch());
            labeled.extend(label_batch(labeler, batch, run));
        }
        let next: Labeled = labeled.pop_front()?;
        if matches!(next.objects, Err(Error::Cancelled)) {
            decoder = None;
            labeled.clear();
        }
        Some(next)
    })
}

/// Labels decoded pictures together, and one by one if one of them fails.
fn label_batch(labeler: &Labeler, batch: Vec<(Decoded, Duration)>, run: &mut Run) -> Vec<Labeled> {
    let start = Instant::now();
    let images = batch.iter().map(|(decoded, _)| decoded.image.as_ref());
    let images: Vec<&Image> = images.flatten().collect();
    let together = match images.len() {
        0 | 1 => None,
        _ => match unwinding(|| labeler.label_batch(&images, run)) {
            Ok(objects) => Some(objects),
            Err(Error::Cancelled) => None, // as the first picture says below
            Err(error) => {
                let count = images.len();
                tracing::warn!("{count} pictures are labeled one by one, not together: {error}");
                None
            }
        },
    };
    let each = start.elapsed() / images.len().max(1) as u32;
    let mut together = together.map(Vec::into_iter);
    let mut label = |(decoded, waiting): (Decoded, Duration)| {
        let start = Instant::now();
        let (image, objects) = match decoded.image {
            Ok(image) => {
                let objects = match together.as_mut().and_then(Iterator::next) {
                    Some(objects) => Ok(objects),
                    None => unwinding(|| labeler.label(&image, run)),
                };
                (Some(image), objects)
            }
            Err(error) => (None, Err(error)),
        };
        Labeled {
            source: decoded.source,
            labeling: start.elapsed() + image.as_ref().map_or(Duration::ZERO, |_| each),
            image,
            objects,
            decoding: decoded.took,
            waiting,
        }
    };
    batch.into_iter().map(&mut label).collect()
}

/// A panic over one picture is the error of that picture.
fn unwinding<T>(work: impl FnOnce() -> Result<T>) -> Result<T> {
    // Models and embeddings are not changed by labeling, so that nothing half-done is seen after.
    let caught = std::panic::catch_unwind(std::panic::AssertUnwindSafe(work));
    caught.unwrap_or_else(|panic| {
        let text = panic.downcast_ref::<String>().map(String::as_str);
        let text = text
            .or(panic.downcast_ref::<&str>().copied())
            .unwrap_or("no message");
        Err(Error::InvalidImage(format!(
            "this program failed on it: {text}"
        )))
    })
}
