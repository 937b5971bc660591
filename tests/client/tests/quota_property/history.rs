//! Random histories of several connections, and what becomes of each step at the server.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread::sleep;
use std::time::{Duration, Instant};

use postgres::error::SqlState;
use postgres::{Client, Error};
use proptest::prelude::*;
use tenancy_client_tests::Database;

use crate::model::{Ask, Counter, Model, PERIODS, RESOURCES, TENANTS, counters};

pub const CONNECTIONS: usize = 3;
static PREPARED: AtomicUsize = AtomicUsize::new(0);

#[derive(Clone, Debug)]
pub enum Step {
    Begin,
    Commit,
    Rollback,
    Savepoint,
    RollbackTo(usize),
    Release(usize),
    /// Rows by INSERT, calls by `track_usage`.
    Charge(usize, usize, i64),
    /// Removes rows that nobody else is removing.
    Delete(usize, i64),
    Keep(usize, usize, i64),
    Check(usize, usize, i64),
    Prepare,
    EndPrepared(bool),
    /// The connection's backend is terminated.
    Terminate,
    Limit(usize, usize, usize, Option<i64>),
    Settle,
    /// Charges many other tenants, whose counters take the places of those that nobody is using.
    Evict,
}

/// Steps, each by a connection. A failing one is printed with a step on a line.
#[derive(Clone)]
pub struct History(Vec<(usize, Step)>);

impl std::fmt::Debug for History {
    fn fmt(&self, f: &mut std::fmt::Formatter) -> std::fmt::Result {
        self.0
            .iter()
            .enumerate()
            .try_for_each(|(n, (connection, step))| write!(f, "\n{n}: {connection} {step:?}"))
    }
}

pub fn history() -> impl Strategy<Value = History> {
    let (tenant, resource, period) = (|| 0..TENANTS.len(), || 0..RESOURCES.len(), 0..PERIODS.len());
    let amount = || prop_oneof![6 => 1i64..5, 1 => 10i64..30, 1 => Just(0i64)];
    let step = prop_oneof![
        8 => Just(Step::Begin),
        4 => Just(Step::Commit),
        2 => Just(Step::Rollback),
        12 => Just(Step::Savepoint),
        7 => (0..3usize).prop_map(Step::RollbackTo),
        2 => (0..3usize).prop_map(Step::Release),
        30 => (tenant(), resource(), amount()).prop_map(|(t, r, n)| Step::Charge(t, r, n)),
        8 => (tenant(), amount()).prop_map(|(t, n)| Step::Delete(t, n)),
        4 => (tenant(), resource(), amount()).prop_map(|(t, r, n)| Step::Keep(t, r, n)),
        8 => (tenant(), resource(), amount()).prop_map(|(t, r, n)| Step::Check(t, r, n)),
        3 => Just(Step::Prepare),
        2 => any::<bool>().prop_map(Step::EndPrepared),
        1 => Just(Step::Terminate),
        8 => (tenant(), resource(), period, proptest::option::weighted(0.9, 0i64..25))
            .prop_map(|(t, r, p, n)| Step::Limit(t, r, p, n)),
        2 => Just(Step::Settle),
        1 => Just(Step::Evict),
    ];
    proptest::collection::vec((0..CONNECTIONS, step), 40..=80).prop_map(History)
}

/// How often something happened.
#[derive(Clone, Copy, Debug, Default)]
pub struct Tally {
    pub steps: usize,
    pub charged: usize,
    pub refused: usize,
    pub rolled_back: usize,
    pub prepared: usize,
}

impl Tally {
    pub fn add(&mut self, other: Tally) {
        self.steps += other.steps;
        self.charged += other.charged;
        self.refused += other.refused;
        self.rolled_back += other.rolled_back;
        self.prepared += other.prepared;
    }
}

pub struct World {
    database: Database,
    admin: Client,
    connections: Vec<Client>,
}

impl World {
    /// `broken` is run as superuser when all is set up.
    pub fn create(broken: &str) -> World {
        let database = Database::create("quota");
        let mut admin = database.admin();
        admin
            .batch_execute(
                "CREATE TABLE item (tenant_id text NOT NULL, id bigint GENERATED ALWAYS AS IDENTITY);
                 SELECT tenancy.protect('item'), tenancy.meter('item', 'items');
                 SELECT tenancy.create_tenant('other-' || n) FROM generate_series(1, 60) AS n;",
            )
            .expect("a metered table");
        let connections = (0..CONNECTIONS).map(|_| connect(&database)).collect();
        let mut world = World { database, admin, connections };
        world.reset();
        world.admin.batch_execute("SET tenancy.restoring = on").expect("a superuser may break it");
        world.admin.batch_execute(broken).expect("a break");
        world.admin.batch_execute("RESET tenancy.restoring").expect("a superuser may end that");
        world
    }

    /// A new registry, so that nothing is left of an earlier history.
    fn reset(&mut self) {
        let tenants = TENANTS.map(|tenant| format!("SELECT tenancy.create_tenant('{tenant}');")).concat();
        // The quotas without a limit have the resources counted over the interval from the start.
        let interval = RESOURCES
            .map(|r| format!("SELECT tenancy.set_default_quota('{r}', NULL, '{}');", PERIODS[1]))
            .concat();
        self.admin
            .batch_execute(&format!(
                "TRUNCATE item;
                 SELECT tenancy.remove_quota(scope, name, resource, period) FROM tenancy.quotas;
                 DELETE FROM _tenancy.tenants WHERE id NOT LIKE 'other-%'; {tenants} {interval}"
            ))
            .expect("a clean start");
    }
}

fn connect(database: &Database) -> Client {
    let mut client = database.app();
    client.batch_execute("SET lock_timeout = '10s'; SET client_min_messages = error").expect("settings");
    client
}

/// Where the server and the model disagree.
pub type Violation = String;

struct Run<'a> {
    world: &'a mut World,
    model: Model,
    /// What earlier histories have used: the ledger keeps it.
    before: Vec<(Counter, i64)>,
    tally: Tally,
}

/// Runs a history; returns what happened, or how many steps it took to disagree, and about what.
pub fn run(world: &mut World, history: &History) -> Result<Tally, (usize, Violation)> {
    world.reset();
    let before = status(&mut world.admin).into_iter().map(|(counter, used, _)| (counter, used)).collect();
    let mut run = Run { world, model: Model::new(CONNECTIONS), before, tally: Tally::default() };
    let mut outcome = Ok(());
    for (number, (connection, step)) in history.0.iter().enumerate() {
        outcome = run.step(*connection, step).and_then(|()| run.compare());
        run.tally.steps += 1;
        if let Err(violation) = outcome {
            outcome = Err(format!("step {number}, connection {connection}, {step:?}: {violation}"));
            break;
        }
    }
    run.finish();
    match outcome.and_then(|()| run.compare()).and_then(|()| run.compare_with_rows()) {
        Ok(()) => Ok(run.tally),
        Err(violation) => Err((run.tally.steps, violation)),
    }
}

fn status(admin: &mut Client) -> Vec<(Counter, i64, i64)> {
    let query = "SELECT u.period, t.id, r.resource, u.used, u.reserved
                 FROM tenancy.tenants t, unnest($1::text[]) AS r (resource), _tenancy.usage_of(t.id, r.resource) u
                 WHERE t.id = ANY ($2)";
    let rows = admin.query(query, &[&RESOURCES.as_slice(), &TENANTS.as_slice()]).expect("the status");
    let place = |names: &[&str], name: &str| names.iter().position(|known| *known == name);
    let counter = |row: &postgres::Row| {
        Some((place(&TENANTS, row.get(1))?, place(&RESOURCES, row.get(2))?, place(&PERIODS, row.get(0))?))
    };
    rows.iter().filter_map(|row| Some((counter(row)?, row.get(3), row.get(4)))).collect()
}

impl Run<'_> {
    fn compare(&mut self) -> Result<(), Violation> {
        let found = status(&mut self.world.admin);
        for counter in counters() {
            let Some((_, used, reserved)) = found.iter().find(|(known, _, _)| *known == counter) else {
                return Err(format!("{counter:?} is not counted"));
            };
            let before = self.before.iter().find(|(known, _)| *known == counter).map_or(0, |(_, used)| *used);
            let expected = (self.model.used(counter), self.model.reserved(counter));
            if (*used - before, *reserved) != expected {
                return Err(format!(
                    "{counter:?}: used and reserved {:?}, expected {expected:?}",
                    (used - before, reserved)
                ));
            }
        }
        Ok(())
    }

    /// When nothing is in flight: the rows that are there are those that are used, by the ledger and by counting anew.
    fn compare_with_rows(&mut self) -> Result<(), Violation> {
        let admin = &mut self.world.admin;
        for (place, tenant) in TENANTS.iter().enumerate() {
            let query = "SELECT count(*) FROM item WHERE tenant_id = $1";
            let there: i64 = admin.query_one(query, &[tenant]).expect("a count").get(0);
            if there != self.model.rows(place) {
                return Err(format!("{tenant} has {there} rows, expected {}", self.model.rows(place)));
            }
        }
        let differing = admin.query("SELECT * FROM tenancy.reconcile('item')", &[]).expect("a count");
        if differing.is_empty() { Ok(()) } else { Err(format!("reconcile: {differing:?}")) }
    }

    /// Ends what is open.
    fn finish(&mut self) {
        for connection in 0..CONNECTIONS {
            let _what_it_was = self.world.connections[connection].batch_execute("ROLLBACK");
            self.model.end(connection, false);
        }
        let names: Vec<_> = self.model.prepared.keys().cloned().collect();
        for name in names {
            self.world.admin.batch_execute(&format!("ROLLBACK PREPARED '{name}'")).expect("a rollback");
            self.model.end_prepared(&name, false);
        }
    }

    fn execute(&mut self, connection: usize, command: &str) -> Result<(), Violation> {
        self.world.connections[connection]
            .batch_execute(command)
            .map_err(|error| format!("{command}: {error:?}"))
    }

    fn step(&mut self, connection: usize, step: &Step) -> Result<(), Violation> {
        let transaction = self.model.connections[connection].as_mut();
        let has_failed = transaction.as_ref().is_some_and(|transaction| transaction.has_failed);
        let savepoints = transaction.as_ref().map_or(0, |transaction| transaction.savepoints.len());
        match (step, transaction) {
            (Step::Begin | Step::Savepoint, None) => {
                self.model.begin(connection);
                self.execute(connection, "BEGIN")
            }
            (Step::Commit | Step::Rollback, Some(_)) => {
                self.model.end(connection, matches!(step, Step::Commit));
                self.tally.rolled_back += usize::from(has_failed || matches!(step, Step::Rollback));
                self.execute(connection, if matches!(step, Step::Commit) { "COMMIT" } else { "ROLLBACK" })
            }
            (Step::Savepoint, Some(transaction)) if !has_failed => {
                transaction.save();
                self.execute(connection, &format!("SAVEPOINT s{savepoints}"))
            }
            (Step::RollbackTo(place), Some(transaction)) if savepoints > 0 => {
                let place = place % savepoints;
                transaction.roll_back_to(place);
                self.tally.rolled_back += 1;
                self.execute(connection, &format!("ROLLBACK TO s{place}"))
            }
            (Step::Release(place), Some(transaction)) if savepoints > 0 && !has_failed => {
                let place = place % savepoints;
                transaction.release(place);
                self.execute(connection, &format!("RELEASE s{place}"))
            }
            (Step::Prepare, Some(_)) if !has_failed && self.model.prepared.len() < 2 => {
                // Of the whole server, on which other tests run as well.
                let number = PREPARED.fetch_add(1, Ordering::Relaxed);
                let name = format!("quota_{}_{number}", std::process::id());
                self.tally.prepared += 1;
                self.model.prepare(connection, name.clone());
                self.execute(connection, &format!("PREPARE TRANSACTION '{name}'"))
            }
            (Step::EndPrepared(commits), _) => {
                let Some(name) = self.model.prepared.keys().next().cloned() else { return Ok(()) };
                self.model.end_prepared(&name, *commits);
                let end = if *commits { "COMMIT" } else { "ROLLBACK" };
                self.world.admin.batch_execute(&format!("{end} PREPARED '{name}'")).map_err(|error| error.to_string())
            }
            (Step::Terminate, _) => self.terminate(connection),
            (Step::Limit(tenant, resource, period, maximum), _) => {
                let counter = (*tenant, *resource, *period);
                // What earlier histories have used counts as well.
                let before = self.before.iter().find(|(known, _)| *known == counter).map_or(0, |(_, used)| *used);
                self.model.limit(counter, *maximum);
                let (tenant, resource) = (TENANTS[*tenant], RESOURCES[*resource]);
                let query = "SELECT tenancy.set_quota($1, $2, $3, $4)";
                let arguments: [&(dyn postgres::types::ToSql + Sync); 4] =
                    [&tenant, &resource, &maximum.map(|n| n + before), &PERIODS[*period]];
                self.world.admin.execute(query, &arguments).map(|_| ()).map_err(|error| error.to_string())
            }
            (Step::Settle, _) => self
                .world
                .admin
                .batch_execute("SELECT tenancy.settle_usage()")
                .map_err(|error| error.to_string()),
            (Step::Evict, _) => self
                .world
                .admin
                .batch_execute(
                    "DO $$ BEGIN
                         FOR n IN 1..60 LOOP
                             PERFORM set_config('tenancy.tenant_id', 'other-' || n, true), tenancy.track_usage('calls');
                             COMMIT;
                         END LOOP;
                     END $$",
                )
                .map_err(|error| error.to_string()),
            _ if has_failed => Ok(()),
            (Step::Charge(tenant, resource, amount), _) => {
                let ask = Ask { tenant: *tenant, resource: *resource, amount: *amount, is_kept: false };
                let command = match RESOURCES[*resource] {
                    "items" => format!("INSERT INTO item SELECT FROM generate_series(1, {amount})"),
                    name => format!("SELECT tenancy.track_usage('{name}', {amount})"),
                };
                self.charge(connection, &ask, &command)
            }
            (Step::Keep(tenant, resource, amount), _) => {
                let ask = Ask { tenant: *tenant, resource: *resource, amount: *amount, is_kept: true };
                let name = RESOURCES[*resource];
                self.charge(connection, &ask, &format!("SELECT tenancy.enforce_quota('{name}', {amount})"))
            }
            (Step::Delete(tenant, most), _) => {
                let command = format!(
                    "DELETE FROM item WHERE id IN (SELECT id FROM item LIMIT {most} FOR UPDATE SKIP LOCKED)"
                );
                self.set_tenant(connection, *tenant)?;
                let gone = self.world.connections[connection].execute(&command, &[]);
                let gone = gone.map_err(|error| format!("{command}: {error:?}"))? as i64;
                if gone > 0 {
                    self.model.take(connection, &Ask { tenant: *tenant, resource: 0, amount: -gone, is_kept: false });
                }
                Ok(())
            }
            (Step::Check(tenant, resource, amount), _) => {
                self.set_tenant(connection, *tenant)?;
                let query = format!("SELECT tenancy.check_quota('{}', {amount})", RESOURCES[*resource]);
                let row = self.world.connections[connection].query_one(&query, &[]);
                let has_room: bool = row.map_err(|error| format!("{query}: {error:?}"))?.get(0);
                let ask = Ask { tenant: *tenant, resource: *resource, amount: *amount, is_kept: false };
                let expected = self.model.has_room(connection, &ask);
                if has_room == expected { Ok(()) } else { Err(format!("check_quota is {has_room}")) }
            }
            _ => Ok(()),
        }
    }

    fn set_tenant(&mut self, connection: usize, tenant: usize) -> Result<(), Violation> {
        let is_local = self.model.connections[connection].is_some();
        self.execute(connection, &format!("SELECT tenancy.set_tenant('{}', {is_local})", TENANTS[tenant]))
    }

    fn charge(&mut self, connection: usize, ask: &Ask, command: &str) -> Result<(), Violation> {
        self.set_tenant(connection, ask.tenant)?;
        let expected = self.model.has_room(connection, ask);
        let outcome = self.world.connections[connection].batch_execute(command);
        let is_refused = |error: &Error| error.code() == Some(&SqlState::CONFIGURATION_LIMIT_EXCEEDED);
        match outcome {
            Ok(()) if expected => {
                self.tally.charged += 1;
                self.model.take(connection, ask);
                Ok(())
            }
            Err(error) if is_refused(&error) && !expected => {
                self.tally.refused += 1;
                self.model.fail(connection);
                // The error is sent before the rollback is done; the answer to another query, after.
                self.execute(connection, "")
            }
            Ok(()) => Err(format!("{command} was let through")),
            Err(error) => Err(format!("{command}: {error:?}")),
        }
    }

    fn terminate(&mut self, connection: usize) -> Result<(), Violation> {
        let row = self.world.connections[connection].query_one("SELECT pg_backend_pid()", &[]);
        // In a failed transaction there is no asking.
        let Ok(row) = row else { return Ok(()) };
        let pid: i32 = row.get(0);
        let admin = &mut self.world.admin;
        admin.execute("SELECT pg_terminate_backend($1)", &[&pid]).map_err(|error| error.to_string())?;
        let deadline = Instant::now() + Duration::from_secs(30);
        while !admin
            .query("SELECT FROM pg_stat_activity WHERE pid = $1", &[&pid])
            .map_err(|error| error.to_string())?
            .is_empty()
        {
            if Instant::now() > deadline {
                return Err("a terminated backend goes on".to_owned());
            }
            sleep(Duration::from_millis(5));
        }
        self.world.connections[connection] = connect(&self.world.database);
        self.model.end(connection, false);
        Ok(())
    }
}
