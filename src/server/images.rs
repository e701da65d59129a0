//! Pictures and what the model knows of them, by content, within a budget of bytes.

use std::collections::HashMap;
use std::fmt;
use std::str::FromStr;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Instant;

use axum::http::StatusCode;
use sha2::{Digest, Sha256};
use tokio::sync::watch;
use tokio::task::AbortHandle;

use super::engine::Outcome;
use super::error::{ApiError, Result};
use super::lock;
use crate::models::Embedding;
use crate::{CancelToken, Image, Size};

/// Pictures kept at most, however small they are.
const MAX_PICTURES: usize = 4096;

/// The first 128 bits of the SHA-256 of a picture's file, as 32 hexadecimal digits.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct ImageId(u128);

impl ImageId {
    /// The id of a file's bytes.
    pub fn of(file: &[u8]) -> Self {
        let digest = Sha256::digest(file);
        Self(u128::from_be_bytes(std::array::from_fn(|i| digest[i])))
    }
}

impl fmt::Display for ImageId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:032x}", self.0)
    }
}

impl FromStr for ImageId {
    type Err = ApiError;

    fn from_str(text: &str) -> Result<Self> {
        let is_id = text.len() == 32 && text.bytes().all(|byte| byte.is_ascii_hexdigit());
        match u128::from_str_radix(text, 16) {
            Ok(id) if is_id => Ok(Self(id)),
            _ => Err(ApiError::bad_request(
                "an image id has 32 hexadecimal digits",
                "use the id that the upload answered",
            )),
        }
    }
}

/// An uploaded picture.
pub struct Picture {
    /// Made of the file's bytes.
    pub id: ImageId,
    /// Its pixels, EXIF orientation applied.
    pub image: Image,
    encoding: Mutex<Encoding>,
    /// The task that encodes ahead of any question.
    ahead: Mutex<Option<AbortHandle>>,
}

/// How far the encoder is with a picture.
pub(super) enum Encoding {
    /// Nobody asked yet, or everybody left.
    No,
    /// Queued or running.
    Pending(Pending),
    /// Done; the encoder took this many milliseconds.
    Done(Arc<Embedding>, u64),
}

/// An encode that somebody waits for.
pub(super) struct Pending {
    /// Set when the last one who waits is gone.
    pub cancel: CancelToken,
    /// Those who wait.
    pub waiting: usize,
    /// Where the result appears.
    pub result: watch::Receiver<Outcome>,
}

impl Picture {
    /// A decoded file.
    pub fn new(id: ImageId, image: Image) -> Self {
        Self {
            id,
            image,
            encoding: Mutex::new(Encoding::No),
            ahead: Mutex::default(),
        }
    }

    /// Remembers the task that encodes ahead.
    pub fn stay(&self, task: AbortHandle) {
        *lock(&self.ahead) = Some(task);
    }

    /// Ends the task that encodes ahead; others who wait keep the encode running.
    pub fn leave(&self) {
        let task = lock(&self.ahead).take();
        if let Some(task) = task {
            task.abort();
        }
    }

    /// Its size in pixels.
    pub fn size(&self) -> Size {
        self.image.size()
    }

    /// "no", "pending" or "done".
    pub fn state(&self) -> &'static str {
        match *self.encoding() {
            Encoding::No => "no",
            Encoding::Pending(_) => "pending",
            Encoding::Done(..) => "done",
        }
    }

    /// The embedding, if there is one.
    pub fn embedding(&self) -> Option<Arc<Embedding>> {
        match &*self.encoding() {
            Encoding::Done(embedding, _) => Some(Arc::clone(embedding)),
            _ => None,
        }
    }

    /// Milliseconds that the encoder took, once it is done.
    pub fn encode_ms(&self) -> Option<u64> {
        match *self.encoding() {
            Encoding::Done(_, ms) => Some(ms),
            _ => None,
        }
    }

    /// Memory that the picture keeps.
    fn bytes(&self) -> u64 {
        let embedding = self.embedding().map_or(0, |embedding| embedding.bytes());
        (self.image.pixels().len() + embedding) as u64
    }

    pub(super) fn encoding(&self) -> MutexGuard<'_, Encoding> {
        lock(&self.encoding)
    }
}

/// The pictures that are kept; the least recently used go first.
pub struct Images {
    budget: u64,
    kept: Mutex<HashMap<ImageId, Kept>>,
}

struct Kept {
    picture: Arc<Picture>,
    used: Instant,
}

impl Images {
    /// Keeps pictures and embeddings of `budget` bytes; the newest picture is always kept.
    pub fn new(budget: u64) -> Self {
        Self {
            budget,
            kept: Mutex::default(),
        }
    }

    /// A picture that is kept, which counts as use.
    ///
    /// # Errors
    /// 404 when there is none of this id.
    pub fn get(&self, id: ImageId) -> Result<Arc<Picture>> {
        self.find(id).ok_or_else(|| {
            ApiError::new(
                StatusCode::NOT_FOUND,
                "unknown_image",
                format!("no image {id} is kept"),
                "upload it again",
            )
        })
    }

    /// As [`Images::get`].
    pub fn find(&self, id: ImageId) -> Option<Arc<Picture>> {
        let mut kept = lock(&self.kept);
        let found = kept.get_mut(&id)?;
        found.used = Instant::now();
        Some(Arc::clone(&found.picture))
    }

    /// Keeps a picture, or returns the equal one that is kept.
    pub fn insert(&self, picture: Picture) -> Arc<Picture> {
        let id = picture.id;
        let mut kept = lock(&self.kept);
        let entry = kept.entry(id).or_insert_with(|| Kept {
            picture: Arc::new(picture),
            used: Instant::now(),
        });
        entry.used = Instant::now();
        let picture = Arc::clone(&entry.picture);
        drop(kept);
        self.shrink(id);
        picture
    }

    /// Forgets a picture; whoever still works on it finishes.
    pub fn remove(&self, id: ImageId) -> bool {
        lock(&self.kept).remove(&id).is_some()
    }

    /// Drops the least recently used pictures until the rest is within the budget, but not
    /// `newest`. To be called after an encode too: embeddings weigh more than pictures.
    pub fn shrink(&self, newest: ImageId) {
        let mut kept = lock(&self.kept);
        let mut bytes: u64 = kept.values().map(|kept| kept.picture.bytes()).sum();
        while bytes > self.budget || kept.len() > MAX_PICTURES {
            let others = kept.iter().filter(|(id, _)| **id != newest);
            let Some(oldest) = others.min_by_key(|(_, kept)| kept.used).map(|(id, _)| *id) else {
                break;
            };
            if let Some(dropped) = kept.remove(&oldest) {
                bytes -= dropped.picture.bytes().min(bytes);
            }
        }
    }

    /// How many pictures are kept, and their bytes.
    pub fn usage(&self) -> (usize, u64) {
        let kept = lock(&self.kept);
        let bytes = kept.values().map(|kept| kept.picture.bytes()).sum();
        (kept.len(), bytes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn picture(name: u8, side: usize) -> Picture {
        let image = Image::from_rgb8(side, side, vec![name; side * side * 3]).unwrap();
        Picture::new(ImageId::of(&[name]), image)
    }

    #[test]
    fn an_id_is_read_as_it_is_written() {
        let id = ImageId::of(b"picture");
        assert_eq!(id.to_string().parse::<ImageId>().unwrap(), id);
        for wrong in [
            "",
            "xyz",
            &"g".repeat(32),
            &"é".repeat(16),
            &"+1".repeat(16),
        ] {
            assert_eq!(wrong.parse::<ImageId>().unwrap_err().status, 400, "{wrong}");
        }
    }

    #[test]
    fn equal_files_are_one_picture() {
        let images = Images::new(1 << 20);
        let first = images.insert(picture(1, 4));
        let again = images.insert(picture(1, 4));
        assert!(Arc::ptr_eq(&first, &again));
        assert_eq!(images.usage(), (1, 48));
    }

    #[test]
    fn the_least_recently_used_go_first() {
        let images = Images::new(100); // two pictures of 48 bytes
        let [a, b, c] = [1, 2, 3].map(|name| ImageId::of(&[name]));
        images.insert(picture(1, 4));
        images.insert(picture(2, 4));
        images.get(a).unwrap();
        images.insert(picture(3, 4));
        assert!(images.find(a).is_some() && images.find(c).is_some());
        let error = images.get(b).map(|_| ()).unwrap_err();
        assert_eq!((error.status.as_u16(), error.code), (404, "unknown_image"));
    }

    #[test]
    fn a_picture_over_the_budget_is_kept_alone() {
        let images = Images::new(100);
        images.insert(picture(1, 4));
        images.insert(picture(2, 9));
        assert_eq!(images.usage(), (1, 243));
        assert!(images.remove(ImageId::of(&[2])) && !images.remove(ImageId::of(&[2])));
    }
}
