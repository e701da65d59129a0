//! What training and wrapping put before every name of a model.

use super::tensor::StoredTensor;

/// DataParallel and DistributedDataParallel; `torch.compile`; Lightning and others that hold the
/// model as a field; PEFT. They may be nested in any order.
const KNOWN: [&str; 5] = [
    "module.",
    "_orig_mod.",
    "model.",
    "sam.",
    "base_model.model.",
];

/// What `torch.optim.swa_utils.AveragedModel` saves beside the model.
const BESIDE: &str = "n_averaged";

/// Takes known prefixes off the names, if all names have them; returns what was taken.
pub(super) fn strip(tensors: &mut Vec<StoredTensor>) -> String {
    let mut prefix = String::new();
    let has = |prefix: &str| {
        let mut names = tensors
            .iter()
            .map(|t| &t.name)
            .filter(|name| *name != BESIDE);
        names.clone().next().is_some()
            && names.all(|name| name.len() > prefix.len() && name.starts_with(prefix))
    };
    while let Some(longer) = KNOWN
        .iter()
        .map(|known| [&prefix, *known].concat())
        .find(|longer| has(longer))
    {
        prefix = longer;
    }
    if !prefix.is_empty() {
        tensors.retain(|tensor| tensor.name != BESIDE);
        for tensor in tensors {
            tensor.name.drain(..prefix.len());
        }
    }
    prefix
}

#[cfg(test)]
mod tests {
    use super::*;
    use candle::DType;

    fn stripped(names: &[&str]) -> (String, Vec<String>) {
        let zeros = |name: &&str| StoredTensor::zeros(name.to_string(), DType::F32, vec![1]);
        let mut tensors: Vec<_> = names.iter().map(|name| zeros(name).unwrap()).collect();
        let prefix = strip(&mut tensors);
        (prefix, tensors.into_iter().map(|t| t.name).collect())
    }

    #[test]
    fn known_prefixes_of_all_names_are_taken_off() {
        for (prefix, names) in [
            ("module.", ["module.a.w", "module.b"]),
            ("_orig_mod.", ["_orig_mod.a.w", "_orig_mod.b"]),
            (
                "module._orig_mod.",
                ["module._orig_mod.a.w", "module._orig_mod.b"],
            ),
            (
                "base_model.model.",
                ["base_model.model.a.w", "base_model.model.b"],
            ),
            ("model.sam.", ["model.sam.a.w", "model.sam.b"]),
            ("", ["a.w", "b"]),
        ] {
            let want = (prefix.to_string(), vec!["a.w".to_string(), "b".to_string()]);
            assert_eq!(stripped(&names), want);
        }
        let averaged = stripped(&["n_averaged", "module.a"]);
        assert_eq!(averaged, ("module.".to_string(), vec!["a".to_string()]));
    }

    #[test]
    fn what_only_some_names_have_stays() {
        for names in [
            &["module.a", "b"][..],
            &["module.", "module.a"],
            &["n_averaged"],
            &[],
        ] {
            let (prefix, after) = stripped(names);
            assert_eq!(prefix, "");
            assert_eq!(after, names);
        }
    }
}
