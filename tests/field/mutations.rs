//! Damaged inputs to every parser: the same ones each time.
//!
//! `SAM3_MUTATIONS=5000000` tries as many; `tests/fuzz` lets coverage guide the search.

use std::path::Path;
use std::time::{Duration, Instant};

#[path = "../fuzz/src/lib.rs"]
mod targets;

/// Inputs of each parser when nobody asks for more.
const TRIED: usize = 300;
/// On any machine, under any load.
const LONGEST: Duration = Duration::from_secs(5);
/// Bytes of an input.
const LARGEST: usize = 1 << 16;

type Parser = fn(&[u8]);

#[test]
fn damaged_inputs_neither_panic_nor_hang() {
    let parsers: [(&str, Parser, usize); 8] = [
        ("pickle", targets::pickle, 12),
        ("torch", targets::torch, 2),
        ("safetensors", targets::safetensors, 3),
        ("config", targets::config, 1),
        ("picture", targets::picture, 4),
        ("rle", targets::rle, 8),
        ("text", targets::text, 1),
        ("logits", targets::logits, 4),
    ];
    let asked = std::env::var("SAM3_MUTATIONS").ok();
    let asked = asked.map(|n| n.parse::<usize>().expect("SAM3_MUTATIONS is a number"));
    let shares: usize = parsers.iter().map(|(.., share)| share).sum();
    let only = std::env::var("SAM3_PARSER").unwrap_or_default();
    for (name, parse, share) in parsers {
        if !only.is_empty() && only != name {
            continue;
        }
        let tried = asked.map_or(TRIED, |n| n.div_ceil(shares) * share);
        let (longest, at) = try_all(name, parse, tried);
        println!("{name}: {tried} inputs, the longest {longest:?} (number {at})");
        assert!(longest < LONGEST, "{name} took {longest:?} for input {at}");
    }
    #[cfg(target_os = "linux")]
    {
        let status = std::fs::read_to_string("/proc/self/status").unwrap();
        let line = status
            .lines()
            .find(|line| line.starts_with("VmHWM"))
            .unwrap();
        let kilobytes: usize = line.split_whitespace().nth(1).unwrap().parse().unwrap();
        println!("at most {} MB", kilobytes >> 10);
        assert!(kilobytes < 1 << 20, "{line}");
    }
}

/// The longest time that an input took, and its number.
fn try_all(name: &str, parse: Parser, tried: usize) -> (Duration, usize) {
    let seeds = seeds(name);
    let (mut longest, mut at) = (Duration::ZERO, 0);
    for i in 0..tried {
        let input = mutated(&seeds, i as u64);
        let started = Instant::now();
        let done = std::panic::catch_unwind(|| parse(&input));
        if done.is_err() {
            let path = std::env::temp_dir().join(format!("sam3-{name}-{i}"));
            std::fs::write(&path, &input).unwrap();
            panic!("{name} panicked; the input is {}", path.display());
        }
        if started.elapsed() > longest {
            (longest, at) = (started.elapsed(), i);
        }
    }
    (longest, at)
}

fn seeds(name: &str) -> Vec<Vec<u8>> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("tests/fuzz/corpus")
        .join(name);
    let mut files: Vec<_> = std::fs::read_dir(folder)
        .unwrap()
        .map(|e| e.unwrap().path())
        .collect();
    files.sort();
    assert!(!files.is_empty(), "{name}");
    files
        .iter()
        .map(|file| std::fs::read(file).unwrap())
        .collect()
}

struct Random(u64);

impl Random {
    /// splitmix64, <https://prng.di.unimi.it/splitmix64.c>
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// Less than `n`, which is not 0.
    fn below(&mut self, n: usize) -> usize {
        (self.next() % n as u64) as usize
    }
}

/// A seed with one to eight changes.
fn mutated(seeds: &[Vec<u8>], number: u64) -> Vec<u8> {
    let mut random = Random(number);
    let mut bytes = seeds[random.below(seeds.len())].clone();
    for _ in 0..=random.below(8) {
        change(&mut bytes, seeds, &mut random);
        bytes.truncate(LARGEST);
    }
    bytes
}

fn change(bytes: &mut Vec<u8>, seeds: &[Vec<u8>], random: &mut Random) {
    const NUMBERS: [u64; 12] = [
        0,
        1,
        2,
        127,
        128,
        255,
        256,
        65_535,
        1 << 31,
        u32::MAX as u64,
        1 << 58,
        u64::MAX,
    ];
    const DIGITS: [&str; 9] = [
        "0",
        "1",
        "7",
        "255",
        "65536",
        "2147483648",
        "1099511627776",
        "18446744073709551615",
        "-1",
    ];
    let at = random.below(bytes.len() + 1);
    let end = (at + 1 + random.below(16)).min(bytes.len());
    match random.below(9) {
        0 if at < bytes.len() => bytes[at] ^= 1 << random.below(8),
        1 if at < bytes.len() => bytes[at] = random.next() as u8,
        2 => {
            let number = NUMBERS[random.below(NUMBERS.len())];
            let width = 1 << random.below(4);
            let mut le = number.to_le_bytes();
            if random.below(2) == 0 {
                le[..width].reverse();
            }
            let fits = (bytes.len() - at).min(width);
            bytes[at..at + fits].copy_from_slice(&le[..fits]);
        }
        3 if at < end => drop(bytes.drain(at..end)),
        4 if at < end => {
            let times = 1 + random.below(64);
            let again = bytes[at..end].repeat(times);
            bytes.splice(at..at, again);
        }
        5 => bytes.insert(at, random.next() as u8),
        6 => {
            let other = &seeds[random.below(seeds.len())];
            let from = random.below(other.len() + 1);
            let to = (from + random.below(64)).min(other.len());
            bytes.splice(at..at, other[from..to].iter().copied());
        }
        7 => {
            // a number in a text, where there is one
            let digits = bytes[at..]
                .iter()
                .position(u8::is_ascii_digit)
                .map(|i| at + i);
            if let Some(start) = digits {
                let len = bytes[start..]
                    .iter()
                    .take_while(|b| b.is_ascii_digit())
                    .count();
                let digits = DIGITS[random.below(DIGITS.len())];
                bytes.splice(start..start + len, digits.bytes());
            }
        }
        _ => bytes.truncate(at),
    }
}
