//! On a model that draws discs.

use super::*;
use crate::predict::fake::{Discs, LIMIT};

const IMAGE: (usize, usize) = (120, 90);

fn one_mask() -> Options {
    Options {
        multimask_output: false,
        ..Options::default()
    }
}

fn bbox(edges: [f32; 4]) -> ClickPrompt {
    from_boxes(&[BoxXyxy::from(edges)]).remove(0)
}

#[test]
fn a_point_gives_three_masks_of_the_original_size_and_a_best_one() {
    let prompt = from_points(&[[60., 45.]], &[1]).unwrap();
    let model = Discs::default();
    let found = predict(&model, &IMAGE, &[prompt], &Options::default()).unwrap();
    assert_eq!(found.len(), 1);
    let masks = &found[0].masks;
    assert_eq!(masks.len(), 3);
    assert!(masks[0].mask.area() < masks[1].mask.area());
    assert!(masks[1].mask.area() < masks[2].mask.area());
    for mask in masks {
        assert_eq!((mask.mask.width(), mask.mask.height()), IMAGE);
        assert!(mask.mask.get(60, 45) && !mask.mask.get(2, 2));
        assert_eq!(mask.low_res_logits.len(), 32 * 32);
        assert!(mask.stability_score > 0.5 && mask.stability_score < 1.0);
    }
    assert_eq!(found[0].best().unwrap().iou_score, 1.0);
    assert_eq!(found[0].object_score, Some(3.0));
}

#[test]
fn sixteen_boxes_are_one_decode_in_their_order() {
    let edge = |i: usize| [(i % 4 * 30) as f32, (i / 4 * 22) as f32];
    let boxes: Vec<BoxXyxy> = (0..16)
        .map(|i| BoxXyxy::from([edge(i)[0], edge(i)[1], edge(i)[0] + 20., edge(i)[1] + 20.]))
        .collect();
    let model = Discs::default();
    let found = predict(&model, &IMAGE, &from_boxes(&boxes), &one_mask()).unwrap();
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
    let found = predict(&model, &IMAGE, &prompts, &one_mask()).unwrap();
    assert_eq!(found.len(), 130);
    assert_eq!(model.decodes.into_inner(), 3);
}

#[test]
fn refinement_is_a_loop_over_the_logits() {
    let model = Discs::default();
    let mut prompt = from_points(&[[60., 45.]], &[1]).unwrap();
    let mut areas = vec![];
    for _ in 0..3 {
        let found = predict(&model, &IMAGE, &[prompt.clone()], &one_mask()).unwrap();
        let mask = found[0].best().unwrap();
        areas.push(mask.mask.area());
        prompt.mask_logits = Some(mask.low_res_logits.clone());
        prompt.points.push(([70., 45.], 0));
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
        mask: Mask::new(IMAGE.0, IMAGE.1),
        bbox: BoxXyxy::from([-3., 10., 60., 70.]), // boxes of text prompts are not clipped
        score: 0.9,
    };
    let whole = refine(&model, &IMAGE, &instance, &[], None).unwrap();
    let less = refine(&model, &IMAGE, &instance, &[([30., 60.], 0)], None).unwrap();
    assert!(whole.masks[0].mask.get(30, 60) && !less.masks[0].mask.get(30, 60));
    assert!(less.masks[0].mask.get(30, 25));
    let earlier = Some(less.masks[0].low_res_logits.as_slice());
    let again = refine(&model, &IMAGE, &instance, &[], earlier).unwrap();
    assert!(!again.masks[0].mask.get(30, 60));
    assert!(refine(&model, &IMAGE, &instance, &[([500., 0.], 1)], None).is_err());
}

#[test]
fn bad_prompts_are_refused_with_a_reason_before_any_work() {
    let point = |x, y| from_points(&[[x, y]], &[1]).unwrap();
    let mask = |logits| ClickPrompt {
        mask_logits: Some(logits),
        ..ClickPrompt::default()
    };
    #[rustfmt::skip]
    let cases = [
        (ClickPrompt::default(), "needs a point, a box or a mask"),
        (point(120., 5.), "point 120,5 is outside the image of 120 x 90"),
        (point(5., -0.1), "outside the image"),
        (point(f32::NAN, 5.), "point NaN,5"),
        (from_points(&[[5., 5.]], &[2]).unwrap(), "label 2"),
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
        let error = predict(&model, &IMAGE, &prompts, &Options::default()).unwrap_err();
        let error = error.to_string();
        assert!(error.contains(want), "{error:?} lacks {want:?}");
    }
    assert_eq!(model.decodes.into_inner(), 0);
}

#[test]
fn each_point_needs_a_label() {
    let error = from_points(&[[1., 2.]], &[1, 0]).unwrap_err().to_string();
    assert!(error.contains("2 labels for 1 points"), "{error}");
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
    let model = Discs::default();
    assert!(
        predict(&model, &IMAGE, &[], &Options::default())
            .unwrap()
            .is_empty()
    );
}

#[test]
fn logits_are_limited_for_the_next_round_and_not_for_the_mask() {
    let model = Discs::default();
    let prompt = from_points(&[[60., 45.]], &[1]).unwrap();
    let decoded = model.decode(&IMAGE, std::slice::from_ref(&prompt), true);
    let decoded = &decoded.unwrap()[0].low_res_logits[2];
    let found = predict(&model, &IMAGE, &[prompt], &Options::default()).unwrap();
    let mask = &found[0].masks[2];
    let limited: Vec<f32> = decoded.iter().map(|v| v.clamp(-LIMIT, LIMIT)).collect();
    assert_eq!(mask.low_res_logits, limited);
    assert_ne!(&limited, decoded);
    let full = model.upscale(&IMAGE, decoded).unwrap();
    let area = full.iter().filter(|v| **v > 0.).count();
    assert_eq!(mask.mask.area(), area);
}

#[test]
fn a_drawn_mask_is_a_prompt() {
    let (width, height) = IMAGE;
    let white = |x: usize, y: usize| if x < 60 && y > 20 { 200 } else { 40 };
    let pixels = (0..width * height).flat_map(|i| [white(i % width, i / width); 3]);
    let drawing = Image::from_rgb8(width, height, pixels.collect()).unwrap();
    let mask = drawn_in(&drawing);
    assert_eq!(mask, Mask::from_fn(width, height, |x, y| x < 60 && y > 20));
    let model = Discs::default();
    let prompt = ClickPrompt {
        mask_logits: Some(from_drawn(&model, &IMAGE, &mask).unwrap()),
        ..from_points(&[[60., 45.]], &[1]).unwrap()
    };
    assert!(!prefers_multimask(&prompt));
    let found = predict(&model, &IMAGE, &[prompt], &one_mask()).unwrap();
    let found = &found[0].masks[0].mask;
    // both as far from the point, one on the drawn side
    assert!(found.get(43, 45) && !found.get(77, 45));
}

#[test]
fn a_drawn_mask_of_another_size_and_an_empty_one_are_refused() {
    let model = Discs::default();
    let refused = |mask: Mask| from_drawn(&model, &IMAGE, &mask).unwrap_err().to_string();
    let error = refused(Mask::from_fn(90, 120, |_, _| true));
    assert!(
        error.contains("90 x 120") && error.contains("120 x 90"),
        "{error}"
    );
    let error = refused(Mask::new(120, 90));
    assert!(error.contains("white"), "{error}");
}
