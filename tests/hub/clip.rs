//! A CLIP by its name on the hub.

use predicates::prelude::*;
use predicates::str::contains;

use crate::home::{Home, scene};
use crate::server::{Behaviour, COMMIT, Server};

const CLIP: &str = "openai/clip-vit-base-patch32";

fn label(home: &Home) -> assert_cmd::assert::Assert {
    let out = home.folder.path().join("out");
    let mut command = home.sam3(&["label", "--everything", "--classify", "car, tree", "-o"]);
    command.arg(out).arg(scene()).assert()
}

#[test]
fn weights_are_taken_under_either_name_and_the_config_from_their_commit() {
    let server = Server::start(Behaviour {
        bytes: b"no weights".to_vec(),
        missing: Some("model.safetensors"),
        ..Behaviour::default()
    });
    let home = Home::new(&server);
    // What came is not a CLIP.
    label(&home).failure().stderr(contains("pytorch_model.bin"));
    let requests = server.requests();
    let asked = |path: String| requests.iter().any(|request| request.path == path);
    assert!(asked(format!("/{CLIP}/resolve/main/model.safetensors")));
    assert!(asked(format!("/{CLIP}/resolve/main/pytorch_model.bin")));
    assert!(asked(format!("/{CLIP}/resolve/{COMMIT}/config.json")));
    // All is in the cache now.
    label(&home).failure();
    assert_eq!(server.requests().len(), requests.len());
}

#[test]
fn a_repository_without_weights_says_what_works() {
    let server = Server::start(Behaviour {
        missing: Some(""),
        ..Behaviour::default()
    });
    let says = contains("pytorch_model.bin")
        .and(contains(CLIP))
        .and(contains("--clip DIR"));
    label(&Home::new(&server)).failure().stderr(says);
}
