//! Who is trusted with what: tokens, passwords, and files that nobody has vouched for.

use predicates::prelude::*;
use predicates::str::contains;

use crate::home::{Home, NAME, noise};
use crate::server::{Behaviour, Server, sha256};

/// A hub that answers every request but those for contents with `reply`.
fn answering(reply: String) -> Server {
    Server::start(Behaviour {
        instead: Some(format!(
            "HTTP/1.1 {reply}\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"
        )),
        ..Behaviour::default()
    })
}

fn tokens(server: &Server) -> Vec<Option<String>> {
    let requests = server.requests().into_iter();
    requests
        .map(|request| request.headers.get("authorization").cloned())
        .collect()
}

#[test]
fn another_port_of_the_same_host_gets_no_token() {
    let bytes = noise(1000);
    let contents = Server::serving(&bytes);
    let etag = sha256(&bytes);
    let hub = answering(format!(
        "302 Found\r\nX-Repo-Commit: c0ffee\r\nX-Linked-Etag: \"{etag}\"\r\nX-Linked-Size: 1000\r\n\
         Location: {}/contents/{etag}",
        contents.endpoint()
    ));
    let home = Home::new(&hub);
    home.fetch().env("HF_TOKEN", "hf_abc").assert().success();
    assert_eq!(tokens(&contents), [None]);
    let own = Some("Bearer hf_abc".to_string());
    assert_eq!(tokens(&hub), [own.clone(), own]);
}

#[test]
fn a_token_that_a_mirror_kept_is_not_said_to_be_sent() {
    for (model, code) in [("sam3", "\r\nX-Error-Code: GatedRepo"), (NAME, "")] {
        let real = answering(format!("401 Unauthorized{code}"));
        let place = real.endpoint();
        let mirror = answering(format!("308 Permanent Redirect\r\nLocation: {place}/x"));
        let home = Home::new(&mirror);
        let mut command = home.sam3(&["models", "fetch", model]);
        let says = contains("the token from HF_TOKEN was not sent")
            .and(contains(format!("HF_ENDPOINT={place}")))
            .and(contains("was sent").not());
        command
            .env("HF_TOKEN", "hf_abc")
            .assert()
            .code(1)
            .stderr(says);
        assert_eq!(tokens(&real), [None]);
    }
}

#[test]
fn tokens_and_passwords_are_in_no_message() {
    let server = answering(
        "401 Unauthorized\r\nX-Error-Message: bad token Bearer hf_abc of ada:s3cret".into(),
    );
    let mut home = Home::new(&server);
    home.endpoint = server.endpoint().replace("://", "://ada:s3cret@");
    let hidden = || {
        contains("hf_abc")
            .not()
            .and(contains("s3cret").not())
            .and(contains("127.0.0.1").or(contains("HTTP 401")))
    };
    home.fetch()
        .arg("-v")
        .env("HF_TOKEN", "hf_abc")
        .assert()
        .code(1)
        .stderr(hidden());
    home.endpoint = "http://ada:s3cret@127.0.0.1:1".into();
    home.fetch()
        .arg("-v")
        .env("HF_TOKEN", "hf_abc")
        .assert()
        .code(1)
        .stderr(hidden());
}

#[test]
fn what_is_not_pinned_is_said() {
    let server = Server::serving(&noise(1000));
    let home = Home::new(&server);
    let says = contains(format!("{NAME} is not pinned")).and(contains("the same server announces"));
    home.fetch().assert().success().stderr(says);

    server.change(|b| b.etag = Some("not-a-checksum".into()));
    let home = Home::new(&server);
    let says = contains("announces no checksum");
    home.fetch().assert().success().stderr(says);

    let output = home.sam3(&["models"]).assert().success();
    let table = String::from_utf8_lossy(&output.get_output().stdout).into_owned();
    let line = |name: &str| table.lines().find(|line| line.starts_with(name)).unwrap();
    assert!(line("sam3 ").contains(" yes ") && line(&format!("{NAME} ")).contains(" no "));
}
