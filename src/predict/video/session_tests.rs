//! What a session promises on any video: bounds, going on, both directions, refusals.

use super::toy::Toy;
use super::{FrameMasks, Keep, Options, Session, Span};
use crate::Run;
use crate::image::Image;
use crate::models::VisualPrompt;
use crate::nn::golden::Golden;

/// The recorded frames as images, and the toy that tracks through them.
fn clip() -> (Toy, Vec<Image>) {
    let golden = Golden::open("pvs_session");
    let pixels = golden.tensor("in.frames");
    let (frames, side, _, _) = pixels.dims4().unwrap();
    let image = |t: usize| {
        let pixels = pixels
            .get(t)
            .unwrap()
            .flatten_all()
            .unwrap()
            .to_vec1::<u8>()
            .unwrap();
        Image::from_rgb8(side, side, pixels).unwrap()
    };
    (Toy::new(&golden), (0..frames).map(image).collect())
}

/// Points and a box, on the first and on the third frame.
fn track_all(toy: &Toy, images: &[Image], options: Options, repeats: usize) -> Vec<FrameMasks> {
    let mut session = Session::new(toy, options).unwrap();
    let run = &mut Run::default();
    let mut found = vec![];
    for i in 0..repeats * images.len() {
        found.push(session.push(&images[i % images.len()], run).unwrap());
        if i == 0 {
            session
                .prompt(0, 1, &VisualPrompt::point(25., 30.))
                .unwrap();
            session
                .prompt(0, 2, &VisualPrompt::bbox([68., 63., 92., 87.]))
                .unwrap();
        }
        if i == 2 {
            session
                .prompt(2, 7, &VisualPrompt::point(70., 90.))
                .unwrap();
        }
    }
    assert_eq!(session.ids(), [1, 2, 7]);
    found
}

#[test]
fn forgetting_what_is_not_needed_changes_no_mask_and_bounds_memory() {
    let (toy, images) = clip();
    let keep_all = Options {
        keep: Keep::All,
        ..Options::default()
    };
    let want = track_all(&toy, &images, keep_all, 4);
    assert_eq!(track_all(&toy, &images, Options::default(), 4), want);
    assert!(
        want[40]
            .objects
            .iter()
            .any(|object| !object.mask.is_empty())
    );

    let mut session = Session::new(&toy, Options::default()).unwrap();
    let run = &mut Run::default();
    let mut most = [0; 2]; // bytes in the first and in the second half
    for i in 0..200 {
        session.push(&images[i % images.len()], run).unwrap();
        if i == 0 {
            session
                .prompt(0, 1, &VisualPrompt::point(25., 30.))
                .unwrap();
        }
        let half = &mut most[i / 100];
        *half = session.bytes().max(*half);
    }
    assert!(most[0] > 0 && most[1] <= most[0], "{most:?}");
}

#[test]
fn a_saved_session_goes_on_as_if_nothing_had_happened() {
    let (toy, images) = clip();
    let run = &mut Run::default();
    let want = track_all(&toy, &images, Options::default(), 1);
    let mut session = Session::new(&toy, Options::default()).unwrap();
    for (i, image) in images[..8].iter().enumerate() {
        session.push(image, run).unwrap();
        if i == 0 {
            session
                .prompt(0, 1, &VisualPrompt::point(25., 30.))
                .unwrap();
            session
                .prompt(0, 2, &VisualPrompt::bbox([68., 63., 92., 87.]))
                .unwrap();
        }
        if i == 2 {
            session
                .prompt(2, 7, &VisualPrompt::point(70., 90.))
                .unwrap();
        }
    }
    let bytes = session.save().unwrap();
    let mut resumed = Session::new(&toy, Options::default()).unwrap();
    resumed.restore(&bytes).unwrap();
    assert_eq!(resumed.next_frame(), 8);
    for (image, want) in images[8..].iter().zip(&want[8..]) {
        assert_eq!(&resumed.push(image, run).unwrap(), want);
    }
    for broken in [&bytes[..40], b"no session"] {
        assert!(resumed.restore(broken).is_err());
    }
}

#[test]
fn a_video_is_tracked_from_the_middle_in_both_directions() {
    let (toy, mut images) = clip();
    let options = Options {
        num_frames: Some(images.len()),
        keep: Keep::All,
        ..Options::default()
    };
    let mut session = Session::new(&toy, options).unwrap();
    let run = &mut Run::default();
    session.open(6, &images[6], run).unwrap();
    session
        .prompt(6, 1, &VisualPrompt::point(40., 45.))
        .unwrap();
    let mut frames = vec![];
    for span in [Span::forward(6), Span::backward(6)] {
        let mut found = |masks: FrameMasks| {
            frames.push(masks.frame);
            Ok(())
        };
        session
            .propagate(&mut images, span, run, &mut found)
            .unwrap();
    }
    let want: Vec<usize> = (6..16).chain((0..=6).rev()).collect();
    assert_eq!(frames, want);
}

/// `sam3 track --backward` rests on it, with constant memory.
#[test]
fn going_backward_is_going_forward_through_the_reversed_video() {
    let (toy, mut images) = clip();
    let options = Options {
        num_frames: Some(images.len()),
        ..Options::default()
    };
    let (run, point) = (&mut Run::default(), VisualPrompt::point(40., 45.));
    let mut session = Session::new(&toy, options).unwrap();
    let mut reversed = vec![];
    for frame in (0..=13).rev() {
        let mut found = session.push(&images[frame], run).unwrap();
        if frame == 13 {
            found = session.prompt(0, 1, &point).unwrap();
        }
        reversed.push(FrameMasks { frame, ..found });
    }
    let keep = Keep::All;
    let mut session = Session::new(&toy, Options { keep, ..options }).unwrap();
    session.open(13, &images[13], run).unwrap();
    session.prompt(13, 1, &point).unwrap();
    let mut backward = vec![];
    let mut found = |masks: FrameMasks| {
        backward.push(masks);
        Ok(())
    };
    session
        .propagate(&mut images, Span::backward(13), run, &mut found)
        .unwrap();
    assert_eq!(backward, reversed);
    let is_seen = |masks: &FrameMasks| !masks.objects[0].mask.is_empty();
    assert!(backward.iter().any(is_seen));
}

#[test]
fn what_cannot_be_tracked_is_refused_with_a_reason() {
    let (toy, mut images) = clip();
    let run = &mut Run::default();
    let mut session = Session::new(&toy, Options::default()).unwrap();
    let point = VisualPrompt::point(25., 30.);
    let says = |error: crate::Error, what: &str| {
        let error = error.to_string();
        assert!(error.contains(what), "{error:?} lacks {what:?}");
    };
    says(
        session.prompt(0, 1, &point).unwrap_err(),
        "before any frame",
    );
    let nothing = |_: FrameMasks| Ok(());
    let span = Span::forward(0);
    says(
        session
            .propagate(&mut images, span, run, &mut { nothing })
            .unwrap_err(),
        "nothing to track",
    );
    session.push(&images[0], run).unwrap();
    says(
        session.prompt(3, 1, &point).unwrap_err(),
        "frame 0 is the current one",
    );
    says(
        session.prompt(0, 1, &VisualPrompt::default()).unwrap_err(),
        "a point or a box",
    );
    says(
        session
            .prompt(0, 1, &VisualPrompt::point(200., 3.))
            .unwrap_err(),
        "outside",
    );
    says(
        session
            .refine(0, 1, &VisualPrompt::bbox([1., 1., 9., 9.]))
            .unwrap_err(),
        "a box cannot",
    );
    says(session.remove(4).unwrap_err(), "no object 4");
    session.prompt(0, 1, &point).unwrap();
    session.push(&images[1], run).unwrap();
    session.open(0, &images[0], run).unwrap();
    says(
        session.prompt(0, 1, &point).unwrap_err(),
        "after frame 1 was tracked",
    );
    let small = Image::from_rgb8(5, 4, vec![0; 60]).unwrap();
    says(session.push(&small, run).unwrap_err(), "one size");
    let backward = Span::backward(0);
    says(
        session
            .propagate(&mut images, backward, run, &mut { nothing })
            .unwrap_err(),
        "Keep::All",
    );
    let beyond = Span::forward(16);
    says(
        session
            .propagate(&mut images, beyond, run, &mut { nothing })
            .unwrap_err(),
        "16 frames",
    );
    session.remove(1).unwrap();
    assert!(session.ids().is_empty());
}
