//! The labeling configuration of a project.

use std::sync::LazyLock;

use regex::Regex;

use crate::server::api::types::limit;
use crate::server::error::{ApiError, Result};

/// Bytes of a labeling configuration.
const MAX_CONFIG: usize = 1 << 20;

/// What the labeling configuration says about pictures and labels.
#[derive(Debug, PartialEq)]
pub(super) struct Config {
    /// `BrushLabels`, else `PolygonLabels`, else `RectangleLabels`.
    pub control: String,
    pub from_name: String,
    pub to_name: String,
    /// The field of a task's data that names its picture.
    pub value: String,
    /// The labels of the control.
    pub labels: Vec<String>,
}

static TAG: LazyLock<Regex> = LazyLock::new(|| {
    Regex::new(r#"<(/?)(\w+)((?:\s+[\w:.-]+\s*=\s*(?:"[^"]*"|'[^']*'))*)"#)
        .expect("the pattern is constant and tested")
});
static ATTRIBUTE: LazyLock<Regex> = LazyLock::new(|| {
    Regex::new(r#"([\w:.-]+)\s*=\s*(?:"([^"]*)"|'([^']*)')"#)
        .expect("the pattern is constant and tested")
});

impl Config {
    pub fn read(text: &str) -> Result<Self> {
        limit("bytes of label_config", text.len(), MAX_CONFIG)?;
        let attributes = |text: &str, name: &str| {
            let mut pairs = ATTRIBUTE.captures_iter(text);
            let found = pairs.find(|pair| &pair[1] == name)?;
            let value = found.get(2).or(found.get(3))?;
            Some(unescape(value.as_str()))
        };
        let mut value = None;
        let mut controls: Vec<Self> = vec![];
        for found in TAG.captures_iter(text).filter(|found| found[1].is_empty()) {
            let (name, rest) = (&found[2], &found[3]);
            match name {
                "Image" if value.is_none() => {
                    let field = attributes(rest, "value").unwrap_or_default();
                    value = Some(field.trim_start_matches('$').to_string());
                }
                "Label" => {
                    if let Some(control) = controls.last_mut() {
                        control.labels.extend(attributes(rest, "value"));
                    }
                }
                _ if name.ends_with("Labels") => controls.push(Self {
                    control: name.to_string(),
                    from_name: attributes(rest, "name").unwrap_or_default(),
                    to_name: attributes(rest, "toName").unwrap_or_default(),
                    value: String::new(),
                    labels: vec![],
                }),
                _ => {}
            }
        }
        let rank = |control: &Self| {
            let known = ["BrushLabels", "PolygonLabels", "RectangleLabels"];
            known.iter().position(|name| *name == control.control)
        };
        controls.retain(|control| rank(control).is_some());
        let (Some(value), Some(best)) = (value, controls.into_iter().min_by_key(rank)) else {
            return Err(ApiError::invalid(
                "the labeling configuration has no Image tag or nothing to answer with",
                "give it BrushLabels, PolygonLabels or RectangleLabels for its Image",
            ));
        };
        Ok(Self { value, ..best })
    }
}

/// The five entities that XML has by itself; `&amp;` last, so that nothing is unescaped twice.
fn unescape(text: &str) -> String {
    let entities = [
        ("&lt;", "<"),
        ("&gt;", ">"),
        ("&quot;", "\""),
        ("&apos;", "'"),
        ("&amp;", "&"),
    ];
    let replace = |text: String, (entity, sign): (&str, &str)| text.replace(entity, sign);
    entities.into_iter().fold(text.to_string(), replace)
}

#[cfg(test)]
pub(super) const CONFIG: &str = r#"<View><Image name="image" value="$photo"/>
    <RectangleLabels name="box" toName="image" smart="true"><Label value="Cat"/></RectangleLabels>
    <BrushLabels name='tag' toName='image'><Label value="Cat &amp; dog"/><Label value="Car"/></BrushLabels>
    <KeyPointLabels name="kp" toName="image"><Label value="Other"/></KeyPointLabels></View>"#;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_best_control_and_its_labels_are_found() {
        let config = Config::read(CONFIG).unwrap();
        let want = Config {
            control: "BrushLabels".into(),
            from_name: "tag".into(),
            to_name: "image".into(),
            value: "photo".into(),
            labels: vec!["Cat & dog".into(), "Car".into()],
        };
        assert_eq!(config, want);
        for wrong in [
            "",
            "<View/>",
            "<Image value='$a'/>",
            "<BrushLabels name='a'>",
        ] {
            assert_eq!(Config::read(wrong).unwrap_err().status, 422, "{wrong}");
        }
    }
}
