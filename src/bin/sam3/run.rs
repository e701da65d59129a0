//! From an image and its prompts to results, the same for every command that finds objects.

use std::path::Path;

use anyhow::Result;
use candle_sam3::image::DecodedImage;
use candle_sam3::models::variant::PromptKind;
use candle_sam3::output::answer::Answer;
use candle_sam3::output::{ImageResults, Kind};
use candle_sam3::{Image, Model, Progress, Run, Trace};

use crate::model::{self, ModelArgs};
use crate::picture::PictureArgs;
use crate::results::{OutputArgs, Target};
use crate::stages::Stages;
use crate::{demo, progress, summary};

/// What commands differ in.
pub trait Task {
    const KIND: Kind;

    /// What a model must answer.
    const PROMPTS: PromptKind;

    /// Refuses what makes no sense for this image, before any weights are read.
    fn check(&self, image: &Image) -> Result<()>;

    /// One answer for each prompt.
    fn answer(
        &self,
        model: &Model,
        image: &Image,
        stages: &mut Stages,
        run: &mut Run,
    ) -> Result<Answered>;
}

/// What a task yields.
pub struct Answered {
    /// One answer for each prompt.
    pub answers: Vec<Answer>,
    /// Low-resolution logits as a file, if they were asked for.
    pub logits: Option<Vec<u8>>,
}

/// Runs a task on one image; `logits` is where [`Answered::logits`] go.
pub fn run<T: Task>(
    task: &T,
    picture: &PictureArgs,
    logits: Option<&Path>,
    model: &ModelArgs,
    output: &OutputArgs,
) -> Result<()> {
    let image_path = picture.image.as_path();
    let target = Target::new(output, image_path, T::KIND)?;
    let mut stages = Stages::new();
    stages.start("decode");
    let DecodedImage { image, warnings } =
        Image::open_with(image_path, &picture.decoding.options())?;
    task.check(&image)?;
    target.check(logits, model)?;

    stages.start("load");
    let model = model::load(model, T::PROMPTS)?;
    demo::hint(model.name(), &image)?;
    let mut trace = output.trace.as_ref().map(|_| Trace::default());
    let spinner = stages.spinner();
    let mut say = |Progress { done, total }| spinner.set_message(format!("{done} of {total}"));
    let mut run = Run {
        trace: trace.as_mut(),
        progress: Some(&mut say),
        ..Run::default()
    };
    let answered = task.answer(&model, &image, &mut stages, &mut run)?;
    let timings = stages.finish();

    for line in summary::lines(T::KIND, &answered.answers, target.shows_labels()) {
        progress::say(&line);
    }
    let traced = match (&output.trace, &trace) {
        (Some(path), Some(trace)) => Some((path.as_path(), trace.to_bytes()?)),
        _ => None,
    };
    let files: Vec<(&Path, Vec<u8>)> = logits
        .zip(answered.logits)
        .into_iter()
        .chain(traced)
        .collect();
    let results = ImageResults {
        image: &image,
        path: &image_path.display().to_string(),
        source: target.source(),
        warnings: &warnings,
        model: model.name(),
        kind: T::KIND,
        answers: &answered.answers,
        timings: &timings,
    };
    target.write(&results, &files)
}
