//! What the fuzz targets hold (`fuzz/src/lib.rs`) holds for their corpora, for these with faults, and for random bytes.

#![expect(clippy::unwrap_used, reason = "a corpus that cannot be read fails the test")]

#[path = "../fuzz/src/lib.rs"]
#[allow(
    dead_code,
    unreachable_pub,
    clippy::pedantic,
    reason = "the targets' own file, which is written for cargo-fuzz"
)]
mod targets;

use std::path::Path;

/// How many faulty and random inputs each target gets.
const TRIES: usize = 400;

/// The seeds of a target.
fn corpus(target: &str) -> Vec<Vec<u8>> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/corpus").join(target);
    let mut files: Vec<_> = folder.read_dir().unwrap().map(|entry| entry.unwrap().path()).collect();
    files.sort();
    files.iter().map(|file| std::fs::read(file).unwrap()).collect()
}

/// Puts one fault in: a byte changed, cut out or doubled, an end cut off.
fn spoil(random: &mut fastrand::Rng, input: &mut Vec<u8>) {
    for _ in 0..random.usize(1..4) {
        if input.is_empty() {
            return;
        }
        let at = random.usize(..input.len());
        match random.u8(..5) {
            0 => input[at] = random.u8(..),
            1 => drop(input.remove(at)),
            2 => input.insert(at, input[at]),
            3 => input[at] ^= 1 << random.u8(..8),
            _ => input.truncate(at),
        }
    }
}

fn holds(name: &str, target: impl Fn(&[u8])) {
    let seeds = corpus(name);
    assert!(!seeds.is_empty());
    for seed in &seeds {
        target(seed);
    }
    let mut random = fastrand::Rng::with_seed(0x5eed);
    for _ in 0..TRIES {
        let mut input = seeds[random.usize(..seeds.len())].clone();
        spoil(&mut random, &mut input);
        target(&input);
        let noise: Vec<u8> = (0..random.usize(..200)).map(|_| random.u8(..)).collect();
        target(&noise);
    }
}

macro_rules! targets {
    ($($name:ident)*) => { $(#[test] fn $name() { holds(stringify!($name), targets::$name); })* };
}

targets! { pull_spec json_lists protobuf_lists quantity duration registry_config journal }
