//! How the names in a file become the names modules ask for.

use super::names::{expand, fill, matches};

/// What must be done to stored tensors before a module can use them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Fix {
    /// The file lacks the first row of the second axis, which nobody uses; zeros take its place.
    PadFirst,
    /// The file has the two axes the other way round.
    Transpose,
}

/// A table that says where a kind of file keeps what modules ask for.
///
/// Patterns are prefixes of whole segments. A `*` stands for a segment or part of one and is
/// carried over. Braces on the stored side are several tensors joined along the first axis;
/// braces on the asked side are one tensor cut into that many.
#[derive(Debug)]
pub struct Layout {
    /// What error messages call it.
    pub name: &'static str,
    /// A file has this layout if a name in it begins like one of these; empty matches any file.
    pub signature: &'static [&'static str],
    /// (spelling, replacement) for runs of whole segments, applied to stored names first.
    pub spellings: &'static [(&'static str, &'static str)],
    /// The first row that matches wins; a name that no row matches is asked as it is stored.
    pub names: &'static [&'static [Section]],
    /// (asked, fix).
    pub fixes: &'static [(&'static str, Fix)],
    /// Stored tensors that no module ever reads.
    pub ignore: &'static [&'static str],
}

/// Rows of a [`Layout`] whose patterns begin alike.
#[derive(Debug)]
pub struct Section {
    /// The beginning of every asked pattern; may be empty.
    pub asked: &'static str,
    /// The beginning of every stored pattern; may be empty.
    pub stored: &'static str,
    /// (asked, stored) after these beginnings; two empty ones stand for the beginnings themselves.
    pub rows: &'static [(&'static str, &'static str)],
}

/// What a stored tensor is to the modules.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Asked {
    /// Several if the tensor is to be cut.
    pub(super) names: Vec<String>,
    /// This is part `part.0` of `part.1` of the asked tensor.
    pub(super) part: (usize, usize),
}

/// A layout with its braces expanded.
pub(super) struct Table {
    layout: &'static Layout,
    /// (asked, stored), each with one pattern per alternative.
    rows: Vec<(Vec<String>, Vec<String>)>,
}

impl Layout {
    /// All rows with their beginnings.
    fn rows(&self) -> impl Iterator<Item = (String, String)> {
        let join = |beginning: &str, end: &str| match (beginning, end) {
            ("", name) | (name, "") => name.to_string(),
            _ => format!("{beginning}.{end}"),
        };
        self.names
            .iter()
            .copied()
            .flatten()
            .flat_map(move |section| {
                let rows = section.rows.iter();
                rows.map(move |(asked, stored)| {
                    (join(section.asked, asked), join(section.stored, stored))
                })
            })
    }

    /// What the file calls an asked tensor: for error messages.
    pub(super) fn stored(&self, asked: &str) -> String {
        let found = self.rows().find_map(|(ask, file)| {
            expand(&ask).iter().find_map(|ask| {
                let (stars, rest) = matches(asked, ask)?;
                Some(fill(&file, &stars, rest))
            })
        });
        found.unwrap_or_else(|| asked.to_string())
    }

    /// The fix an asked tensor needs.
    pub(super) fn fix(&self, asked: &str) -> Option<Fix> {
        let mut fixes = self.fixes.iter();
        let found = fixes.find(|(pattern, _)| matches(asked, pattern).is_some());
        found.map(|(_, fix)| *fix)
    }
}

impl Table {
    pub(super) fn new(layout: &'static Layout) -> Self {
        let rows = layout.rows();
        let rows = rows.map(|(asked, stored)| (expand(&asked), expand(&stored)));
        Self {
            layout,
            rows: rows.collect(),
        }
    }

    /// What a stored tensor is asked as; `None` if nobody asks for it.
    pub(super) fn asked(&self, stored: &str) -> Option<Asked> {
        let stored = self.spell(stored);
        let mut ignored = self.layout.ignore.iter();
        if ignored.any(|pattern| matches(&stored, pattern).is_some()) {
            return None;
        }
        let found = self.rows.iter().find_map(|(asked, alternatives)| {
            let (part, (stars, rest)) = alternatives
                .iter()
                .enumerate()
                .find_map(|(i, pattern)| Some((i, matches(&stored, pattern)?)))?;
            let asked = asked.iter().map(|pattern| fill(pattern, &stars, rest));
            Some(Asked {
                names: asked.collect(),
                part: (part, alternatives.len()),
            })
        });
        Some(found.unwrap_or_else(|| Asked {
            names: vec![stored],
            part: (0, 1),
        }))
    }

    fn spell(&self, stored: &str) -> String {
        let mut name = format!(".{stored}");
        for (spelling, replacement) in self.layout.spellings {
            let replacement = match *replacement {
                "" => ".".to_string(),
                other => format!(".{other}."),
            };
            name = name.replace(&format!(".{spelling}."), &replacement);
        }
        name.split_off(1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TABLE: Layout = Layout {
        name: "test",
        signature: &[],
        spellings: &[("outer", ""), ("text_model", "text")],
        names: &[&[
            Section {
                asked: "blocks",
                stored: "layers",
                rows: &[("*.attn.in_proj_*", "*.attn.{q,k,v}_proj.*"), ("", "")],
            },
            Section {
                asked: "",
                stored: "",
                rows: &[("points.{0,1}", "points")],
            },
        ]],
        fixes: &[("pos", Fix::PadFirst)],
        ignore: &["**.freqs_cis", "tied"],
    };

    fn asked(stored: &str) -> Option<(String, (usize, usize))> {
        let asked = Table::new(&TABLE).asked(stored)?;
        Some((asked.names.join(" "), asked.part))
    }

    #[test]
    fn stored_names_become_asked_names() {
        let yes = |name: &str, part| Some((name.to_string(), part));
        let q = "layers.7.attn.k_proj.bias";
        assert_eq!(asked(q), yes("blocks.7.attn.in_proj_bias", (1, 3)));
        assert_eq!(
            asked("layers.7.norm.weight"),
            yes("blocks.7.norm.weight", (0, 1))
        );
        assert_eq!(
            asked("points.weight"),
            yes("points.0.weight points.1.weight", (0, 1))
        );
        assert_eq!(asked("outer.layers.1"), yes("blocks.1", (0, 1)));
        assert_eq!(asked("a.text_model.b"), yes("a.text.b", (0, 1)));
        assert_eq!(asked("router.x"), yes("router.x", (0, 1)));
        assert_eq!(asked("layers.3.attn.freqs_cis"), None);
        assert_eq!(asked("tied.weight"), None);
    }

    #[test]
    fn asked_names_become_stored_names_for_messages() {
        let stored = TABLE.stored("blocks.7.attn.in_proj_bias");
        assert_eq!(stored, "layers.7.attn.{q,k,v}_proj.bias");
        assert_eq!(TABLE.stored("points.1.weight"), "points.weight");
        assert_eq!(TABLE.stored("other"), "other");
    }
}
