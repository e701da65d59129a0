//! Writes a checkpoint as one safetensors file under official names.

use super::checkpoint::Entry;
use super::int8::{quantize, scale_of};
use super::layout::Table;
use super::names::listing;
use super::{Checkpoint, layouts};
use crate::error::{Error, Result};
use crate::write::{NewFile, is_safetensors};
use ::safetensors::Dtype;
use candle::{DType, Device};
use std::borrow::Cow;
use std::cmp::Reverse;
use std::collections::BTreeMap;
use std::fs;
use std::io::{BufWriter, Write};
use std::path::Path;

/// How [`Checkpoint::write`] writes.
#[derive(Debug, Clone, Copy, Default)]
pub struct WriteOptions {
    /// What floating-point tensors become: f32, f16 or bf16. `None` leaves each as it is, and makes
    /// bf16 of 8-bit floats, which loses nothing. Of a checkpoint that was
    /// [quantized](Checkpoint::quantized), those that are chosen become I8 all the same.
    pub dtype: Option<DType>,
    /// Whether safetensors that are there already may be replaced.
    pub replace: bool,
}

/// What [`Checkpoint::write`] wrote.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Written {
    /// Tensors in the new file.
    pub tensors: usize,
    /// Bytes of the new file.
    pub bytes: u64,
}

/// A tensor on its way to the new file.
struct Row<'a> {
    name: Cow<'a, str>,
    entry: &'a Entry,
    dtype: Dtype,
    content: Content,
}

/// What is written of a row's entry.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Content {
    /// Its values.
    Values,
    /// Its values in 8 bits, which are made of them.
    Int8,
    /// The scales of these.
    Scales,
}

impl Row<'_> {
    fn shape(&self) -> &[usize] {
        match self.content {
            Content::Scales => &self.entry.shape[..1],
            _ => &self.entry.shape,
        }
    }

    fn bytes(&self) -> u64 {
        let elements: usize = self.shape().iter().product();
        elements as u64 * self.dtype.bitsize() as u64 / 8
    }
}

impl Checkpoint {
    /// Writes every tensor that modules can ask for and `keep` agrees to, by official names and in
    /// official shapes, with the metadata and with what [`Checkpoint::with_part`] supplies.
    ///
    /// A piece of a tensor is held in memory at a time. The file appears under its name when it is
    /// complete, see [`crate::write`]. `progress` is told the bytes written so far and those to be
    /// written.
    ///
    /// # Errors
    /// [`Error::Checkpoint`] for a tensor without an official name, a dtype that candle does not
    /// have, or a value that f16 cannot hold; [`Error::Unsupported`] for `path` being a file that
    /// is read; [`Error::Io`] if something is there that may not be replaced, or writing fails, as
    /// on a full disk.
    pub fn write(
        &self,
        path: impl AsRef<Path>,
        options: &WriteOptions,
        keep: impl Fn(&str) -> bool,
        mut progress: impl FnMut(u64, u64),
    ) -> Result<Written> {
        let path = path.as_ref();
        self.refuse_own_files(path)?;
        let rows = self.rows(options.dtype, keep)?;
        let header = header(&rows, self.metadata());
        let total = header.len() as u64 + rows.iter().map(Row::bytes).sum::<u64>();
        let mut done = header.len() as u64;
        let file = NewFile::create(path, |head| options.replace && is_safetensors(head))?;
        let failed = |cause| Error::Io {
            path: path.to_path_buf(),
            cause,
        };
        let mut out = BufWriter::new(file);
        out.write_all(&header).map_err(failed)?;
        for row in &rows {
            let mut write = |bytes: &[u8]| -> std::io::Result<()> {
                out.write_all(bytes)?;
                done += bytes.len() as u64;
                progress(done, total);
                Ok(())
            };
            if row.content != Content::Values {
                write(&self.int8_bytes(row)?).map_err(failed)?;
                continue;
            }
            let skipped = vec![0; row.entry.skip * row.dtype.bitsize() / 8];
            write(&skipped).map_err(failed)?;
            for tensor in &row.entry.parts {
                tensor.pieces(row.dtype, &mut write).map_err(|e| match e {
                    candle::Error::Io(e) => failed(e),
                    other => Error::checkpoint(self.path(), other.to_string()),
                })?;
            }
        }
        let file = out.into_inner().map_err(|e| failed(e.into_error()))?;
        file.finish()?;
        Ok(Written {
            tensors: rows.len(),
            bytes: total,
        })
    }

    /// What will be written, in the order of the file: large elements first, so that all are
    /// aligned.
    fn rows(&self, dtype: Option<DType>, keep: impl Fn(&str) -> bool) -> Result<Vec<Row<'_>>> {
        let to = match dtype {
            None => None,
            Some(DType::F32) => Some(Dtype::F32),
            Some(DType::F16) => Some(Dtype::F16),
            Some(DType::BF16) => Some(Dtype::BF16),
            Some(other) => {
                return Err(Error::Unsupported {
                    what: format!("writing weights as {other:?}"),
                    instead: "use f32, f16 or bf16".into(),
                });
            }
        };
        let names = self.names().into_iter().filter(|name| keep(name));
        let rows = names.flat_map(|name| {
            let Some(entry) = self.entry(name) else {
                return vec![];
            };
            let row = |name, dtype, content| Row {
                name,
                entry,
                dtype,
                content,
            };
            if self.becomes_int8(name) {
                let scale = scale_of(name);
                return vec![
                    row(name.into(), Dtype::I8, Content::Int8),
                    row(scale.into(), Dtype::F32, Content::Scales),
                ];
            }
            let stored = match common_dtype(entry) {
                Dtype::F8_E4M3 | Dtype::F8_E5M2 => Dtype::BF16, // as they are read
                other => other,
            };
            let dtype = to.filter(|_| is_float(stored)).unwrap_or(stored);
            vec![row(name.into(), dtype, Content::Values)]
        });
        let mut rows: Vec<_> = rows.collect();
        rows.sort_by(|a, b| {
            let size = |row: &Row| Reverse(row.dtype.bitsize());
            (size(a), &a.name).cmp(&(size(b), &b.name))
        });
        self.require_official(&rows)?;
        Ok(rows)
    }

    /// The bytes, or the scales, that are made of a tensor.
    fn int8_bytes(&self, row: &Row) -> Result<Vec<u8>> {
        let exact = row.entry.read(DType::F32, &Device::Cpu);
        let made = exact
            .and_then(|exact| exact.flatten_all()?.to_vec1::<f32>())
            .and_then(|values| quantize(&values, row.entry.shape[0]));
        let made = made.map_err(|problem| {
            let problem = format!("`{}` cannot be made 8 bits: {problem}", row.name);
            Error::checkpoint(self.path(), problem)
        })?;
        Ok(match row.content {
            Content::Scales => made.scales.iter().flat_map(|x| x.to_le_bytes()).collect(),
            _ => made.bytes,
        })
    }

    /// Checks that the new file will be asked for exactly the names that are written.
    fn require_official(&self, rows: &[Row]) -> Result<()> {
        let names = rows.iter().map(|row| &*row.name);
        let layout = layouts::of(names.clone());
        let official = [layouts::SAM, layouts::SAM2, layouts::SAM3, layouts::SAM31];
        let is_official = official.iter().any(|known| known.name == layout.name);
        let table = Table::new(layout);
        let strange = names.filter(|name| {
            let asked = table.asked(name).map(|asked| asked.names);
            !is_official || asked.is_none_or(|names| names != [*name])
        });
        let strange: Vec<_> = strange.collect();
        if strange.is_empty() {
            return Ok(());
        }
        let (n, layout) = (strange.len(), self.layout().name);
        let problem = format!(
            "{n} tensors have no official name ({layout} layout):{}",
            listing(strange)
        );
        Err(Error::checkpoint(self.path(), problem))
    }

    fn refuse_own_files(&self, path: &Path) -> Result<()> {
        let Ok(same) = fs::canonicalize(path) else {
            return Ok(()); // nothing is there
        };
        let mut files = self.files().into_iter();
        match files.any(|file| fs::canonicalize(file).is_ok_and(|file| file == same)) {
            false => Ok(()),
            true => Err(Error::Unsupported {
                what: format!("writing to {}, which is being read,", path.display()),
                instead: "name another file".into(),
            }),
        }
    }
}

/// The dtype of all parts, or one that holds all of them.
fn common_dtype(entry: &Entry) -> Dtype {
    let mut dtypes = entry.parts.iter().map(|part| part.dtype);
    match dtypes.next() {
        Some(first) if dtypes.all(|other| other == first) => first,
        _ => Dtype::F32,
    }
}

fn is_float(dtype: Dtype) -> bool {
    matches!(dtype, Dtype::F64 | Dtype::F32 | Dtype::F16 | Dtype::BF16)
}

/// The length of the JSON, then the JSON, padded so that the tensors start at a multiple of 8.
fn header(rows: &[Row], metadata: &std::collections::HashMap<String, String>) -> Vec<u8> {
    let mut json = serde_json::Map::new();
    if !metadata.is_empty() {
        let sorted: BTreeMap<_, _> = metadata.iter().collect();
        json.insert("__metadata__".into(), serde_json::json!(sorted));
    }
    let mut start = 0;
    for row in rows {
        let end = start + row.bytes();
        let tensor = serde_json::json!({
            "dtype": row.dtype.to_string(),
            "shape": row.shape(),
            "data_offsets": [start, end],
        });
        json.insert(row.name.to_string(), tensor);
        start = end;
    }
    let mut json = serde_json::Value::Object(json).to_string().into_bytes();
    json.resize(json.len().next_multiple_of(8), b' ');
    let mut header = (json.len() as u64).to_le_bytes().to_vec();
    header.extend(json);
    header
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::weights::key_lists::key_list;

    fn all(_: &str) -> bool {
        true
    }

    fn to(dtype: Option<DType>) -> WriteOptions {
        let replace = true;
        WriteOptions { dtype, replace }
    }

    fn bits(checkpoint: &Checkpoint, name: &str, dtype: DType) -> Vec<u8> {
        let vb = checkpoint.var_builder(dtype, &Device::Cpu);
        let tensor = vb.get_unchecked(name).unwrap();
        let bytes = safetensors::serialize([("x", tensor)], None).unwrap();
        bytes[bytes.len() / 2..].to_vec()
    }

    fn golden(name: &str) -> Checkpoint {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/checkpoints");
        Checkpoint::open(folder.join(name)).unwrap()
    }

    #[test]
    fn every_dtype_is_kept_bit_for_bit_or_rounded_as_loading_rounds() {
        let folder = tempfile::tempdir().unwrap();
        let before = golden("types.pt");
        for dtype in [None, Some(DType::F16), Some(DType::BF16), Some(DType::F32)] {
            let path = folder.path().join("out.safetensors");
            let keep = |name: &str| before.dtype(name).is_some();
            let mut told = 0;
            let written = before
                .write(&path, &to(dtype), keep, |done, _| told = done)
                .unwrap();
            assert_eq!(written.bytes, fs::metadata(&path).unwrap().len());
            assert_eq!(told, written.bytes);
            let after = Checkpoint::open(&path).unwrap();
            assert_eq!(after.names().len(), written.tensors);
            for name in after.names() {
                assert_eq!(after.shape(name), before.shape(name), "{name}");
                let is_float = before.dtype(name).unwrap().is_float();
                let want = match dtype.filter(|_| is_float) {
                    None => before.dtype(name).unwrap(),
                    Some(dtype) => dtype,
                };
                assert_eq!(after.dtype(name), Some(want), "{name}");
                assert_eq!(
                    bits(&after, name, want),
                    bits(&before, name, want),
                    "{name}"
                );
            }
        }
        assert_eq!(
            fs::read_dir(&folder).unwrap().count(),
            1,
            "nothing else stays"
        );
    }

    #[test]
    fn hugging_face_files_get_official_names_and_shapes() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("out.safetensors");
        for (stored, official, layout) in [
            ("sam_vit_b_hf", "sam_vit_b", "SAM"),
            ("mobile_sam", "mobile_sam", "SAM"),
            ("sam2.1_hiera_tiny", "sam2.1_hiera_tiny", "SAM 2.1"),
            ("sam2.1_hiera_tiny_hf", "sam2.1_hiera_tiny", "SAM 2.1"),
        ] {
            // what is large differs from the rest in size only
            let small = |list: &str| {
                let shapes = key_list(list).into_iter();
                let shapes =
                    shapes.filter(|(_, shape, _)| shape.iter().product::<usize>() < 1 << 16);
                Checkpoint::from_shapes(shapes).unwrap()
            };
            let before = small(stored);
            before
                .write(&path, &to(Some(DType::F16)), all, |_, _| ())
                .unwrap();
            // zeros all of it, which `open` takes for a hole
            let after = Checkpoint::from_bytes(fs::read(&path).unwrap()).unwrap();
            let want = small(official);
            assert_eq!(after.names(), want.names());
            assert_eq!(after.layout().name, layout);
            for name in want.names() {
                assert_eq!(after.shape(name), want.shape(name), "{name}");
            }
        }
    }

    #[test]
    fn joined_cut_padded_and_transposed_tensors_are_written_as_they_load() {
        // 13 numbers in each: two parts are joined, a row is put before, two axes are exchanged.
        let vision = "vision_encoder.backbone";
        let tensors = [
            (
                format!("{vision}.layers.0.attention.q_proj.weight"),
                vec![2, 3],
            ),
            (
                format!("{vision}.layers.0.attention.k_proj.weight"),
                vec![2, 3],
            ),
            (
                format!("{vision}.layers.0.attention.v_proj.weight"),
                vec![2, 3],
            ),
            (
                format!("{vision}.embeddings.position_embeddings"),
                vec![1, 4, 3],
            ),
            ("text_encoder.text_projection.weight".into(), vec![2, 3]),
            (
                "detr_encoder.layers.0.self_attn.q_proj.bias".into(),
                vec![2],
            ),
            (
                "detr_encoder.layers.0.self_attn.k_proj.bias".into(),
                vec![2],
            ),
            (
                "detr_encoder.layers.0.self_attn.v_proj.bias".into(),
                vec![2],
            ),
            (
                "tracker_model.prompt_encoder.point_embed.weight".into(),
                vec![4, 3],
            ),
        ];
        let mut count = 0f32;
        let tensors: Vec<_> = tensors
            .iter()
            .map(|(name, shape): &(String, Vec<usize>)| {
                let n = shape.iter().product();
                let values: Vec<f32> = (0..n).map(|i| count + i as f32).collect();
                count += n as f32;
                (
                    name,
                    candle::Tensor::from_vec(values, &shape[..], &Device::Cpu).unwrap(),
                )
            })
            .collect();
        let before = safetensors::serialize(tensors, None).unwrap();
        let before = Checkpoint::from_bytes(before).unwrap();
        assert_eq!(before.layout().name, "SAM 3 (Hugging Face)");
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("out.safetensors");
        before.write(&path, &to(None), all, |_, _| ()).unwrap();
        let after = Checkpoint::open(&path).unwrap();
        assert_eq!(after.layout().name, "SAM 3");
        assert_eq!(after.names(), before.names());
        assert!(after.names().len() >= 8, "{:?}", after.names());
        for name in after.names() {
            assert!(
                name.starts_with("detector.") || name.starts_with("tracker."),
                "{name}"
            );
            assert_eq!(after.shape(name), before.shape(name), "{name}");
            let bits = |c| bits(c, name, DType::F32);
            assert_eq!(bits(&after), bits(&before), "{name}");
        }
    }

    #[test]
    fn a_part_of_another_file_and_what_is_left_out_show_in_the_result() {
        let shapes = |names: &[&str]| {
            let shapes = names.iter().map(|n| (n.to_string(), vec![2], DType::F32));
            Checkpoint::from_shapes(shapes.collect::<Vec<_>>()).unwrap()
        };
        let whole = shapes(&["detector.a", "detector.b"])
            .with_part(
                "detector.geometry_encoder",
                &shapes(&["detector.geometry_encoder.w"]),
            )
            .unwrap();
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("out.safetensors");
        let keep = |name: &str| name != "detector.b";
        whole.write(&path, &to(None), keep, |_, _| ()).unwrap();
        let names = Checkpoint::open(&path).unwrap();
        assert_eq!(names.names(), ["detector.a", "detector.geometry_encoder.w"]);
    }

    #[test]
    fn what_cannot_be_written_leaves_no_file() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("out.safetensors");
        let values = candle::Tensor::new(&[1f32, 1e6], &Device::Cpu).unwrap();
        let named = |name| safetensors::serialize([(name, &values)], None).unwrap();
        let large = Checkpoint::from_bytes(named("detector.large")).unwrap();
        let error = large
            .write(&path, &to(Some(DType::F16)), all, |_, _| ())
            .unwrap_err();
        let error = error.to_string();
        assert!(error.contains("`detector.large` holds 1000000"), "{error}");

        let strange = Checkpoint::from_bytes(named("detr_encoder.surprise.weight")).unwrap();
        let error = strange.write(&path, &to(None), all, |_, _| ()).unwrap_err();
        assert!(error.to_string().contains("no official name"), "{error}");
        assert_eq!(fs::read_dir(&folder).unwrap().count(), 0);

        let nowhere = folder.path().join("none/out.safetensors");
        let error = large.write(nowhere, &to(None), all, |_, _| ()).unwrap_err();
        assert!(matches!(error, Error::NotFound { .. }), "{error}");

        fs::write(&path, named("detector.x")).unwrap();
        let own = Checkpoint::open(&path).unwrap();
        let error = own.write(&path, &to(None), all, |_, _| ()).unwrap_err();
        assert!(error.to_string().contains("being read"), "{error}");
        assert!(Checkpoint::open(&path).is_ok());
    }
}
