//! What passes between the host and a device, and how many tensors are made, for one image, one text
//! and one click. `tools/bench/README.md` has the figures, which this prints when it runs alone: candle
//! numbers the tensors of a process.

use candle::{DType, Device, Tensor};

use super::concept::{self, Exemplar, Options, Prompt};
use super::interactive::{self, Multimask};
use crate::device::{Traffic, traffic};
use crate::models::sam3::Sam3;
use crate::nn::on_gpu;
use crate::{Image, LoadOptions, Run, VisualPrompt, weights};

/// What one step took.
struct Cost {
    traffic: Traffic,
    /// Results of operations, views included.
    tensors: usize,
}

/// Tensors made so far.
fn tensors() -> usize {
    let newest = Tensor::zeros((), DType::U8, &Device::Cpu).unwrap();
    let number = format!("{:?}", newest.id());
    let digits = number.trim_matches(|c: char| !c.is_ascii_digit());
    digits.parse().unwrap()
}

/// Runs a step twice and prints and returns what the second time took: the first one may fill what the
/// model keeps.
fn cost<T>(name: &str, mut step: impl FnMut() -> T) -> (T, Cost) {
    step();
    let before = (traffic(), tensors());
    let done = step();
    let cost = Cost {
        traffic: traffic() - before.0,
        tensors: tensors() - before.1 - 1,
    };
    let Traffic {
        uploads,
        uploaded_bytes,
        downloads,
        downloaded_bytes,
    } = cost.traffic;
    println!(
        "| {name} | {uploads} ({uploaded_bytes} B) | {downloads} ({downloaded_bytes} B) | {} |",
        cost.tensors
    );
    (done, cost)
}

#[test]
fn little_passes_between_host_and_device() {
    let options = LoadOptions::with_interactive();
    let model = Sam3::load(&weights::demo().unwrap(), &options).unwrap();
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/scenes/shapes.png");
    let image = Image::open(path).unwrap();
    let run = || Run::default();

    println!("| step | uploads | downloads | tensors |");
    let (embedding, encode) = cost("image", || model.encode_image(&image, &mut run()).unwrap());
    let (texts, text) = cost("text", || {
        let prompts = [Prompt::text("blue circle")];
        concept::encode(&model, &prompts, &mut run()).unwrap()
    });
    let answer = |prompts: &[concept::EncodedPrompt], options: &Options| {
        concept::predict(&model, &embedding, prompts, options, &mut run()).unwrap()
    };
    let (found, answered) = cost("answer with objects", || {
        answer(&texts, &Options::default())
    });
    let none = Options {
        threshold: 1.,
        ..Options::default()
    };
    let (nothing, unanswered) = cost("answer without an object", || answer(&texts, &none));
    let bbox = found[0].instances[0].bbox;
    let exemplar = Exemplar {
        bbox,
        positive: true,
    };
    let exemplars = vec![exemplar; 3];
    let exemplars = [Prompt::exemplars(exemplars)];
    let exemplars = concept::encode(&model, &exemplars, &mut run()).unwrap();
    let (_, by_exemplars) = cost("answer by three exemplars", || {
        answer(&exemplars, &Options::default())
    });
    let (clicked, click_embed) = cost("image for clicks", || {
        model.interactive_embedding(&embedding).unwrap()
    });
    let options = interactive::Options {
        multimask: Multimask::Three,
        ..interactive::Options::default()
    };
    let [x, y] = [(bbox.x0 + bbox.x1) / 2., (bbox.y0 + bbox.y1) / 2.];
    let click = [VisualPrompt::point(x, y)];
    let (_, click) = cost("click", || {
        interactive::predict(&model, &clicked, &click, &options, &mut run()).unwrap()
    });

    assert!(!found[0].instances.is_empty() && nothing[0].instances.is_empty());
    let crossings = |cost: &Cost| (cost.traffic.uploads, cost.traffic.downloads);
    // A GPU resizes the pixels and enlarges the masks, with two tables for each size of image.
    let tables = if on_gpu(model.device()) { 2 } else { 0 };
    assert_eq!(crossings(&encode), (1 + tables, 0), "the pixels");
    assert_eq!(crossings(&text), (1, 0), "token ids");
    assert_eq!(crossings(&unanswered), (0, 1), "scores and boxes");
    assert_eq!(
        crossings(&answered),
        (1 + tables, 2),
        "which masks; the masks"
    );
    assert_eq!(
        crossings(&by_exemplars),
        (3 + tables, 2),
        "boxes, where they pool"
    );
    assert_eq!(crossings(&click_embed), (0, 0));
    let (up, down) = match on_gpu(model.device()) {
        true => (2 + tables, 3), // logits without holes; masks
        false => (1, 2),
    };
    assert_eq!(crossings(&click), (up, down), "the point; scores, logits");
}
