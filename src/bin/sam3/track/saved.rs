//! What a run leaves in its folder to go on from.

use std::fs::{self, File};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use candle_sam3::output::video::{JOURNAL, Writer};
use candle_sam3::write::{lock_file, remove_abandoned, write_file};
use serde_json::{Map, Value};

/// A hidden folder beside the results.
pub struct Saved {
    folder: PathBuf,
    results: PathBuf,
    /// Held, not used: one process at a time works on a run.
    lock: Option<File>,
}

const SETTINGS: &str = "run.json";
const STATE: &str = "state.safetensors";
const LOCK: &str = "lock";

impl Saved {
    /// Of the results in a folder.
    pub fn new(results: &Path) -> Self {
        Self {
            folder: results.join(".sam3"),
            results: results.to_path_buf(),
            lock: None,
        }
    }

    /// Keeps other processes out until this one ends.
    fn lock(&mut self) -> Result<()> {
        self.lock = lock_file(&self.folder.join(LOCK))?;
        if self.lock.is_none() {
            bail!("another process is working on {}", self.results.display());
        }
        Ok(remove_abandoned(&self.folder)?)
    }

    /// Refuses a folder that is not empty.
    pub fn check_new(&self) -> Result<()> {
        if self.folder.join(SETTINGS).is_file() {
            bail!(
                "{} holds a run that was stopped; --resume goes on with it, or name another folder",
                self.results.display()
            );
        }
        Ok(Writer::check(&self.results)?)
    }

    /// Notes everything that results depend on.
    pub fn begin(&mut self, settings: &Map<String, Value>) -> Result<()> {
        fs::create_dir_all(&self.folder).with_context(|| self.folder.display().to_string())?;
        self.lock()?;
        let json = serde_json::to_vec(settings)?;
        Ok(write_file(self.folder.join(SETTINGS), &json)?)
    }

    /// Refuses to go on with a run that is complete, or was made with other settings.
    pub fn check(&mut self, settings: &Map<String, Value>) -> Result<()> {
        let path = self.folder.join(SETTINGS);
        let nothing = format!(
            "{} holds no run that was stopped; run without --resume",
            self.results.display()
        );
        if !path.is_file() {
            bail!(nothing);
        }
        // Before reading: the other process may just be done.
        self.lock()?;
        let Ok(json) = fs::read(&path) else {
            bail!(nothing);
        };
        let name = self.results.display();
        let found: Map<String, Value> =
            serde_json::from_slice(&json).with_context(|| path.display().to_string())?;
        let mut keys = found.keys().chain(settings.keys());
        if let Some(key) = keys.find(|key| found.get(*key) != settings.get(*key)) {
            let value = found.get(key).unwrap_or(&Value::Null);
            bail!("{name} holds a run with {key} {value}; use the same, or another folder");
        }
        if !self.results.join(JOURNAL).is_file() {
            bail!("{name} lacks {JOURNAL}, which --resume goes on from; use another folder");
        }
        Ok(())
    }

    /// What a session was saved as; `None` if the run was stopped before.
    pub fn state(&self) -> Result<Option<Vec<u8>>> {
        let path = self.folder.join(STATE);
        match fs::read(&path) {
            Ok(state) => Ok(Some(state)),
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(None),
            Err(e) => Err(e).with_context(|| path.display().to_string()),
        }
    }

    pub fn save(&self, state: &[u8]) -> Result<()> {
        Ok(write_file(self.folder.join(STATE), state)?)
    }

    /// The run is complete: there is nothing to go on with.
    pub fn finish(mut self) -> Result<()> {
        remove(&self.folder.join(STATE))?;
        remove(&self.folder.join(SETTINGS))?;
        drop(self.lock.take()); // some systems do not remove an open file
        remove(&self.folder.join(LOCK))?;
        let removed = fs::remove_dir(&self.folder);
        removed.with_context(|| self.folder.display().to_string())
    }
}

/// Removes a file, if it is there.
fn remove(path: &Path) -> Result<()> {
    match fs::remove_file(path) {
        Err(e) if e.kind() != std::io::ErrorKind::NotFound => {
            Err(e).with_context(|| path.display().to_string())
        }
        _ => Ok(()),
    }
}
