//! Imports point downward only: a file may use its own floor's folder and anything below it.

use std::path::{Path, PathBuf};

/// From the ground up. A file may import its own module, and modules of lower floors.
const FLOORS: &[&[&str]] = &[
    &["error", "device", "run", "size", "trace", "write"], // open to all
    &["nn", "weights", "image", "mask"],
    &["backbones", "text"],
    &["models"],
    &["predict"],
    &["eval", "output"],
    &["server", "bin"],
];

/// Plain Rust: no tensors.
const WITHOUT_CANDLE: &[&str] = &["eval", "image", "mask", "output"];

/// Behind the functions of `nn`: no other module sees them.
const KERNELS: &str = "nn::kernels";

#[test]
fn imports_point_downward() {
    let src = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut checked = 0;
    let mut wrong = vec![];
    for file in rust_files(&src) {
        let relative = file.strip_prefix(&src).unwrap();
        let module = relative
            .components()
            .next()
            .unwrap()
            .as_os_str()
            .to_str()
            .unwrap();
        let module = module.trim_end_matches(".rs");
        if module == "lib" {
            continue;
        }
        let floor = floor_of(module).unwrap_or_else(|| panic!("{module} stands on no floor"));
        let text = code(&std::fs::read_to_string(&file).unwrap());
        for used in imports(&text) {
            let Some(other) = floor_of(&used) else {
                continue;
            };
            checked += 1;
            if used != module && other > 0 && other >= floor {
                wrong.push(format!("{} uses {used}", relative.display()));
            }
        }
        let names_candle = text.contains("candle::") || text.contains("candle_nn::");
        if WITHOUT_CANDLE.contains(&module) && names_candle {
            wrong.push(format!("{} uses candle", relative.display()));
        }
        if module != "nn" && text.contains(KERNELS) {
            wrong.push(format!("{} uses {KERNELS}", relative.display()));
        }
        if matches!(module, "bin" | "server") && text.contains("Tensor") {
            wrong.push(format!("{} names Tensor", relative.display()));
        }
    }
    assert!(
        checked > 50,
        "only {checked} imports seen: is the test looking in the right place?"
    );
    assert!(wrong.is_empty(), "{wrong:#?}");
}

/// Where values may pass to a device or back uncounted: loaded weights, and the CPU's kernels.
const UNCOUNTED: &[&str] = &[
    "device/traffic.rs",
    "nn/mod.rs",
    "nn/conv/batch_norm.rs",
    "backbones/hiera.rs",
    "backbones/tiny_vit.rs",
    "weights/",
];

#[test]
fn values_pass_to_and_from_devices_in_one_place() {
    let src = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let (mut wrong, mut seen) = (vec![], 0);
    for file in rust_files(&src) {
        let relative = file.strip_prefix(&src).unwrap().display().to_string();
        let text = std::fs::read_to_string(&file).unwrap();
        let text = code(text.split("\nmod tests {").next().unwrap());
        seen += text.matches("upload(").count() + text.matches("download").count();
        let is_test = TEST_FILES.iter().any(|name| relative.ends_with(name));
        if is_test || UNCOUNTED.iter().any(|place| relative.starts_with(place)) {
            continue;
        }
        let is_sent = ["from_vec(", "from_slice(", "from_iter(", "new("]
            .iter()
            .any(|name| {
                let call = format!("Tensor::{name}");
                let calls = text.split(&call).skip(1);
                let mut arguments = calls.map(|call| call.split(';').next().unwrap_or_default());
                arguments.any(|arguments| !arguments.contains("Device::Cpu"))
            });
        let is_read = [
            ".to_vec0",
            ".to_vec1",
            ".to_vec2",
            ".to_vec3",
            ".to_scalar",
            ".to_device",
        ];
        if is_sent || is_read.iter().any(|name| text.contains(name)) {
            wrong.push(relative);
        }
    }
    assert!(seen > 40, "only {seen} transfers seen");
    assert!(
        wrong.is_empty(),
        "use device::upload and device::download in {wrong:#?}"
    );
}

/// Files that only tests are made of.
const TEST_FILES: &[&str] = &[
    "tests.rs",
    "fake.rs",
    "full_size.rs",
    "golden.rs",
    "toy.rs",
    "world.rs",
];

/// A file without its comments, which may name anything.
fn code(text: &str) -> String {
    let lines = text.lines();
    let lines = lines.filter(|line| !line.trim_start().starts_with("//"));
    lines.collect::<Vec<_>>().join("\n")
}

#[test]
fn kernels_import_each_other_in_no_circle() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/nn/kernels");
    let files = rust_files(&folder).into_iter();
    let mut imports: Vec<(String, Vec<String>)> = files
        .filter_map(|file| {
            let path = file.strip_prefix(&folder).unwrap().with_extension("");
            let name = path.iter().next()?.to_str()?.to_string();
            let text = std::fs::read_to_string(&file).unwrap();
            let code = code(text.split("\nmod tests {").next()?);
            (name != "mod").then(|| (name, kernels_in(&code)))
        })
        .collect();
    assert!(imports.len() > 10, "only {} kernels seen", imports.len());
    // What imports nothing that is left is no part of a circle.
    while !imports.is_empty() {
        let names: Vec<String> = imports.iter().map(|(name, _)| name.clone()).collect();
        let is_free = |(name, imports): &(String, Vec<String>)| {
            !imports.iter().any(|i| i != name && names.contains(i))
        };
        let free: Vec<String> = names
            .iter()
            .filter(|name| imports.iter().filter(|(n, _)| n == *name).all(is_free))
            .cloned()
            .collect();
        assert!(!free.is_empty(), "a circle among {imports:#?}");
        imports.retain(|(name, _)| !free.contains(name));
    }
}

/// Every kernel that a kernel's code names after `super::` or `kernels::`.
fn kernels_in(code: &str) -> Vec<String> {
    let all = code.replace("crate::nn::kernels::", "super::");
    let all = all.replace("super::super::", "super::");
    imports(&all.replace("super::", "crate::"))
}

fn floor_of(module: &str) -> Option<usize> {
    FLOORS.iter().position(|floor| floor.contains(&module))
}

/// Every top-level module that a file names after `crate::`, in `use` lines and in paths.
fn imports(text: &str) -> Vec<String> {
    let mut found = vec![];
    for (at, _) in text.match_indices("crate::") {
        let rest = &text[at + "crate::".len()..];
        let names = match rest.strip_prefix('{') {
            Some(list) => top_level(list),
            None => vec![rest.to_string()],
        };
        let name = |n: &String| -> String {
            n.trim()
                .chars()
                .take_while(|c| c.is_alphanumeric() || *c == '_')
                .collect()
        };
        found.extend(names.iter().map(name).filter(|n| !n.is_empty()));
    }
    found
}

/// The entries of a `use` list, up to its closing brace.
fn top_level(list: &str) -> Vec<String> {
    let (mut depth, mut entries) = (0, vec![String::new()]);
    for c in list.chars() {
        match c {
            '}' if depth == 0 => break,
            '{' => depth += 1,
            '}' => depth -= 1,
            ',' if depth == 0 => entries.push(String::new()),
            _ => {}
        }
        if depth == 0 && c != ',' {
            entries.last_mut().unwrap().push(c);
        }
    }
    entries
}

fn rust_files(folder: &Path) -> Vec<PathBuf> {
    let mut files = vec![];
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            files.extend(rust_files(&path));
        } else if path.extension().is_some_and(|e| e == "rs") {
            files.push(path);
        }
    }
    files
}

#[test]
fn lists_and_paths_are_both_read() {
    let text = "use crate::{Result, nn::{a, b}, text};\nlet x = crate::models::sam3::X;";
    assert_eq!(imports(text), ["Result", "nn", "text", "models"]);
}
