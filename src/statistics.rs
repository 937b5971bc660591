//! Plans for tenants of very different sizes.
//!
//! A plan that PostgreSQL keeps (of a prepared statement, of a function) was made for the tenant that was current then. For one that has a
//! thousand times as many rows, or as few, it is a bad one. So the session's plans are dropped where the tenant changes to one that has more
//! than ten times as many rows as another that they were made for, or less than a tenth. Most tenants are small, and a change between them
//! drops nothing. Of what a plan joins, each table counts: one that has four rows for one tenant, and hundreds for another, may be read first
//! for the first, and must not be for the other.

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
/// The same in a table that is joined: for each of its rows, another one is looked into.
const FEW: f64 = 10.0;
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
    /// The rows of tenants in tables, as far as they are known.
    rows: FxHashMap<Place, f64>,
    found: FxHashMap<Place, (Instant, Rows)>,
}

thread_local! {
    static KNOWN: RefCell<Known> = RefCell::default();
    /// The rows of the smallest and of the largest tenant that the plans of this session were made for.
    static PLANNED: Cell<Option<(f64, f64)>> = const { Cell::new(None) };
    /// The same for each table that plans of this session join with others.
    static JOINED: RefCell<FxHashMap<pg::Oid, (f64, f64)>> = RefCell::default();
}

pub fn init() {
    // Of a table that is analyzed, too; nothing that looks at what is known calls PostgreSQL.
    pg::inval::listen(|changed| {
        KNOWN.with_borrow_mut(|known| match changed {
            Some(table) => {
                if known.columns.remove(&table).is_some_and(|column| column.is_some()) {
                    known.told.remove(&table);
                    known.found.retain(|(its, _), _| *its != table);
                    known.rows.retain(|(its, _), _| *its != table);
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
        planned: |table, is_join| {
            let Some(assigned) = pg::guc::assigned() else { return };
            PLANNED.set(Some(spread(PLANNED.get(), size_of(&assigned.id))));
            if let Some(rows) = is_join.then(|| rows_of(table, &assigned.id)).flatten() {
                JOINED.with_borrow_mut(|joined| {
                    joined.insert(table, spread(joined.get(&table).copied(), rows))
                });
            }
        },
        is_settled: |table, is_join| {
            let is_in = |range: Option<(f64, f64)>, rows: f64| {
                range.is_some_and(|(least, most)| least <= rows && rows <= most)
            };
            KNOWN.with_borrow(|known| known.told.contains(&table))
                && pg::guc::assigned().is_none_or(|assigned| {
                    is_in(PLANNED.get(), size_of(&assigned.id))
                        && is_join.then(|| rows_of(table, &assigned.id)).flatten().is_none_or(|rows| {
                            is_in(JOINED.with_borrow(|joined| joined.get(&table).copied()), rows)
                        })
                })
        },
    });
}

/// A range with one number more in it.
fn spread(range: Option<(f64, f64)>, rows: f64) -> (f64, f64) {
    let (least, most) = range.unwrap_or((rows, rows));
    (least.min(rows), most.max(rows))
}

/// The rows of a tenant in a table, where they are known.
fn rows_of(table: pg::Oid, tenant: &TenantId) -> Option<f64> {
    KNOWN.with_borrow(|known| known.rows.get(&(table, *tenant)).map(|rows| rows.max(FEW)))
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

fn common(table: pg::Oid, tenant: &TenantId, rows: f64) {
    KNOWN.with_borrow_mut(|known| {
        if rows > SMALL {
            let kept = known.sizes.entry(*tenant).or_default();
            *kept = rows.max(*kept);
        }
        if known.rows.len() >= CACHED {
            known.rows.clear();
            // So that they are told once more.
            known.told.clear();
        }
        known.rows.insert((table, *tenant), rows);
    });
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
    let Some(range) = PLANNED.get() else { return };
    let differs = |(least, most): (f64, f64), rows: f64| rows > least * SAME_SIZE || rows * SAME_SIZE < most;
    let is_other = differs(range, size_of(tenant))
        || JOINED.with_borrow(|joined| {
            joined
                .iter()
                .any(|(table, range)| rows_of(*table, tenant).is_some_and(|rows| differs(*range, rows)))
        });
    if is_other && !pg::planner::keeps_generic_plans() {
        PLANNED.set(None);
        JOINED.with_borrow_mut(FxHashMap::clear);
        pg::planner::drop_plans();
    }
}
