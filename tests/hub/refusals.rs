//! Downloads that cannot be: what is said, and that nothing of them stays.

use std::fs;

use predicates::prelude::*;
use predicates::str::contains;

use crate::home::{FILE, Home, NAME, noise};
use crate::server::{Behaviour, Server};

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
