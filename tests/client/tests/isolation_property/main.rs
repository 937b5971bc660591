//! For any two tenants and any sequence of operations, neither sees, changes, counts or infers a row of the other.
//!
//! Random sequences run as an ordinary role against a server and against a model (`model`, `expect`), which are
//! compared after each operation. `TENANCY_SEED=<number>` replays a run; `TENANCY_CASES` makes it longer.

mod engine;
mod expect;
mod model;
mod operations;
mod statements;
mod world;

use std::cell::RefCell;
use std::thread;

use proptest::strategy::{Strategy, ValueTree};
use proptest::test_runner::TestCaseError;
use tenancy_client_tests::property::{number, runner, seed};

use engine::Tally;
use statements::Layout;
use world::World;

const UUIDS: [&str; 4] = [
    "00000000-0000-0000-0000-000000000001",
    "a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11",
    "a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a12",
    "ffffffff-ffff-ffff-ffff-ffffffffffff",
];

/// Types are those of account and line, price, journal, event, asset.
fn layouts() -> Vec<Layout> {
    let layout = |name, ids, types: [&'static str; 5]| Layout { name, ids, types };
    vec![
        layout("text", &["acme", "Acme", "b.c:d@e+f-g"], ["text"; 5]),
        layout("varchar", &["a", "b"], ["varchar(60)", "text", "varchar", "varchar(128)", "varchar"]),
        layout("uuid", &UUIDS, ["uuid", "uuid", "text", "uuid", "varchar"]),
        layout(
            "bigint",
            &["1", "-1", "9223372036854775807"],
            ["bigint", "bigint", "text", "bigint", "varchar"],
        ),
        layout(
            "integer",
            &["0", "7", "2147483647", "-2147483648"],
            ["integer", "bigint", "integer", "text", "integer"],
        ),
    ]
}

/// Steps of a sequence at most; sequences are half of that at least.
const LENGTH: usize = 100;
/// Sequences per layout.
const CASES: u32 = 60;
const AT_LEAST: usize = 10_000;

/// Runs random sequences on one layout; returns what happened, or the smallest failing sequence.
fn explore(layout: &Layout, seed: u64, cases: u32) -> Result<Tally, String> {
    let world = RefCell::new(World::create(layout, ""));
    let tally = RefCell::new(Tally::default());
    runner(seed, cases)
        .run(&operations::sequence(layout.ids.len(), LENGTH), |steps| {
            let done = engine::run(&mut world.borrow_mut(), &steps)
                .map_err(|(_, violation)| TestCaseError::fail(violation.to_string()))?;
            tally.borrow_mut().add(done);
            Ok(())
        })
        .map(|()| *tally.borrow())
        .map_err(|error| format!("layout {}: {error}", layout.name))
}

#[test]
fn tenants_never_meet() {
    let seed = seed();
    let cases = number("TENANCY_CASES").map_or(CASES, |cases| cases as u32);
    let runs: Vec<_> =
        layouts().into_iter().map(|layout| thread::spawn(move || explore(&layout, seed, cases))).collect();
    let results: Vec<_> = runs.into_iter().map(|run| run.join().expect("a run panicked")).collect();
    let failures: Vec<_> = results.iter().filter_map(|result| result.as_ref().err()).collect();
    for failure in &failures {
        eprintln!("{failure}\n");
    }
    assert!(
        failures.is_empty(),
        "seed {seed}: replay with TENANCY_SEED={seed} cargo test --release -p tenancy-client-tests tenants_never_meet"
    );
    let mut all = Tally::default();
    results.iter().flatten().for_each(|tally| all.add(*tally));
    println!("model and database agree: {all:?}, {} layouts, seed {seed}", results.len());
    assert!(all.operations >= AT_LEAST || cases < CASES, "only {} operations", all.operations);
    // A run in which hardly anything happened would show nothing.
    for (what, seen) in [("rows", all.rows), ("changed", all.changed), ("denied", all.denied)] {
        assert!(seen * 20 >= all.operations, "{what}: {seen} in {} operations", all.operations);
    }
}

/// Ways to break a protection, each of which a run must notice.
const BROKEN: [(&str, &str); 9] = [
    (
        "reads of all tenants",
        "ALTER POLICY tenancy_isolation ON account USING (true); ALTER POLICY tenancy_access ON account USING (true)",
    ),
    ("writes to all tenants", "ALTER POLICY tenancy_isolation ON account WITH CHECK (true)"),
    ("row-level security off", "ALTER TABLE line DISABLE ROW LEVEL SECURITY"),
    ("an open partition", "ALTER TABLE event_low DISABLE ROW LEVEL SECURITY"),
    ("an open child", "ALTER TABLE car DISABLE ROW LEVEL SECURITY"),
    ("shared rows writable", "ALTER POLICY tenancy_update ON price USING (true) WITH CHECK (true)"),
    ("history rewritten", "ALTER TABLE journal DISABLE TRIGGER tenancy_guard"),
    ("system data writable", "ALTER TABLE currency DISABLE TRIGGER tenancy_guard"),
    ("a view with its owner's rights", "ALTER VIEW account_view SET (security_invoker = false)"),
];
/// Operations within which each is noticed; the seeds are fixed, so this does not vary.
const NOTICED_WITHIN: usize = 1_000;

#[test]
fn a_broken_policy_is_noticed() {
    let layout = layouts().remove(0);
    for (what, command) in BROKEN {
        let mut world = World::create(&layout, command);
        let mut runner = runner(1, 1);
        let sequences = operations::sequence(layout.ids.len(), LENGTH);
        let mut operations = 0;
        let violation = loop {
            let steps = sequences.new_tree(&mut runner).expect("a sequence").current();
            match engine::run(&mut world, &steps) {
                Ok(tally) => operations += tally.operations,
                Err((count, violation)) => {
                    operations += count;
                    break violation;
                }
            }
            assert!(operations < NOTICED_WITHIN, "{what}: not noticed in {operations} operations");
        };
        let first = violation.to_string();
        println!(
            "{what}: noticed after {operations} operations: {}",
            first.lines().next().unwrap_or_default()
        );
    }
}
