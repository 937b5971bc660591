//! Queries of the extension's own on its private tables, with its owner's rights. So nothing in them may be of the caller's
//! choice: the search_path is pinned, or an operator of the caller's would run as superuser.

use std::cell::RefCell;
use std::collections::HashMap;
use std::ffi::{CStr, CString, c_char, c_int};

use pgrx::{PgOid, datum::DatumWithOid, pg_sys, prelude::*, spi};

use super::user::AsOwner;

/// A row of a result.
pub type Row<'a> = spi::SpiHeapTupleData<'a>;

/// An argument of type `timestamptz`, from microseconds since 2000-01-01 UTC.
pub fn timestamp(at: i64) -> DatumWithOid<'static> {
    // SAFETY: a `timestamptz` is that number.
    unsafe { DatumWithOid::new(at, pg_sys::TIMESTAMPTZOID) }
}

/// Parameters that the caller does not choose, until dropped.
pub(super) struct Pinned {
    level: i32,
}

/// Nothing of the caller's choice.
pub(super) const PATH: (&CStr, &CStr) = (c"search_path", c"pg_catalog, pg_temp");
/// For queries that look a few rows up by index: a plan that was made while a table was empty must be good when it is full, and a
/// bitmap scan would not tell the index which entries are dead.
const BY_INDEX: [(&CStr, &CStr); 4] =
    [PATH, (c"enable_indexscan", c"on"), (c"enable_seqscan", c"off"), (c"enable_bitmapscan", c"off")];

impl Pinned {
    /// As PostgreSQL does for a function with a SET clause. An error on the way restores the parameters as well.
    pub(super) fn new(parameters: &[(&CStr, &CStr)]) -> Pinned {
        // SAFETY: called inside a transaction; C strings that live for good. Anybody may set these parameters.
        unsafe {
            let level = pg_sys::NewGUCNestLevel();
            for (name, value) in parameters {
                pg_sys::set_config_option(
                    name.as_ptr(),
                    value.as_ptr(),
                    pg_sys::GucContext::PGC_USERSET,
                    pg_sys::GucSource::PGC_S_SESSION,
                    pg_sys::GucAction::GUC_ACTION_SAVE,
                    true,
                    0,
                    false,
                );
            }
            Pinned { level }
        }
    }
}

impl Drop for Pinned {
    fn drop(&mut self) {
        // Unwinding means an error, at whose end the (sub)transaction restores it.
        if !std::thread::panicking() {
            // SAFETY: the level that `new` opened.
            unsafe { pg_sys::AtEOXact_GUC(true, self.level) }
        }
    }
}

thread_local! {
    /// The plans of commands and queries that are run often; PostgreSQL makes one anew where a table has changed.
    static COMMANDS: RefCell<HashMap<&'static str, &'static spi::OwnedPreparedStatement>> = RefCell::new(HashMap::new());
    static QUERIES: RefCell<HashMap<&'static str, pg_sys::SPIPlanPtr>> = RefCell::new(HashMap::new());
}

/// The plan of a command, made at its first use. It lives as long as the backend.
fn plan(
    client: &spi::SpiClient,
    command: &'static str,
    arguments: &[DatumWithOid],
) -> Result<&'static spi::OwnedPreparedStatement, spi::Error> {
    if let Some(plan) = COMMANDS.with_borrow(|plans| plans.get(command).copied()) {
        return Ok(plan);
    }
    let types: Vec<PgOid> = arguments.iter().map(|argument| PgOid::from(argument.oid())).collect();
    let plan: &'static _ = Box::leak(Box::new(client.prepare_mut(command, &types)?.keep()));
    COMMANDS.with_borrow_mut(|plans| plans.insert(command, plan));
    Ok(plan)
}

/// The plan of a query, until SPI is left. Called while SPI is connected.
pub(super) fn prepare(query: &str, arguments: &[DatumWithOid]) -> Result<pg_sys::SPIPlanPtr, spi::Error> {
    let text = CString::new(query).unwrap_or_default();
    let mut types: Vec<pg_sys::Oid> = arguments.iter().map(DatumWithOid::oid).collect();
    // SAFETY: a C string and as many types as are said.
    unsafe {
        let plan = pg_sys::SPI_prepare(text.as_ptr(), types.len() as c_int, types.as_mut_ptr());
        if plan.is_null() {
            Spi::check_status(pg_sys::SPI_result)?;
        }
        Ok(plan)
    }
}

/// Runs a plan on the active snapshot; calls `each` on each row. Called while SPI is connected.
///
/// pgrx's own queries take a snapshot of their own once the transaction has written: one that keeps its first snapshot would read that.
fn read(
    plan: pg_sys::SPIPlanPtr,
    arguments: &[DatumWithOid],
    mut each: impl FnMut(Row) -> Result<(), spi::Error>,
) -> Result<(), spi::Error> {
    let (mut values, mut nulls) = (Vec::new(), Vec::new());
    for argument in arguments {
        let datum = argument.datum();
        nulls.push(if datum.is_some() { b' ' } else { b'n' } as c_char);
        values.push(datum.map_or(pg_sys::Datum::from(0), |datum| datum.sans_lifetime()));
    }
    // SAFETY: a plan with as many arguments. The rows live until SPI is left; `each` copies what it wants of them.
    unsafe {
        let status = pg_sys::SPI_execute_plan(plan, values.as_mut_ptr(), nulls.as_ptr(), true, 0);
        Spi::check_status(status)?;
        let (table, count) = (pg_sys::SPI_tuptable, pg_sys::SPI_processed as usize);
        let Some(table) = table.as_ref() else { return Ok(()) };
        for n in 0..count {
            if let Some(row) = Row::new(table.tupdesc, *table.vals.add(n))? {
                each(row)?;
            }
        }
    }
    Ok(())
}

/// What queries see, until dropped; what this transaction has done itself is in it.
struct Active;

impl Active {
    fn new(snapshot: unsafe fn() -> pg_sys::Snapshot) -> Active {
        // SAFETY: called inside a transaction. The snapshot is active from here on, which is what SPI uses for a query that
        // only reads; an error on the way pops it with the (sub)transaction.
        unsafe {
            pg_sys::CommandCounterIncrement();
            pg_sys::PushActiveSnapshot(snapshot());
        }
        Active
    }
}

impl Drop for Active {
    fn drop(&mut self) {
        if !std::thread::panicking() {
            // SAFETY: pops what `new` pushed.
            unsafe { pg_sys::PopActiveSnapshot() }
        }
    }
}

/// Calls `work` with everything seen as the transaction sees it, and what it has done itself.
pub fn at_current<R>(work: impl FnOnce() -> R) -> R {
    let _snapshot = Active::new(pg_sys::GetTransactionSnapshot);
    work()
}

/// Calls `work` with everything seen as of one moment: now, and what this transaction has done itself.
pub fn at_latest<R>(work: impl FnOnce() -> R) -> R {
    let _snapshot = Active::new(pg_sys::GetLatestSnapshot);
    work()
}

/// Runs a query that writes nothing, on the active snapshot (see `at_latest`); calls `each` on each row. `table` names the owner
/// whose rights it runs with.
pub fn select(
    table: pg_sys::Oid,
    query: &str,
    arguments: &[DatumWithOid],
    each: impl FnMut(Row) -> Result<(), spi::Error>,
) -> Result<(), spi::Error> {
    let _owner = AsOwner::of(table);
    let _pinned = Pinned::new(&[PATH]);
    Spi::connect(|_| read(prepare(query, arguments)?, arguments, each))
}

/// The same for a query that is run often, on the latest state.
pub fn latest_planned(
    table: pg_sys::Oid,
    query: &'static str,
    arguments: &[DatumWithOid],
    each: impl FnMut(Row) -> Result<(), spi::Error>,
) -> Result<(), spi::Error> {
    let _owner = AsOwner::of(table);
    let _pinned = Pinned::new(&BY_INDEX);
    at_latest(|| {
        Spi::connect(|_| {
            let known = QUERIES.with_borrow(|plans| plans.get(query).copied());
            let plan = match known {
                Some(plan) => plan,
                None => {
                    let plan = prepare(query, arguments)?;
                    // SAFETY: a plan that is not kept yet. It lives as long as the backend.
                    let status = unsafe { pg_sys::SPI_keepplan(plan) };
                    if status != 0 {
                        Spi::check_status(status)?;
                    }
                    QUERIES.with_borrow_mut(|plans| plans.insert(query, plan));
                    plan
                }
            };
            read(plan, arguments, each)
        })
    })
}

/// Runs a command that writes, with the rights of the owner of `table`.
pub fn run(table: pg_sys::Oid, command: &str, arguments: &[DatumWithOid]) -> Result<(), spi::Error> {
    let _owner = AsOwner::of(table);
    let _pinned = Pinned::new(&[PATH]);
    Spi::run_with_args(command, arguments)
}

/// Runs a query that writes, likewise; calls `each` on each row.
pub fn write(
    table: pg_sys::Oid,
    query: &str,
    arguments: &[DatumWithOid],
    mut each: impl FnMut(Row) -> Result<(), spi::Error>,
) -> Result<(), spi::Error> {
    let _owner = AsOwner::of(table);
    let _pinned = Pinned::new(&[PATH]);
    Spi::connect_mut(|client| client.update(query, None, arguments)?.try_for_each(&mut each))
}

/// The same for a command that is run often.
pub fn run_planned(
    table: pg_sys::Oid,
    command: &'static str,
    arguments: &[DatumWithOid],
) -> Result<(), spi::Error> {
    let _owner = AsOwner::of(table);
    let _pinned = Pinned::new(&BY_INDEX);
    Spi::connect_mut(|client| {
        let plan = plan(client, command, arguments)?;
        client.update(plan, None, arguments).map(|_| ())
    })
}

/// Runs a command that is no query with the rights of the client, inside a function that has others.
pub fn as_client(command: &str) -> Result<(), spi::Error> {
    let _client = AsOwner::client();
    Spi::run(command)
}
