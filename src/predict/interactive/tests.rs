//! On a model that draws discs.

use super::*;
use crate::BoxXyxy;
use crate::models::Point;
use crate::predict::fake::{Discs, LIMIT, embedding};

const IMAGE: Size = Size::new(120, 90);

fn ask(model: &Discs, prompts: &[VisualPrompt], multimask: Multimask) -> Vec<Prediction> {
    try_ask(model, prompts, multimask).unwrap()
}

fn try_ask(
    model: &Discs,
    prompts: &[VisualPrompt],
    multimask: Multimask,
) -> Result<Vec<Prediction>> {
    let options = Options {
        multimask,
        ..Options::default()
    };
    let run = &mut Run::default();
    predict(model, &embedding(IMAGE, 0.), prompts, &options, run)
}

#[test]
fn a_point_gives_three_masks_of_the_original_size_and_a_best_one() {
    let prompt = VisualPrompt::point(60., 45.);
    let model = Discs::default();
    let found = ask(&model, &[prompt], Multimask::Three);
    assert_eq!(found.len(), 1);
    let masks = &found[0].masks;
    assert_eq!(masks.len(), 3);
    assert!(masks[0].mask.area() < masks[1].mask.area());
    assert!(masks[1].mask.area() < masks[2].mask.area());
    for mask in masks {
        assert_eq!(mask.mask.size(), IMAGE);
        assert!(mask.mask.get(60, 45) && !mask.mask.get(2, 2));
        assert_eq!(mask.low_res_logits.len(), 32 * 32);
        assert!(mask.stability_score > 0.5 && mask.stability_score < 1.0);
    }
    assert_eq!(found[0].best().unwrap().iou_score, 1.0);
    assert_eq!(found[0].object_score, Some(3.0));
}

#[test]
fn auto_gives_the_best_of_three_for_a_lone_point_and_one_mask_otherwise() {
    let model = Discs::default();
    let point = VisualPrompt::point(60., 45.);
    let prompts = [
        point.clone(),
        point.and_not(90., 45.),
        bbox([10., 10., 50., 50.]),
    ];
    let found = ask(&model, &prompts, Multimask::Auto);
    assert!(found.iter().all(|prediction| prediction.masks.len() == 1));
    let three = ask(&model, &prompts[..1], Multimask::Three);
    assert_eq!(found[0].masks[0], *three[0].best().unwrap());
    assert_eq!(found[1..], ask(&model, &prompts[1..], Multimask::One));
}

#[test]
fn sixteen_boxes_are_one_decode_in_their_order() {
    let edge = |i: usize| [(i % 4 * 30) as f32, (i / 4 * 22) as f32];
    let boxes: Vec<BoxXyxy> = (0..16)
        .map(|i| BoxXyxy::from([edge(i)[0], edge(i)[1], edge(i)[0] + 20., edge(i)[1] + 20.]))
        .collect();
    let prompts: Vec<_> = boxes.iter().map(|b| VisualPrompt::bbox(*b)).collect();
    let model = Discs::default();
    let found = ask(&model, &prompts, Multimask::One);
    assert_eq!(found.len(), 16);
    for (found, bbox) in found.iter().zip(&boxes) {
        assert_eq!(found.masks.len(), 1);
        let mask = &found.masks[0].mask;
        assert!(mask.get(bbox.x0 as usize + 10, bbox.y0 as usize + 10));
        assert!(mask.bbox().unwrap().iou(*bbox) > 0.6);
    }
    assert_eq!(model.decodes.into_inner(), 1);
}

#[test]
fn many_prompts_are_decoded_in_batches() {
    let prompts = vec![bbox([10., 10., 50., 50.]); 130];
    let model = Discs::default();
    let found = ask(&model, &prompts, Multimask::One);
    assert_eq!(found.len(), 130);
    assert_eq!(model.decodes.into_inner(), 4 + 4 + 1); // 16 at a time, of 64, 64 and 2
}

fn bbox(edges: [f32; 4]) -> VisualPrompt {
    VisualPrompt::bbox(BoxXyxy::from(edges))
}

#[test]
fn refinement_is_a_loop_over_the_logits() {
    let model = Discs::default();
    let mut prompt = VisualPrompt::point(60., 45.);
    let mut areas = vec![];
    for _ in 0..3 {
        let found = ask(&model, std::slice::from_ref(&prompt), Multimask::One);
        areas.push(found[0].best().unwrap().mask.area());
        prompt = found[0].refined(prompt).and_not(70., 45.);
    }
    assert!(
        areas[1] < areas[0],
        "the negative point takes a part away: {areas:?}"
    );
}

#[test]
fn an_instance_of_a_text_is_refined_with_points() {
    let model = Discs::default();
    let instance = Instance {
        mask: Mask::new(IMAGE.width, IMAGE.height),
        bbox: BoxXyxy::from([-3., 10., 60., 70.]), // boxes of text prompts are not clipped
        score: 0.9,
    };
    let whole = refine(&instance, IMAGE);
    let less = whole.clone().and_not(30., 60.);
    let found = ask(&model, &[whole.clone(), less], Multimask::One);
    let [all, less] = &found[..] else { panic!() };
    assert!(all.masks[0].mask.get(30, 60) && !less.masks[0].mask.get(30, 60));
    assert!(less.masks[0].mask.get(30, 25));
    let again = ask(&model, &[less.refined(whole)], Multimask::One);
    assert!(!again[0].masks[0].mask.get(30, 60));
}

#[test]
fn bad_prompts_are_refused_with_a_reason_before_any_work() {
    let point = |x, y| VisualPrompt::point(x, y);
    let mask = |logits| VisualPrompt {
        mask_logits: Some(logits),
        ..VisualPrompt::default()
    };
    #[rustfmt::skip]
    let cases = [
        (VisualPrompt::default(), "needs a point, a box or a mask"),
        (point(120., 5.), "point 120,5 is outside the image of 120 x 90"),
        (point(5., -0.1), "outside the image"),
        (point(f32::NAN, 5.), "point NaN,5"),
        (bbox([-9e9, 0., 10., 10.]), "more than 480 pixels away"),
        (bbox([50., 0., 10., 10.]), "inverted"),
        (bbox([5., 5., 5., 10.]), "inverted or empty"),
        (bbox([0., 0., f32::INFINITY, 10.]), "not finite"),
        (bbox([130., 0., 140., 10.]), "outside the image"),
        (mask(vec![0.; 100]), "100 values; this model takes 32 x 32"),
        (mask(vec![f32::NAN; 32 * 32]), "logit of NaN"),
    ];
    let model = Discs::default();
    for (prompt, want) in cases {
        let prompts = [point(5., 5.), prompt];
        let error = try_ask(&model, &prompts, Multimask::Auto)
            .unwrap_err()
            .to_string();
        assert!(error.contains(want), "{error:?} lacks {want:?}");
    }
    assert_eq!(model.decodes.into_inner(), 0);
}

#[test]
fn options_out_of_range_are_refused() {
    let nan = Options {
        mask_threshold: f32::NAN,
        ..Options::default()
    };
    let negative = Options {
        stability_score_offset: -1.,
        ..Options::default()
    };
    for options in [nan, negative] {
        assert!(validate(&[bbox([0., 0., 9., 9.])], &options, IMAGE).is_err());
    }
}

#[test]
fn no_prompts_give_no_answers() {
    assert!(ask(&Discs::default(), &[], Multimask::Auto).is_empty());
}

#[test]
fn logits_are_limited_for_the_next_round_and_not_for_the_mask() {
    let model = Discs::default();
    let prompt = [VisualPrompt::point(60., 45.)];
    let run = &mut Run::default();
    let low_res = decode(&model, &embedding(IMAGE, 0.), &prompt, true, run).unwrap();
    let low_res = &low_res[0].low_res_logits[2];
    let found = ask(&model, &prompt, Multimask::Three);
    let mask = &found[0].masks[2];
    let limited: Vec<f32> = low_res.iter().map(|v| v.clamp(-LIMIT, LIMIT)).collect();
    assert_eq!(mask.low_res_logits, limited);
    assert_ne!(&limited, low_res);
    let full = model.upscaling(IMAGE).run(low_res).unwrap();
    let area = full.iter().filter(|v| **v > 0.).count();
    assert_eq!(mask.mask.area(), area);
}

#[test]
fn nan_from_the_network_is_an_error_that_names_the_stage() {
    let model = Discs::default();
    let mut prompt = VisualPrompt::point(60., 45.);
    // A point that no caller could pass: validation happens before `decode`.
    prompt.points.push(Point {
        xy: [f32::NAN; 2],
        on_object: true,
    });
    let run = &mut Run::default();
    let error = decode(&model, &embedding(IMAGE, 0.), &[prompt], true, run).unwrap_err();
    assert!(matches!(error, Error::NotFinite { .. }), "{error}");
    assert!(
        error.to_string().contains("upscaling computed NaN"),
        "{error}"
    );
}

#[test]
fn a_cancelled_run_decodes_nothing() {
    let model = Discs::default();
    let mut run = Run {
        cancel: Some(crate::CancelToken::default()),
        ..Run::default()
    };
    run.cancel.as_ref().unwrap().cancel();
    let (image, prompts) = (embedding(IMAGE, 0.), [VisualPrompt::point(60., 45.)]);
    let error = predict(&model, &image, &prompts, &Options::default(), &mut run).unwrap_err();
    assert!(matches!(error, Error::Cancelled), "{error}");
    assert_eq!(model.decodes.into_inner(), 0);
}

#[test]
fn a_drawn_mask_is_a_prompt() {
    let Size { width, height } = IMAGE;
    let white = |x: usize, y: usize| if x < 60 && y > 20 { 200 } else { 40 };
    let pixels = (0..width * height).flat_map(|i| [white(i % width, i / width); 3]);
    let drawing = Image::from_rgb8(width, height, pixels.collect()).unwrap();
    let mask = drawn_in(&drawing);
    assert_eq!(mask, Mask::from_fn(width, height, |x, y| x < 60 && y > 20));
    let model = Discs::default();
    let logits = from_drawn(&model, IMAGE, &mask).unwrap();
    let prompt = VisualPrompt::point(60., 45.).from_logits(logits);
    assert!(!prompt.is_ambiguous());
    let found = ask(&model, &[prompt], Multimask::Auto);
    let found = &found[0].masks[0].mask;
    // both as far from the point, one on the drawn side
    assert!(found.get(43, 45) && !found.get(77, 45));
}

#[test]
fn a_drawn_mask_of_another_size_and_an_empty_one_are_refused() {
    let model = Discs::default();
    let refused = |mask: Mask| from_drawn(&model, IMAGE, &mask).unwrap_err().to_string();
    let error = refused(Mask::from_fn(90, 120, |_, _| true));
    assert!(
        error.contains("90 x 120") && error.contains("120 x 90"),
        "{error}"
    );
    let error = refused(Mask::new(120, 90));
    assert!(error.contains("white"), "{error}");
}
