//! Queries of the extension's own on its private tables, with its owner's rights. So nothing in them may be of the caller's
//! choice: the search_path is pinned, or an operator of the caller's would run as superuser.

use pgrx::{datum::DatumWithOid, pg_sys, prelude::*, spi};

use super::user::AsOwner;

/// A row of a result.
pub type Row<'a> = spi::SpiHeapTupleData<'a>;

/// An argument of type `timestamptz`, from microseconds since 2000-01-01 UTC.
pub fn timestamp(at: i64) -> DatumWithOid<'static> {
    // SAFETY: a `timestamptz` is that number.
    unsafe { DatumWithOid::new(at, pg_sys::TIMESTAMPTZOID) }
}

/// The search_path of our own queries, until dropped.
struct Pinned {
    level: i32,
}

impl Pinned {
    /// As PostgreSQL does for a function with a SET clause. An error on the way restores the parameter as well.
    fn new() -> Pinned {
        // SAFETY: called inside a transaction; C strings that live for good. Whoever runs may set search_path.
        unsafe {
            let level = pg_sys::NewGUCNestLevel();
            pg_sys::set_config_option(
                c"search_path".as_ptr(),
                c"pg_catalog, pg_temp".as_ptr(),
                pg_sys::GucContext::PGC_USERSET,
                pg_sys::GucSource::PGC_S_SESSION,
                pg_sys::GucAction::GUC_ACTION_SAVE,
                true,
                0,
                false,
            );
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

/// Runs a query that writes nothing, on the state that is committed now and what this transaction has done itself; calls
/// `each` on each row. `table` names the owner whose rights it runs with.
pub fn latest(
    table: pg_sys::Oid,
    query: &str,
    arguments: &[DatumWithOid],
    mut each: impl FnMut(Row) -> Result<(), spi::Error>,
) -> Result<(), spi::Error> {
    let _owner = AsOwner::of(table);
    let _path = Pinned::new();
    // SAFETY: called inside a transaction. The snapshot is active from here on, which is what SPI uses for a query that
    // only reads; an error on the way pops it with the (sub)transaction.
    unsafe {
        pg_sys::CommandCounterIncrement();
        pg_sys::PushActiveSnapshot(pg_sys::GetLatestSnapshot());
    }
    let result = Spi::connect(|client| {
        for row in client.select(query, None, arguments)? {
            each(row)?;
        }
        Ok(())
    });
    // SAFETY: pops what was pushed above.
    unsafe { pg_sys::PopActiveSnapshot() };
    result
}

/// Runs a command that writes, with the rights of the owner of `table`.
pub fn run(table: pg_sys::Oid, command: &str, arguments: &[DatumWithOid]) -> Result<(), spi::Error> {
    let _owner = AsOwner::of(table);
    let _path = Pinned::new();
    Spi::run_with_args(command, arguments)
}
