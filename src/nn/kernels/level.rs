//! The instruction sets that kernels are compiled for, and which of them runs.

use std::ffi::OsStr;
use std::sync::LazyLock;

/// An instruction set that the kernels are compiled for; each has those of its kind before it too.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Level {
    /// What the compiler makes of plain code.
    Portable,
    /// 4 lanes, on Arm.
    Neon,
    /// 8 lanes.
    Avx2,
    /// 16 lanes.
    Avx512,
    /// 16 lanes, and registers of 16 x 16 sums for products of bf16 and of bytes. Never chosen by default:
    /// this code has only run in an emulation so far.
    Amx,
}

/// Names a [`Level`] below the processor's own, for tests and for finding faults, or
/// [`Level::Amx`].
pub const LEVEL_VARIABLE: &str = "CANDLE_SAM3_CPU";

/// Whether [`LEVEL_VARIABLE`] is `candle`: layers then take the way of other devices on the CPU too,
/// candle's operations, so that it can be tested without a GPU.
pub fn takes_candles_way() -> bool {
    static IS_ASKED_FOR: LazyLock<bool> =
        LazyLock::new(|| std::env::var_os(LEVEL_VARIABLE).is_some_and(|name| name == CANDLE));
    *IS_ASKED_FOR
}

/// See [`takes_candles_way`].
pub const CANDLE: &str = "candle";

/// A name for [`LEVEL_VARIABLE`] in tests: [`Level::Amx`] with its instructions emulated, on any
/// processor that [has bf16](has_bf16).
#[cfg(test)]
pub const EMULATED_AMX: &str = "emulated-amx";

/// The instruction set that kernels run with: the widest that this processor has without AMX, or
/// the one that the environment variable `CANDLE_SAM3_CPU` names: `amx`, `avx512`, `avx2` or
/// `portable`, on Arm `neon` or `portable`. With `candle` hardly anything calls them.
pub fn level() -> Level {
    static LEVEL: LazyLock<Level> = LazyLock::new(|| {
        let name = std::env::var_os(LEVEL_VARIABLE);
        chosen(name.as_deref(), widest(), has_amx)
    });
    *LEVEL
}

/// The level for a value of [`LEVEL_VARIABLE`] on a processor that has `widest` without AMX.
///
/// `has_amx` is called on request only: the system takes it as asking for permission.
fn chosen(name: Option<&OsStr>, widest: Level, has_amx: impl FnOnce() -> bool) -> Level {
    let Some(name) = name else { return widest };
    let asked = match name.to_str() {
        Some("amx") => Level::Amx,
        Some("avx512") => Level::Avx512,
        Some("avx2") => Level::Avx2,
        Some("neon") if cfg!(target_arch = "aarch64") => Level::Neon,
        Some("portable") => Level::Portable,
        Some(CANDLE) => return widest,
        #[cfg(test)]
        Some(EMULATED_AMX) if has_bf16() => return Level::Amx,
        _ => {
            tracing::warn!("{LEVEL_VARIABLE}={name:?} is none of {NAMES}");
            return widest;
        }
    };
    if asked <= widest || (asked == Level::Amx && has_amx()) {
        return asked;
    }
    tracing::warn!("{LEVEL_VARIABLE}={name:?}, but this processor has {widest:?} at most");
    widest
}

/// What [`LEVEL_VARIABLE`] may name.
const NAMES: &str = match cfg!(target_arch = "aarch64") {
    true => "neon, portable, candle",
    false => "amx, avx512, avx2, portable, candle",
};

/// Without AMX.
fn widest() -> Level {
    #[cfg(target_arch = "x86_64")]
    {
        use std::arch::is_x86_feature_detected as has;
        if has!("avx512f") && has!("avx512dq") && has!("avx512vl") && has!("fma") {
            return Level::Avx512;
        }
        if has!("avx2") && has!("fma") {
            return Level::Avx2;
        }
    }
    match cfg!(target_arch = "aarch64") {
        true => Level::Neon,
        false => Level::Portable,
    }
}

fn has_amx() -> bool {
    #[cfg(target_arch = "x86_64")]
    return widest() == Level::Avx512 && has_bf16() && amx::is_usable();
    #[cfg(not(target_arch = "x86_64"))]
    false
}

/// Whether this processor has AVX-512's instructions for bf16, which pack operands of bf16.
pub fn has_bf16() -> bool {
    #[cfg(target_arch = "x86_64")]
    {
        use std::arch::is_x86_feature_detected as has;
        has!("avx512dq") && has!("avx512vl") && has!("avx512bw") && has!("avx512bf16")
    }
    #[cfg(not(target_arch = "x86_64"))]
    false
}

/// Whether products of bf16 are faster here than those of f32 or of numbers split in two bf16.
///
/// They are with AMX. Of the processors without, AMD's take pairs of bf16 at the rate of single
/// products of f32; Intel's take longer for a pair than for two products of f32.
pub fn has_fast_bf16() -> bool {
    match level() {
        Level::Amx => true,
        Level::Avx512 => has_bf16() && is_amd(),
        _ => false,
    }
}

fn is_amd() -> bool {
    #[cfg(target_arch = "x86_64")]
    {
        static IS_AMD: LazyLock<bool> = LazyLock::new(|| {
            let vendor = std::arch::x86_64::__cpuid(0);
            [vendor.ebx, vendor.edx, vendor.ecx].map(u32::to_le_bytes)
                == [*b"Auth", *b"enti", *b"cAMD"]
        });
        *IS_AMD
    }
    #[cfg(not(target_arch = "x86_64"))]
    false
}

#[cfg(target_arch = "x86_64")]
mod amx {
    use std::arch::is_x86_feature_detected as has;
    use std::arch::x86_64::{__cpuid, __cpuid_count, _xgetbv};

    /// Whether the processor has tiles and products of bf16 and bytes, and the system lets this process use
    /// them. Linux asks processes to ask; the permission holds for all threads.
    pub fn is_usable() -> bool {
        const BF16_TILES_AND_BYTES: u32 = 1 << 22 | 1 << 24 | 1 << 25;
        let has_leaf = __cpuid(0).eax >= 7;
        has_leaf
            && __cpuid_count(7, 0).edx & BF16_TILES_AND_BYTES == BF16_TILES_AND_BYTES
            && system_keeps_tiles()
            && is_permitted()
    }

    /// Whether the system keeps the tiles and their configuration when it switches threads.
    fn system_keeps_tiles() -> bool {
        const CONFIGURATION_AND_TILES: u64 = 1 << 17 | 1 << 18;
        #[target_feature(enable = "xsave")]
        fn kept() -> u64 {
            // SAFETY: register 0 exists where the instruction does.
            unsafe { _xgetbv(0) }
        }
        // SAFETY: the feature is there.
        has!("xsave") && unsafe { kept() } & CONFIGURATION_AND_TILES == CONFIGURATION_AND_TILES
    }

    #[cfg(target_os = "linux")]
    fn is_permitted() -> bool {
        const ARCH_PRCTL: u64 = 158;
        const ARCH_REQ_XCOMP_PERM: u64 = 0x1023;
        const XFEATURE_XTILEDATA: u64 = 18;
        let result: i64;
        // SAFETY: this call reads and writes no memory of the process; a system call leaves all
        // registers but these as they were.
        unsafe {
            std::arch::asm!(
                "syscall",
                inlateout("rax") ARCH_PRCTL => result,
                in("rdi") ARCH_REQ_XCOMP_PERM,
                in("rsi") XFEATURE_XTILEDATA,
                out("rcx") _,
                out("r11") _,
                options(nostack, nomem),
            );
        }
        result == 0
    }

    #[cfg(not(target_os = "linux"))]
    fn is_permitted() -> bool {
        false
    }

    #[cfg(test)]
    mod tests {
        use super::*;

        #[test]
        #[cfg(target_os = "linux")]
        #[cfg_attr(miri, ignore = "asks the processor and the system")]
        fn permission_is_given_only_where_the_processor_has_tiles() {
            const TILES: u32 = 1 << 24;
            let has_tiles = __cpuid(0).eax >= 7 && __cpuid_count(7, 0).edx & TILES != 0;
            assert!(has_tiles || !is_permitted());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn amx_runs_only_where_it_is_asked_for_and_there() {
        let level =
            |name: Option<&str>, widest, has_amx| chosen(name.map(OsStr::new), widest, || has_amx);
        assert_eq!(level(None, Level::Avx512, true), Level::Avx512);
        assert_eq!(level(Some("amx"), Level::Avx512, true), Level::Amx);
        assert_eq!(level(Some("amx"), Level::Avx512, false), Level::Avx512);
        assert_eq!(level(Some("avx2"), Level::Avx512, true), Level::Avx2);
        assert_eq!(level(Some("avx512"), Level::Avx2, false), Level::Avx2);
        assert_eq!(level(Some("sse9"), Level::Avx2, false), Level::Avx2);
        let unasked = || -> bool { panic!("the system was asked") };
        assert_eq!(chosen(None, Level::Avx512, unasked), Level::Avx512);
        chosen(Some(OsStr::new("portable")), Level::Avx512, unasked);
    }
}
