//! Decoding ahead of the model.

use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{self, Receiver};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::{Duration, Instant};

use super::{Source, unwinding};
use crate::error::Result;
use crate::image::{DecodeOptions, Image};

/// Pictures that wait for the model.
const AHEAD: usize = 4;

/// And their bytes, if there is more than one: the largest pictures have half of this.
const BYTES_AHEAD: usize = 1 << 30;

/// A decoded picture.
pub(super) struct Decoded {
    pub(super) source: Source,
    pub(super) image: Result<Image>,
    pub(super) took: Duration,
}

/// A thread that decodes the pictures of a list.
pub(super) struct Decoder {
    decoded: Receiver<Decoded>,
    waiting: Arc<Waiting>,
}

impl Decoder {
    pub(super) fn start(
        sources: impl Iterator<Item = Source> + Send + 'static,
        options: DecodeOptions,
    ) -> Self {
        let (sender, decoded) = mpsc::sync_channel(AHEAD);
        let waiting = Arc::new(Waiting::default());
        let shared = waiting.clone();
        std::thread::spawn(move || {
            for source in sources {
                let start = Instant::now();
                let image = unwinding(|| open(&source.path, &options));
                let took = start.elapsed();
                shared.add(image.as_ref().map_or(0, bytes));
                let decoded = Decoded {
                    source,
                    image,
                    took,
                };
                if shared.is_over() || sender.send(decoded).is_err() {
                    return;
                }
            }
        });
        Self { decoded, waiting }
    }

    /// The next picture of the list; `None` after the last.
    pub(super) fn next(&self) -> Option<Decoded> {
        let decoded = self.decoded.recv().ok()?;
        self.waiting.remove(decoded.image.as_ref().map_or(0, bytes));
        Some(decoded)
    }

    /// The next `count` pictures of the list, fewer at its end, with how long each was waited for.
    pub(super) fn take(&self, count: usize) -> Vec<(Decoded, Duration)> {
        let next = || {
            let start = Instant::now();
            self.next().map(|decoded| (decoded, start.elapsed()))
        };
        std::iter::from_fn(next).take(count).collect()
    }
}

impl Drop for Decoder {
    fn drop(&mut self) {
        self.waiting.finish();
    }
}

fn open(path: &Path, options: &DecodeOptions) -> Result<Image> {
    Ok(Image::open_with(path, options)?.image)
}

fn bytes(image: &Image) -> usize {
    image.pixels().len()
}

/// The bytes of pictures that are decoded and not yet taken.
#[derive(Default)]
struct Waiting {
    bytes: Mutex<usize>,
    fewer: Condvar,
    over: AtomicBool,
}

impl Waiting {
    /// Counts a picture, once there is room for it or no other waits.
    fn add(&self, count: usize) {
        let held = self.bytes.lock().unwrap_or_else(PoisonError::into_inner);
        let full =
            |bytes: &mut usize| *bytes > 0 && *bytes + count > BYTES_AHEAD && !self.is_over();
        let held = self.fewer.wait_while(held, full);
        *held.unwrap_or_else(PoisonError::into_inner) += count;
    }

    fn remove(&self, count: usize) {
        *self.bytes.lock().unwrap_or_else(PoisonError::into_inner) -= count;
        self.fewer.notify_all();
    }

    fn is_over(&self) -> bool {
        self.over.load(Ordering::Relaxed)
    }

    fn finish(&self) {
        self.over.store(true, Ordering::Relaxed);
        // Taken, so that the decoder is either before its check or waiting.
        let held = self.bytes.lock().unwrap_or_else(PoisonError::into_inner);
        drop(held);
        self.fewer.notify_all();
    }
}
