//! A model is downloaded once, into the cache that the Python client shares.

use std::fs;
use std::path::Path;
use std::time::Duration;

use crate::home::{FILE, Home, NAME, REPO, noise, scene};
use crate::server::{COMMIT, Server, sha256};

#[test]
fn a_name_is_downloaded_once_and_then_found_without_network() {
    let demo = Path::new(env!("CARGO_MANIFEST_DIR")).join("weights/demo.safetensors");
    let bytes = fs::read(demo).unwrap();
    let server = Server::serving(&bytes);
    let home = Home::new(&server);
    let scene = scene();
    let segment = |more: &[(&str, &str)]| {
        let args = ["segment", "--text", "triangles", "-o", "-", "-m", NAME];
        let mut command = home.sam3(&args);
        command.arg(&scene).envs(more.iter().copied());
        let stdout = command.assert().success().get_output().stdout.clone();
        let document: serde_json::Value = serde_json::from_slice(&stdout).unwrap();
        let found = document["prompts"][0]["instances"]
            .as_array()
            .unwrap()
            .len();
        assert_eq!(found, 2);
    };
    segment(&[]);
    let asked = server.requests().len();
    assert_eq!(server.ranges(), ["bytes=0-"]);
    assert!(
        server.requests()[0]
            .path
            .ends_with(&format!("/resolve/main/{FILE}"))
    );

    // the layout of the Python client
    assert_eq!(fs::read(home.blob(&bytes)).unwrap(), bytes);
    assert_eq!(fs::read(home.file()).unwrap(), bytes);
    assert_eq!(home.blobs(), [sha256(&bytes)]);
    assert_eq!(
        fs::read_to_string(home.repo().join("refs/main")).unwrap(),
        COMMIT
    );
    #[cfg(unix)]
    assert_eq!(
        fs::read_link(home.file()).unwrap(),
        Path::new("../../../blobs").join(sha256(&bytes))
    );

    segment(&[]);
    segment(&[("HF_HUB_OFFLINE", "1")]);
    segment(&[("HF_ENDPOINT", "http://127.0.0.1:1")]);
    assert_eq!(server.requests().len(), asked, "the network was touched");
}

#[test]
fn what_python_downloaded_is_used() {
    let server = Server::serving(b"");
    let home = Home::new(&server);
    for (file, text) in [("refs/main", "abc"), ("blobs/etag", "weights")] {
        let path = home.repo().join(file);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }
    let pointer = home.repo().join("snapshots/abc").join(FILE);
    fs::create_dir_all(pointer.parent().unwrap()).unwrap();
    fs::write(&pointer, "weights").unwrap();
    let path = format!("{}\n", pointer.display());
    home.fetch().assert().success().stdout(path);
    assert!(server.requests().is_empty());
}

#[test]
fn a_pinned_revision_is_what_is_asked_for() {
    let server = Server::serving(&noise(1000));
    let home = Home::new(&server);
    let fetch = || home.sam3(&["models", "fetch", "efficientsam3-tv-m"]);
    fetch().assert().success();
    let path = server.requests()[0].path.clone();
    let revision = "85b05896928f974e308f889d7ccb2eefc069de98";
    assert!(path.contains(revision), "{path}");
    assert!(!home.repo().join("refs").exists());
    assert!(home.repo().join("snapshots").join(revision).is_dir());
    let asked = server.requests().len();
    fetch().assert().success();
    assert_eq!(server.requests().len(), asked);
}

#[test]
fn the_token_goes_to_the_hub_and_not_to_where_it_redirects() {
    let server = Server::serving(&noise(1000));
    let home = Home::new(&server);
    fs::write(home.folder.path().join("token"), "hf_file\n").unwrap();
    let elsewhere = home.folder.path().join("elsewhere");
    fs::write(&elsewhere, "hf_elsewhere").unwrap();
    let fetch = |vars: &[(&str, &str)], token: &str| {
        let _ = fs::remove_dir_all(home.repo());
        let asked = server.requests().len();
        home.fetch().envs(vars.iter().copied()).assert().success();
        for request in &server.requests()[asked..] {
            let sent = request.headers.get("authorization").map(String::as_str);
            let is_hub = request.path.contains("/resolve/");
            let want = is_hub.then(|| format!("Bearer {token}"));
            assert_eq!(sent, want.as_deref(), "{}", request.path);
        }
    };
    fetch(&[], "hf_file");
    let elsewhere = elsewhere.to_str().unwrap();
    fetch(&[("HF_TOKEN_PATH", elsewhere)], "hf_elsewhere");
    fetch(&[("HF_TOKEN", "hf_var")], "hf_var");
}

#[test]
fn two_processes_download_one_file_once() {
    let bytes = noise(200_000);
    let server = Server::serving(&bytes);
    server.change(|b| b.slow = Duration::from_millis(500));
    let home = Home::new(&server);
    let start = || {
        let mut command = home.program();
        command.args(["models", "fetch", NAME]);
        command.stdout(std::process::Stdio::piped());
        command.stderr(std::process::Stdio::piped());
        command.spawn().unwrap()
    };
    let both = [start(), start()];
    for child in both {
        let output = child.wait_with_output().unwrap();
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(output.status.success(), "{said}");
        assert_eq!(
            output.stdout,
            format!("{}\n", home.file().display()).as_bytes()
        );
    }
    assert_eq!(server.ranges(), ["bytes=0-"]);
    assert_eq!(fs::read(home.file()).unwrap(), bytes);
    assert_eq!(home.blobs(), [sha256(&bytes)]);
}

#[test]
fn other_places_for_the_cache_are_used() {
    let bytes = noise(1000);
    let server = Server::serving(&bytes);
    let home = Home::new(&server);
    for variable in ["HF_HUB_CACHE", "HUGGINGFACE_HUB_CACHE"] {
        let cache = home.folder.path().join(variable);
        home.fetch().env(variable, &cache).assert().success();
        assert!(
            cache
                .join(REPO)
                .join("blobs")
                .join(sha256(&bytes))
                .is_file()
        );
    }
}

#[test]
fn a_quiet_download_prints_only_the_path() {
    let server = Server::serving(&noise(1000));
    let home = Home::new(&server);
    let path = format!("{}\n", home.file().display());
    let mut command = home.sam3(&["models", "fetch", NAME, "-q"]);
    command.assert().success().stdout(path).stderr("");
}
