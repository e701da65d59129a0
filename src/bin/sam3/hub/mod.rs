//! From a model's name to a file in the Hugging Face cache.
//!
//! The cache is laid out as the Python client lays it out, so that both share their downloads:
//! `blobs/ETAG` holds the contents, `snapshots/COMMIT/FILE` links to them, `refs/main` names the
//! commit. What is not complete and checked is `blobs/ETAG.incomplete`, and a lock under `.locks`
//! keeps two processes from writing to it.

mod cache;
mod refusal;
mod request;
mod settings;
mod transfer;

use std::fs::{self, File, TryLockError};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, anyhow, bail};
use candle_sam3::models::variant::Release;

use crate::progress;
use cache::Repository;
use request::{Client, Failure, Metadata};

pub use settings::Settings;

/// The file of a release if it is in the cache; never touches the network.
pub fn cached(settings: &Settings, release: &Release) -> Option<PathBuf> {
    let repo = Repository::of(&settings.cache, release);
    let linked = match &release.revision {
        Some(commit) => Some(repo.snapshot(commit, &release.file)),
        None => repo.in_main(&release.file),
    };
    // the same contents may have come with another commit
    let same = release.sha256.as_ref().map(|sha256| repo.blob(sha256));
    let mut found = [linked, same].into_iter().flatten();
    found.find(|path| is_file(path, release.size))
}

/// Whether revision, size and checksum of a release are known here.
pub fn is_pinned(release: &Release) -> bool {
    release.revision.is_some() && release.size.is_some() && release.sha256.is_some()
}

/// Says what is not known of a file before it is downloaded.
fn warn_of_what_is_not_pinned(settings: &Settings, release: &Release, metadata: &Metadata) {
    if is_pinned(release) {
        return;
    }
    let check = match metadata.sha256() {
        Some(_) => "only the checksum that the same server announces",
        None => "nothing: the server announces no checksum",
    };
    tracing::warn!(
        "{} is not pinned: its revision, size and SHA-256 are not known here, so what {} has now is \
         taken, and checked against {check}",
        release.name,
        settings.shown()
    );
}

/// Whether there is a file, of this size where it is known.
fn is_file(path: &Path, size: Option<u64>) -> bool {
    let file = fs::metadata(path).ok().filter(fs::Metadata::is_file);
    file.is_some_and(|file| size.is_none_or(|size| size == file.len()))
}

/// The file of a release, downloaded if it is not in the cache.
pub fn fetch(settings: &Settings, release: &Release) -> Result<PathBuf> {
    fetch_or_explain(settings, release).map_err(|error| without_secrets(settings, &error))
}

/// No message may hold the token or a password, whoever wrote it.
fn without_secrets(settings: &Settings, error: &anyhow::Error) -> anyhow::Error {
    anyhow!(settings.without_secrets(&format!("{error:#}")))
}

fn fetch_or_explain(settings: &Settings, release: &Release) -> Result<PathBuf> {
    if let Some(path) = cached(settings, release) {
        return Ok(path);
    }
    let name = &release.name;
    if settings.offline {
        bail!(
            "{name} is not in {} and HF_HUB_OFFLINE forbids to download it; unset it, or pass a \
             file that you have: {}",
            settings.cache.display(),
            settings.instead
        );
    }
    let explain = |failure| explain(settings, failure, name);
    let client = Client::new(settings, release);
    let metadata = client.metadata().map_err(explain)?;
    agree(settings, release, &metadata)?;
    warn_of_what_is_not_pinned(settings, release, &metadata);

    let repo = Repository::of(&settings.cache, release);
    let blob = repo.blob(&metadata.etag);
    let commit = release.revision.as_ref().unwrap_or(&metadata.commit);
    let pointer = repo.snapshot(commit, &release.file);
    for file in [&blob, &pointer] {
        create_folder_of(file)?;
    }
    let _lock = lock(settings, release, &metadata.etag)?;
    if !is_file(&blob, metadata.size) {
        transfer::download(&client, release, &metadata, &blob)?;
    }
    link(&blob, &pointer)?;
    if release.revision.is_none() {
        create_folder_of(&repo.main())?;
        fs::write(repo.main(), &metadata.commit).with_context(|| unwritable(&pointer))?;
    }
    Ok(pointer)
}

/// Whether the hub has the file of a release.
pub fn offers(settings: &Settings, release: &Release) -> Result<bool> {
    match Client::new(settings, release).metadata() {
        Ok(_) => Ok(true),
        Err(Failure::Missing(_)) => Ok(false),
        Err(failure) => {
            let error = explain(settings, failure, &release.name);
            Err(without_secrets(settings, &error))
        }
    }
}

fn explain(settings: &Settings, failure: Failure, name: &str) -> anyhow::Error {
    match failure {
        Failure::Network(problem) => anyhow!(
            "cannot reach the hub to download {name}: {problem}; check the connection, or pass a \
             file that you have: {}",
            settings.instead
        ),
        Failure::Busy(why) | Failure::Missing(why) | Failure::Refused(why) => anyhow!(why),
    }
}

/// Refuses another file than the one the manifest knows, before it is downloaded.
fn agree(settings: &Settings, release: &Release, metadata: &Metadata) -> Result<()> {
    let (name, endpoint) = (&release.name, settings.shown());
    if let (Some(known), Some(size)) = (release.size, metadata.size)
        && known != size
    {
        bail!(
            "{endpoint} offers {size} bytes for {name}, but the file known by that name has {known}"
        );
    }
    if let (Some(known), Some(sha256)) = (&release.sha256, metadata.sha256())
        && known != sha256
    {
        bail!(
            "{endpoint} offers another file for {name}: its SHA-256 is {sha256}, but the file \
             known by that name has {known}"
        );
    }
    Ok(())
}

/// Waits until no other process, of Python either, downloads the same file.
fn lock(settings: &Settings, release: &Release, etag: &str) -> Result<File> {
    let folder = Repository::name(release);
    let path = settings.cache.join(".locks").join(folder);
    let path = path.join(format!("{etag}.lock"));
    create_folder_of(&path)?;
    let file = File::options().create(true).append(true).open(&path);
    let file = file.with_context(|| unwritable(&path))?;
    match file.try_lock() {
        Ok(()) => {}
        Err(TryLockError::WouldBlock) => {
            progress::say(&format!(
                "another process downloads {}; waiting for it",
                release.name
            ));
            file.lock().with_context(|| unwritable(&path))?;
        }
        // some network file systems have no locks; then two processes are not kept apart
        Err(TryLockError::Error(error)) => tracing::debug!("{}: {error}", path.display()),
    }
    Ok(file)
}

/// Makes the contents visible under the file's name, relative so that the cache can be moved.
fn link(blob: &Path, pointer: &Path) -> Result<()> {
    if pointer.is_file() {
        return Ok(());
    }
    let up = || -> Option<PathBuf> {
        let root = blob.parent()?.parent()?;
        let depth = pointer.parent()?.strip_prefix(root).ok()?.components();
        Some(depth.map(|_| "..").collect())
    };
    let up = up().context("the snapshot is not beside its contents")?;
    let target = up.join("blobs").join(blob.file_name().unwrap_or_default());
    if fs::symlink_metadata(pointer).is_ok() {
        // a link to contents that were deleted
        fs::remove_file(pointer).with_context(|| unwritable(pointer))?;
    }
    #[cfg(unix)]
    let linked = std::os::unix::fs::symlink(&target, pointer);
    #[cfg(windows)]
    let linked = std::os::windows::fs::symlink_file(&target, pointer);
    // file systems without links get the file itself
    linked
        .or_else(|_| fs::rename(blob, pointer))
        .with_context(|| unwritable(pointer))
}

fn create_folder_of(file: &Path) -> Result<()> {
    let folder = file.parent().unwrap_or(file);
    fs::create_dir_all(folder).with_context(|| unwritable(folder))
}

fn unwritable(path: &Path) -> String {
    format!(
        "cannot write {}, which is in the model cache; HF_HUB_CACHE or HF_HOME put the cache \
         elsewhere",
        path.display()
    )
}
