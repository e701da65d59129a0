//! What the figures were taken on.

use std::fs;

use candle_sam3::device;
use serde::Serialize;

/// Of candle, which does not say itself; a test holds it to the lock file.
const CANDLE_VERSION: &str = "0.11.1";

#[derive(Serialize)]
pub struct Machine {
    /// As the kernel calls the processor, or its architecture.
    pub cpu: String,
    pub cores: usize,
    /// That compute here.
    pub threads: usize,
    /// "CPU" or what the GPU is called.
    pub device: String,
    /// Of an NVIDIA GPU.
    pub driver: Option<String>,
    pub os: String,
}

impl Machine {
    pub fn new(device: &candle::Device) -> Self {
        let driver = "/proc/driver/nvidia/version";
        let os = line("/etc/os-release", "PRETTY_NAME=");
        let cores = std::thread::available_parallelism();
        Self {
            cpu: line("/proc/cpuinfo", "model name")
                .unwrap_or_else(|| std::env::consts::ARCH.into()),
            cores: cores.map_or(1, |n| n.get()),
            threads: rayon::current_num_threads(),
            device: device::name(device),
            driver: line(driver, "NVRM version:").filter(|_| device.is_cuda()),
            os: os.unwrap_or_else(|| std::env::consts::OS.into()),
        }
    }
}

#[derive(Serialize)]
pub struct Versions {
    #[serde(rename = "candle-sam3")]
    candle_sam3: &'static str,
    candle: &'static str,
    /// `SAM3_COMMIT` of the environment in which it was built.
    commit: Option<&'static str>,
    /// "debug" or "release"
    profile: &'static str,
    features: Vec<&'static str>,
}

impl Versions {
    pub fn new() -> Self {
        let features = [
            ("cuda", cfg!(feature = "cuda")),
            ("cudnn", cfg!(feature = "cudnn")),
            ("metal", cfg!(feature = "metal")),
        ];
        let built = features.into_iter().filter(|(_, is_on)| *is_on);
        Self {
            candle_sam3: env!("CARGO_PKG_VERSION"),
            candle: CANDLE_VERSION,
            commit: option_env!("SAM3_COMMIT"),
            profile: match cfg!(debug_assertions) {
                true => "debug",
                false => "release",
            },
            features: built.map(|(name, _)| name).collect(),
        }
    }
}

/// The most memory that this process ever had, where the system tells.
pub fn peak_host_bytes() -> Option<u64> {
    let kib = line("/proc/self/status", "VmHWM:")?;
    let kib: u64 = kib.strip_suffix("kB")?.trim().parse().ok()?;
    Some(kib * 1024)
}

/// What comes after `start` in the first line of a file that begins with it.
fn line(path: &str, start: &str) -> Option<String> {
    let text = fs::read_to_string(path).ok()?;
    let line = text.lines().find_map(|line| line.strip_prefix(start))?;
    Some(line.trim_matches([' ', '\t', ':', '"']).to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_version_of_candle_is_the_locked_one() {
        let lock = concat!(env!("CARGO_MANIFEST_DIR"), "/Cargo.lock");
        let lock = fs::read_to_string(lock).unwrap();
        let entry = format!("name = \"candle-core\"\nversion = \"{CANDLE_VERSION}\"");
        assert!(lock.contains(&entry));
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn the_peak_grows_with_what_is_touched() {
        let before = peak_host_bytes().unwrap();
        let block = vec![1u8; 1 << 28];
        assert!(peak_host_bytes().unwrap() >= before.max(1 << 28));
        assert_eq!(block[1 << 27], 1);
    }
}
