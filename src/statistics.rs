//! Plans for tenants of very different sizes.
//!
//! A plan that PostgreSQL keeps (of a prepared statement, of a function) was made for the tenant that was current then. For one that has a
//! thousand times as many rows, or as few, it is a bad one. So the session's plans are dropped where the tenant changes to one that has more
//! than ten times as many rows as another that they were made for, or less than a tenth. Most tenants are small, and a change between them
//! drops nothing.

use std::cell::{Cell, RefCell};
use std::time::{Duration, Instant};

use rustc_hash::{FxHashMap, FxHashSet};

use crate::context;
use crate::pg::{
    self,
    statistics::{Column, Judges, Rows},
};
use crate::tenant::TenantId;

/// How long what was found out of a tenant is good: so long one that grows may be underestimated.
const GOOD: Duration = Duration::from_secs(30);
/// Tenants and tables that are kept; past this it starts afresh.
const CACHED: usize = 4096;
/// With fewer rows in every table, all tenants are as large.
const SMALL: f64 = 1_000.0;
/// A plan that was made for one tenant is good for another that has so many times as many rows.
const SAME_SIZE: f64 = 10.0;

/// A tenant in a table.
type Place = (pg::Oid, TenantId);

#[derive(Default)]
struct Known {
    /// The tenant columns of tables, none for those that are not protected.
    columns: FxHashMap<pg::Oid, Option<Column>>,
    /// Of which the common tenants are known.
    told: FxHashSet<pg::Oid>,
    /// The rows of tenants that are not small, in the table where they are largest.
    sizes: FxHashMap<TenantId, f64>,
    found: FxHashMap<Place, (Instant, Rows)>,
}

thread_local! {
    static KNOWN: RefCell<Known> = RefCell::default();
    /// The rows of the smallest and of the largest tenant that the plans of this session were made for.
    static PLANNED: Cell<Option<(f64, f64)>> = const { Cell::new(None) };
}

pub fn init() {
    // Of a table that is analyzed, too; nothing that looks at what is known calls PostgreSQL.
    pg::inval::listen(|changed| {
        KNOWN.with_borrow_mut(|known| match changed {
            Some(table) => {
                if known.columns.remove(&table).is_some_and(|column| column.is_some()) {
                    known.told.remove(&table);
                    known.found.retain(|(its, _), _| *its != table);
                }
            }
            None => *known = Known::default(),
        });
    });
    pg::statistics::init(Judges {
        tenant: || pg::guc::assigned().map(|assigned| assigned.id).filter(|id| !id.is_scope()),
        column,
        known_column: |table| KNOWN.with_borrow(|known| known.columns.get(&table).copied()),
        is_new: |table| KNOWN.with_borrow_mut(|known| known.told.insert(table)),
        common,
        known,
        found,
        planned: || {
            if let Some(assigned) = pg::guc::assigned() {
                let rows = size_of(&assigned.id);
                let (least, most) = PLANNED.get().unwrap_or((rows, rows));
                PLANNED.set(Some((least.min(rows), most.max(rows))));
            }
        },
        is_settled: |table| {
            KNOWN.with_borrow(|known| known.told.contains(&table))
                && pg::guc::assigned().is_none_or(|assigned| {
                    let rows = size_of(&assigned.id);
                    PLANNED.get().is_some_and(|(least, most)| least <= rows && rows <= most)
                })
        },
    });
}

fn size_of(tenant: &TenantId) -> f64 {
    KNOWN.with_borrow(|known| known.sizes.get(tenant).copied().unwrap_or(SMALL))
}

fn column(table: pg::Oid) -> Option<Column> {
    if let Some(found) = KNOWN.with_borrow(|known| known.columns.get(&table).copied()) {
        return found;
    }
    let found = pg::statistics::column(table, context::OURS);
    KNOWN.with_borrow_mut(|known| {
        if known.columns.len() >= CACHED {
            known.columns.clear();
        }
        known.columns.insert(table, found);
    });
    found
}

fn common(tenant: &TenantId, rows: f64) {
    if rows > SMALL {
        KNOWN.with_borrow_mut(|known| {
            let kept = known.sizes.entry(*tenant).or_default();
            *kept = rows.max(*kept);
        });
    }
}

fn known(table: pg::Oid, tenant: &TenantId) -> Option<Rows> {
    KNOWN.with_borrow(|known| {
        let (at, rows) = known.found.get(&(table, *tenant))?;
        (at.elapsed() < GOOD).then_some(*rows)
    })
}

fn found(table: pg::Oid, tenant: &TenantId, rows: Rows) {
    KNOWN.with_borrow_mut(|known| {
        if known.found.len() >= CACHED {
            known.found.clear();
        }
        known.found.insert((table, *tenant), (Instant::now(), rows));
    });
}

/// The current tenant changes. Whoever asks PostgreSQL to keep generic plans gets what they ask for.
pub fn follow(tenant: &TenantId) {
    let Some((least, most)) = PLANNED.get() else { return };
    let rows = size_of(tenant);
    if (rows > least * SAME_SIZE || rows * SAME_SIZE < most) && !pg::planner::keeps_generic_plans() {
        PLANNED.set(None);
        pg::planner::drop_plans();
    }
}
