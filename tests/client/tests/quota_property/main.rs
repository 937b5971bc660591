//! For any history of several connections, quotas refuse exactly what would pass a limit, and what is used is what was committed.
//!
//! Random histories run on a server and on a model (`model`), which are compared after each step. `TENANCY_SEED=<number>`
//! replays a run; `TENANCY_CASES` makes it longer. The server keeps few counters, so that they come and go.

mod history;
mod model;

use std::cell::RefCell;

use proptest::strategy::{Strategy, ValueTree};
use proptest::test_runner::TestCaseError;
use tenancy_client_tests::property::{number, runner, seed};

use history::{Tally, World};

/// Histories of a run.
const CASES: u32 = 100;
const AT_LEAST: usize = 5_000;

#[test]
fn no_limit_is_passed_and_no_unit_is_lost() {
    let seed = seed();
    let cases = number("TENANCY_CASES").map_or(CASES, |cases| cases as u32);
    let world = RefCell::new(World::create(""));
    let tally = RefCell::new(Tally::default());
    let result = runner(seed, cases).run(&history::history(), |history| {
        let done = history::run(&mut world.borrow_mut(), &history)
            .map_err(|(_, violation)| TestCaseError::fail(violation))?;
        tally.borrow_mut().add(done);
        Ok(())
    });
    if let Err(error) = result {
        panic!(
            "{error}\nseed {seed}: replay with TENANCY_SEED={seed} cargo test --release -p tenancy-client-tests \
             no_limit_is_passed"
        );
    }
    let tally = tally.into_inner();
    println!("model and database agree: {tally:?}, seed {seed}");
    assert!(tally.steps >= AT_LEAST || cases < CASES, "only {} steps", tally.steps);
    // A run in which hardly anything happened would show nothing.
    for (what, seen, share) in [
        ("charged", tally.charged, 10),
        ("refused", tally.refused, 100),
        ("rolled back", tally.rolled_back, 200),
        ("prepared", tally.prepared, 400),
    ] {
        assert!(seen * share >= tally.steps, "{what}: {seen} in {} steps", tally.steps);
    }
}

/// Ways to break the counting, each of which a run must notice.
const BROKEN: [(&str, &str); 4] = [
    ("deletions not counted", "ALTER TABLE item DISABLE TRIGGER tenancy_meter_delete"),
    ("insertions not counted", "ALTER TABLE item DISABLE TRIGGER tenancy_meter_insert"),
    (
        "settling loses the sum over hours",
        "CREATE FUNCTION lose() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN NEW.added := NEW.added - 1; RETURN NEW; END';
         CREATE TRIGGER lose BEFORE INSERT ON _tenancy.usage_hourly FOR EACH ROW EXECUTE FUNCTION lose()",
    ),
    (
        "quotas not announced",
        "ALTER TABLE _tenancy.quotas DISABLE TRIGGER tenancy_changed;
         ALTER TABLE _tenancy.quota_periods DISABLE TRIGGER tenancy_changed",
    ),
];
/// Steps within which each is noticed. The seed is fixed; which counters give way to others varies.
const NOTICED_WITHIN: usize = 2_000;

#[test]
fn a_broken_count_is_noticed() {
    for (what, command) in BROKEN {
        let mut world = World::create(command);
        let mut runner = runner(1, 1);
        let mut steps = 0;
        let violation = loop {
            let history = history::history().new_tree(&mut runner).expect("a history").current();
            match history::run(&mut world, &history) {
                Ok(tally) => steps += tally.steps,
                Err((count, violation)) => {
                    steps += count;
                    break violation;
                }
            }
            assert!(steps < NOTICED_WITHIN, "{what}: not noticed in {steps} steps");
        };
        println!("{what}: noticed after {steps} steps: {violation}");
    }
}
