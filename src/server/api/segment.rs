//! Prompts of every kind -> objects.

use std::sync::Arc;
use std::time::Instant;

use axum::extract::{Path, Request, State};
use axum::http::header;
use axum::response::{IntoResponse, Response};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};

use super::images;
use super::types::{
    ExemplarIn, ImageOut, MAX_EXEMPLARS, MAX_OBJECTS, MAX_POINTS, ObjectIn, ObjectOut, Output,
    SegmentAnswer, SegmentRequest, Texts, Timing, check_mask, decode_logits, encode_logits, limit,
};
use crate::mask::polygon::{Convention, Polygons, Simplify};
use crate::output::answer::{Answer, Found};
use crate::output::{self, OverlayOptions};
use crate::predict::concept::{self, Exemplar};
use crate::predict::interactive::{self, Multimask};
use crate::server::body::{self, Part};
use crate::server::error::{ApiError, Json, Result};
use crate::server::images::Picture;
use crate::server::queue::Priority;
use crate::server::{Service, blocking};
use crate::{Image, Mask, Model, Point, Rle, Run, VisualPrompt};

/// Bytes of a request with prompts.
const MAX_BODY: usize = 16 << 20;

/// `POST /api/v1/images/{id}/segment`
pub async fn stored(
    State(service): State<Service>,
    Path(id): Path<String>,
    request: Request,
) -> Result<Response> {
    let picture = service.images.get(id.parse()?)?;
    let received = service.bodies.read(request, MAX_BODY).await?;
    answer(&service, picture, received.json()?).await
}

/// `POST /api/v1/segment`: a form with the picture and the prompts.
pub async fn one_shot(State(service): State<Service>, request: Request) -> Result<Response> {
    let limit = service.config.max_upload;
    let received = service.bodies.read(request, limit).await?;
    let mut fields = received.form().await?;
    let image = images::take_image(&mut fields)?;
    let request = read_form(&fields)?;
    let picture = images::keep(&service, image).await?;
    answer(&service, picture, request).await
}

/// Fields of a form: `text`, `exemplar`, `point`, `box`, `threshold`, `output`, `multimask`, or all of
/// them as the JSON document `prompt`.
fn read_form(fields: &[Part]) -> Result<SegmentRequest> {
    let mut request = SegmentRequest::default();
    let mut object = ObjectIn::default();
    let mut labels = vec![];
    for field in fields {
        let text = field.text()?.trim();
        let wrong = |what: &str| {
            ApiError::invalid(format!("field {}: {text:?} is not {what}", field.name), "")
        };
        match field.name.as_str() {
            "prompt" => {
                request = body::object(text.as_bytes())
                    .map_err(|error| ApiError::invalid(format!("field prompt: {error}"), ""))?;
            }
            "text" => request.text = Some(Texts::One(text.to_string())),
            "exemplar" => {
                let read = signed::<4>(text);
                let (bbox, positive) = read.ok_or_else(|| wrong("x0,y0,x1,y1 or x0,y0,x1,y1,0"))?;
                let bbox = bbox.into();
                request.exemplars.push(ExemplarIn { bbox, positive });
            }
            "point" => {
                let (xy, on_object) = signed(text).ok_or_else(|| wrong("x,y or x,y,0"))?;
                object.points.push(xy);
                labels.push(on_object.into());
            }
            "box" => match numbers(text).as_deref() {
                Some(&[x0, y0, x1, y1]) => object.bbox = Some([x0, y0, x1, y1].into()),
                _ => return Err(wrong("x0,y0,x1,y1")),
            },
            "threshold" => request.threshold = Some(text.parse().map_err(|_| wrong("a number"))?),
            "output" => request.output = text.parse()?,
            "multimask" => request.multimask = text.parse().map_err(|_| wrong("true or false"))?,
            name => {
                return Err(ApiError::invalid(
                    format!("there is no field {name:?}"),
                    "use image, text, exemplar, point, box, threshold, output, multimask or prompt",
                ));
            }
        }
    }
    if !object.points.is_empty() || object.bbox.is_some() {
        object.labels = Some(labels);
        request.objects.push(object);
    }
    Ok(request)
}

/// Numbers, and behind them 0 for what is not meant; 1 and nothing are for what is.
fn signed<const N: usize>(text: &str) -> Option<([f32; N], bool)> {
    let numbers = numbers(text)?;
    match numbers.split_first_chunk()? {
        (first, []) => Some((*first, true)),
        (first, [sign]) if [0., 1.].contains(sign) => Some((*first, *sign == 1.)),
        _ => None,
    }
}

fn numbers(text: &str) -> Option<Vec<f32>> {
    text.split(',')
        .map(|number| number.trim().parse().ok())
        .collect()
}

/// A request that was checked.
pub(in crate::server) enum Work {
    Concept(Vec<concept::Prompt>, concept::Options),
    Interactive {
        prompts: Vec<VisualPrompt>,
        options: interactive::Options,
        has_all: bool,
    },
}

impl Work {
    fn new(model: &Model, picture: &Picture, request: &SegmentRequest) -> Result<Self> {
        let is_concept = request.text.is_some() || !request.exemplars.is_empty();
        match (is_concept, request.objects.is_empty()) {
            (true, true) => Self::concept(model, picture, request),
            (false, false) => Self::interactive(model, picture, request),
            (true, false) => Err(ApiError::invalid(
                "texts or exemplars, and objects in one request",
                "send one request for each",
            )),
            (false, true) => Err(ApiError::invalid(
                "the request asks for nothing",
                "give `text`, `exemplars` or `objects`",
            )),
        }
    }

    fn concept(model: &Model, picture: &Picture, request: &SegmentRequest) -> Result<Self> {
        limit("exemplars", request.exemplars.len(), MAX_EXEMPLARS)?;
        let exemplar = |&ExemplarIn { bbox, positive }: &ExemplarIn| Exemplar { bbox, positive };
        let exemplars = request.exemplars.iter().map(exemplar).collect();
        let phrases = request.text.as_ref().map(Texts::phrases).transpose()?;
        let prompts = concept_prompts(phrases, exemplars);
        let defaults = concept::Options::default();
        let options = concept::Options {
            threshold: request.threshold.unwrap_or(defaults.threshold),
            nms: request.nms,
            max_instances: request.max_instances,
            ..defaults
        };
        Self::concepts(model, picture, prompts, options)
    }

    /// Texts and exemplars.
    pub fn concepts(
        model: &Model,
        picture: &Picture,
        prompts: Vec<concept::Prompt>,
        options: concept::Options,
    ) -> Result<Self> {
        model.as_concept()?;
        concept::validate(&prompts, &options, picture.size())?;
        Ok(Self::Concept(prompts, options))
    }

    fn interactive(model: &Model, picture: &Picture, request: &SegmentRequest) -> Result<Self> {
        model.as_interactive()?;
        limit("objects", request.objects.len(), MAX_OBJECTS)?;
        let prompts = request
            .objects
            .iter()
            .map(|object| visual_prompt(model, picture, object));
        let prompts: Vec<VisualPrompt> = prompts.collect::<Result<_, _>>()?;
        let multimask = match request.multimask {
            true => Multimask::Three,
            false => Multimask::Auto,
        };
        let has_all = request.multimask;
        Self::pointed(model, picture, prompts, multimask, has_all)
    }

    /// Points, boxes and masks; the best mask of each prompt, unless all are wanted.
    pub fn pointed(
        model: &Model,
        picture: &Picture,
        prompts: Vec<VisualPrompt>,
        multimask: Multimask,
        has_all: bool,
    ) -> Result<Self> {
        model.as_interactive()?;
        let options = interactive::Options {
            multimask,
            ..interactive::Options::default()
        };
        interactive::validate(&prompts, &options, picture.size())?;
        Ok(Self::Interactive {
            prompts,
            options,
            has_all,
        })
    }
}

/// A prompt for each phrase, or one without words, each with all exemplars.
pub(in crate::server) fn concept_prompts(
    phrases: Option<Vec<String>>,
    exemplars: Vec<Exemplar>,
) -> Vec<concept::Prompt> {
    let prompt = |text: String| concept::Prompt {
        exemplars: exemplars.clone(),
        ..concept::Prompt::text(text)
    };
    match phrases {
        Some(phrases) => phrases.into_iter().map(prompt).collect(),
        None => vec![concept::Prompt::exemplars(exemplars)],
    }
}

fn visual_prompt(model: &Model, picture: &Picture, object: &ObjectIn) -> Result<VisualPrompt> {
    limit("points", object.points.len(), MAX_POINTS)?;
    Ok(VisualPrompt {
        points: points(object)?,
        bbox: object.bbox,
        mask_logits: mask_logits(model, picture, object)?,
    })
}

fn points(object: &ObjectIn) -> Result<Vec<Point>> {
    let (points, count) = (&object.points, object.points.len());
    let labels = object.labels.clone().unwrap_or_else(|| vec![1; count]);
    if labels.len() != count || labels.iter().any(|label| *label > 1) {
        return Err(ApiError::invalid(
            format!("labels {labels:?} for {count} points"),
            "give one label for each point, 1 on the object and 0 beside it",
        ));
    }
    let point = |(xy, label): (&[f32; 2], &u8)| Point {
        xy: *xy,
        on_object: *label == 1,
    };
    Ok(points.iter().zip(&labels).map(point).collect())
}

fn mask_logits(model: &Model, picture: &Picture, object: &ObjectIn) -> Result<Option<Vec<f32>>> {
    let interactive = model.as_interactive()?;
    match (&object.mask, &object.logits) {
        (None, None) => Ok(None),
        (Some(_), Some(_)) => Err(ApiError::invalid(
            "a mask and logits for one object",
            "give one of them",
        )),
        (None, Some(logits)) => {
            let logits = decode_logits(logits)?;
            let size = interactive.low_res_size();
            if logits.len() != size.area() || logits.iter().any(|logit| !logit.is_finite()) {
                return Err(ApiError::invalid(
                    format!("`logits` are not {size} finite numbers"),
                    "hand back what an earlier answer of this model had",
                ));
            }
            Ok(Some(logits))
        }
        (Some(rle), None) => {
            let size = picture.size();
            check_mask(rle, size)?;
            let mask = rle.decode()?;
            Ok(Some(interactive::from_drawn(interactive, size, &mask)?))
        }
    }
}

/// An object that was found, before its mask is put into the form that was asked for.
pub(in crate::server) struct Hit {
    /// Index of the prompt that found it.
    pub prompt: usize,
    pub found: Found,
    /// Low-resolution logits of one that was pointed at.
    pub logits: Option<Vec<f32>>,
}

/// Objects, and for each text its presence.
pub(in crate::server) type Hits = (Vec<Hit>, Vec<f32>);

async fn answer(
    service: &Service,
    picture: Arc<Picture>,
    request: SegmentRequest,
) -> Result<Response> {
    let start = Instant::now();
    let work = Work::new(service.engine.model(), &picture, &request)?;
    let (objects, mut timing) = run(service, &picture, work).await?;
    timing.total_ms = ms_since(start);
    let model = service.engine.model().name().to_string();
    // PNG files take longer than the model's own work.
    blocking(move || render(model, &picture, objects, &request, timing)).await
}

pub(super) fn ms_since(start: Instant) -> f64 {
    (start.elapsed().as_secs_f64() * 1e5).round() / 1e2
}

/// Encodes the picture if need be and runs the prompts.
pub(in crate::server) async fn run(
    service: &Service,
    picture: &Arc<Picture>,
    work: Work,
) -> Result<(Hits, Timing)> {
    let start = Instant::now();
    let embedding = service.engine.encode(picture).await?;
    let encode_ms = ms_since(start);
    let priority = match work {
        Work::Concept(..) => Priority::Patient,
        Work::Interactive { .. } => Priority::Urgent,
    };
    let decoded = service.engine.run(priority, move |worker, cancel| {
        let start = Instant::now();
        let mut run = Run {
            cancel: Some(cancel.clone()),
            ..Run::default()
        };
        let model = &worker.model;
        let hits = match work {
            Work::Concept(prompts, options) => {
                let model = model.as_concept()?;
                let encoded = concept::encode(model, &prompts, &mut run)?;
                let image = embedding.as_concept()?;
                let found = concept::predict(model, image, &encoded, &options, &mut run)?;
                concepts(&prompts, found)
            }
            Work::Interactive {
                prompts,
                options,
                has_all,
            } => {
                let image = model.interactive_embedding(&embedding)?;
                let model = model.as_interactive()?;
                let found = interactive::predict(model, &image, &prompts, &options, &mut run)?;
                (pointed_at(&prompts, found, has_all), vec![])
            }
        };
        Ok((hits, ms_since(start)))
    });
    let (objects, decode_ms) = decoded.await?;
    let timing = Timing {
        encode_ms,
        decode_ms,
        total_ms: 0.,
    };
    Ok((objects, timing))
}

fn concepts(prompts: &[concept::Prompt], found: Vec<concept::Prediction>) -> Hits {
    let presence = found.iter().map(|prediction| prediction.presence).collect();
    let answers = prompts.iter().zip(found).map(Answer::from);
    let hits = answers.enumerate().flat_map(|(prompt, answer)| {
        answer.instances.into_iter().map(move |found| Hit {
            prompt,
            found,
            logits: None,
        })
    });
    (hits.collect(), presence)
}

fn pointed_at(
    prompts: &[VisualPrompt],
    found: Vec<interactive::Prediction>,
    has_all: bool,
) -> Vec<Hit> {
    let mut hits = vec![];
    for (index, (prompt, mut prediction)) in prompts.iter().zip(found).enumerate() {
        if !has_all {
            prediction.masks = prediction.best().cloned().into_iter().collect();
        }
        let masks = prediction.masks.iter_mut();
        let logits = masks.map(|mask| Some(std::mem::take(&mut mask.low_res_logits)));
        let logits: Vec<_> = logits.collect();
        let answer = Answer::from((prompt, prediction));
        let found = answer.instances.into_iter().zip(logits);
        hits.extend(found.map(|(found, logits)| Hit {
            prompt: index,
            found,
            logits,
        }));
    }
    hits
}

fn render(
    model: String,
    picture: &Picture,
    (hits, presence): Hits,
    request: &SegmentRequest,
    timing: Timing,
) -> Result<Response> {
    if request.output == Output::Overlay {
        return overlay(&picture.image, &hits);
    }
    let out = |hit: Hit| -> Result<ObjectOut> {
        let (found, logits) = (hit.found, hit.logits.filter(|_| request.logits));
        Ok(ObjectOut {
            prompt: hit.prompt,
            label: found.label,
            score: found.score,
            stability: found.stability,
            bbox: found.bbox,
            area: found.mask.area(),
            mask: mask_value(&picture.image, &found.mask, request.output)?,
            logits: logits.as_deref().map(encode_logits),
        })
    };
    let answer = SegmentAnswer {
        model,
        image: ImageOut::new(picture),
        objects: hits.into_iter().map(out).collect::<Result<_, _>>()?,
        presence,
        timing,
    };
    Ok(Json(answer).into_response())
}

fn mask_value(image: &Image, mask: &Mask, output: Output) -> Result<Value> {
    Ok(match output {
        Output::Png => json!({"png": STANDARD.encode(output::masks::mask_png(mask)?)}),
        Output::Cutout => {
            let [x, y, _, _] = bounds(mask);
            json!({"cutout": STANDARD.encode(cutout_png(image, mask)?), "x": x, "y": y})
        }
        Output::Polygon => json!({"parts": parts(mask)}),
        Output::Rle | Output::Overlay => json!(Rle::encode(mask)),
    })
}

/// Outlines along the edges of pixels, a part of the mask each, with its holes.
fn parts(mask: &Mask) -> Vec<Value> {
    let polygons = Polygons::outline(mask, Convention::PixelEdges, &Simplify::default());
    let parts = polygons.parts.into_iter();
    parts
        .map(|part| json!({"outer": part.outer, "holes": part.holes}))
        .collect()
}

/// First column and row, and those after the last; one pixel for an empty mask.
fn bounds(mask: &Mask) -> [usize; 4] {
    match mask.bbox() {
        Some(bbox) => [bbox.x0, bbox.y0, bbox.x1, bbox.y1].map(|edge| edge as usize),
        None => [0, 0, 1, 1],
    }
}

/// The object alone, cropped to it, transparent around it; a black pixel for an empty mask, since
/// PNG has no empty pictures.
pub(super) fn cutout_png(image: &Image, mask: &Mask) -> Result<Vec<u8>> {
    if let Some(png) = output::cutout::cutout_png(image, mask, false)? {
        return Ok(png);
    }
    let pixel = Image::from_rgb8(1, 1, vec![0; 3])?;
    let transparent = output::cutout::cutout_png(&pixel, &Mask::from_fn(1, 1, |_, _| true), true)?;
    Ok(transparent.unwrap_or_default())
}

fn overlay(image: &Image, hits: &[Hit]) -> Result<Response> {
    let instances: Vec<&Found> = hits.iter().map(|hit| &hit.found).collect();
    let drawn = output::overlay(image, &instances, &OverlayOptions::default());
    let png = output::encode_png(&drawn)?;
    Ok(([(header::CONTENT_TYPE, "image/png")], png).into_response())
}
