//! How the property tests run: from a seed, which is printed where one fails, so that it can be replayed.

use std::collections::hash_map::RandomState;
use std::hash::{BuildHasher, Hasher};

use proptest::test_runner::{Config, RngAlgorithm, TestRng, TestRunner};

/// The number in a variable of the environment, if it is set.
pub fn number(name: &str) -> Option<u64> {
    let text = std::env::var(name).ok()?;
    Some(text.parse().unwrap_or_else(|_| panic!("{name} is not a number: {text}")))
}

/// `TENANCY_SEED`, or one drawn by lot.
pub fn seed() -> u64 {
    number("TENANCY_SEED").unwrap_or_else(|| RandomState::new().build_hasher().finish())
}

pub fn runner(seed: u64, cases: u32) -> TestRunner {
    let config = Config { cases, max_shrink_iters: 2_000, failure_persistence: None, ..Config::default() };
    let mut bytes = [0; 32];
    bytes[..8].copy_from_slice(&seed.to_le_bytes());
    TestRunner::new_with_rng(config, TestRng::from_seed(RngAlgorithm::ChaCha, &bytes))
}
