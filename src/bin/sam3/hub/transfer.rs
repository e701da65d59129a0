//! The download of one file: resumed, counted, checked, and only then put into place.

use std::fs::{self, File};
use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, anyhow, bail};
use candle_sam3::models::variant::Release;
use indicatif::{DecimalBytes, ProgressBar};
use sha2::{Digest, Sha256};

use super::request::{Client, Failure, Metadata};
use crate::progress;

/// Attempts in a row that may bring nothing.
const ATTEMPTS: u32 = 4;
/// Bytes that make an attempt count as a success: a server that gives less would be asked for ever.
const ENOUGH: u64 = 1 << 16;
/// The longest file whose size nobody announced.
const LONGEST: u64 = 64 << 30;
/// The first pause between two attempts; it doubles.
const PAUSE: Duration = Duration::from_millis(250);
const CHUNK: usize = 1 << 20;

/// Downloads to `blob`, which must not be there; the caller holds the lock.
///
/// What came before is kept beside it, so that the next call goes on from there.
pub fn download(
    client: &Client,
    release: &Release,
    metadata: &Metadata,
    blob: &Path,
) -> Result<()> {
    let Release {
        name, repository, ..
    } = release;
    let size = metadata.size.or(release.size);
    let mut part = Part::open(blob)?;
    let kept = match part.len {
        0 => String::new(),
        len => format!(", {} are here already", DecimalBytes(len)),
    };
    let words = size.map_or("a file".into(), |size| DecimalBytes(size).to_string());
    progress::say(&format!(
        "downloading {name} from {repository}: {words}{kept}"
    ));
    let bar = progress::download(name, size.unwrap_or(0));
    let done = transfer(client, &mut part, size, &bar);
    bar.finish_and_clear();
    done.map_err(|problem| unfinished(problem, name, &part))?;

    let sha256 = part.sha256();
    let want = release.sha256.as_deref().or(metadata.sha256());
    if let Some(want) = want.filter(|want| !want.eq_ignore_ascii_case(&sha256)) {
        let _ = fs::remove_file(&part.path); // it cannot be resumed into anything right
        bail!(
            "the download of {name} is damaged and was deleted: its SHA-256 is {sha256}, not \
             {want}; try again"
        );
    }
    part.file.sync_all().with_context(|| full(&part.path))?;
    fs::rename(&part.path, blob).with_context(|| super::unwritable(blob))
}

/// Why an attempt ended early.
enum Problem {
    /// Another attempt may go further.
    Interrupted(anyhow::Error),
    Final(anyhow::Error),
}

impl From<Failure> for Problem {
    fn from(failure: Failure) -> Self {
        match failure {
            Failure::Network(problem) | Failure::Busy(problem) => {
                Self::Interrupted(anyhow!(problem))
            }
            Failure::Missing(problem) | Failure::Refused(problem) => Self::Final(anyhow!(problem)),
        }
    }
}

impl From<anyhow::Error> for Problem {
    fn from(error: anyhow::Error) -> Self {
        Self::Final(error)
    }
}

fn unfinished(problem: Problem, name: &str, part: &Part) -> anyhow::Error {
    let (Problem::Interrupted(problem) | Problem::Final(problem)) = problem;
    if part.len == 0 {
        let _ = fs::remove_file(&part.path);
        return problem;
    }
    let kept = DecimalBytes(part.len);
    problem.context(format!(
        "the download of {name} did not finish; the {kept} that came are kept, and the same \
         command goes on from there"
    ))
}

/// Attempts until all bytes are there.
fn transfer(
    client: &Client,
    part: &mut Part,
    size: Option<u64>,
    bar: &ProgressBar,
) -> Result<(), Problem> {
    let mut attempt = 1;
    loop {
        let before = part.len;
        let problem = match once(client, part, size, bar) {
            Err(Problem::Interrupted(problem)) => problem,
            done => return done,
        };
        let came = part.len.saturating_sub(before);
        attempt = if came >= ENOUGH { 1 } else { attempt + 1 };
        if attempt > ATTEMPTS {
            return Err(Problem::Interrupted(problem));
        }
        tracing::info!("{problem}; trying again");
        std::thread::sleep(PAUSE * 2u32.pow(attempt - 1));
    }
}

fn once(
    client: &Client,
    part: &mut Part,
    size: Option<u64>,
    bar: &ProgressBar,
) -> Result<(), Problem> {
    if size.is_some_and(|size| part.len > size) {
        part.restart()?; // of another file
    }
    if size == Some(part.len) {
        return Ok(());
    }
    let mut response = client.contents(part.len)?;
    if let (Some((_, Some(whole))), Some(size)) = (response.range(), size)
        && whole != size
    {
        part.restart()?;
        return Err(anyhow!("the server has {whole} bytes where it announced {size}").into());
    }
    let goes_on = match (response.status, response.range()) {
        (206, Some((start, _))) => start == part.len,
        (200 | 206, _) => part.len == 0,
        _ => false,
    };
    if !goes_on {
        part.restart()?;
        if response.status != 200 {
            return Err(Problem::Interrupted(anyhow!("the server cannot resume")));
        }
    }
    bar.set_position(part.len);
    bar.reset_eta(); // what was here already says nothing about the speed
    let mut chunk = vec![0; CHUNK];
    loop {
        let read = response.body.read(&mut chunk).map_err(|error| {
            let error = client.settings.printable(&error.to_string());
            Problem::Interrupted(anyhow!("the connection broke: {error}"))
        })?;
        if read == 0 {
            break;
        }
        part.append(&chunk[..read])?;
        bar.set_position(part.len);
        if part.len > size.unwrap_or(LONGEST) {
            part.restart()?;
            return Err(anyhow!("the server sends more than it announced").into());
        }
    }
    let came = part.len;
    match size {
        Some(size) if came < size => Err(Problem::Interrupted(anyhow!(
            "the server stopped after {came} of {size} bytes"
        ))),
        _ => Ok(()),
    }
}

/// The bytes that have come, and their checksum so far.
struct Part {
    path: PathBuf,
    file: File,
    len: u64,
    hash: Sha256,
}

impl Part {
    /// What an earlier call left, or nothing.
    fn open(blob: &Path) -> Result<Self> {
        let mut path = blob.as_os_str().to_owned();
        path.push(".incomplete");
        let path = PathBuf::from(path);
        let mut how = File::options();
        how.create(true).append(true).read(true);
        let file = how.open(&path).with_context(|| super::unwritable(&path))?;
        let mut hash = Sha256::new();
        let stored = file.metadata().with_context(|| full(&path))?.len();
        let len = std::io::copy(&mut (&file).take(stored), &mut hash);
        let len = len.with_context(|| path.display().to_string())?;
        Ok(Self {
            path,
            file,
            len,
            hash,
        })
    }

    fn append(&mut self, bytes: &[u8]) -> Result<()> {
        self.file
            .write_all(bytes)
            .with_context(|| full(&self.path))?;
        self.hash.update(bytes);
        self.len += bytes.len() as u64;
        Ok(())
    }

    fn restart(&mut self) -> Result<()> {
        self.file.set_len(0).with_context(|| full(&self.path))?;
        self.hash.reset();
        self.len = 0;
        Ok(())
    }

    fn sha256(&mut self) -> String {
        format!("{:x}", self.hash.finalize_reset())
    }
}

fn full(path: &Path) -> String {
    format!(
        "cannot write {}; make room, or let HF_HUB_CACHE or HF_HOME put the model cache on \
         another disk",
        path.display()
    )
}
