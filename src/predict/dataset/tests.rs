use std::fs;

use super::labeler::{of_phrases, select};
use super::*;
use crate::mask::{BoxXyxy, Mask};
use crate::predict::Instance;
use crate::predict::concept::Prediction;

fn bar(from: usize, to: usize) -> Mask {
    Mask::from_fn(100, 10, |x, _| (from..to).contains(&x))
}

fn found(instances: &[(usize, usize, f32)]) -> Prediction {
    let instance = |&(from, to, score): &(usize, usize, f32)| Instance {
        mask: bar(from, to),
        bbox: BoxXyxy::from([0.0; 4]),
        score,
    };
    Prediction {
        presence: 1.0,
        instances: instances.iter().map(instance).collect(),
        semantic: None,
    }
}

fn class(name: &str, threshold: f32) -> Class {
    Class {
        threshold,
        ..Class::new(name)
    }
}

fn kept(options: &Options, class_of: &[usize], found: Vec<Prediction>) -> Vec<(usize, f32)> {
    let objects = select(options, of_phrases(class_of, found));
    objects
        .iter()
        .map(|object| (object.class, object.score))
        .collect()
}

#[test]
fn every_class_has_its_own_threshold_limit_and_least_area() {
    let mut classes = vec![class("car", 0.4), class("person", 0.6), class("dog", 0.1)];
    classes[0].max_objects = Some(1);
    classes[2].min_area = 60;
    let options = Options::new(classes);
    let all = [(0, 10, 0.5), (20, 30, 0.7), (50, 55, 0.65)];
    let found = vec![found(&all), found(&all), found(&all)];
    let want = [(0, 0.7), (1, 0.7), (1, 0.65), (2, 0.7), (2, 0.5)];
    assert_eq!(kept(&options, &[0, 1, 2], found), want);
}

#[test]
fn what_two_words_of_a_class_find_is_one_object() {
    let options = Options::new(vec![class("car", 0.4)]);
    let found = vec![
        found(&[(0, 20, 0.5)]),
        found(&[(1, 20, 0.9), (50, 70, 0.6)]),
    ];
    assert_eq!(kept(&options, &[0, 0], found), [(0, 0.9), (0, 0.6)]);
}

#[test]
fn classes_overlap_unless_told_otherwise() {
    let mut options = Options::new(vec![class("car", 0.4), class("taxi", 0.4)]);
    let both = || {
        vec![
            found(&[(0, 20, 0.5), (60, 80, 0.5)]),
            found(&[(0, 20, 0.9)]),
        ]
    };
    assert_eq!(kept(&options, &[0, 1], both()).len(), 3);
    options.nms_across = Some(0.5);
    assert_eq!(kept(&options, &[0, 1], both()), [(0, 0.5), (1, 0.9)]);
}

#[test]
fn options_that_make_no_sense_are_refused() {
    let refused = |classes: Vec<Class>| {
        let error = Options::new(classes).validate().unwrap_err();
        assert!(matches!(error, Error::InvalidArgument(_)));
        error.to_string()
    };
    assert!(refused(vec![]).contains("no class"));
    assert!(refused(vec![Class::new(" ")]).contains("no name"));
    assert!(refused(vec![Class::new("a"), Class::new("a")]).contains("appears twice"));
    assert!(refused(vec![class("a", 1.0)]).contains("not in 0..1"));
    assert!(refused(vec![class("a", f32::NAN)]).contains("not in 0..1"));
    let none = Class {
        max_objects: Some(0),
        ..Class::new("a")
    };
    assert!(refused(vec![none]).contains("no objects"));
    let overlap = Options {
        nms: 1.5,
        ..Options::new(vec![Class::new("a")])
    };
    assert!(overlap.validate().is_err());
}

#[test]
fn pictures_are_decoded_in_order_and_bad_ones_say_why() {
    let folder = tempfile::tempdir().unwrap();
    let mut sources = Vec::new();
    for i in 0..12 {
        let path = folder.path().join(format!("{i}.pgm"));
        let text = if i % 5 == 3 {
            "no image".to_string()
        } else {
            format!("P2 1 1 255 {i}")
        };
        fs::write(&path, text).unwrap();
        sources.push(Source::new(path));
    }
    sources.push(Source::new(folder.path().join("missing.png")));
    let decoder = Decoder::start(sources.clone().into_iter(), DecodeOptions::default());
    let decoded: Vec<_> = std::iter::from_fn(|| decoder.next()).collect();
    assert_eq!(decoded.len(), 13);
    for (i, (decoded, source)) in decoded.iter().zip(&sources).enumerate() {
        assert_eq!(&decoded.source, source);
        match &decoded.image {
            Ok(image) => assert_eq!(image.pixels(), [i as u8; 3]),
            Err(Error::NotFound { .. }) => assert_eq!(i, 12),
            Err(_) => assert_eq!(i % 5, 3),
        }
    }
}

#[test]
fn a_panic_is_the_error_of_one_picture() {
    let error = unwinding::<()>(|| panic!("index {} out of range", 3)).unwrap_err();
    assert!(
        error.to_string().contains("index 3 out of range"),
        "{error}"
    );
    assert_eq!(unwinding(|| Ok(1)).unwrap(), 1);
}

#[test]
#[cfg(feature = "demo")]
fn a_batch_gives_what_its_pictures_give_one_by_one() {
    let model = crate::models::load(
        &crate::weights::demo().unwrap(),
        &crate::LoadOptions::default(),
    )
    .unwrap();
    let mut run = Run::default();
    let classes = ["square", "ring", "cross", "heart"]
        .map(Class::new)
        .to_vec();
    let labeler = Labeler::of_classes(&model, &Options::new(classes), &mut run).unwrap();
    assert_eq!(labeler.batch(), 1, "the CPU gains nothing");
    let scenes = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/scenes/");
    let names = ["shapes.png", "missing.png", "scene_3.png"];
    let batch = names.map(|name| {
        let source = Source::new(format!("{scenes}{name}"));
        let image = Image::open(&source.path);
        let took = Duration::ZERO;
        (
            Decoded {
                source,
                image,
                took,
            },
            Duration::ZERO,
        )
    });
    let images: Vec<Image> = batch
        .iter()
        .filter_map(|(d, _)| d.image.as_ref().ok().cloned())
        .collect();
    // By itself, since a batch that fails is labeled one by one.
    let references: Vec<&Image> = images.iter().collect();
    let together = labeler.label_batch(&references, &mut run).unwrap();
    let labeled = label_batch(&labeler, batch.into(), &mut run);
    assert!(matches!(labeled[1].objects, Err(Error::NotFound { .. })));
    let answered = [&labeled[0], &labeled[2]].map(|labeled| labeled.objects.as_ref().unwrap());
    assert_eq!(together.len(), 2);
    for ((together, answered), image) in together.iter().zip(answered).zip(&images) {
        assert_eq!(answered, together);
        let alone = labeler.label(image, &mut run).unwrap();
        assert!(!alone.is_empty());
        assert_eq!(together.len(), alone.len());
        for (together, alone) in together.iter().zip(&alone) {
            assert_eq!(together.class, alone.class);
            assert!((together.score - alone.score).abs() < 1e-5);
            assert!(together.mask.iou(&alone.mask) > 0.999);
        }
    }
}
