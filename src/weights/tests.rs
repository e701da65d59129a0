//! Tests of [`Checkpoint`] on real files: `tests/golden/checkpoints` and `tests/keys`.

use super::*;
use crate::weights::key_lists::key_list;
use candle::safetensors::save;
use std::fs;

const CPU: &Device = &Device::Cpu;

fn golden(name: &str) -> PathBuf {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    root.join("tests/golden/checkpoints").join(name)
}

/// Every element of a tensor as f64, with its shape.
fn values(checkpoint: &Checkpoint, name: &str, dtype: DType) -> (Vec<usize>, Vec<f64>) {
    let tensor = checkpoint.var_builder(dtype, CPU).get_unchecked(name);
    let tensor = tensor.unwrap_or_else(|e| panic!("{name}: {e}"));
    assert_eq!(tensor.dtype(), dtype);
    let wide = tensor.to_dtype(DType::F64).and_then(|t| t.flatten_all());
    (tensor.dims().to_vec(), wide.unwrap().to_vec1().unwrap())
}

fn file(dir: &tempfile::TempDir, name: &str, tensors: &[(&str, Tensor)]) -> PathBuf {
    let path = dir.path().join(name);
    let tensors = tensors
        .iter()
        .map(|(name, t)| (name.to_string(), t.clone()));
    save(&tensors.collect::<HashMap<_, _>>(), &path).unwrap();
    path
}

fn full(value: f32, shape: &[usize]) -> Tensor {
    Tensor::full(value, shape, CPU).unwrap()
}

fn memory(tensors: &[(&str, Tensor)]) -> Checkpoint {
    let dir = tempfile::tempdir().unwrap();
    Checkpoint::from_bytes(fs::read(file(&dir, "x.safetensors", tensors)).unwrap()).unwrap()
}

fn keys(list: &str) -> Checkpoint {
    Checkpoint::from_shapes(key_list(list)).unwrap()
}

fn problem<T: fmt::Debug>(result: Result<T>) -> String {
    match result.unwrap_err() {
        Error::Checkpoint { problem, .. } => problem,
        other => panic!("{other:?}"),
    }
}

#[test]
fn every_kind_of_torch_file_holds_what_torch_says() {
    for (names, truth) in [
        (
            &[
                "flat.pt",
                "model.pth",
                "state_dict.pt",
                "other_wrapper.pt",
                "protocol4.pt",
            ][..],
            "state.safetensors",
        ),
        (&["types.pt"], "types.safetensors"),
    ] {
        let want = Checkpoint::open(golden(truth)).unwrap();
        for name in names {
            let got = Checkpoint::open(golden(name)).unwrap();
            assert_eq!(got.names(), want.names(), "{name}");
            for tensor in want.names() {
                assert_eq!(got.shape(tensor), want.shape(tensor), "{name} {tensor}");
                assert_eq!(got.dtype(tensor), want.dtype(tensor), "{name} {tensor}");
                // f64 holds every stored value exactly
                let (got, want) = (
                    values(&got, tensor, DType::F64),
                    values(&want, tensor, DType::F64),
                );
                assert_eq!(got, want, "{name} {tensor}");
            }
        }
    }
}

#[test]
fn dicts_in_dicts_are_joined_by_dots() {
    let got = Checkpoint::open(golden("nested.pt")).unwrap();
    let want = Checkpoint::open(golden("state.safetensors")).unwrap();
    let mut names = want.names();
    names.push("tracker.x");
    assert_eq!(got.names(), names);
    let name = "detector.permuted";
    assert_eq!(
        values(&got, name, DType::F32),
        values(&want, name, DType::F32)
    );
}

#[test]
fn torch_files_that_cannot_be_read_say_why() {
    for (name, want) in [
        ("legacy.pt", "legacy torch format"),
        ("module.pt", "state_dict()"),
        ("torchscript.pt", "TorchScript"),
        ("deflated.pt", "is compressed or encrypted"),
    ] {
        let got = problem(Checkpoint::open(golden(name)));
        assert!(got.contains(want), "{name}: {got}");
    }
}

#[test]
fn conversion_rounds_to_the_dtype_that_is_asked_for() {
    let types = Checkpoint::open(golden("types.pt")).unwrap();
    for dtype in [DType::F32, DType::F16, DType::BF16] {
        for name in ["detector.f16", "detector.bf16", "detector.f64"] {
            let (_, exact) = values(&types, name, DType::F64);
            let (_, got) = values(&types, name, dtype);
            let want =
                Tensor::new(exact, CPU).and_then(|t| t.to_dtype(dtype)?.to_dtype(DType::F64));
            assert_eq!(
                got,
                want.unwrap().to_vec1::<f64>().unwrap(),
                "{name} as {dtype:?}"
            );
        }
    }
}

#[test]
fn a_truncated_or_damaged_file_is_an_error_and_never_a_panic() {
    for name in ["model.pth", "protocol4.pt", "state.safetensors"] {
        let whole = fs::read(golden(name)).unwrap();
        for len in 0..whole.len() {
            let cut = whole[..len].to_vec();
            assert!(
                Checkpoint::from_bytes(cut).is_err(),
                "{name} cut to {len} bytes"
            );
        }
        // Damage may go unnoticed (in a value, say), but what opens must also read.
        for at in 0..whole.len() {
            for flip in [0x01, 0x80, 0xff] {
                let mut damaged = whole.clone();
                damaged[at] ^= flip;
                if let Ok(checkpoint) = Checkpoint::from_bytes(damaged) {
                    let vb = checkpoint.var_builder(DType::F32, CPU);
                    for name in checkpoint.names() {
                        let _ = vb.get_unchecked(name);
                    }
                }
            }
        }
    }
}

#[test]
fn a_header_that_claims_more_than_the_file_has_is_an_error() {
    let mut bytes = u64::MAX.to_le_bytes().to_vec();
    bytes.extend(b"{\"a\":{}}");
    problem(Checkpoint::from_bytes(bytes));
    let mut bytes = 66u64.to_le_bytes().to_vec();
    bytes.extend(
        format!(
            "{:66}",
            r#"{"a":{"dtype":"F32","shape":[9,9],"data_offsets":[0,324]}}"#
        )
        .bytes(),
    );
    bytes.extend([0; 8]);
    let got = problem(Checkpoint::from_bytes(bytes));
    assert!(got.contains("is the download complete?"), "{got}");
}

#[test]
fn what_is_no_weight_file_is_called_by_its_name() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("sam3.pt");
    fs::write(
        &path,
        "version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 7\n",
    )
    .unwrap();
    assert!(problem(Checkpoint::open(&path)).contains("Git LFS pointer"));
    fs::write(&path, "").unwrap();
    assert!(problem(Checkpoint::open(&path)).contains("empty"));
    let gone = Checkpoint::open(dir.path().join("gone.pt"));
    assert!(matches!(gone, Err(Error::NotFound { .. })), "{gone:?}");
}

#[test]
fn a_directory_is_searched_for_its_weights() {
    let dir = tempfile::tempdir().unwrap();
    let none = problem(Checkpoint::open(&dir));
    assert!(
        none.contains("no weights") && none.contains("*.pth"),
        "{none}"
    );

    fs::write(dir.path().join("config.json"), "{}").unwrap();
    let only = file(&dir, "a.safetensors", &[("tracker.a", full(1., &[2]))]);
    assert_eq!(Checkpoint::open(&dir).unwrap().path(), only);

    fs::copy(golden("flat.pt"), dir.path().join("b.pt")).unwrap();
    let two = problem(Checkpoint::open(&dir));
    assert!(two.contains("a.safetensors, b.pt"), "{two}");

    let standard = file(&dir, "model.safetensors", &[("tracker.a", full(1., &[2]))]);
    assert_eq!(Checkpoint::open(&dir).unwrap().path(), standard);
}

#[test]
fn a_folder_of_hugging_face_may_have_a_torch_file_or_be_a_cache() {
    let dir = tempfile::tempdir().unwrap();
    let bin = dir.path().join("pytorch_model.bin");
    fs::copy(golden("flat.pt"), &bin).unwrap();
    fs::write(dir.path().join("training_args.bin"), "other").unwrap();
    assert_eq!(Checkpoint::open(&dir).unwrap().path(), bin);

    let cache = tempfile::tempdir().unwrap();
    let snapshot = cache.path().join("snapshots/0123abc");
    fs::create_dir_all(&snapshot).unwrap();
    fs::create_dir(cache.path().join("refs")).unwrap();
    fs::write(cache.path().join("refs/main"), "0123abc\n").unwrap();
    let file = snapshot.join("model.safetensors");
    #[cfg(unix)]
    {
        std::os::unix::fs::symlink("../../blobs/gone", &file).unwrap();
        let got = problem(Checkpoint::open(&cache));
        assert!(got.contains("a link to a file that is not there"), "{got}");
        fs::remove_file(&file).unwrap();
    }
    fs::copy(golden("state.safetensors"), &file).unwrap();
    assert_eq!(Checkpoint::open(&cache).unwrap().path(), file);
}

#[test]
fn shards_are_found_through_their_index() {
    let dir = tempfile::tempdir().unwrap();
    file(
        &dir,
        "x-1.safetensors",
        &[("detr_encoder.a", full(1., &[2]))],
    );
    file(
        &dir,
        "x-2.safetensors",
        &[("geometry_encoder.b", full(2., &[3]))],
    );
    let index = dir.path().join("model.safetensors.index.json");
    let write = |a: &str, b: &str| {
        let map = format!(r#"{{"detr_encoder.a": "{a}", "geometry_encoder.b": "{b}"}}"#);
        fs::write(&index, format!(r#"{{"weight_map": {map}}}"#)).unwrap();
    };
    write("x-1.safetensors", "x-2.safetensors");
    for path in [dir.path(), &index] {
        let sharded = Checkpoint::open(path).unwrap();
        // the layout is seen in one shard and applies to all
        assert_eq!(
            sharded.names(),
            ["detector.geometry_encoder.b", "detr_encoder.a"]
        );
        let (_, b) = values(&sharded, "detector.geometry_encoder.b", DType::F32);
        assert_eq!(b, [2., 2., 2.]);
    }
    write("x-1.safetensors", "x-1.safetensors");
    assert!(problem(Checkpoint::open(&dir)).contains("geometry_encoder.b"));
    write("x-1.safetensors", "x-3.safetensors");
    assert!(matches!(
        Checkpoint::open(&dir),
        Err(Error::NotFound { .. })
    ));
    write("x-1.safetensors", "../x-2.safetensors");
    assert!(problem(Checkpoint::open(&dir)).contains("../x-2.safetensors"));
}

#[test]
fn metadata_comes_with_safetensors() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("x.safetensors");
    let metadata = HashMap::from([("config".to_string(), r#"{"dim": 4}"#.to_string())]);
    let tensors = [("a", full(0., &[1]))];
    ::safetensors::serialize_to_file(tensors, Some(metadata.clone()), &path).unwrap();
    assert_eq!(Checkpoint::open(path).unwrap().metadata(), &metadata);
}

#[test]
fn detector_files_and_students_get_the_names_of_sam3() {
    let one = |name| (name, full(0., &[1]));
    let got = memory(&[
        one("backbone.vision_backbone.trunk.model.student_trunk.head.0.weight"),
        one("geometry_encoder.norm.weight"),
        one("inst_interactive_predictor.model.no_mem_embed"),
        one("detector.transformer.encoder.x"),
    ]);
    let want = [
        "detector.backbone.vision_backbone.trunk.model.head.0.weight",
        "detector.geometry_encoder.norm.weight",
        "detector.transformer.encoder.x",
        "tracker.no_mem_embed",
    ];
    assert_eq!(got.names(), want);
}

#[test]
fn a_tensor_under_two_names_is_refused() {
    let twice = [
        ("backbone.a", full(0., &[1])),
        ("detector.backbone.a", full(0., &[1])),
    ];
    let dir = tempfile::tempdir().unwrap();
    let got = problem(Checkpoint::open(file(&dir, "x.safetensors", &twice)));
    assert!(got.contains("is the same tensor as"), "{got}");
}

#[test]
fn hugging_face_tensors_are_joined_cut_padded_and_turned() {
    let layer = |x: &str| format!("detector_model.vision_encoder.backbone.layers.7.attention.{x}");
    let (q, k, v) = (
        layer("q_proj.weight"),
        layer("k_proj.weight"),
        layer("v_proj.weight"),
    );
    let count = |shape: &[usize]| {
        let n = shape.iter().product::<usize>() as f32;
        Tensor::arange(0f32, n, CPU)
            .unwrap()
            .reshape(shape)
            .unwrap()
    };
    let checkpoint = memory(&[
        (&q, full(1., &[2, 2])),
        (&k, full(2., &[2, 2])),
        (&v, full(3., &[2, 2])),
        (
            "detector_model.vision_encoder.backbone.embeddings.position_embeddings",
            full(4., &[1, 2, 3]),
        ),
        (
            "detector_model.text_encoder.text_projection.weight",
            count(&[2, 3]),
        ),
        (
            "tracker_model.prompt_encoder.point_embed.weight",
            count(&[4, 2]),
        ),
        (
            "tracker_model.shared_image_embedding.positional_embedding",
            full(0., &[1]),
        ),
    ]);
    assert_eq!(checkpoint.layout().name, "SAM 3 (Hugging Face)");
    let trunk = "detector.backbone.vision_backbone.trunk";
    let read = |name: &str| {
        let got = values(&checkpoint, name, DType::F32);
        assert_eq!(checkpoint.shape(name).unwrap(), got.0);
        got
    };
    let (shape, qkv) = read(&format!("{trunk}.blocks.7.attn.qkv.weight"));
    assert_eq!(shape, [6, 2]);
    assert_eq!(qkv, [1., 1., 1., 1., 2., 2., 2., 2., 3., 3., 3., 3.]);
    let (shape, pos_embed) = read(&format!("{trunk}.pos_embed"));
    assert_eq!(shape, [1, 3, 3]);
    assert_eq!(pos_embed, [0., 0., 0., 4., 4., 4., 4., 4., 4.]);
    let (shape, turned) = read("detector.backbone.language_backbone.encoder.text_projection");
    assert_eq!(shape, [3, 2]);
    assert_eq!(turned, [0., 3., 1., 4., 2., 5.]);
    let (shape, point) = read("tracker.sam_prompt_encoder.point_embeddings.2.weight");
    assert_eq!(shape, [1, 2]);
    assert_eq!(point, [4., 5.]);
    // qkv, pos_embed, text_projection and four points; nothing asks for the tied copy
    assert_eq!(checkpoint.names().len(), 7);
}

#[test]
fn a_third_of_a_joined_tensor_is_not_enough() {
    let name = "detr_encoder.layers.0.self_attn.q_proj.weight";
    let dir = tempfile::tempdir().unwrap();
    let got = problem(Checkpoint::open(file(
        &dir,
        "x.safetensors",
        &[(name, full(0., &[1, 1]))],
    )));
    assert!(got.contains("{q,k,v}_proj.weight` only 1 of 3"), "{got}");
}

/// Each official name and shape comes out of the Hugging Face list, and nothing else does.
fn assert_same_model(hf: &Checkpoint, official: &Checkpoint, lost: &[&str]) {
    assert!(hf.layout().name.contains("Hugging Face"));
    let want = official.names().into_iter();
    let want: Vec<_> = want
        .filter(|name| !lost.iter().any(|p| matches(name, p).is_some()))
        .collect();
    assert_eq!(hf.names(), want);
    for name in want {
        assert_eq!(hf.shape(name), official.shape(name), "{name}");
    }
}

const POINTS: &str = "detector.geometry_encoder.points_*";

#[test]
fn the_sam3_table_maps_the_whole_hugging_face_list() {
    let official = keys("sam3");
    assert_eq!(official.names().len(), 1433);
    assert_same_model(&keys("sam3_hf"), &official, &[POINTS]);
}

#[test]
fn single_classes_and_text_keys_without_text_model_are_accepted() {
    let names = key_list("sam3_hf")
        .into_iter()
        .filter_map(|(name, shape, dtype)| {
            let name = name
                .strip_prefix("detector_model.")?
                .replace("text_model.", "");
            Some((name, shape, dtype))
        });
    let hf = Checkpoint::from_shapes(names).unwrap();
    let neck = "detector.backbone.vision_backbone.sam2_convs";
    assert_same_model(&hf, &keys("sam3"), &[POINTS, "tracker", neck]);
}

#[test]
fn the_litetext_table_maps_the_whole_hugging_face_list() {
    // `Sam3LiteTextModel` is `Sam3Model` with another text encoder.
    let detector = key_list("sam3_hf")
        .into_iter()
        .filter_map(|(name, shape, dtype)| {
            let name = name.strip_prefix("detector_model.")?.to_string();
            (!name.starts_with("text_")).then_some((name, shape, dtype))
        });
    let text = key_list("litetext_mobileclip-s0_ctx16_hf_text");
    let hf = Checkpoint::from_shapes(detector.chain(text)).unwrap();
    let neck = "detector.backbone.vision_backbone.sam2_convs";
    let unused = "detector.backbone.language_backbone.encoder.projection_layer";
    let lost = [POINTS, "tracker", neck, unused];
    assert_same_model(&hf, &keys("litetext_mobileclip-s0_ctx16"), &lost);
}

#[test]
fn the_sam_table_maps_the_whole_hugging_face_list() {
    assert_same_model(&keys("sam_vit_b_hf"), &keys("sam_vit_b"), &[]);
}

#[test]
fn a_missing_tensor_names_both_sides() {
    let checkpoint = keys("sam3_hf");
    let vb = checkpoint
        .var_builder(DType::F32, CPU)
        .pp("detector.transformer.encoder.layers.9");
    let got = vb
        .get((768, 256), "self_attn.in_proj_weight")
        .unwrap_err()
        .to_string();
    for part in [
        "`detector.transformer.encoder.layers.9.self_attn.in_proj_weight` is missing in list of shapes",
        "`detr_encoder.layers.9.self_attn.{q,k,v}_proj.weight`",
        "SAM 3 (Hugging Face) layout",
    ] {
        assert!(got.contains(part), "{got}");
    }
    assert!(!vb.contains_tensor("self_attn.in_proj_weight"));
}

#[test]
fn a_misshaped_tensor_names_both_shapes_and_sides() {
    let checkpoint = keys("sam3_hf");
    let vb = checkpoint
        .var_builder(DType::F32, CPU)
        .pp("detector.transformer.encoder.layers.0");
    let got = vb
        .get((1, 2), "self_attn.in_proj_weight")
        .unwrap_err()
        .to_string();
    assert!(
        got.contains("has shape [768, 256] instead of [1, 2] in list of shapes"),
        "{got}"
    );
    assert!(
        got.contains("detector_model.detr_encoder.layers.0.self_attn.k_proj.weight"),
        "{got}"
    );
}

#[test]
fn a_missing_part_can_come_from_another_file() {
    let (stage3, sam3) = (keys("efficientsam3_repvit-m1.1_stage3"), keys("sam3_hf"));
    let part = "detector.geometry_encoder";
    let whole = keys("sam3");
    let wanted = whole
        .names()
        .into_iter()
        .filter(|name| name.starts_with(part));
    let wanted: Vec<_> = wanted.collect();
    assert_eq!(stage3.missing(&wanted).len(), 76);
    let got = problem(stage3.require(&wanted));
    assert!(
        got.starts_with("76 tensors are missing") && got.lines().count() <= 12,
        "{got}"
    );
    assert!(!stage3.contains_part(part));

    let joined = stage3.with_part(part, &whole).unwrap();
    joined.require(&wanted).unwrap();
    assert_eq!(joined.names().len(), stage3.names().len() + 76);
    let vb = joined.var_builder(DType::F32, CPU);
    assert_eq!(
        vb.get_unchecked(wanted[0]).unwrap().dims(),
        joined.shape(wanted[0]).unwrap()
    );
    assert!(
        !joined.contains("tracker.no_mem_embed"),
        "only the part is taken"
    );
    // The Hugging Face file has all but the point prompts.
    let from_hf = stage3.with_part(part, &sam3).unwrap();
    assert_eq!(from_hf.missing(&wanted).len(), 6);
    problem(sam3.with_part("detector.nothing", &stage3));
}

#[test]
fn shapes_alone_take_no_memory() {
    let huge = vec![("detector.x".to_string(), vec![1 << 20, 1 << 20], DType::F32)];
    let checkpoint = Checkpoint::from_shapes(huge).unwrap();
    let vb = checkpoint.var_builder(DType::F16, CPU);
    let tensor = vb.get((1 << 20, 1 << 20), "detector.x").unwrap();
    assert_eq!(tensor.dtype(), DType::F16);
    let corner = tensor
        .narrow(0, 5, 1)
        .and_then(|t| t.narrow(1, 7, 1)?.flatten_all());
    assert_eq!(
        corner.unwrap().to_vec1::<half::f16>().unwrap(),
        [half::f16::ZERO]
    );
}
