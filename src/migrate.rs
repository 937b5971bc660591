//! Which accesses to a table that is being migrated would be refused, were it protected?
//!
//! While `tenancy.migrations` says that a table is observed, every statement of a client that names it without a tenant is counted, by its
//! role and application: an entry of the audit trail says how many it was, the first at once, and others at most every ten seconds.
//! Without such a table, nothing is looked at.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;

use crate::pg::{self, hook, scan::Cached, xact};
use crate::{audit, context};

/// How long a session counts before it writes again, in microseconds.
const PAUSE: i64 = 10_000_000;

/// A column of _tenancy.migrations.
const PHASE: i32 = 7;

thread_local! {
    static TABLE: Cached = const { Cached::new(c"migrations", c"migrations_pkey") };
    /// The tables that are observed, with partitions, and of which state of the table that is.
    static OBSERVED: RefCell<(u64, Vec<pg::Oid>)> = const { RefCell::new((0, Vec::new())) };
    /// The query by which they are found is a statement itself.
    static IS_LOADING: Cell<bool> = const { Cell::new(false) };
    /// Of each, and each role: what is counted and not written, and when something was written last.
    static COUNTED: RefCell<HashMap<(pg::Oid, pg::Oid), (i64, i64)>> = RefCell::new(HashMap::new());
}

/// Until dropped, by an error as well.
struct Loading;

impl Drop for Loading {
    fn drop(&mut self) {
        IS_LOADING.set(false);
    }
}

pub fn init() {
    pg::inval::listen(|changed| {
        TABLE.with(|table| table.note(changed));
    });
    hook::observe_by(hook::Observer { is_on, observe });
}

/// Whether there may be such a table. Nothing in it raises.
fn is_on() -> bool {
    let now = TABLE.with(Cached::generation);
    OBSERVED.with_borrow(|(generation, tables)| *generation != now || !tables.is_empty())
}

fn observe(tables: &[pg::Oid]) {
    let now = TABLE.with(Cached::generation);
    if IS_LOADING.get() {
        return;
    }
    if OBSERVED.with_borrow(|(generation, _)| *generation != now) {
        let _until_dropped = Loading;
        IS_LOADING.set(true);
        OBSERVED.set((now, load()));
    }
    let observed = OBSERVED.with_borrow(|(_, observed)| {
        tables.iter().copied().filter(|table| observed.contains(table)).collect::<Vec<_>>()
    });
    let is_asked = !observed.is_empty()
        && context::is_unset()
        && !pg::token::is_given()
        && !pg::user::bypasses()
        && !pg::user::is_exempt_role(Some(pg::user::role()));
    for table in observed.into_iter().filter(|_| is_asked) {
        note(table);
    }
}

fn note(table: pg::Oid) {
    let now = xact::now();
    let accesses = COUNTED.with_borrow_mut(|counted| {
        let (count, written_at) = counted.entry((table, pg::user::role())).or_insert((0, 0));
        *count += 1;
        if now - *written_at < PAUSE {
            return None;
        }
        *written_at = now;
        Some(std::mem::take(count))
    });
    if let Some(accesses) = accesses {
        audit::events::observed(&pg::qualified_name(table), &pg::application_name(), accesses);
    }
}

fn load() -> Vec<pg::Oid> {
    let Some(relations) = TABLE.with(Cached::relations) else { return Vec::new() };
    // By itself, as the query has parts that are not there yet while the extension is created.
    let phases = pg::scan::rows(relations, &[], |row| row.text(PHASE));
    if !phases.iter().flatten().any(|phase| phase.as_bytes() == b"observe") {
        return Vec::new();
    }
    let query =
        "SELECT DISTINCT t.relation::oid FROM _tenancy.migrations m, LATERAL _tenancy.tree(m.relation) t
                 WHERE m.phase = 'observe' AND EXISTS (SELECT FROM pg_class c WHERE c.oid = m.relation)";
    let mut found = Vec::new();
    pg::query::at_latest(|| {
        pg::query::select(relations.table, query, &[], |row| {
            found.extend(row.get::<pg::Oid>(1)?);
            Ok(())
        })
    })
    .unwrap_or_else(|error| crate::error::internal(error));
    found
}
