//! One picture at a time.

use serde::{Deserialize, Serialize};

#[cfg(feature = "clip")]
use super::Classifier;
use crate::image::Image;
use crate::mask::{Mask, nms};
use crate::models::Model;
#[cfg(feature = "clip")]
use crate::models::clip::Clip;
use crate::predict::concept::{self, Concept, EncodedPrompt, Prediction, Prompt};
use crate::predict::everything;
use crate::predict::tiled::{self, Tiles};
use crate::{Error, Result, Run};

/// What to look for, and how it is called.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Class {
    /// What objects of this class are called.
    pub name: String,
    /// The words that find them; an object found by several is one. The name where this is empty.
    #[serde(default)]
    pub phrases: Vec<String>,
    /// Keep objects with a higher score than this, in 0..1.
    #[serde(default = "default_threshold")]
    pub threshold: f32,
    /// Keep at most this many in a picture, the best ones.
    #[serde(default)]
    pub max_objects: Option<usize>,
    /// Drop objects of fewer pixels.
    #[serde(default)]
    pub min_area: usize,
}

fn default_threshold() -> f32 {
    concept::Options::default().threshold
}

impl Class {
    /// A class found by its name.
    pub fn new(name: impl Into<String>) -> Self {
        Self {
            name: name.into(),
            phrases: Vec::new(),
            threshold: default_threshold(),
            max_objects: None,
            min_area: 0,
        }
    }

    /// The words to look for.
    pub fn phrases(&self) -> &[String] {
        if self.phrases.is_empty() {
            std::slice::from_ref(&self.name)
        } else {
            &self.phrases
        }
    }
}

/// The phrases of all classes, each with the place of its class.
pub(super) fn phrases_of(classes: &[Class]) -> impl Iterator<Item = (usize, &String)> {
    let classes = classes.iter().enumerate();
    classes.flat_map(|(i, class)| class.phrases().iter().map(move |phrase| (i, phrase)))
}

/// What to look for in every picture, and what to keep.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Options {
    /// What to look for.
    pub classes: Vec<Class>,
    /// Drop an object whose mask overlaps that of a better one of its class by more than this IoU.
    pub nms: f32,
    /// The same for objects of different classes; `None` keeps both.
    pub nms_across: Option<f32>,
    /// Search large pictures tile by tile.
    pub tiles: Option<Tiles>,
}

impl Options {
    /// The classes with their own thresholds, one object for what several words of a class find.
    pub fn new(classes: Vec<Class>) -> Self {
        Self {
            classes,
            nms: 0.7,
            nms_across: None,
            tiles: None,
        }
    }

    /// The names of the classes.
    fn names(&self) -> Vec<String> {
        self.classes
            .iter()
            .map(|class| class.name.clone())
            .collect()
    }

    /// # Errors
    /// [`Error::InvalidArgument`] without classes, for a name that appears twice or is empty, and
    /// for a number out of its range.
    pub fn validate(&self) -> Result<()> {
        let problem = |why: String| Err(Error::InvalidArgument(why));
        if self.classes.is_empty() {
            return problem("no class to look for".to_string());
        }
        for (i, class) in self.classes.iter().enumerate() {
            let name = &class.name;
            if name.trim().is_empty() {
                return problem(format!("class {} has no name", i + 1));
            }
            if self.classes[..i].iter().any(|other| other.name == *name) {
                return problem(format!("the class {name:?} appears twice"));
            }
            if !(0.0..1.0).contains(&class.threshold) {
                let threshold = class.threshold;
                return problem(format!(
                    "the threshold {threshold} of {name:?} is not in 0..1"
                ));
            }
            if class.max_objects == Some(0) {
                return problem(format!("{name:?} may have no objects at all"));
            }
        }
        for iou in std::iter::once(self.nms).chain(self.nms_across) {
            if !(0.0..=1.0).contains(&iou) {
                return problem(format!("the overlap {iou} is not in 0..=1"));
            }
        }
        self.tiles.as_ref().map_or(Ok(()), Tiles::validate)
    }
}

/// A found object.
#[derive(Debug, Clone, PartialEq)]
pub struct Object {
    /// Index into [`Labeler::classes`].
    pub class: usize,
    /// Confidence in 0..=1; for everything the predicted IoU, which may exceed 1, or with a classifier
    /// the probability of its class.
    pub score: f32,
    /// Its pixels, at the size of the picture; at least one.
    pub mask: Mask,
}

/// A model that is ready to label pictures.
#[derive(Debug)]
pub struct Labeler<'a> {
    model: &'a Model,
    task: Task,
    classes: Vec<String>,
}

#[derive(Debug)]
enum Task {
    Classes {
        options: Options,
        /// One for each phrase, with its class.
        prompts: Vec<EncodedPrompt>,
        class_of: Vec<usize>,
        search: concept::Options,
    },
    Everything(Box<everything::Options>),
    #[cfg(feature = "clip")]
    Classified {
        everything: Box<everything::Options>,
        classifier: Box<Classifier>,
        options: Options,
    },
}

impl<'a> Labeler<'a> {
    /// Looks for objects of classes.
    ///
    /// # Errors
    /// As [`Options::validate`]; [`Error::Unsupported`] for a model without texts;
    /// [`Error::InvalidPrompt`] for a phrase of which nothing is left after cleaning.
    pub fn of_classes(model: &'a Model, options: &Options, run: &mut Run) -> Result<Self> {
        options.validate()?;
        let phrases = phrases_of(&options.classes);
        let (class_of, prompts): (Vec<usize>, Vec<Prompt>) =
            phrases.map(|(i, phrase)| (i, Prompt::text(phrase))).unzip();
        let prompts = concept::encode(model.as_concept()?, &prompts, run)?;
        Ok(Self::of_prompts(model, options, prompts, class_of))
    }

    /// Looks for concepts of files; each has the class of its place in the list.
    ///
    /// # Errors
    /// As [`Options::validate`]; [`Error::InvalidArgument`] unless there is a class for each concept;
    /// [`Error::Unsupported`] for a concept of another model, and for a model without exemplars.
    pub fn of_concepts(
        model: &'a Model,
        options: &Options,
        concepts: &[Concept],
        run: &mut Run,
    ) -> Result<Self> {
        options.validate()?;
        let (classes, count) = (options.classes.len(), concepts.len());
        if classes != count {
            return Err(Error::argument(format!(
                "{classes} classes for {count} concepts"
            )));
        }
        let encoder = model.as_concept()?;
        let prompts = concepts.iter().map(|concept| concept.encode(encoder, run));
        let prompts = prompts.collect::<Result<_>>()?;
        Ok(Self::of_prompts(
            model,
            options,
            prompts,
            (0..count).collect(),
        ))
    }

    fn of_prompts(
        model: &'a Model,
        options: &Options,
        prompts: Vec<EncodedPrompt>,
        class_of: Vec<usize>,
    ) -> Self {
        let thresholds = options.classes.iter().map(|class| class.threshold);
        Self {
            model,
            task: Task::Classes {
                options: options.clone(),
                prompts,
                class_of,
                search: concept::Options {
                    threshold: thresholds.fold(1.0, f32::min),
                    ..concept::Options::default()
                },
            },
            classes: options.names(),
        }
    }

    /// Looks for everything; all objects are of one class, called `object`.
    ///
    /// # Errors
    /// [`Error::InvalidArgument`] for options out of range; [`Error::Unsupported`] for a model
    /// without an interactive head.
    pub fn of_everything(model: &'a Model, options: &everything::Options) -> Result<Self> {
        options.validate()?;
        model.as_interactive()?;
        Ok(Self {
            model,
            task: Task::Everything(Box::new(options.clone())),
            classes: vec!["object".to_string()],
        })
    }

    /// Looks for everything, and keeps what a CLIP finds probable enough to be of one of the classes.
    ///
    /// The threshold of a class is for the probability that the classifier gives to objects; an object
    /// is of its most probable class or, below the threshold of that, of none.
    ///
    /// # Errors
    /// As [`Options::validate`], [`Classifier::new`] and [`Labeler::of_everything`];
    /// [`Error::InvalidArgument`] for tiles, of which the generator has its own.
    #[cfg(feature = "clip")]
    pub fn of_classified(
        model: &'a Model,
        everything: &everything::Options,
        clip: Clip,
        options: &Options,
    ) -> Result<Self> {
        options.validate()?;
        if options.tiles.is_some() {
            return Err(Error::argument("tiles are for texts; everything has crops"));
        }
        everything.validate()?;
        model.as_interactive()?;
        Ok(Self {
            model,
            task: Task::Classified {
                everything: Box::new(everything.clone()),
                classifier: Box::new(Classifier::new(clip, &options.classes)?),
                options: options.clone(),
            },
            classes: options.names(),
        })
    }

    /// The names of the classes.
    pub fn classes(&self) -> &[String] {
        &self.classes
    }

    /// How many pictures [`Labeler::label_batch`] should get at a time: several where a GPU encodes them
    /// in one pass, else one.
    pub fn batch(&self) -> usize {
        match (&self.task, self.model.as_concept()) {
            (Task::Classes { options, .. }, Ok(model)) if options.tiles.is_none() => {
                model.images_at_a_time()
            }
            _ => 1,
        }
    }

    /// Labels pictures; where only words are looked for, their images are encoded in one pass.
    ///
    /// # Errors
    /// As [`Labeler::label`], if any of the pictures fails.
    pub fn label_batch(&self, images: &[&Image], run: &mut Run) -> Result<Vec<Vec<Object>>> {
        let Task::Classes {
            options: options @ Options { tiles: None, .. },
            prompts,
            class_of,
            search,
        } = &self.task
        else {
            return images.iter().map(|image| self.label(image, run)).collect();
        };
        let model = self.model.as_concept()?;
        let embeddings = model.encode_images(images, run)?;
        let label = |embedding| {
            let found = concept::predict(model, embedding, prompts, search, run)?;
            Ok(select(options, of_phrases(class_of, found)))
        };
        embeddings.iter().map(label).collect()
    }

    /// Labels one picture.
    ///
    /// # Errors
    /// [`Error::NotFinite`] if the network computes NaN or infinity; [`Error::Cancelled`].
    pub fn label(&self, image: &Image, run: &mut Run) -> Result<Vec<Object>> {
        match &self.task {
            Task::Classes {
                options,
                prompts,
                class_of,
                search,
            } => {
                let model = self.model.as_concept()?;
                let found = match &options.tiles {
                    Some(tiles) => tiled::predict(model, image, prompts, tiles, search, run)?,
                    None => {
                        let embedding = model.encode_image(image, run)?;
                        concept::predict(model, &embedding, prompts, search, run)?
                    }
                };
                Ok(select(options, of_phrases(class_of, found)))
            }
            Task::Everything(options) => self.everything(image, options, run),
            #[cfg(feature = "clip")]
            Task::Classified {
                everything,
                classifier,
                options,
            } => {
                let mut objects = self.everything(image, everything, run)?;
                let masks: Vec<&Mask> = objects.iter().map(|object| &object.mask).collect();
                let classes = classifier.classify(image, &masks, run)?;
                for (object, (class, probability)) in objects.iter_mut().zip(classes) {
                    (object.class, object.score) = (class, probability);
                }
                Ok(select(options, objects))
            }
        }
    }

    fn everything(
        &self,
        image: &Image,
        options: &everything::Options,
        run: &mut Run,
    ) -> Result<Vec<Object>> {
        let model = self.model.as_interactive()?;
        let found = everything::generate(model, image, options, run)?;
        let objects = found.iter().map(|record| {
            Ok(Object {
                class: 0,
                score: record.predicted_iou,
                mask: record.mask()?,
            })
        });
        let mut objects = objects.collect::<Result<Vec<Object>>>()?;
        objects.retain(|object| !object.mask.is_empty());
        Ok(objects)
    }
}

/// What the phrases found, phrase by phrase.
pub(super) fn of_phrases(class_of: &[usize], found: Vec<Prediction>) -> Vec<Object> {
    let found = found.into_iter().zip(class_of);
    let objects = found.flat_map(|(prediction, &class)| {
        let instances = prediction.instances.into_iter();
        instances.map(move |instance| Object {
            class,
            score: instance.score,
            mask: instance.mask,
        })
    });
    objects.collect()
}

/// What to keep of what was found, by class and then best first.
pub(super) fn select(options: &Options, mut found: Vec<Object>) -> Vec<Object> {
    let mut objects: Vec<Object> = Vec::new();
    for (index, class) in options.classes.iter().enumerate() {
        let of_class = found.extract_if(.., |object| object.class == index);
        let kept = of_class.filter(|object| {
            object.score > class.threshold && object.mask.area() >= class.min_area.max(1)
        });
        let mut best = suppress(kept.collect(), options.nms);
        best.truncate(class.max_objects.unwrap_or(usize::MAX));
        objects.extend(best);
    }
    if let Some(iou) = options.nms_across {
        objects = suppress(objects, iou);
        objects.sort_by_key(|object| object.class);
    }
    objects
}

/// The objects that no better one overlaps, best first.
fn suppress(objects: Vec<Object>, iou: f32) -> Vec<Object> {
    let masks: Vec<&Mask> = objects.iter().map(|object| &object.mask).collect();
    let scores: Vec<f32> = objects.iter().map(|object| object.score).collect();
    let kept = nms::mask_nms(&masks, &scores, iou);
    let mut objects: Vec<Option<Object>> = objects.into_iter().map(Some).collect();
    kept.into_iter()
        .filter_map(|index| objects[index].take())
        .collect()
}
