//! What to look for, from the line or from a file.

use std::path::Path;

use anyhow::{Context, Result, bail};
use candle_sam3::predict::dataset::Class;
use serde::Deserialize;

/// Reads what `flag` holds, `car:0.4, person, dog|puppy:0.6:10`: words of a class with `|` between them,
/// the first one its name; after a colon its threshold; after another one the most objects in a picture.
pub fn parse(flag: &str, line: &str, threshold: f32) -> Result<Vec<Class>> {
    let parts = line.split(',').map(str::trim);
    parts
        .map(|part| class(part, threshold).with_context(|| format!("{flag} {part:?}")))
        .collect()
}

fn class(part: &str, threshold: f32) -> Result<Class> {
    let mut fields = part.split(':').map(str::trim);
    let words = fields.next().unwrap_or_default().split('|');
    let phrases: Vec<String> = words.map(|word| word.trim().to_string()).collect();
    if phrases.iter().any(String::is_empty) {
        bail!("a class needs words: \"car\" or \"car|automobile:0.4\"");
    }
    let mut class = Class {
        threshold,
        ..Class::new(&phrases[0])
    };
    if phrases.len() > 1 {
        class.phrases = phrases;
    }
    if let Some(text) = fields.next() {
        let threshold = text.parse();
        class.threshold = threshold.with_context(|| format!("the threshold {text:?}"))?;
    }
    if let Some(text) = fields.next() {
        let limit = text.parse();
        class.max_objects = Some(limit.with_context(|| format!("the limit {text:?}"))?);
    }
    match fields.next() {
        Some(_) => bail!("more than a threshold and a limit"),
        None => Ok(class),
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    class: Vec<Class>,
}

/// Reads a TOML file with a `[[class]]` table for each class: `name`, and as far as wanted `phrases`,
/// `threshold`, `max_objects` and `min_area`.
pub fn read(path: &Path) -> Result<Vec<Class>> {
    let text = std::fs::read_to_string(path).with_context(|| path.display().to_string())?;
    let file: File = toml::from_str(&text).with_context(|| path.display().to_string())?;
    Ok(file.class)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_has_words_thresholds_and_limits() {
        let classes = parse("--text", "car:0.4, person, dog | puppy:0.6:10", 0.5).unwrap();
        assert_eq!(classes.len(), 3);
        assert_eq!(
            (classes[0].name.as_str(), classes[0].threshold),
            ("car", 0.4)
        );
        assert_eq!(
            (classes[1].phrases(), classes[1].threshold),
            (&["person".to_string()][..], 0.5)
        );
        assert_eq!(
            (classes[2].name.as_str(), classes[2].max_objects),
            ("dog", Some(10))
        );
        assert_eq!(classes[2].phrases(), ["dog", "puppy"]);
    }

    #[test]
    fn a_line_that_cannot_be_read_says_where() {
        for (line, want) in [
            ("car,,dog", "needs words"),
            ("car|", "needs words"),
            ("car:high", "\"high\""),
            ("car:0.5:-1", "\"-1\""),
            ("car:0.5:3:4", "more than"),
        ] {
            let error = format!("{:#}", parse("--text", line, 0.5).unwrap_err());
            assert!(error.contains(want) && error.contains("--text"), "{error}");
        }
    }

    #[test]
    fn a_file_has_a_table_for_each_class() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("classes.toml");
        let text = "[[class]]\nname = \"car\"\nphrases = [\"car\", \"van\"]\nmin_area = 50\n\
                    [[class]]\nname = \"dog\"\nthreshold = 0.3\n";
        std::fs::write(&path, text).unwrap();
        let classes = read(&path).unwrap();
        assert_eq!((classes[0].phrases().len(), classes[0].min_area), (2, 50));
        assert_eq!((classes[0].threshold, classes[1].threshold), (0.5, 0.3));
        std::fs::write(&path, "[[class]]\nname = \"car\"\ncolor = 1\n").unwrap();
        let error = format!("{:#}", read(&path).unwrap_err());
        assert!(error.contains("color"), "{error}");
    }
}
