//! What a run leaves in its folder to go on from.

use std::fs::{self, File, TryLockError};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use candle_sam3::output::video::{JOURNAL, Writer};
use candle_sam3::output::write_file;
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
        let path = self.folder.join(LOCK);
        let file = File::create(&path).with_context(|| path.display().to_string())?;
        match file.try_lock() {
            Ok(()) => self.lock = Some(file),
            Err(TryLockError::WouldBlock) => {
                bail!("another process is working on {}", self.results.display())
            }
            Err(TryLockError::Error(e)) => {
                return Err(e).with_context(|| path.display().to_string());
            }
        }
        Ok(())
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
        let name = self.results.display();
        let Ok(json) = fs::read(&path) else {
            bail!("{name} holds no run that was stopped; run without --resume");
        };
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
        self.lock()
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
        drop(self.lock.take()); // some systems do not remove an open file
        for name in [STATE, SETTINGS, LOCK] {
            let path = self.folder.join(name);
            match fs::remove_file(&path) {
                Err(e) if e.kind() != std::io::ErrorKind::NotFound => {
                    return Err(e).with_context(|| path.display().to_string());
                }
                _ => {}
            }
        }
        let removed = fs::remove_dir(&self.folder);
        removed.with_context(|| self.folder.display().to_string())
    }
}
