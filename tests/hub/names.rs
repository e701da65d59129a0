//! Which models are listed, and what is refused before the network is touched.

use std::fs;

use predicates::str::contains;

use crate::home::{Home, NAME, noise, scene};
use crate::server::Server;

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
    assert!(line("mobile-sam").contains("clicks everything  "));
    assert!(line("sam3.1").contains("text exemplars clicks everything video"));
    assert!(line("sam2.1-hiera-tiny").contains("clicks everything video"));

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
