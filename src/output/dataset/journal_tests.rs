//! Runs that are stopped, shared and joined.

use std::fs;

use super::journal::{Header, Journal, Line, Records, Shard, Stamp};
use super::tests::{Scene, files, image, picture};
use super::*;

fn header(layout: &Layout, shards: usize) -> Header {
    Header {
        version: "1".to_string(),
        model: "demo".to_string(),
        settings: [("text".to_string(), "disc".into())].into_iter().collect(),
        layout: layout.clone(),
        shards,
    }
}

#[test]
fn documents_from_shards_in_any_order_are_those_of_one_run() {
    let pictures: Vec<Picture> = (0..20).map(|i| picture(&format!("{i:02}.png"))).collect();
    let formats = [Format::Coco, Format::Csv, Format::Cvat, Format::LabelStudio];
    let whole = Scene::new(pictures.clone());
    write_documents(&whole.layout(&formats), &whole.pictures).unwrap();

    let parts = Scene::new(pictures.clone());
    let header = header(&parts.layout(&formats), 3);
    for index in [2, 0, 1] {
        let shard = Shard { index, count: 3 };
        let mut journal = Journal::begin(&parts.out(), shard, &header, false).unwrap();
        for picture in pictures.iter().rev().filter(|p| shard.contains(&p.name)) {
            journal.note(&done(picture)).unwrap();
        }
        assert_eq!(
            Records::read(&parts.out()).unwrap().unfinished().len(),
            match index {
                2 => 3,
                0 => 2,
                _ => 1,
            }
        );
        journal.note(&Line::Finished { pictures: 0 }).unwrap();
    }
    let records = Records::read(&parts.out()).unwrap();
    assert!(records.unfinished().is_empty() && records.len() == 20);
    write_documents(&records.header.layout, &records).unwrap();
    let names = files(&whole.out());
    assert_eq!(names.len(), 5);
    assert_eq!(files(&parts.out()), names);
    for name in names {
        assert_eq!(parts.read(&name), whole.read(&name), "{name}");
    }
}

const FILE: Stamp = Stamp {
    bytes: 7,
    modified: 1_700_000_000_000,
};

fn done(picture: &Picture) -> Line {
    Line::Done {
        picture: picture.clone(),
        file: FILE,
    }
}

#[test]
fn a_picture_that_changed_is_not_done() {
    let scene = Scene::new(vec![picture("a.png")]);
    let header = header(&scene.layout(&[Format::Coco]), 1);
    let mut journal = Journal::begin(&scene.out(), Shard::WHOLE, &header, false).unwrap();
    journal.note(&done(&scene.pictures[0])).unwrap();
    let records = Records::read(&scene.out()).unwrap();
    assert!(records.is_done("a.png", FILE));
    for other in [
        Stamp { bytes: 8, ..FILE },
        Stamp {
            modified: FILE.modified + 1,
            ..FILE
        },
        Stamp::of(Path::new("missing")),
    ] {
        assert!(!records.is_done("a.png", other));
    }
    assert_eq!(
        records.picture("a.png").unwrap().as_ref(),
        Some(&scene.pictures[0])
    );
}

#[test]
fn the_images_of_objects_that_are_gone_are_removed() {
    let mut before = picture("a.png");
    before.objects.push(before.objects[0].clone());
    let scene = Scene::new(vec![before.clone()]);
    let layout = scene.layout(&[Format::Masks, Format::Cutout]);
    let source = scene.source(&before);
    let count = |folder: &str| fs::read_dir(scene.out().join(folder)).unwrap().count();
    write_picture(&layout, &before, &source, &image()).unwrap();
    let objects = before.objects.len();
    assert_eq!((count("masks/a"), count("cutout/a")), (objects, objects));
    // Those of a picture in a folder of that name stay.
    write_picture(&layout, &picture("a/b.png"), &source, &image()).unwrap();
    write_picture(&layout, &picture("a.png"), &source, &image()).unwrap();
    assert_eq!((count("masks/a"), count("cutout/a")), (objects, objects));
    assert_eq!(count("masks/a/b"), objects - 1);
}

#[test]
fn a_line_that_was_cut_off_is_done_again() {
    let scene = Scene::new(vec![picture("a.png"), picture("b.png")]);
    let header = header(&scene.layout(&[Format::Coco]), 1);
    let mut journal = Journal::begin(&scene.out(), Shard::WHOLE, &header, false).unwrap();
    for picture in &scene.pictures {
        journal.note(&done(picture)).unwrap();
    }
    drop(journal);
    let path = scene.out().join(".sam3/part-0-of-1.0.jsonl");
    let text = fs::read(&path).unwrap();
    for cut in 1..200 {
        fs::write(&path, &text[..text.len() - cut]).unwrap();
        let records = Records::read(&scene.out()).unwrap();
        assert!(
            records.is_done("a.png", FILE) && !records.is_done("b.png", FILE),
            "{cut}"
        );
    }
    let mut journal = Journal::begin(&scene.out(), Shard::WHOLE, &header, true).unwrap();
    journal.note(&done(&scene.pictures[1])).unwrap();
    let records = Records::read(&scene.out()).unwrap();
    assert_eq!(records.names().collect::<Vec<_>>(), ["a.png", "b.png"]);
    assert_eq!(
        records.picture("b.png").unwrap().as_ref(),
        Some(&scene.pictures[1])
    );
}

#[test]
fn a_failure_is_kept_until_the_picture_is_done() {
    let scene = Scene::new(vec![picture("a.png")]);
    let header = header(&scene.layout(&[Format::Coco]), 1);
    let mut journal = Journal::begin(&scene.out(), Shard::WHOLE, &header, false).unwrap();
    let failed = Line::Failed {
        name: "a.png".to_string(),
        error: "no image".to_string(),
    };
    journal.note(&failed).unwrap();
    let failures = |scene: &Scene| Records::read(&scene.out()).unwrap().failures().count();
    assert_eq!(failures(&scene), 1);
    journal.note(&done(&scene.pictures[0])).unwrap();
    assert_eq!(failures(&scene), 0);
}

#[test]
fn runs_that_do_not_belong_together_are_refused() {
    let scene = Scene::new(vec![]);
    let ours = header(&scene.layout(&[Format::Coco]), 1);
    assert!(
        Records::read(&scene.out())
            .unwrap_err()
            .to_string()
            .contains("holds no results")
    );
    let journal = Journal::begin(&scene.out(), Shard::WHOLE, &ours, false).unwrap();
    let refused = |header: &Header, resume: bool| {
        let error = Journal::begin(&scene.out(), Shard::WHOLE, header, resume);
        error.unwrap_err().to_string()
    };
    assert!(refused(&ours, true).contains("another process is working on part 0/1"));
    drop(journal);
    assert!(refused(&ours, false).contains("--resume continues them"));
    let mut other = ours.clone();
    other.settings.insert("text".to_string(), "ring".into());
    assert!(refused(&other, true).contains("made with text \"disc\""));
    let mut other = ours.clone();
    other.model = "sam3".to_string();
    assert!(refused(&other, true).contains("made with the model demo"));
    let mut other = ours.clone();
    other.layout.formats.push(Format::Csv);
    assert!(refused(&other, true).contains("made with the formats coco;"));
    let mut other = ours.clone();
    other.layout.train_share = 0.5;
    assert!(refused(&other, true).contains("other options"));
    assert!(Journal::begin(&scene.out(), Shard::WHOLE, &ours, true).is_ok());
}

#[test]
fn a_journal_of_absurd_numbers_is_refused() {
    let scene = Scene::new(vec![]);
    let folder = scene.out().join(journal::FOLDER);
    fs::create_dir_all(&folder).unwrap();
    let path = folder.join(format!("part-0-of-1.{}.jsonl", usize::MAX));
    for shards in [0, journal::MAX_SHARDS + 1, usize::MAX] {
        let header = Header {
            shards,
            ..header(&scene.layout(&[Format::Coco]), 1)
        };
        fs::write(&path, serde_json::to_string(&header).unwrap() + "\n").unwrap();
        let error = Records::read(&scene.out()).unwrap_err().to_string();
        assert!(error.contains("parts; at most"), "{error}");
    }
    let header = header(&scene.layout(&[Format::Coco]), 1);
    fs::write(&path, serde_json::to_string(&header).unwrap() + "\n").unwrap();
    assert!(Journal::begin(&scene.out(), Shard::WHOLE, &header, true).is_err());
}

#[test]
fn what_no_run_has_made_is_not_written_over() {
    for format in Format::ALL {
        for place in format.places() {
            let scene = Scene::new(vec![]);
            let header = header(&scene.layout(&[Format::Coco, format]), 1);
            let own = scene.out().join(place);
            fs::create_dir_all(scene.out()).unwrap();
            fs::write(&own, "made by hand").unwrap();
            for resume in [false, true] {
                let begun = Journal::begin(&scene.out(), Shard::WHOLE, &header, resume);
                let error = begun.unwrap_err().to_string();
                assert!(error.contains(&format!("holds {place}")), "{error}");
            }
            assert_eq!(fs::read(&own).unwrap(), b"made by hand");
        }
    }
}
