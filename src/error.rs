//! Errors, in classes a caller can act on.

use std::io::{self, ErrorKind};
use std::path::{Path, PathBuf};

/// The result of everything from loading weights upward.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// A failure class, so that a server, a binding or a command line can map it in one match.
///
/// Tensor arithmetic inside the models keeps candle's own error and arrives here as
/// [`Error::Tensor`]: it is not something a caller acts on.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A file or directory is missing.
    #[error("{} does not exist", path.display())]
    NotFound {
        /// The path that was asked for.
        path: PathBuf,
    },
    /// A checkpoint cannot be used: corrupt, of an unknown family, or with tensors that are
    /// missing, misshaped or left over.
    #[error("{}: {problem}", path.display())]
    Checkpoint {
        /// The checkpoint file or directory.
        path: PathBuf,
        /// The problem, and what would work.
        problem: String,
    },
    /// The image cannot be decoded, or its size is zero or absurd.
    #[error("invalid image: {0}")]
    InvalidImage(String),
    /// The prompt or an option makes no sense; says which value and which limit.
    #[error("invalid prompt: {reason}")]
    InvalidPrompt {
        /// Which value, which limit.
        reason: String,
    },
    /// A data set, its results or a run over it cannot be used: malformed, or not what belongs
    /// together.
    #[error("{}: {problem}", path.display())]
    Dataset {
        /// The file or directory.
        path: PathBuf,
        /// The problem, and what would work.
        problem: String,
    },
    /// A mask, run-length encoding or map of logits is inconsistent or of another size.
    #[error("invalid mask: {0}")]
    InvalidMask(String),
    /// An option is out of range; says which value and which limit.
    #[error("invalid argument: {0}")]
    InvalidArgument(String),
    /// The network computed NaN or infinity.
    #[error("{stage} computed NaN or infinity; {advice}")]
    NotFinite {
        /// The first stage whose result is not finite.
        stage: String,
        /// A remedy to try.
        advice: &'static str,
    },
    /// The caller asked the call to stop, see [`crate::CancelToken`].
    #[error("cancelled")]
    Cancelled,
    /// The model or the build cannot do this.
    #[error("{what} is not supported; {instead}")]
    Unsupported {
        /// The request.
        what: String,
        /// An alternative that works.
        instead: String,
    },
    /// Reading or writing failed.
    #[error("{}: {cause}", path.display())]
    Io {
        /// The file that was read or written.
        path: PathBuf,
        /// The operating system's error; part of the message, so not a `source` of it.
        cause: io::Error,
    },
    /// A tensor operation failed.
    #[error(transparent)]
    Tensor(#[from] candle::Error),
}

impl Error {
    pub(crate) fn checkpoint(path: impl AsRef<Path>, problem: impl Into<String>) -> Self {
        Self::Checkpoint {
            path: path.as_ref().to_path_buf(),
            problem: problem.into(),
        }
    }

    pub(crate) fn dataset(path: impl AsRef<Path>, problem: impl Into<String>) -> Self {
        Self::Dataset {
            path: path.as_ref().to_path_buf(),
            problem: problem.into(),
        }
    }

    pub(crate) fn prompt(reason: impl Into<String>) -> Self {
        Self::InvalidPrompt {
            reason: reason.into(),
        }
    }

    pub(crate) fn not_finite(stage: impl Into<String>) -> Self {
        Self::NotFinite {
            stage: stage.into(),
            advice: "compute in f32 (`--dtype f32`) or bf16 if this was f16, and check that the \
                     weights themselves hold no NaN",
        }
    }

    pub(crate) fn argument(reason: impl Into<String>) -> Self {
        Self::InvalidArgument(reason.into())
    }

    pub(crate) fn io(path: impl AsRef<Path>, cause: io::Error) -> Self {
        match cause.kind() {
            ErrorKind::NotFound => Self::NotFound {
                path: path.as_ref().to_path_buf(),
            },
            _ => Self::writing(path, cause),
        }
    }

    /// Not [`Error::NotFound`], which stands for something the caller asked for.
    pub(crate) fn writing(path: impl AsRef<Path>, cause: io::Error) -> Self {
        Self::Io {
            path: path.as_ref().to_path_buf(),
            cause,
        }
    }

    /// What is there may not be replaced.
    pub(crate) fn refused(path: impl AsRef<Path>, why: impl Into<String>) -> Self {
        Self::writing(path, io::Error::new(ErrorKind::AlreadyExists, why.into()))
    }
}
