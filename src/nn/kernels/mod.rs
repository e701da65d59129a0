//! Fast CPU paths behind the functions of [`crate::nn`], in f32: slices in, slices out.

#[cfg(target_arch = "x86_64")]
mod amx;
pub mod attention;
pub mod convolution;
pub mod depthwise;
pub mod draw;
pub mod epilogue;
pub mod few_tokens;
pub mod grid;
pub mod int8;
mod lanes;
pub mod layout;
pub mod level;
mod math;
pub mod matmul;
#[cfg(target_arch = "aarch64")]
mod neon;
mod pack;
pub mod peak;
pub mod rowwise;
pub mod tile;
pub mod view;
pub mod window;
pub mod winograd;

/// Reproducible numbers in -0.5..0.5.
#[cfg(test)]
pub(crate) fn random(len: usize, seed: u32) -> Vec<f32> {
    let mut state = seed.wrapping_mul(0x9E37_79B9) | 1;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 17;
        state ^= state << 5;
        state as f32 / u32::MAX as f32 - 0.5
    };
    (0..len).map(|_| next()).collect()
}

/// Whether a test has time for this many products: an interpreter takes a millisecond for each.
#[cfg(test)]
pub(crate) fn is_affordable(products: usize) -> bool {
    !cfg!(miri) || products < 3_000
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use super::level::{EMULATED_AMX, LEVEL_VARIABLE, Level, has_bf16, level};

    #[test]
    #[cfg_attr(miri, ignore = "starts a process")]
    fn other_instruction_sets_pass_the_tests_of_layers_and_backbones() {
        if std::env::var_os(LEVEL_VARIABLE).is_some() {
            return; // this is such a run
        }
        let lesser = [
            ("avx512", Level::Avx512),
            ("avx2", Level::Avx2),
            ("portable", Level::Portable),
        ];
        let lesser = lesser.into_iter().filter(|(_, lesser)| *lesser < level());
        let emulated = has_bf16().then_some(EMULATED_AMX);
        for name in lesser.map(|(name, _)| name).chain(emulated) {
            let tests = std::env::current_exe().unwrap();
            let run = Command::new(tests)
                .args(["nn::", "backbones::"])
                .env(LEVEL_VARIABLE, name)
                .output()
                .unwrap();
            let report = String::from_utf8_lossy(&run.stdout);
            assert!(run.status.success(), "{name}: {report}");
            let passed = report
                .lines()
                .filter(|line| line.ends_with("... ok"))
                .count();
            assert!(passed > 50, "{name}: only {passed} tests ran");
        }
    }
}
