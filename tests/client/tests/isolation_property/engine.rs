//! Runs a sequence against the database and the model, and compares after each step.

use crate::expect::{Answer, Cell, Context, Expected, answer, visible};
use crate::model::{Kind, State, Target, Violation};
use crate::operations::{Step, Switch};
use crate::statements::{Sql, Statement, returned};
use crate::world::{EVERYTHING, Outcome, World};

struct Cursor {
    target: Target,
    /// How many savepoints there were.
    depth: usize,
    snapshot: State,
    began: Option<Began>,
}

/// What the first FETCH settled.
struct Began {
    tenant: Option<usize>,
    /// The rows that are still to come.
    rest: Vec<Vec<Option<String>>>,
}

struct Transaction {
    base: State,
    savepoints: Vec<State>,
}

/// What a run has seen happen, to tell a test that tests from one that only fails to fail.
#[derive(Clone, Copy, Debug, Default)]
pub struct Tally {
    pub operations: usize,
    /// Rows that queries and RETURNING gave.
    pub rows: usize,
    pub changed: usize,
    /// Writes to another tenant's rows, to history and to system tables.
    pub denied: usize,
    pub without_context: usize,
    pub other_errors: usize,
    /// FETCHes that gave what they should.
    pub fetched: usize,
}

impl Tally {
    fn note(&mut self, outcome: &Outcome) {
        match outcome {
            Outcome::Rows(rows) => self.rows += rows.len(),
            Outcome::Count(count) => self.changed += count,
            Outcome::Error(code) if code == "42501" => self.denied += 1,
            Outcome::Error(code) if code == "55000" => self.without_context += 1,
            Outcome::Error(_) => self.other_errors += 1,
        }
    }

    pub fn add(&mut self, other: Tally) {
        self.operations += other.operations;
        self.rows += other.rows;
        self.changed += other.changed;
        self.denied += other.denied;
        self.without_context += other.without_context;
        self.other_errors += other.other_errors;
        self.fetched += other.fetched;
    }
}

struct Run<'a> {
    tally: Tally,
    world: &'a mut World,
    state: State,
    transaction: Option<Transaction>,
    suspended: Vec<bool>,
    cursor: Option<Cursor>,
}

/// Runs the steps. Returns what happened, or after how many operations the database differed from the model.
pub fn run(world: &mut World, steps: &[Step]) -> Result<Tally, (usize, Violation)> {
    world.reset().map_err(|violation| (0, violation))?;
    let suspended = vec![false; world.layout.ids.len()];
    let state = State::seeded(suspended.len());
    let mut run = Run { tally: Tally::default(), world, state, transaction: None, suspended, cursor: None };
    for (at, step) in steps.iter().enumerate() {
        let context = run.context();
        let done =
            run.step(step).and_then(|done| if done { run.compare_visible().map(|()| 1) } else { Ok(0) });
        let explain = |v: Violation| Violation(format!("step {at}, {step:?}, in {context:?}: {v}"));
        run.tally.operations += done.map_err(|v| (run.tally.operations, explain(v)))?;
    }
    run.end(true).and_then(|()| run.compare_all()).map_err(|v| (run.tally.operations, v))?;
    Ok(run.tally)
}

fn differs<T>(what: &str, expected: impl std::fmt::Debug, got: impl std::fmt::Debug) -> Result<T, Violation> {
    Err(Violation(format!("{what}\n  expected {expected:?}\n  got      {got:?}")))
}

impl Run<'_> {
    fn context(&self) -> Context {
        match self.state.named() {
            None => Context::None,
            Some(tenant) if self.suspended[tenant] => Context::LockedOut,
            Some(tenant) => Context::Tenant(tenant),
        }
    }

    fn text(&self, answer: Answer) -> Vec<Vec<Option<String>>> {
        let text = |cell: Cell| match cell {
            Cell::Null => None,
            Cell::Number(number) => Some(number.to_string()),
            Cell::Tenant(tenant) => Some(self.world.layout.ids[tenant].to_owned()),
        };
        let mut rows: Vec<Vec<_>> =
            answer.into_iter().map(|row| row.into_iter().map(text).collect()).collect();
        rows.sort();
        rows
    }

    /// Compares, and returns whether the statement failed.
    fn compare(&self, expected: Expected, got: Outcome) -> Result<bool, Violation> {
        let got = match got {
            Outcome::Rows(mut rows) => {
                rows.sort();
                Outcome::Rows(rows)
            }
            other => other,
        };
        let failed = matches!(got, Outcome::Error(_));
        let right = match (&expected, &got) {
            (Expected::Fails(codes), Outcome::Error(code)) => codes.contains(&code.as_str()),
            (Expected::Rows(rows), Outcome::Rows(got)) => self.text(rows.clone()) == *got,
            (Expected::Count(count), Outcome::Count(got)) => count == got,
            _ => false,
        };
        if right { Ok(failed) } else { differs("answer", expected, got) }
    }

    /// A command that cannot fail.
    fn must(&mut self, command: &str) -> Result<(), Violation> {
        match self.world.command(command)? {
            Outcome::Error(code) => differs(command, "no error", code),
            _ => Ok(()),
        }
    }

    /// Runs the step; false if it makes no sense here.
    fn step(&mut self, step: &Step) -> Result<bool, Violation> {
        match *step {
            Step::Begin if self.transaction.is_none() => {
                self.must("BEGIN")?;
                self.transaction = Some(Transaction { base: self.state.clone(), savepoints: vec![] });
            }
            Step::Commit | Step::Rollback if self.transaction.is_some() => {
                self.end(matches!(step, Step::Commit))?;
                self.compare_all()?;
            }
            Step::Savepoint if self.transaction.is_some() => self.savepoint()?,
            Step::RollbackTo(back) | Step::Release(back) => {
                let Some(transaction) = &self.transaction else { return Ok(false) };
                let Some(index) = transaction.savepoints.len().checked_sub(back + 1) else {
                    return Ok(false);
                };
                if matches!(step, Step::Release(_)) { self.release(index)? } else { self.rollback_to(index)? }
            }
            Step::Switch(switch) => self.switch(switch)?,
            Step::PlanCacheMode(mode) => self.must(&format!("SET plan_cache_mode = {mode}"))?,
            Step::Run { ref statement, prepared, guarded } => self.statement(statement, prepared, guarded)?,
            Step::OpenCursor(target) if self.transaction.is_some() && self.cursor.is_none() => {
                self.open_cursor(target)?
            }
            Step::Fetch(count) if self.cursor.is_some() => self.fetch(count)?,
            Step::CloseCursor if self.cursor.is_some() => {
                self.must("CLOSE c")?;
                self.cursor = None;
            }
            Step::Discard if self.transaction.is_none() => {
                self.must("DISCARD ALL")?;
                self.world.forget_prepared();
                self.state.set(None, false);
            }
            Step::Suspend(tenant) | Step::Resume(tenant) => {
                let suspend = matches!(step, Step::Suspend(_));
                let command = if suspend { "suspend_tenant" } else { "resume_tenant" };
                let id = self.world.layout.ids[tenant];
                self.world
                    .admin
                    .execute(&format!("SELECT tenancy.{command}($1)"), &[&id])
                    .map_err(|error| Violation(format!("{command}: {error}")))?;
                self.suspended[tenant] = suspend;
            }
            _ => return Ok(false),
        }
        Ok(true)
    }

    fn savepoint(&mut self) -> Result<(), Violation> {
        let Some(transaction) = &mut self.transaction else { return Ok(()) };
        let name = transaction.savepoints.len();
        transaction.savepoints.push(self.state.clone());
        self.must(&format!("SAVEPOINT s{name}"))
    }

    fn rollback_to(&mut self, index: usize) -> Result<(), Violation> {
        let Some(transaction) = &mut self.transaction else { return Ok(()) };
        transaction.savepoints.truncate(index + 1);
        self.state = transaction.savepoints[index].clone();
        // A cursor lives and dies with the savepoint that it was opened under.
        self.cursor.take_if(|cursor| cursor.depth > index);
        self.must(&format!("ROLLBACK TO s{index}"))
    }

    fn release(&mut self, index: usize) -> Result<(), Violation> {
        let Some(transaction) = &mut self.transaction else { return Ok(()) };
        transaction.savepoints.truncate(index);
        if let Some(cursor) = &mut self.cursor {
            cursor.depth = cursor.depth.min(index);
        }
        self.must(&format!("RELEASE s{index}"))
    }

    fn end(&mut self, commit: bool) -> Result<(), Violation> {
        let Some(transaction) = self.transaction.take() else { return Ok(()) };
        self.cursor = None;
        if !commit {
            self.state = transaction.base;
        }
        self.state.end_of_transaction();
        self.must(if commit { "COMMIT" } else { "ROLLBACK" })
    }

    /// What an application does when a statement has failed.
    fn recover(&mut self) -> Result<(), Violation> {
        match &self.transaction {
            None => Ok(()),
            Some(transaction) => match transaction.savepoints.len().checked_sub(1) {
                Some(newest) => self.rollback_to(newest),
                None => self.end(false),
            },
        }
    }

    /// Runs something that may fail; `guarded` in a savepoint of its own. Returns whether it failed.
    fn attempt(
        &mut self,
        guarded: bool,
        work: impl FnOnce(&mut Self) -> Result<bool, Violation>,
    ) -> Result<bool, Violation> {
        let guarded = guarded && self.transaction.is_some();
        if guarded {
            self.savepoint()?;
        }
        let failed = work(self)?;
        if failed {
            self.recover()?;
        }
        if guarded && let Some(transaction) = &self.transaction {
            self.release(transaction.savepoints.len() - 1)?;
        }
        Ok(failed)
    }

    fn statement(&mut self, statement: &Statement, prepared: bool, guarded: bool) -> Result<(), Violation> {
        let context = self.context();
        let sql = statement.sql(&self.world.layout);
        self.attempt(guarded, |run| {
            let expected = run.state.apply(statement, context);
            let got = run.world.run(&sql, prepared, statement.returns_rows())?;
            run.tally.note(&got);
            run.compare(expected, got)
        })?;
        if self.transaction.is_none() {
            self.state.end_of_transaction();
        }
        Ok(())
    }

    fn switch(&mut self, switch: Switch) -> Result<(), Violation> {
        let id = |tenant: usize| self.world.layout.ids[tenant];
        let (command, tenant, is_local) = match switch {
            Switch::Local(tenant) => {
                (format!("SET LOCAL tenancy.tenant_id = '{}'", id(tenant)), Some(tenant), true)
            }
            Switch::Session(tenant) => {
                (format!("SET tenancy.tenant_id = '{}'", id(tenant)), Some(tenant), false)
            }
            Switch::Function { tenant, is_local } => {
                (format!("SELECT tenancy.set_tenant('{}', {is_local})", id(tenant)), Some(tenant), is_local)
            }
            Switch::Clear => ("SELECT tenancy.clear_tenant()".to_owned(), None, false),
            Switch::Reset => ("RESET tenancy.tenant_id".to_owned(), None, false),
        };
        // The function confirms the tenant at once; the others wait for its first use.
        let confirmed = match switch {
            Switch::Function { tenant, .. } => !self.suspended[tenant],
            _ => true,
        };
        self.attempt(true, |run| {
            let got = run.world.command(&command)?;
            match (&got, confirmed) {
                (Outcome::Error(code), false) if code == "55000" => Ok(true),
                (Outcome::Count(_), true) => {
                    run.state.set(tenant, is_local);
                    Ok(false)
                }
                _ => differs("switch", if confirmed { "no error" } else { "55000" }, got),
            }
        })?;
        if self.transaction.is_none() {
            self.state.end_of_transaction();
        }
        Ok(())
    }

    fn open_cursor(&mut self, target: Target) -> Result<(), Violation> {
        let context = self.context();
        let command = format!("DECLARE c CURSOR FOR SELECT {} FROM {}", returned(target), target.sql());
        let mut opened = false;
        self.attempt(true, |run| {
            let got = run.world.command(&command)?;
            match (&got, context) {
                (Outcome::Count(_), _) => {
                    opened = true;
                    Ok(false)
                }
                // Planning may ask for the tenant.
                (Outcome::Error(code), Context::None | Context::LockedOut) if code == "55000" => Ok(true),
                _ => differs("cursor", "opened", got),
            }
        })?;
        if opened {
            let depth = self.transaction.as_ref().map_or(0, |transaction| transaction.savepoints.len());
            let snapshot = self.state.clone();
            self.cursor = Some(Cursor { target, depth, snapshot, began: None });
        }
        Ok(())
    }

    fn fetch(&mut self, count: usize) -> Result<(), Violation> {
        let Some(mut cursor) = self.cursor.take() else { return Ok(()) };
        let (context, tenant) = (self.context(), self.state.named());
        // A cursor is its first FETCH's tenant's; a table without tenants is everybody's.
        let refused = match (&cursor.began, context) {
            _ if cursor.target.kind() == Kind::System => None,
            (Some(began), _) if began.tenant != tenant => Some("42501"),
            (_, Context::Tenant(_)) => None,
            _ => Some("55000"),
        };
        let sql = Sql { text: format!("FETCH {count} FROM c"), values: vec![] };
        let failed = self.attempt(true, |run| {
            let rows = match (run.world.run(&sql, false, true)?, refused) {
                (Outcome::Rows(rows), None) => rows,
                (Outcome::Error(code), Some(refused)) if code == refused => return Ok(true),
                (other, _) => return differs("fetch", refused.unwrap_or("rows"), other),
            };
            run.tally.fetched += 1;
            let began = cursor.began.get_or_insert_with(|| Began {
                tenant,
                rest: run.text(answer(&visible(&cursor.snapshot, cursor.target, context))),
            });
            if rows.len() != count.min(began.rest.len()) {
                return differs("fetch", &began.rest, rows);
            }
            for row in &rows {
                match began.rest.iter().position(|rest| rest == row) {
                    Some(at) => drop(began.rest.remove(at)),
                    None => return differs("fetch", &began.rest, rows),
                }
            }
            Ok(false)
        })?;
        if failed {
            // What failed cannot be read on.
            self.must("CLOSE c")?;
        } else {
            self.cursor = Some(cursor);
        }
        Ok(())
    }

    fn labelled(&self, rows: impl Fn(Target) -> Answer) -> Vec<Vec<Option<String>>> {
        let mut all = Vec::new();
        for target in EVERYTHING {
            for mut row in self.text(rows(target)) {
                row.insert(0, Some(format!("{:?}", target.table())));
                all.push(row);
            }
        }
        all.sort();
        all
    }

    /// What the session sees of all tables is what the model shows its tenant.
    fn compare_visible(&mut self) -> Result<(), Violation> {
        let Context::Tenant(tenant) = self.context() else { return Ok(()) };
        let expected = self.labelled(|target| answer(&self.state.visible(target, tenant)));
        match self.world.all_visible()? {
            Outcome::Rows(mut rows) => {
                rows.sort();
                if rows == expected { Ok(()) } else { differs("visible rows", expected, rows) }
            }
            other => differs("visible rows", expected, other),
        }
    }

    /// What the superuser sees is the whole model. Outside of transactions only.
    fn compare_all(&mut self) -> Result<(), Violation> {
        let expected = self.labelled(|target| {
            target.tables().iter().flat_map(|&table| answer(self.state.rows(table))).collect()
        });
        match self.world.all_rows()? {
            Outcome::Rows(mut rows) => {
                rows.sort();
                if rows == expected { Ok(()) } else { differs("all rows", expected, rows) }
            }
            other => differs("all rows", expected, other),
        }
    }
}
