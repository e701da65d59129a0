//! A cache folder for each test, and `sam3` run on it.

use std::fs;
use std::path::{Path, PathBuf};

use assert_cmd::Command;

use crate::server::{COMMIT, Server, sha256};

/// A release without known size and checksum, so that it may hold anything.
pub const NAME: &str = "efficientsam3-rv-m";
pub const FILE: &str = "efficientsam3_ft/efficientsam3_repvit.pt";
pub const REPO: &str = "models--Simon7108528--EfficientSAM3";

/// A home of its own for each test, and what it holds.
pub struct Home {
    pub folder: tempfile::TempDir,
    pub endpoint: String,
}

impl Home {
    pub fn new(server: &Server) -> Self {
        Self {
            folder: tempfile::tempdir().unwrap(),
            endpoint: server.endpoint(),
        }
    }

    pub fn program(&self) -> std::process::Command {
        let mut command = std::process::Command::new(assert_cmd::cargo::cargo_bin("sam3"));
        for name in [
            "HF_HUB_CACHE",
            "HUGGINGFACE_HUB_CACHE",
            "HF_HUB_OFFLINE",
            "HF_TOKEN",
            "HUGGING_FACE_HUB_TOKEN",
            "HF_TOKEN_PATH",
            "HTTP_PROXY",
            "http_proxy",
            "ALL_PROXY",
            "all_proxy",
        ] {
            command.env_remove(name);
        }
        command.env("HF_HOME", self.folder.path());
        command.env("HF_ENDPOINT", &self.endpoint);
        command
    }

    pub fn sam3(&self, args: &[&str]) -> Command {
        let mut command = self.program();
        command.args(args);
        Command::from_std(command)
    }

    pub fn fetch(&self) -> Command {
        self.sam3(&["models", "fetch", NAME])
    }

    pub fn repo(&self) -> PathBuf {
        self.folder.path().join("hub").join(REPO)
    }

    pub fn file(&self) -> PathBuf {
        self.repo().join("snapshots").join(COMMIT).join(FILE)
    }

    pub fn blob(&self, bytes: &[u8]) -> PathBuf {
        self.repo().join("blobs").join(sha256(bytes))
    }

    pub fn part(&self, bytes: &[u8]) -> PathBuf {
        self.blob(bytes).with_extension("incomplete")
    }

    /// Names of the blobs, complete or not.
    pub fn blobs(&self) -> Vec<String> {
        let Ok(entries) = fs::read_dir(self.repo().join("blobs")) else {
            return vec![];
        };
        let names = entries.map(|entry| entry.unwrap().file_name());
        names.map(|name| name.into_string().unwrap()).collect()
    }
}

/// Bytes that repeat nowhere near.
pub fn noise(len: usize) -> Vec<u8> {
    let mut state = 1u32;
    let mut next = || {
        state = state.wrapping_mul(1664525).wrapping_add(1013904223);
        (state >> 24) as u8
    };
    (0..len).map(|_| next()).collect()
}

pub fn scene() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/scenes/shapes.png")
}
