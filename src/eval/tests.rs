//! The figures of pycocotools and of SAM 3's evaluator, on files that reach every rule.

use std::path::PathBuf;

use serde_json::Value;

use super::average_precision::{AveragePrecision, Figures, average_precision};
use super::concept::{ConceptFigures, SaCo, concept_figures, pairs_of};
use super::data::{Found, GroundTruth, Results};
use super::*;

const TOLERANCE: f64 = 1e-9;

fn golden(name: &str) -> PathBuf {
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/golden/eval");
    PathBuf::from(folder).join(name)
}

fn expected(name: &str) -> Value {
    serde_json::from_slice(&std::fs::read(golden(name)).unwrap()).unwrap()
}

fn truth() -> GroundTruth {
    GroundTruth::read(golden("eval_gt.json")).unwrap()
}

fn list(figures: &Figures) -> Vec<Option<f64>> {
    let fields = serde_json::to_value(figures).unwrap();
    fields
        .as_object()
        .unwrap()
        .values()
        .map(Value::as_f64)
        .collect()
}

fn assert_equal(got: &AveragePrecision, want: &Value) {
    let all = list(&got.all);
    let stats = want["stats"].as_array().unwrap();
    assert_eq!(all.len(), stats.len());
    for (i, (got, want)) in all.iter().zip(stats).enumerate() {
        let (got, want) = (got.unwrap_or(-1.0), want.as_f64().unwrap());
        assert!(
            (got - want).abs() < TOLERANCE,
            "figure {i}: {got}, not {want}"
        );
    }
    let categories = want["ap_by_category"].as_object().unwrap();
    assert_eq!(got.categories.len(), categories.len());
    for category in &got.categories {
        let want = categories[&category.id.to_string()].as_f64();
        let equal = match (category.figures.ap, want) {
            (Some(got), Some(want)) => (got - want).abs() < TOLERANCE,
            (got, want) => got.is_none() && want.is_none(),
        };
        assert!(
            equal,
            "category {}: {:?}, not {want:?}",
            category.id, category.figures.ap
        );
    }
}

#[test]
fn average_precision_is_that_of_pycocotools() {
    let truth = truth();
    let want = expected("eval_expected.json");
    for (name, kind) in [
        ("a", Kind::Mask),
        ("b", Kind::Mask),
        ("d", Kind::Mask),
        ("d", Kind::Box),
    ] {
        let results = Results::read(golden(&format!("eval_pred_{name}.json")), &truth).unwrap();
        let suffix = if kind == Kind::Box { "bbox" } else { "segm" };
        let got = average_precision(&truth, &results, kind);
        assert_equal(&got, &want[format!("{name}.{suffix}")]);
    }
}

/// The ground truth as results of score 0.9.
fn perfect(truth: &GroundTruth) -> Results {
    let found = truth.annotations.iter().map(|a| {
        let mut shape = a.shape.clone();
        shape.area = shape.mask.area() as f64;
        Found {
            image: a.image,
            category: a.category,
            shape,
            score: 0.9,
        }
    });
    Results {
        found: found.collect(),
        unknown_category: 0,
    }
}

#[test]
fn perfect_results_have_an_average_precision_of_one() {
    let truth = truth();
    let got = average_precision(&truth, &perfect(&truth), Kind::Mask);
    assert_equal(&got, &expected("eval_expected.json")["c.segm"]);
    let boundary = average_precision(&truth, &perfect(&truth), Kind::Boundary);
    assert_eq!(boundary.all.ap, Some(1.0));
}

#[test]
fn boundaries_are_stricter_than_masks() {
    let truth = truth();
    let results = Results::read(golden("eval_pred_a.json"), &truth).unwrap();
    let masks = average_precision(&truth, &results, Kind::Mask).all;
    let boundaries = average_precision(&truth, &results, Kind::Boundary).all;
    assert!(boundaries.ap < masks.ap && boundaries.ap > Some(0.05));
    assert!(boundaries.ap_large < masks.ap_large);
}

#[test]
fn no_results_are_an_average_precision_of_zero() {
    let got = average_precision(&truth(), &Results::default(), Kind::Mask);
    assert_eq!((got.all.ap, got.all.ar_100), (Some(0.0), Some(0.0)));
    assert_eq!(got.categories[3].figures.ap, None);
}

#[test]
fn concept_figures_are_those_of_the_official_evaluator() {
    let want = expected("saco_expected.json");
    for (annotators, kind) in [
        ("a", Kind::Mask),
        ("a", Kind::Box),
        ("abc", Kind::Mask),
        ("abc", Kind::Box),
    ] {
        let files = annotators
            .chars()
            .map(|who| golden(&format!("saco_gt_{who}.json")));
        let files: Vec<_> = files.collect();
        let set = SaCo::read(&files[0], &files[1..]).unwrap();
        let pairs = set.with_results(golden("saco_pred.json")).unwrap();
        let got = concept_figures(&pairs, kind);
        let suffix = if kind == Kind::Box { "bbox" } else { "segm" };
        let want = &want[format!("{annotators}.{suffix}")];
        let ConceptFigures {
            cg_f1,
            pm_f1,
            il_mcc,
            precision,
            recall,
            cg_f1_at_50,
            ..
        } = got;
        for (name, value) in [
            ("cgF1", cg_f1),
            ("positive_micro_F1", pm_f1),
            ("positive_macro_F1", got.macro_f1.unwrap()),
            ("IL_MCC", il_mcc),
            ("cgF1@0.5", cg_f1_at_50),
            ("precision", precision),
            ("recall", recall),
        ] {
            let want = want[name].as_f64().unwrap();
            assert!(
                (value - want).abs() < TOLERANCE,
                "{annotators} {kind:?} {name}: {value}, not {want}"
            );
        }
    }
}

#[test]
fn a_ground_truth_of_coco_is_pairs_of_images_and_categories() {
    let truth = truth();
    let pairs = pairs_of(&truth, &perfect(&truth));
    assert_eq!(pairs.len(), truth.images.len() * truth.categories.len());
    let got = concept_figures(&pairs, Kind::Mask);
    let with_truth = pairs
        .iter()
        .filter(|pair| !pair.truths[0].is_empty())
        .count();
    // The crowd is no truth, but was found.
    assert_eq!(got.il_true_positives, with_truth);
    assert!(got.il_mcc > 0.9 && got.recall > 0.999);
}

fn problem(results: &str) -> String {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("results.json");
    std::fs::write(&path, results).unwrap();
    Results::read(&path, &truth()).unwrap_err().to_string()
}

#[test]
fn unusable_results_are_refused_and_say_which() {
    let mask = r#""segmentation":{"size":[160,200],"counts":"PXo0"}"#;
    let result = |image: i64, rest: &str| {
        format!(
            r#"[{{"image_id":10,"category_id":1,"score":0.5,{mask}}},{{"image_id":{image},"category_id":1,{rest}}}]"#
        )
    };
    for (results, want) in [
        (
            result(11, &format!(r#""score":0.5,{mask}"#)),
            "result 2: image 11 is not in",
        ),
        (
            result(10, r#""score":0.5"#),
            "result 2: neither segmentation nor bbox",
        ),
        (
            result(10, r#""score":0.5,"bbox":[1,2,3]"#),
            "result 2: a box must be four",
        ),
        (
            result(10, r#""score":0.5,"segmentation":[[1,2,3,4]]"#),
            "result 2: a polygon of 4 numbers",
        ),
        (result(10, mask), "missing field `score`"),
        (result(10, &format!(r#""score":NaN,{mask}"#)), "line 1"),
        (
            result(
                10,
                r#""score":0.5,"segmentation":{"size":[160,200],"counts":"42"}"#,
            ),
            "counts add up to",
        ),
        ("{}".to_string(), "expected a sequence"),
    ] {
        let problem = problem(&results);
        assert!(
            problem.contains(want) && problem.contains("results.json"),
            "{problem}"
        );
    }
}

#[test]
fn results_of_unknown_categories_are_counted_and_left_out() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("results.json");
    std::fs::write(
        &path,
        r#"[{"image_id":10,"category_id":5,"score":0.5,"bbox":[1,2,3,4]}]"#,
    )
    .unwrap();
    let results = Results::read(&path, &truth()).unwrap();
    assert_eq!((results.found.len(), results.unknown_category), (0, 1));
}

#[test]
fn an_id_that_appears_twice_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("truth.json");
    let image = r#"{"id":7,"file_name":"a.png","width":4,"height":3}"#;
    std::fs::write(
        &path,
        format!(r#"{{"images":[{image},{image}],"categories":[]}}"#),
    )
    .unwrap();
    let problem = GroundTruth::read(&path).unwrap_err().to_string();
    assert!(problem.contains("the id 7 appears twice"), "{problem}");
}

#[test]
fn polygons_and_plain_counts_are_read() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("truth.json");
    let annotation = |segmentation: &str| {
        format!(r#"{{"image_id":1,"category_id":1,"segmentation":{segmentation}}}"#)
    };
    let list = [
        annotation("[[1,1,3,1,3,2,1,2],[0,0,1,0,1,1,0,1]]"),
        annotation(r#"{"size":[3,4],"counts":[0,1,3,1,2,1,4]}"#),
        annotation("[]"),
    ];
    let text = format!(
        r#"{{"images":[{{"id":1,"width":4,"height":3}}],"categories":[{{"id":1,"name":"a"}}],"annotations":[{}]}}"#,
        list.join(",")
    );
    std::fs::write(&path, text).unwrap();
    let truth = GroundTruth::read(&path).unwrap();
    let [polygons, counts, empty] = &truth.annotations[..] else {
        panic!("{} annotations", truth.annotations.len());
    };
    assert_eq!(
        polygons.shape.mask.decode().unwrap(),
        counts.shape.mask.decode().unwrap()
    );
    assert_eq!(
        (polygons.shape.area, polygons.shape.bbox),
        (3.0, [0.0, 0.0, 3.0, 2.0])
    );
    assert!(empty.shape.mask.decode().unwrap().is_empty());
    assert_eq!(truth.images[0].file_name, "");
}
