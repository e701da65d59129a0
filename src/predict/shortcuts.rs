//! The first picture in one call. Each is a few lines over [`super::concept`] and
//! [`super::interactive`], which answer many prompts on an image that is encoded once.

use super::Instance;
use super::concept::{self, Prompt};
use super::interactive::{self, MaskPrediction};
use crate::models::sam3::Sam3;
use crate::models::{Model, VisualPrompt};
use crate::{Image, Result, Run};

impl Sam3 {
    /// Finds every object that `text` means, with the default options: "a striped cat".
    ///
    /// # Errors
    /// [`crate::Error::InvalidPrompt`] if nothing is left of the text after cleaning.
    pub fn segment(&self, image: &Image, text: &str) -> Result<Vec<Instance>> {
        let run = &mut Run::default();
        let prompts = concept::encode(self, &[Prompt::text(text)], run)?;
        let embedding = self.encode_image(image, run)?;
        let found = concept::predict(self, &embedding, &prompts, &Default::default(), run)?;
        Ok(found
            .into_iter()
            .flat_map(|prediction| prediction.instances)
            .collect())
    }
}

impl Model {
    /// Finds every object that `text` means, see [`Sam3::segment`].
    ///
    /// # Errors
    /// As [`Sam3::segment`]; [`crate::Error::Unsupported`] for SAM 1 and MobileSAM.
    pub fn segment(&self, image: &Image, text: &str) -> Result<Vec<Instance>> {
        self.as_concept()?.segment(image, text)
    }

    /// Cuts out the one object that `prompt` means, with the default options; `None` if the model
    /// gives no mask.
    ///
    /// # Errors
    /// [`crate::Error::InvalidPrompt`] as [`interactive::validate`]; [`crate::Error::Unsupported`]
    /// for a SAM 3 loaded without its interactive head.
    pub fn click(&self, image: &Image, prompt: &VisualPrompt) -> Result<Option<MaskPrediction>> {
        let (model, run) = (self.as_interactive()?, &mut Run::default());
        interactive::validate(
            std::slice::from_ref(prompt),
            &Default::default(),
            image.size(),
        )?;
        let embedding = model.encode_interactive(image, run)?;
        let found = interactive::predict_one(model, &embedding, prompt, &Default::default(), run)?;
        Ok(found.best().cloned())
    }
}
