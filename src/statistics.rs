//! Plans for tenants of very different sizes.
//!
//! A plan that PostgreSQL keeps (of a prepared statement, of a function) was made for the tenant that was current then. For one that has a
//! thousand times as many rows, or as few, it is a bad one. So the sessions' plans are dropped where the tenant changes to one of another
//! size: below ten thousand rows in every table, or a power of ten above. Most tenants are small, and a change between them drops nothing.

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

/// A tenant in a table.
type Place = (pg::Oid, TenantId);

#[derive(Default)]
struct Known {
    /// The tenant columns of tables, none for those that are not protected.
    columns: FxHashMap<pg::Oid, Option<Column>>,
    /// Of which the common tenants are known.
    told: FxHashSet<pg::Oid>,
    /// The sizes of tenants that are not small, in the table where they are largest.
    sizes: FxHashMap<TenantId, u8>,
    found: FxHashMap<Place, (Instant, Rows)>,
}

thread_local! {
    static KNOWN: RefCell<Known> = RefCell::default();
    /// For which size the plans of this session were made.
    static PLANNED: Cell<Option<u8>> = const { Cell::new(None) };
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
                PLANNED.set(Some(size_of(&assigned.id)));
            }
        },
        is_settled: |table| {
            KNOWN.with_borrow(|known| known.told.contains(&table))
                && pg::guc::assigned().is_none_or(|assigned| PLANNED.get() == Some(size_of(&assigned.id)))
        },
    });
}

/// Zero below ten thousand rows, then the number of zeros.
fn size(rows: f64) -> u8 {
    if rows < 10_000.0 { 0 } else { rows.log10() as u8 }
}

fn size_of(tenant: &TenantId) -> u8 {
    KNOWN.with_borrow(|known| known.sizes.get(tenant).copied().unwrap_or(0))
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
    let size = size(rows);
    if size > 0 {
        KNOWN.with_borrow_mut(|known| {
            let kept = known.sizes.entry(*tenant).or_default();
            *kept = size.max(*kept);
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
    if let Some(planned) = PLANNED.get()
        && planned != size_of(tenant)
        && !pg::planner::keeps_generic_plans()
    {
        PLANNED.set(None);
        pg::planner::drop_plans();
    }
}
