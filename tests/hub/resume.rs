//! What is left of a download that stopped is used, and nothing but the right file comes of it.

use std::fs;
use std::time::{Duration, Instant};

use predicates::prelude::*;
use predicates::str::contains;

use crate::home::{Home, NAME, noise};
use crate::server::{Server, sha256};

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
