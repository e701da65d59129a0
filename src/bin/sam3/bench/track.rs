//! One frame of a video, for several objects, with all the memories that it looks at in the long
//! run.

use anyhow::Result;
use candle_sam3::models::head::Label;
use candle_sam3::models::tracker::{
    Answers, Entry, MaskProbability, Memories, MemoryBank, MemoryMasks, Position, Slots,
    TrackingModel,
};
use candle_sam3::{Image, Run};

use super::measure::{Clock, Stage};

/// How many objects are followed, and the row of the report.
const OBJECTS: [(usize, Stage); 3] = [(1, "track_1"), (4, "track_4"), (16, "track_16")];

/// Frames that were tracked before: as many as have a pointer that is looked at.
const FRAMES: usize = 16;

pub fn run(model: &dyn TrackingModel, image: &Image, clock: &mut Clock) -> Result<()> {
    let tracker = model.tracker()?;
    clock.skip()?;
    model.encode_frame(image, &mut Run::default())?;
    clock.lap("encode_frame")?;
    for (objects, stage) in OBJECTS {
        // Each time anew: what all objects of a frame share is computed with the first of them.
        let frame = model.encode_frame(image, &mut Run::default())?;
        let middle = tracker.config().image_size as f32 / 2.;
        let points = [([middle; 2], Label::Positive)];
        let one = tracker.prompt(&frame, &points, None, None)?;
        let all = Answers::join(&vec![one; objects])?;
        let slots = Slots::of(tracker.config().slots, objects);
        let remember = |answers: &Answers| {
            let masks = MemoryMasks {
                logits: &answers.low_res_logits,
                probability: MaskProbability::Sigmoid,
                object_scores: &answers.object_scores,
                slots: &slots,
                prompted: &vec![false; objects],
            };
            tracker.remember(&frame, &masks)
        };
        let entry = Entry {
            memory: Some(remember(&all)?),
            features: Some(frame.image.tokens.clone()),
            quality: Some(1.), // whatever random weights say, it is looked at
            ..Entry::new(all, &slots)?
        };
        let mut bank = MemoryBank::default();
        bank.insert_cond(0, entry.clone());
        for t in 1..FRAMES {
            bank.insert_ordinary(t, entry.clone());
        }
        let at = Position {
            frame: FRAMES,
            num_frames: usize::MAX,
            reverse: false,
        };
        let selection = bank.select(&tracker.config().rules(), at);
        clock.skip()?;
        let memories = Memories {
            bank: &bank,
            slots: &slots,
            selection: &selection,
            num_frames: at.num_frames,
        };
        let answers = tracker.track(&frame, memories)?;
        remember(&answers)?;
        clock.lap(stage)?;
    }
    Ok(())
}
