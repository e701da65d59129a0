//! Where a model runs, and what passes between the host and there.

mod traffic;

use std::fmt;
use std::path::Path;
use std::str::FromStr;

use candle::{DType, Device, Tensor};

use crate::{Error, Result};

pub use traffic::{Traffic, traffic};
pub(crate) use traffic::{download, download_rows, upload};

/// A device as a user names it: `auto`, `cpu`, `cuda`, `cuda:1` or `metal`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub enum DeviceKind {
    /// The first GPU that this build and this machine have, else the CPU.
    #[default]
    Auto,
    /// The processor.
    Cpu,
    /// An NVIDIA GPU, by number.
    Cuda(usize),
    /// The GPU of an Apple machine.
    Metal,
}

impl DeviceKind {
    /// Opens the device.
    ///
    /// # Errors
    /// [`Error::Unsupported`] if this build lacks the device's feature, [`Error::Tensor`] if the
    /// device does not open.
    pub fn open(self) -> Result<Device> {
        match self {
            Self::Auto => Ok(auto()),
            Self::Cpu => Ok(Device::Cpu),
            Self::Cuda(_) if !cfg!(feature = "cuda") => Err(not_built("cuda")),
            Self::Cuda(_) if !has_cuda_driver() => Err(Error::Unsupported {
                what: "device cuda on a machine without an NVIDIA driver".into(),
                instead: "install the driver, or use the CPU".into(),
            }),
            Self::Cuda(ordinal) => open_cuda(ordinal),
            Self::Metal if !cfg!(feature = "metal") => Err(not_built("metal")),
            Self::Metal => Ok(Device::new_metal(0)?),
        }
    }
}

fn auto() -> Device {
    if cfg!(feature = "cuda")
        && has_cuda_driver()
        && let Ok(device) = open_cuda(0)
    {
        return device;
    }
    if cfg!(feature = "metal")
        && let Ok(device) = Device::new_metal(0)
    {
        return device;
    }
    Device::Cpu
}

/// With a stream of its own: on CUDA's stream per thread, which `Device::new_cuda` takes, what one
/// thread computed may not be there yet when another one reads it.
///
/// Where candle loads the CUDA libraries at run time, a missing one is a panic and not an error.
fn open_cuda(ordinal: usize) -> Result<Device> {
    let opened = std::panic::catch_unwind(|| Device::new_cuda_with_stream(ordinal));
    let device = opened.map_err(|_| Error::Unsupported {
        what: "device cuda without the CUDA libraries".into(),
        instead: "put libcublas and libcurand on LD_LIBRARY_PATH, or use the CPU".into(),
    })??;
    run_a_kernel(&device)
        .map_err(|error| runs_no_kernel(&name(&device), capability(&device), &error))?;
    Ok(device)
}

/// Opening a device loads no kernel. One that is older than the build, or has an older driver, would fail
/// in the middle of a model.
fn run_a_kernel(device: &Device) -> candle::Result<()> {
    let ones = Tensor::ones(1, DType::F32, device)?;
    (ones * 2.)?;
    device.synchronize()
}

/// Compute capability of an NVIDIA GPU, major and minor.
fn capability(device: &Device) -> Option<(i32, i32)> {
    match device {
        #[cfg(feature = "cuda")]
        Device::Cuda(cuda) => cuda.cuda_stream().context().compute_capability().ok(),
        _ => None,
    }
}

fn runs_no_kernel(name: &str, capability: Option<(i32, i32)>, error: &candle::Error) -> Error {
    let (of_capability, build) = match capability {
        Some((major, minor)) => (
            format!(" of compute capability {major}.{minor}"),
            format!("CUDA_COMPUTE_CAP={major}{minor} "),
        ),
        None => Default::default(),
    };
    // candle's errors go on with a backtrace.
    let error = error.to_string();
    let error = error.lines().next().unwrap_or_default();
    Error::Unsupported {
        what: format!("device cuda on {name}{of_capability} ({error})"),
        instead: format!(
            "bring the driver up to the CUDA release of this build, build with \
             `{build}tools/cuda_build.sh`, or use the CPU"
        ),
    }
}

/// True if trying CUDA makes sense, and where there is no way to know.
fn has_cuda_driver() -> bool {
    !cfg!(target_os = "linux")
        || ["/dev/nvidiactl", "/dev/dxg"] // the latter under Windows
            .iter()
            .any(|path| Path::new(path).exists())
}

/// Display name of an open device: "CPU", "NVIDIA H200", "Metal applegpu_g14d".
pub fn name(device: &Device) -> String {
    match device {
        Device::Cpu => "CPU".into(),
        #[cfg(feature = "cuda")]
        Device::Cuda(cuda) => {
            let name = cuda.cuda_stream().context().name();
            name.unwrap_or_else(|_| "CUDA".into())
        }
        #[cfg(not(feature = "cuda"))]
        Device::Cuda(_) => "CUDA".into(),
        #[cfg(feature = "metal")]
        Device::Metal(metal) => format!("Metal {}", metal.metal_device().architecture_name()),
        #[cfg(not(feature = "metal"))]
        Device::Metal(_) => "Metal".into(),
    }
}

/// Bytes in use on a GPU: by all its users with CUDA, by this process with Metal. `None` for the
/// CPU, and where the driver does not say.
pub fn memory_in_use(device: &Device) -> Option<u64> {
    memory(device).map(|(in_use, _)| in_use)
}

/// Bytes that are left on a GPU; `None` for the CPU, and where the driver does not say.
pub fn free_memory(device: &Device) -> Option<u64> {
    memory(device).map(|(_, free)| free)
}

/// Bytes of a GPU that are in use, and that are left.
fn memory(device: &Device) -> Option<(u64, u64)> {
    match device {
        #[cfg(feature = "cuda")]
        Device::Cuda(cuda) => {
            let (free, total) = cuda.cuda_stream().context().mem_get_info().ok()?;
            Some((total.saturating_sub(free) as u64, free as u64))
        }
        #[cfg(feature = "metal")]
        Device::Metal(metal) => {
            let metal = metal.metal_device();
            let in_use = metal.current_allocated_size();
            let all = metal.recommended_max_working_set_size();
            Some((in_use as u64, all.saturating_sub(in_use) as u64))
        }
        _ => None,
    }
}

/// How many of what takes `each` bytes a GPU computes at a time, at most `most`: as many as take half of
/// the `free` memory, or one. The other half is for what the driver keeps, and other processes.
///
/// Where it is not known how much is free, `unknown`.
pub(crate) fn batch(free: Option<u64>, each: u64, unknown: usize, most: usize) -> usize {
    let fits = match free {
        Some(free) => usize::try_from(free / 2 / each.max(1)).unwrap_or(most),
        None => unknown,
    };
    fits.clamp(1, most.max(1))
}

fn not_built(feature: &str) -> Error {
    Error::Unsupported {
        what: format!("device {feature}"),
        instead: format!("build with `--features {feature}`, or use the CPU"),
    }
}

impl FromStr for DeviceKind {
    type Err = Error;

    fn from_str(name: &str) -> Result<Self> {
        match (name, name.strip_prefix("cuda:").map(str::parse)) {
            ("auto", _) => Ok(Self::Auto),
            ("cpu", _) => Ok(Self::Cpu),
            ("cuda", _) => Ok(Self::Cuda(0)),
            ("metal", _) => Ok(Self::Metal),
            (_, Some(Ok(ordinal))) => Ok(Self::Cuda(ordinal)),
            _ => Err(Error::Unsupported {
                what: format!("device {name:?}"),
                instead: "use auto, cpu, cuda, cuda:N or metal".into(),
            }),
        }
    }
}

impl fmt::Display for DeviceKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Auto => f.write_str("auto"),
            Self::Cpu => f.write_str("cpu"),
            Self::Cuda(ordinal) => write!(f, "cuda:{ordinal}"),
            Self::Metal => f.write_str("metal"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_parse_and_others_say_what_works() {
        for (name, kind) in [
            ("auto", DeviceKind::Auto),
            ("cpu", DeviceKind::Cpu),
            ("cuda", DeviceKind::Cuda(0)),
            ("cuda:3", DeviceKind::Cuda(3)),
            ("metal", DeviceKind::Metal),
        ] {
            assert_eq!(name.parse::<DeviceKind>().unwrap(), kind);
        }
        for name in ["", "gpu", "cuda:", "cuda:x", "CPU"] {
            let error = name.parse::<DeviceKind>().unwrap_err().to_string();
            assert!(error.contains("use auto, cpu, cuda"), "{error}");
        }
    }

    #[test]
    fn a_batch_takes_half_of_the_free_memory() {
        let gigabytes = |n: u64| Some(n << 30);
        assert_eq!(batch(gigabytes(8), 1 << 30, 5, 32), 4);
        assert_eq!(batch(gigabytes(139), 1 << 30, 5, 32), 32);
        assert_eq!(batch(gigabytes(1), 1 << 30, 5, 32), 1);
        assert_eq!(batch(Some(0), 0, 5, 32), 1);
        assert_eq!(batch(Some(u64::MAX), 0, 5, 32), 32);
        assert_eq!(batch(None, 1 << 30, 5, 32), 5);
        assert_eq!(free_memory(&Device::Cpu), None);
    }

    #[test]
    fn a_gpu_that_runs_no_kernel_says_what_it_needs() {
        run_a_kernel(&Device::Cpu).unwrap();
        let cause = candle::Error::msg("CUDA_ERROR_NO_BINARY_FOR_GPU\nat line 1");
        let error = runs_no_kernel("Tesla T4", Some((7, 5)), &cause).to_string();
        for part in [
            "Tesla T4 of compute capability 7.5",
            "(CUDA_ERROR_NO_BINARY_FOR_GPU) is not supported",
            "CUDA_COMPUTE_CAP=75 tools/cuda_build.sh",
        ] {
            assert!(error.contains(part), "{error}");
        }
        let error = runs_no_kernel("CUDA", None, &cause).to_string();
        assert!(error.contains("`tools/cuda_build.sh`"), "{error}");
    }

    #[cfg(not(feature = "cuda"))]
    #[test]
    fn a_device_that_was_not_built_says_how_to_build_it() {
        let error = DeviceKind::Cuda(0).open().unwrap_err().to_string();
        assert!(error.contains("--features cuda"), "{error}");
    }
}
