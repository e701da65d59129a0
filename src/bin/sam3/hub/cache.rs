//! Paths of the Hugging Face cache, as the Python client lays it out:
//! <https://huggingface.co/docs/huggingface_hub/guides/manage-cache>.

use std::fs;
use std::path::{Path, PathBuf};

use candle_sam3::models::variant::Release;

/// The branch that a release without a revision follows.
pub const MAIN: &str = "main";

/// The folder of one repository.
pub struct Repository {
    folder: PathBuf,
}

impl Repository {
    pub fn of(cache: &Path, release: &Release) -> Self {
        Self {
            folder: cache.join(Self::name(release)),
        }
    }

    /// `models--owner--name`
    pub fn name(release: &Release) -> String {
        format!("models--{}", release.repository.replace('/', "--"))
    }

    /// Where contents of this name are.
    pub fn blob(&self, etag: &str) -> PathBuf {
        self.folder.join("blobs").join(etag)
    }

    /// Where a file of a commit is linked.
    pub fn snapshot(&self, commit: &str, file: &str) -> PathBuf {
        self.folder.join("snapshots").join(commit).join(file)
    }

    /// The file that names the commit of the main branch.
    pub fn main(&self) -> PathBuf {
        self.folder.join("refs").join(MAIN)
    }

    /// A file of the main branch as it was when it was last looked at.
    pub fn in_main(&self, file: &str) -> Option<PathBuf> {
        let commit = fs::read_to_string(self.main()).ok()?;
        Some(self.snapshot(commit.trim(), file))
    }
}
