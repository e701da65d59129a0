//! Where the bytes of a checkpoint are: a mapped file or memory.

use crate::error::{Error, Result};
use memmap2::Mmap;
use std::fmt;
use std::fs::File;
use std::ops::Range;
use std::path::Path;

/// Bytes that live as long as somebody holds a tensor in them.
pub(super) enum Source {
    Mapped(Mmap),
    Memory(Box<dyn AsRef<[u8]> + Send + Sync>),
}

/// What a file turns out to be.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Format {
    Torch,
    Safetensors,
}

impl Source {
    pub(super) fn open(path: &Path) -> Result<Self> {
        let file = File::open(path).map_err(|e| Error::io(path, e))?;
        let size = file.metadata().map_err(|e| Error::io(path, e))?.len();
        if size == 0 {
            return Err(Error::checkpoint(path, "the file is empty"));
        }
        // SAFETY: the map is read-only. Whoever shortens the file while it is in use gets SIGBUS,
        // as with every program that maps weights; no reader of weights can prevent that.
        let map = unsafe { Mmap::map(&file) }.map_err(|e| Error::io(path, e))?;
        Ok(Self::Mapped(map))
    }

    pub(super) fn bytes(&self) -> &[u8] {
        match self {
            Self::Mapped(map) => map,
            Self::Memory(bytes) => (**bytes).as_ref(),
        }
    }

    /// Asks for these bytes ahead of reading them one page at a time.
    pub(super) fn prefetch(&self, range: &Range<usize>) {
        #[cfg(unix)]
        if let Self::Mapped(map) = self {
            // Advice may be refused; the bytes then come page by page.
            let _ = map.advise_range(memmap2::Advice::WillNeed, range.start, range.len());
        }
        #[cfg(not(unix))]
        let _ = range;
    }

    /// Takes pages that were copied out of this process again, so that loading does not hold
    /// the weights twice.
    pub(super) fn release(&self, range: &Range<usize>) {
        #[cfg(unix)]
        if let Self::Mapped(map) = self {
            let advice = memmap2::UncheckedAdvice::DontNeed;
            // SAFETY: on a read-only map of a file this only drops page table entries; the next
            // read brings the same bytes back. Refused advice costs memory and nothing else.
            let _ = unsafe { map.unchecked_advise_range(advice, range.start, range.len()) };
        }
        #[cfg(not(unix))]
        let _ = range;
    }
}

impl fmt::Debug for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Source({} bytes)", self.bytes().len())
    }
}

/// Tells a weight file by its first bytes, and says what else it is if it is none.
pub(super) fn format_of(bytes: &[u8]) -> Result<Format, String> {
    let start = bytes.trim_ascii_start();
    match bytes {
        [] => Err("the file is empty".into()),
        [b'P', b'K', 3, 4, ..] => Ok(Format::Torch),
        [_, _, _, _, _, _, _, _, b'{', ..] => Ok(Format::Safetensors),
        _ if bytes.starts_with(b"version https://git-lfs") => Err(lfs_pointer(bytes)),
        [0x80, 1..=5, ..] => Err(
            "this is the legacy torch format (or a bare pickle); load it with torch and \
             torch.save it again to get the zip format of torch 1.6 and later"
                .into(),
        ),
        [b'G', b'G', b'U', b'F', ..] => {
            Err("this is a GGUF file; .pt or safetensors are needed".into())
        }
        _ if start.starts_with(b"<") => Err(
            "this is an HTML or XML page, not weights; the download probably needs a login or an \
             accepted licence"
                .into(),
        ),
        _ if start.starts_with(b"{") => Err(
            "this is JSON, not weights; pass the directory, the .safetensors or .pt file, or the \
             *.safetensors.index.json of a sharded model"
                .into(),
        ),
        _ => Err(match words(bytes) {
            Some(words) => format!("this is a text and not weights; it says \"{words}\""),
            None if bytes.len() < 16 => {
                format!("the file is truncated: it has only {} bytes", bytes.len())
            }
            None => "neither a torch zip file (.pt, .pth) nor safetensors; is the download \
                     complete?"
                .into(),
        }),
    }
}

/// The first line of a text, such as the refusal that a hub sent instead of the weights.
fn words(bytes: &[u8]) -> Option<String> {
    const SHOWN: usize = 200;
    let start = &bytes[..bytes.len().min(4 * SHOWN)];
    let text = match std::str::from_utf8(start) {
        Ok(text) => text,
        // cut within a letter
        Err(e) if start.len() < bytes.len() && e.valid_up_to() + 4 > start.len() => {
            std::str::from_utf8(&start[..e.valid_up_to()]).ok()?
        }
        Err(_) => return None,
    };
    if text.chars().any(|c| c.is_control() && !c.is_whitespace()) {
        return None;
    }
    let line = text.lines().map(str::trim).find(|line| !line.is_empty())?;
    // A few letters are more likely the rest of something else.
    line.contains(' ')
        .then(|| line.chars().take(SHOWN).collect())
}

/// `version …\noid sha256:…\nsize N\n`
fn lfs_pointer(bytes: &[u8]) -> String {
    let text = String::from_utf8_lossy(&bytes[..bytes.len().min(512)]);
    let size = text.lines().find_map(|line| line.strip_prefix("size "));
    let of = size.map_or(String::new(), |size| format!(" to a file of {size} bytes"));
    format!("this is a Git LFS pointer{of}, not the weights; run `git lfs pull` or download it")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_that_are_no_weights_are_called_by_their_name() {
        let cases: &[(&[u8], &str)] = &[
            (b"", "empty"),
            (
                b"version https://git-lfs.github.com/spec/v1\noid sha256:ab\nsize 3450062241\n",
                "Git LFS pointer to a file of 3450062241 bytes",
            ),
            (b"<!DOCTYPE html><html>", "HTML"),
            (b"\n  <html>", "HTML"),
            (b"{\"error\": \"gated\"}", "JSON"),
            (b"\x80\x02\x8a\x0al\xfc\x9c", "legacy torch format"),
            (b"GGUF\x03\0\0\0", "GGUF"),
            (b"PK", "truncated"),
            (b"lorem\x00 ipsum dolor sit amet", "neither"),
            (
                b"Access to model facebook/sam3 is restricted.\nVisit it to ask",
                "a text and not weights; it says \"Access to model facebook/sam3 is restricted.\"",
            ),
        ];
        for (bytes, want) in cases {
            let got = format_of(bytes).unwrap_err();
            assert!(got.contains(want), "{got}");
        }
        assert_eq!(format_of(b"PK\x03\x04rest"), Ok(Format::Torch));
        assert_eq!(format_of(b"\x10\0\0\0\0\0\0\0{}"), Ok(Format::Safetensors));
    }
}
