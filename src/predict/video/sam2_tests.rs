//! A recorded session of SAM 2.1: prompts, corrections that look at memories, both directions.

use serde_json::Value;

use super::group::Known;
use super::{Keep, Options, Session, Span};
use crate::backbones::hiera::tests::picture;
use crate::image::Image;
use crate::mask::Mask;
use crate::models::sam2::tests::{prompt, toy};
use crate::models::tracker::Entry;
use crate::nn::golden::{Golden, assert_close};
use crate::{Result, Run};

/// Largest difference of low-resolution logits and object scores.
const TOLERANCE: f32 = 1e-3;

fn number(step: &Value, key: &str) -> usize {
    usize::try_from(step[key].as_u64().unwrap()).unwrap()
}

/// Compares what the session knows of an object with what was recorded under `key`.
fn check(session: &Session, golden: &Golden, frame: usize, id: u32, key: &str) {
    let want = |part: &str| golden.tensor(&format!("out.{key}.{id}.{part}"));
    let group = session.groups.iter().find(|group| group.ids().eq([id]));
    let group = group.unwrap_or_else(|| panic!("object {id} is not alone"));
    let known = group.known(frame).unwrap().swap_remove(0).1;
    let Known::Logits(logits) = known else {
        panic!("{key}: object {id} has no logits");
    };
    let off = (logits - want("low_res_logits")).unwrap().abs().unwrap();
    let off = off.max_all().unwrap().to_scalar::<f32>().unwrap();
    println!("{key}, object {id}: logits off by {off:.1e}");
    assert!(off < TOLERANCE, "{key}, object {id}: logits off by {off}");
    let (score, _) = group.scores(frame, id).unwrap();
    let want_score = want("object_score").to_vec1::<f32>().unwrap()[0];
    assert!(
        (score - want_score).abs() < TOLERANCE,
        "{key}: {score} {want_score}"
    );
    if let Some(Entry {
        pointers, memory, ..
    }) = group.bank().get(frame)
        && !group.is_pending()
    {
        assert_close(pointers, &want("pointer"), 1e-3);
        let name = format!("out.{key}.{id}.memory");
        if golden.contains(&name) {
            let memory = memory.as_ref().unwrap();
            assert_close(memory, &golden.tokens(&name), 1e-3);
        }
    }
}

#[test]
fn a_session_of_sam2_is_repeated_step_by_step() {
    let golden = Golden::open("sam2");
    let model = toy(&golden);
    let mut frames: Vec<Image> = (0..golden.size("frames"))
        .map(|t| picture(&golden, t))
        .collect();
    let options = Options {
        num_frames: Some(frames.len()),
        keep: Keep::All,
        ..Options::default()
    };
    let mut session = Session::new(&model, options).unwrap();
    let run = &mut Run::default();
    let steps = golden.config()["steps"].as_array().unwrap();
    assert_eq!(steps.len(), 13);
    let mut tracked = 0;
    for (i, step) in steps.iter().enumerate() {
        let id = step["obj"].as_u64().unwrap_or_default() as u32;
        match step["do"].as_str().unwrap() {
            "propagate" => {
                let span = Span {
                    start: number(step, "start"),
                    count: Some(number(step, "frames")),
                    reverse: step["reverse"].as_bool().unwrap(),
                };
                for frame in span.order(frames.len(), Keep::All).unwrap() {
                    let span = Span {
                        start: frame,
                        count: Some(1),
                        ..span
                    };
                    let nothing = &mut |_| Ok(());
                    session.propagate(&mut frames, span, run, nothing).unwrap();
                    for id in session.ids() {
                        check(&session, &golden, frame, id, &format!("{i}.{frame}"));
                        tracked += 1;
                    }
                }
            }
            "clear" => session.clear(number(step, "frame"), id).unwrap(),
            "remove" => session.remove(id).unwrap(),
            other => {
                let frame = number(step, "frame");
                session.open(frame, &frames[frame], run).unwrap();
                answer(&mut session, other, step, &frames[frame]).unwrap();
                check(&session, &golden, frame, id, &i.to_string());
            }
        }
    }
    assert_eq!(tracked, 33);
}

/// Asks what was asked in a step.
fn answer(session: &mut Session, kind: &str, step: &Value, image: &Image) -> Result<()> {
    let (frame, id) = (number(step, "frame"), number(step, "obj") as u32);
    let asked = prompt(step, |_| vec![]);
    match kind {
        "mask" => {
            let [x0, y0, x1, y1]: [usize; 4] =
                serde_json::from_value(step["rect"].clone()).unwrap();
            let inside = |x: usize, y: usize| (x0..x1).contains(&x) && (y0..y1).contains(&y);
            let mask = Mask::from_fn(image.width(), image.height(), inside);
            session.prompt_mask(frame, id, &mask)?;
        }
        "refine" => {
            session.refine(frame, id, &asked)?;
        }
        _ => {
            session.prompt(frame, id, &asked)?;
        }
    }
    Ok(())
}

#[test]
fn a_stream_of_sam2_keeps_what_is_needed_and_goes_on_when_resumed() {
    let golden = Golden::open("sam2");
    let model = toy(&golden);
    let image = |i: usize| picture(&golden, i % golden.size("frames"));
    let run = &mut Run::default();
    let start = |keep: Keep, run: &mut Run| {
        let options = Options {
            keep,
            ..Options::default()
        };
        let mut session = Session::new(&model, options).unwrap();
        session.push(&image(0), run).unwrap();
        for (id, step) in [(1, 0), (2, 2)] {
            let step = &golden.config()["steps"][step];
            session.prompt(0, id, &prompt(step, |_| vec![])).unwrap();
        }
        session
    };
    let (mut all, mut needed) = (start(Keep::All, run), start(Keep::Needed, run));
    let mut bytes = vec![];
    for i in 1..60 {
        let got = needed.push(&image(i), run).unwrap();
        assert_eq!(got, all.push(&image(i), run).unwrap(), "frame {i}");
        if i == 20 {
            // a correction of what was just tracked looks at what is remembered
            let step = &golden.config()["steps"][0];
            for session in [&mut all, &mut needed] {
                session.prompt(20, 1, &prompt(step, |_| vec![])).unwrap();
            }
        }
        if i == 40 {
            let saved = needed.save().unwrap();
            needed = Session::new(&model, Options::default()).unwrap();
            needed.restore(&saved).unwrap();
        }
        bytes.push(needed.bytes());
    }
    assert_eq!(bytes[58], bytes[50], "what is kept grows");
    assert!(all.bytes() > 2 * needed.bytes());
}
