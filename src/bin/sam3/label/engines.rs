//! One engine for each device, all at the pictures of one list.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError, mpsc};

use anyhow::Result;
use candle_sam3::models::clip::Clip;
use candle_sam3::output::dataset::Layout;
use candle_sam3::output::dataset::journal::{Journal, Stamp};
use candle_sam3::predict::concept::Concept;
use candle_sam3::predict::dataset::{self, Labeler, Options, Source};
use candle_sam3::{Model, Run};

use super::LabelArgs;
use super::write::{self, Tally};
use crate::everything;
use crate::progress;

/// One for each device. Everything about prompts is checked and encoded here, before there is a run.
pub fn labelers<'a>(
    args: &LabelArgs,
    engines: &'a [Model],
    options: Option<&Options>,
    concepts: &[Concept],
    clip: Option<&Path>,
) -> Result<Vec<Labeler<'a>>> {
    let generator = everything::options(&args.generator);
    let labelers = engines.iter().map(|model| match (options, clip) {
        (Some(options), Some(path)) => {
            let clip = Clip::open(path, model.device())?;
            Labeler::of_classified(model, &generator, clip, options)
        }
        (Some(options), None) if !concepts.is_empty() => {
            Labeler::of_concepts(model, options, concepts, &mut Run::default())
        }
        (Some(options), None) => Labeler::of_classes(model, options, &mut Run::default()),
        (None, _) => Labeler::of_everything(model, &generator),
    });
    Ok(labelers.collect::<candle_sam3::Result<_>>()?)
}

/// Labels pictures; decoding, labeling and writing overlap. Each engine takes the next picture of the list
/// when it is free, so that the journal's order is theirs; documents are in the order of names.
pub fn label(
    args: &LabelArgs,
    labelers: &[Labeler],
    layout: &Layout,
    open: Vec<(Source, Stamp)>,
    journal: &mut Journal,
) -> Result<Tally> {
    let (bar, decoding) = (progress::pictures(open.len()), args.decoding.options());
    let (strict, min_area) = (args.run.strict, args.keep.min_area);
    let stamps = open
        .iter()
        .map(|(source, file)| (source.name.clone(), *file));
    let stamps: BTreeMap<String, Stamp> = stamps.collect();
    let sources = open.into_iter().map(|(source, _)| source);
    let list = Arc::new(Mutex::new(sources));
    std::thread::scope(|scope| {
        let (sender, receiver) = mpsc::sync_channel(2);
        let writer =
            scope.spawn(|| write::write_all(receiver, layout, journal, strict, min_area, &bar));
        for labeler in labelers {
            let (sender, list) = (sender.clone(), list.clone());
            let next = move || list.lock().unwrap_or_else(PoisonError::into_inner).next();
            let stamps = &stamps;
            scope.spawn(move || {
                let sources = std::iter::from_fn(next);
                let mut run = Run::default();
                for labeled in dataset::label(labeler, sources, &decoding, &mut run) {
                    let file = stamps.get(&labeled.source.name).copied();
                    // The writer ends early only with an error.
                    if sender.send((labeled, file.unwrap_or_default())).is_err() {
                        return;
                    }
                }
            });
        }
        drop(sender);
        match writer.join() {
            Ok(tally) => tally,
            Err(panic) => std::panic::resume_unwind(panic),
        }
    })
}
