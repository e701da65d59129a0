//! Models by name: what is downloaded, kept, resumed and refused, against a local server.

mod server;

use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use assert_cmd::Command;
use predicates::prelude::*;
use predicates::str::contains;
use server::{Behaviour, COMMIT, Server, sha256};

/// A release without known size and checksum, so that it may hold anything.
const NAME: &str = "efficientsam3-rv-m";
const FILE: &str = "efficientsam3_ft/efficientsam3_repvit.pt";
const REPO: &str = "models--Simon7108528--EfficientSAM3";

/// A home of its own for each test, and what it holds.
struct Home {
    folder: tempfile::TempDir,
    endpoint: String,
}

impl Home {
    fn new(server: &Server) -> Self {
        Self {
            folder: tempfile::tempdir().unwrap(),
            endpoint: server.endpoint(),
        }
    }

    fn program(&self) -> std::process::Command {
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

    fn sam3(&self, args: &[&str]) -> Command {
        let mut command = self.program();
        command.args(args);
        Command::from_std(command)
    }

    fn fetch(&self) -> Command {
        self.sam3(&["models", "fetch", NAME])
    }

    fn repo(&self) -> PathBuf {
        self.folder.path().join("hub").join(REPO)
    }

    fn file(&self) -> PathBuf {
        self.repo().join("snapshots").join(COMMIT).join(FILE)
    }

    fn blob(&self, bytes: &[u8]) -> PathBuf {
        self.repo().join("blobs").join(sha256(bytes))
    }

    fn part(&self, bytes: &[u8]) -> PathBuf {
        self.blob(bytes).with_extension("incomplete")
    }

    /// Names of the blobs, complete or not.
    fn blobs(&self) -> Vec<String> {
        let Ok(entries) = fs::read_dir(self.repo().join("blobs")) else {
            return vec![];
        };
        let names = entries.map(|entry| entry.unwrap().file_name());
        names.map(|name| name.into_string().unwrap()).collect()
    }
}

/// Bytes that repeat nowhere near.
fn noise(len: usize) -> Vec<u8> {
    let mut state = 1u32;
    let mut next = || {
        state = state.wrapping_mul(1664525).wrapping_add(1013904223);
        (state >> 24) as u8
    };
    (0..len).map(|_| next()).collect()
}

fn scene() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/scenes/shapes.png")
}

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
fn an_interrupted_transfer_goes_on_where_it_stopped() {
    let bytes = noise(300_000);
    let server = Server::serving(&bytes);
    server.change(|b| b.cuts = vec![100_000, 50_000]);
    let home = Home::new(&server);
    let path = format!("{}\n", home.file().display());
    home.fetch().assert().success().stdout(path);
    assert_eq!(
        server.ranges(),
        ["bytes=0-", "bytes=100000-", "bytes=150000-"]
    );
    assert_eq!(fs::read(home.file()).unwrap(), bytes);
}

#[test]
fn a_transfer_that_fails_is_resumed_by_the_next_command() {
    let bytes = noise(300_000);
    let server = Server::serving(&bytes);
    server.change(|b| b.cuts = vec![100_000, 0, 0, 0, 0, 0]);
    let home = Home::new(&server);
    home.fetch()
        .assert()
        .code(1)
        .stdout("")
        .stderr(contains("did not finish").and(contains("goes on from there")));
    assert_eq!(fs::read(home.part(&bytes)).unwrap(), bytes[..100_000]);
    assert!(!home.file().exists() && !home.blob(&bytes).exists());

    server.change(|b| b.cuts.clear());
    home.fetch().assert().success();
    assert_eq!(server.ranges().last().unwrap(), "bytes=100000-");
    assert_eq!(fs::read(home.file()).unwrap(), bytes);
}

#[test]
fn a_killed_download_is_resumed() {
    let bytes = noise(300_000);
    let server = Server::serving(&bytes);
    server.change(|b| b.stall = Some(120_000));
    let home = Home::new(&server);
    let mut child = home
        .program()
        .args(["models", "fetch", NAME, "-q"])
        .spawn()
        .unwrap();
    let since = Instant::now();
    let came = || fs::metadata(home.part(&bytes)).map_or(0, |part| part.len());
    while came() < 120_000 {
        assert!(since.elapsed() < Duration::from_secs(20), "nothing comes");
        std::thread::sleep(Duration::from_millis(10));
    }
    child.kill().unwrap();
    child.wait().unwrap();
    assert!(!home.file().exists() && !home.blob(&bytes).exists());

    server.change(|b| b.stall = None);
    home.fetch().assert().success();
    assert_eq!(server.ranges(), ["bytes=0-", "bytes=120000-"]);
    assert_eq!(fs::read(home.file()).unwrap(), bytes);
}

#[test]
fn leftovers_of_any_length_end_in_the_right_file() {
    let bytes = noise(10_000);
    let server = Server::serving(&bytes);
    let longer = [&bytes[..], b"more"].concat();
    for (left, asked) in [
        (&bytes[..], None),              // complete, but not in place yet
        (&longer[..], Some("bytes=0-")), // of another file
        (&bytes[..1], Some("bytes=1-")),
    ] {
        let home = Home::new(&server);
        fs::create_dir_all(home.part(&bytes).parent().unwrap()).unwrap();
        fs::write(home.part(&bytes), left).unwrap();
        let before = server.ranges().len();
        home.fetch().assert().success();
        assert_eq!(server.ranges().get(before).map(String::as_str), asked);
        assert_eq!(fs::read(home.file()).unwrap(), bytes);
        assert_eq!(home.blobs(), [sha256(&bytes)]);
    }
}

#[test]
fn damaged_contents_in_the_cache_are_replaced() {
    let bytes = noise(5_000);
    let server = Server::serving(&bytes);
    let home = Home::new(&server);
    fs::create_dir_all(home.blob(&bytes).parent().unwrap()).unwrap();
    fs::write(home.blob(&bytes), &bytes[..100]).unwrap();
    home.fetch().assert().success();
    assert_eq!(fs::read(home.file()).unwrap(), bytes);
    assert_eq!(home.blobs(), [sha256(&bytes)]);
}

#[test]
fn a_server_that_cannot_resume_starts_over() {
    let bytes = noise(50_000);
    let server = Server::serving(&bytes);
    server.change(|b| {
        b.no_ranges = true;
        b.cuts = vec![20_000];
    });
    let home = Home::new(&server);
    home.fetch().assert().success();
    assert_eq!(server.ranges(), ["bytes=0-", "bytes=20000-"]);
    assert_eq!(fs::read(home.file()).unwrap(), bytes);
}

#[test]
fn a_damaged_download_is_deleted_and_said() {
    let server = Server::serving(&noise(5_000));
    let wrong = "a".repeat(64);
    server.change(|b| b.etag = Some(wrong.clone()));
    let home = Home::new(&server);
    home.fetch()
        .assert()
        .code(1)
        .stdout("")
        .stderr(contains("damaged and was deleted").and(contains(&wrong)));
    assert_eq!(home.blobs(), [""; 0]);
    assert!(!home.file().exists());
}

#[test]
fn more_bytes_than_announced_are_refused() {
    let server = Server::serving(&noise(5_000));
    server.change(|b| b.size = Some(3_000));
    let home = Home::new(&server);
    let says = contains("5000 bytes where it announced 3000");
    home.fetch().assert().code(1).stderr(says);
    server.change(|b| b.no_ranges = true);
    let says = contains("more than it announced");
    home.fetch().assert().code(1).stderr(says);
    assert_eq!(home.blobs(), [""; 0]);
}

/// What the manifest pins is compared before anything is downloaded.
#[test]
fn another_file_than_the_known_one_is_refused_before_it_is_downloaded() {
    let server = Server::serving(&noise(5_000));
    let home = Home::new(&server);
    let fetch = || {
        home.sam3(&["models", "fetch", "mobile-sam"])
            .assert()
            .code(1)
    };
    fetch().stderr(contains("5000 bytes").and(contains("40728226")));
    server.change(|b| b.size = Some(40_728_226));
    fetch().stderr(contains("offers another file for mobile-sam"));
    assert_eq!(server.ranges(), [""; 0]);
    assert!(!home.folder.path().join("hub").exists());
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
fn a_refusal_says_what_would_help_and_leaves_nothing() {
    struct Case {
        model: &'static str,
        token: Option<&'static str>,
        reply: &'static str,
        says: &'static [&'static str],
    }
    let gated = "403 Forbidden\r\nX-Error-Code: GatedRepo\r\nX-Error-Message: Access is restricted";
    for Case {
        model,
        token,
        reply,
        says,
    } in [
        Case {
            model: "sam3",
            token: None,
            reply: "401 Unauthorized\r\nX-Error-Code: GatedRepo",
            says: &[
                "sam3 is gated",
                "https://huggingface.co/facebook/sam3",
                "HF_TOKEN",
                "/token",
                "-m FILE",
            ],
        },
        Case {
            model: "sam3",
            token: Some("hf_x"),
            reply: gated,
            says: &[
                "gated",
                "HTTP 403: Access is restricted",
                "token from HF_TOKEN",
            ],
        },
        Case {
            model: NAME,
            token: None,
            reply: "401 Unauthorized",
            says: &["HTTP 401", "no token was sent", "-m FILE"],
        },
        Case {
            model: NAME,
            token: Some("hf_x"),
            reply: "403 Forbidden\r\nX-Error-Message: no\u{9b}31mway",
            says: &["HTTP 403: no31mway", "token from HF_TOKEN does not open"],
        },
        Case {
            model: NAME,
            token: None,
            reply: "404 Not Found\r\nX-Error-Code: EntryNotFound",
            says: &["HTTP 404", FILE, "main"],
        },
        Case {
            model: NAME,
            token: None,
            reply: "429 Too Many Requests",
            says: &["HTTP 429", "try again later"],
        },
        Case {
            model: NAME,
            token: None,
            reply: "503 Service Unavailable",
            says: &["HTTP 503", "try again later"],
        },
        Case {
            model: NAME,
            token: None,
            reply: "200 OK\r\nContent-Type: text/html",
            says: &["does not answer like a Hugging Face hub", "HF_ENDPOINT"],
        },
        Case {
            model: NAME,
            token: None,
            reply: "302 Found",
            says: &["a redirect that leads nowhere"],
        },
        Case {
            model: NAME,
            token: None,
            reply: "302 Found\r\nLocation: /again",
            says: &["redirects without end"],
        },
        Case {
            model: NAME,
            token: None,
            reply: "302 Found\r\nX-Repo-Commit: c\r\nX-Linked-Etag: \"../../../evil\"",
            says: &["an odd name"],
        },
        Case {
            model: NAME,
            token: None,
            reply: "302 Found\r\nX-Repo-Commit: ..\r\nX-Linked-Etag: \"abc\"",
            says: &["an odd name"],
        },
        Case {
            model: NAME,
            token: None,
            reply: "302 Found\r\nX-Repo-Commit: c\r\nX-Linked-Etag: \"abc\"\r\nLocation: http://[",
            says: &["http://127.0.0.1"],
        },
        Case {
            model: NAME,
            token: None,
            reply: "nonsense\0",
            says: &["cannot reach the hub"],
        },
    ] {
        let server = Server::start(Behaviour {
            instead: Some(format!(
                "HTTP/1.1 {reply}\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"
            )),
            ..Behaviour::default()
        });
        let home = Home::new(&server);
        let mut command = home.sam3(&["models", "fetch", model]);
        command.envs(token.map(|token| ("HF_TOKEN", token)));
        let assert = command.assert().code(1).stdout("");
        let said = String::from_utf8_lossy(&assert.get_output().stderr).into_owned();
        for part in says {
            assert!(said.contains(part), "{reply}: {said}");
        }
        assert!(
            !said.contains("panicked") && !said.contains('\u{9b}'),
            "{said}"
        );
        assert_eq!(home.blobs(), [""; 0], "{reply}");
    }
}

#[test]
fn without_network_a_name_that_is_not_cached_is_refused() {
    let server = Server::serving(b"weights");
    let mut home = Home::new(&server);
    home.fetch()
        .env("HF_HUB_OFFLINE", "1")
        .assert()
        .code(1)
        .stderr(contains("HF_HUB_OFFLINE").and(contains("-m FILE")));
    assert!(server.requests().is_empty());
    home.endpoint = "http://127.0.0.1:1".into();
    home.fetch()
        .assert()
        .code(1)
        .stderr(contains("cannot reach the hub").and(contains("127.0.0.1:1")));
    home.endpoint = "hub.example".into();
    home.fetch()
        .assert()
        .code(1)
        .stderr(contains("HF_ENDPOINT"));
    assert!(!home.folder.path().join("hub").exists());
}

#[test]
fn a_cache_that_cannot_be_written_is_said() {
    let server = Server::serving(b"weights");
    let home = Home::new(&server);
    let file = home.folder.path().join("file");
    fs::write(&file, "").unwrap();
    home.fetch()
        .env("HF_HUB_CACHE", file.join("cache"))
        .assert()
        .code(1)
        .stderr(contains("cannot write").and(contains("HF_HUB_CACHE")));
}

/// The unfinished file is a link to a device that is always full.
#[cfg(target_os = "linux")]
#[test]
fn a_full_disk_is_said_and_nothing_becomes_visible() {
    let bytes = noise(5_000);
    let server = Server::serving(&bytes);
    let home = Home::new(&server);
    fs::create_dir_all(home.part(&bytes).parent().unwrap()).unwrap();
    std::os::unix::fs::symlink("/dev/full", home.part(&bytes)).unwrap();
    home.fetch()
        .assert()
        .code(1)
        .stderr(contains("No space left on device").and(contains("make room")));
    assert!(!home.file().exists() && !home.blob(&bytes).exists());
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
fn what_is_no_name_never_touches_the_network() {
    let server = Server::serving(b"weights");
    let home = Home::new(&server);
    let scene = scene();
    let scene = scene.to_str().unwrap();
    for (model, says) in [
        ("missing.pt", "missing.pt does not exist"),
        ("models/sam3", "models/sam3 does not exist"),
        ("facebook/sam3", "facebook/sam3 does not exist"),
        ("./sam3", "./sam3 does not exist"),
        ("efficientsam3-rvm", "did you mean efficientsam3-rv-m"),
        ("moblie-sam", "did you mean mobile-sam"),
        ("yolo", "`sam3 models` lists all"),
    ] {
        home.sam3(&["segment", scene, "-t", "dog", "-m", model])
            .assert()
            .code(1)
            .stderr(contains(says));
    }
    // a file or folder of that name wins
    let here = home.folder.path().join("here");
    fs::create_dir_all(here.join(NAME)).unwrap();
    home.sam3(&["segment", scene, "-t", "dog", "-m", NAME])
        .current_dir(&here)
        .assert()
        .code(1)
        .stderr(contains("no weights in this directory"));
    home.sam3(&["models", "fetch", NAME, "sam4"])
        .assert()
        .code(1)
        .stderr(contains("sam4"));
    home.sam3(&["models", "fetch", "demo"])
        .assert()
        .code(1)
        .stderr(contains("built in"));
    assert!(server.requests().is_empty());
}

#[test]
fn what_cannot_work_is_refused_before_the_download() {
    let server = Server::serving(b"weights");
    let home = Home::new(&server);
    let scene = scene();
    let scene = scene.to_str().unwrap();
    for (args, says) in [
        (
            &["-t", "dog", "-m", "mobile-sam"][..],
            "it takes clicks, everything",
        ),
        (&["--point", "5,5", "-m", NAME], "it takes text, exemplars"),
        (&["--point", "500,5", "-m", "mobile-sam"], "outside"),
        (&["-t", " ", "-m", NAME], "text is empty"),
    ] {
        let mut command = home.sam3(&["segment", scene]);
        command.args(args).assert().code(1).stderr(contains(says));
    }
    home.sam3(&["segment", "missing.png", "-t", "dog", "-m", NAME])
        .assert()
        .code(1)
        .stderr(contains("missing.png"));
    assert!(server.requests().is_empty());
}

#[test]
fn models_are_listed_with_what_is_cached() {
    let server = Server::serving(&noise(1000));
    let home = Home::new(&server);
    home.fetch().assert().success();
    let asked = server.requests().len();
    let assert = home.sam3(&["models"]).assert().success().stderr("");
    let table = String::from_utf8(assert.get_output().stdout.clone()).unwrap();
    let line = |name: &str| {
        let line = table
            .lines()
            .find(|line| line.starts_with(&format!("{name} ")));
        line.unwrap_or_else(|| panic!("{table}")).to_string()
    };
    assert!(line("demo").contains("built in"));
    assert!(line(NAME).contains("cached") && line(NAME).contains("text exemplars"));
    assert!(line("sam3").contains("gated") && line("sam3").contains("3.45 GB"));
    assert!(line("mobile-sam").contains("clicks everything"));

    let assert = home.sam3(&["models", "--json"]).assert().success();
    let json: serde_json::Value = serde_json::from_slice(&assert.get_output().stdout).unwrap();
    let entries = json.as_array().unwrap();
    assert_eq!(entries.len() + 2, table.lines().count());
    let entry = |name| entries.iter().find(|entry| entry["name"] == name).unwrap();
    assert_eq!(entry(NAME)["cached"], home.file().to_str().unwrap());
    assert!(entry("sam3")["cached"].is_null());
    assert_eq!(entry("sam3")["gated"], true);
    assert_eq!(entry("sam3")["size"], 3_450_062_241u64);
    assert_eq!(server.requests().len(), asked);
}

#[test]
fn a_quiet_download_prints_only_the_path() {
    let server = Server::serving(&noise(1000));
    let home = Home::new(&server);
    let path = format!("{}\n", home.file().display());
    let mut command = home.sam3(&["models", "fetch", NAME, "-q"]);
    command.assert().success().stdout(path).stderr("");
}
