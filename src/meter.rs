//! Counting the rows of tables: the statement triggers of `tenancy.meter`, and counting anew.
//!
//! Guarantees: every row that a statement inserts, updates or deletes is counted for the tenant that it names, whoever runs the
//! statement, because the rows themselves are read and not the context. Rows without a tenant are nobody's.

use std::cell::RefCell;
use std::collections::{BTreeMap, HashMap};
use std::rc::Rc;

use pgrx::{PgRelation, prelude::*};

use crate::error::{Error, internal};
use crate::pg::{
    self,
    text::Text,
    transition::{self, Layout, Trigger, Uncounted},
};
use crate::quota;
use crate::resource::Resource;
use crate::tenant::TenantId;
use crate::usage::{self, Maximums, Note};

pub fn init() {
    // Nothing that looks at it calls PostgreSQL, so it is not in use then.
    pg::inval::listen(|_| KNOWN.with_borrow_mut(HashMap::clear));
}

/// What is counted of a table: where the tenant is, and a resource for each measure.
struct Meters {
    layout: Layout,
    resources: Vec<Resource>,
}

thread_local! {
    /// The meters of tables whose triggers were called, until any relation changes.
    static KNOWN: RefCell<HashMap<pg::Oid, Rc<Meters>>> = RefCell::new(HashMap::new());
}

fn meters_of(trigger: &Trigger) -> Rc<Meters> {
    let relation = trigger.relation();
    let known = KNOWN.with_borrow(|known| known.get(&relation).cloned());
    known.unwrap_or_else(|| {
        let found = Rc::new(read(trigger));
        KNOWN.with_borrow_mut(|known| known.insert(relation, found.clone()));
        found
    })
}

/// The meters of the table, or of one that it is a partition or child of. A partition that was detached still has its triggers,
/// and is counted no more.
fn read(trigger: &Trigger) -> Meters {
    let mut found: Vec<(Text, Text, Text)> = Vec::new();
    let query = "WITH RECURSIVE up (relation) AS (
                     SELECT $1
                     UNION
                     SELECT i.inhparent FROM up JOIN pg_inherits i ON i.inhrelid = up.relation
                 )
                 SELECT m.resource, m.tenant_column::text, m.measure
                 FROM up JOIN _tenancy.meters m ON m.relation = up.relation";
    let read = pg::query::latest_planned(meters(), query, &[trigger.relation().into()], |row| {
        if let (Some(resource), Some(column), Some(measure)) = (row.get(1)?, row.get(2)?, row.get(3)?) {
            found.push((resource, column, measure));
        }
        Ok(())
    });
    read.unwrap_or_else(|error| internal(error));
    let layout = match found.first() {
        Some((_, column, _)) => trigger.layout(column, found.iter().map(|(_, _, measure)| measure)),
        None => Ok(Layout::default()),
    };
    Meters {
        layout: layout.unwrap_or_else(|column| Error::MeteredColumn(&column.to_utf8()).raise()),
        resources: found.iter().map(|(resource, _, _)| quota::resource(resource)).collect(),
    }
}

/// Charges each tenant for what the statement did to its rows. Tenants in the order of their ids, so that two statements do not
/// wait for each other's.
pub fn count(trigger: &Trigger) {
    let Meters { layout, resources } = &*meters_of(trigger);
    if resources.is_empty() {
        return;
    }
    if trigger.event() == transition::Event::Truncate {
        resources.iter().for_each(recount_resource);
        return;
    }
    let mut sums = Sums::default();
    trigger
        .old_rows(layout, |tenant, amounts| sums.add(-1, tenant, amounts))
        .and_then(|_| trigger.new_rows(layout, |tenant, amounts| sums.add(1, tenant, amounts)))
        .map(|_| ())
        .unwrap_or_else(|why| Error::MeteredTenant(why).raise());
    sums.for_each(|tenant, amounts| {
        for (resource, amount) in resources.iter().zip(amounts) {
            quota::charge(tenant, resource, *amount, Note::Merged);
        }
    });
}

/// What a statement did, for each tenant: usually one.
#[derive(Default)]
struct Sums {
    only: Option<(TenantId, Vec<i64>)>,
    /// All of them, where there are more.
    many: BTreeMap<Box<[u8]>, (TenantId, Vec<i64>)>,
}

impl Sums {
    fn add(&mut self, sign: i64, tenant: &TenantId, amounts: &[i64]) {
        let totals = match &mut self.only {
            Some((only, totals)) if self.many.is_empty() && only == tenant => totals,
            None if self.many.is_empty() => &mut self.only.insert((*tenant, Vec::new())).1,
            only => {
                if let Some(first) = only.take() {
                    self.many.insert(first.0.as_bytes().into(), first);
                }
                &mut self.many.entry(tenant.as_bytes().into()).or_insert_with(|| (*tenant, Vec::new())).1
            }
        };
        totals.resize(amounts.len(), 0);
        for (total, amount) in totals.iter_mut().zip(amounts) {
            *total = total.saturating_add(amount.saturating_mul(sign));
        }
    }

    /// In the order of the tenants' ids.
    fn for_each(&self, each: impl Fn(&TenantId, &[i64])) {
        let all = self.only.iter().chain(self.many.values());
        all.for_each(|(tenant, amounts)| each(tenant, amounts));
    }
}

/// A tenant's usage of a resource: what is on record, and what counting its rows gives.
struct Difference {
    tenant: TenantId,
    recorded: i64,
    counted: i64,
}

/// Counts the rows of all tables that are metered for the resource, and compares: all in one snapshot, in which rows and
/// ledger are of the same moment, so that it holds nobody up and is exact while others write.
fn differences(resource: &Resource) -> Vec<Difference> {
    let mut found: BTreeMap<Box<[u8]>, Difference> = BTreeMap::new();
    let mut add = |tenant: &TenantId, recorded: i64, counted: i64| {
        let place = found.entry(tenant.as_bytes().into()).or_insert_with(|| Difference {
            tenant: *tenant,
            recorded: 0,
            counted: 0,
        });
        place.recorded = place.recorded.saturating_add(recorded);
        place.counted = place.counted.saturating_add(counted);
    };
    // What this transaction has charged is not in the ledger yet, and its rows are counted.
    for (tenant, amount) in usage::charged(resource) {
        add(&tenant, amount, 0);
    }
    pg::query::at_latest(|| {
        for (relation, column, measure) in counted_tables(resource) {
            let count = |tenant: &TenantId, amounts: &[i64]| add(tenant, 0, amounts.iter().sum());
            match transition::table_rows(relation, &column, &measure, count) {
                Ok(()) => {}
                Err(Uncounted::Column(name)) => Error::MeteredColumn(&name.to_utf8()).raise(),
                Err(Uncounted::Tenant(why)) => Error::MeteredTenant(why).raise(),
            }
        }
        let query = "SELECT u.tenant_id, _tenancy.to_bigint(sum(u.amount)) FROM (
                 SELECT t.tenant_id, t.amount FROM _tenancy.usage_totals t WHERE t.resource = $1
                 UNION ALL
                 SELECT o.tenant_id, o.amount FROM _tenancy.usage_open o WHERE o.resource = $1
             ) AS u GROUP BY u.tenant_id";
        let read = pg::query::select(meters(), query, &[resource.as_str().into()], |row| {
            let tenant = row.get::<String>(1)?.unwrap_or_default();
            let tenant =
                TenantId::parse(tenant.as_bytes()).unwrap_or_else(|why| Error::MeteredTenant(why).raise());
            add(&tenant, row.get::<i64>(2)?.unwrap_or(0), 0);
            Ok(())
        });
        read.unwrap_or_else(|error| internal(error));
    });
    found.into_values().collect()
}

/// The tables that hold what is metered for the resource, with partitions and children: their tenant column and measure.
fn counted_tables(resource: &Resource) -> Vec<(pg::Oid, Text, Text)> {
    let query = "SELECT c.oid, m.tenant_column::text, m.measure
                 FROM _tenancy.meters m, LATERAL _tenancy.tree(m.relation) t, pg_class c
                 WHERE m.resource = $1 AND c.oid = t.relation AND c.relkind = 'r'";
    let mut found = Vec::new();
    let read = pg::query::select(meters(), query, &[resource.as_str().into()], |row| {
        if let (Some(relation), Some(column), Some(measure)) =
            (row.get::<pg::Oid>(1)?, row.get::<Text>(2)?, row.get::<Text>(3)?)
        {
            found.push((relation, column, measure));
        }
        Ok(())
    });
    read.unwrap_or_else(|error| internal(error));
    found
}

fn mend(resource: &Resource, difference: &Difference) {
    // Not refused by any limit: what is there is there.
    let amount = difference.counted.saturating_sub(difference.recorded);
    if amount != 0 {
        let key = usage::key(&difference.tenant, resource);
        let _charged = usage::charge(&key, amount, &Maximums::default(), Note::Correction);
    }
}

fn recount_resource(resource: &Resource) {
    for difference in differences(resource) {
        mend(resource, &difference);
    }
}

/// Counts the rows of all tables that are metered for a resource, compares that with what is on record for each tenant, and
/// records the difference if that is asked for. The caller must own the table, which must be metered for it. For
/// `tenancy.reconcile` and `tenancy.meter`.
#[pg_extern(schema = "_tenancy", volatile)]
#[search_path(pg_catalog, pg_temp)]
#[allow(clippy::type_complexity)]
pub fn recount(
    relation: PgRelation,
    resource: Text,
    mend_it: bool,
) -> TableIterator<'static, (name!(tenant_id, String), name!(recorded, i64), name!(counted, i64))> {
    let relation = owned(relation);
    let resource = quota::resource(&resource);
    // A resource that is tracked has no rows: it would be counted as nothing.
    refuse_unmetered(relation, resource);
    let found = differences(&resource);
    if mend_it {
        found.iter().for_each(|difference| mend(&resource, difference));
    }
    TableIterator::new(
        found.into_iter().map(|d| (d.tenant.as_str().to_owned(), d.recorded, d.counted)).collect::<Vec<_>>(),
    )
}

/// Counts a resource anew after a table that was metered for it is gone. For the event trigger on dropped tables.
#[pg_extern(schema = "_tenancy", volatile)]
#[search_path(pg_catalog, pg_temp)]
pub fn recount_after_drop(resource: Text) {
    recount_resource(&quota::resource(&resource));
}

/// Returns the relation's number, and closes it: nobody can alter what is open.
fn owned(relation: PgRelation) -> pg::Oid {
    // The lines of our own PL/pgSQL, which calls this, would say nothing to its user.
    pg::forget_error_context();
    crate::context::refuse_in_context("meter");
    if !pg::user::owns_relation(relation.oid()) {
        Error::NotOwned.raise()
    }
    relation.oid()
}

/// Meters a table for a resource: records it, and makes its triggers, which nobody but the owner of the extension can make,
/// because they charge whom their arguments tell them to. The caller must own the table, which must be protected. For
/// `tenancy.meter`.
#[pg_extern(schema = "_tenancy", volatile)]
#[search_path(pg_catalog, pg_temp)]
pub fn start_meter(relation: PgRelation, resource: Text, measure: Text) -> Result<(), pgrx::spi::Error> {
    let relation = owned(relation);
    let resource = quota::resource(&resource);
    refuse_obstacle(relation, resource);
    pg::query::run(
        meters(),
        "SELECT _tenancy.add_meter($1, $2, $3)",
        &[relation.into(), resource.as_str().into(), measure.argument()],
    )
}

/// No longer meters a table for a resource, and takes what it holds off what its tenants use. The caller must own the table,
/// which must be metered for it. For `tenancy.unmeter`.
#[pg_extern(schema = "_tenancy", volatile)]
#[search_path(pg_catalog, pg_temp)]
pub fn stop_meter(relation: PgRelation, resource: Text) -> Result<(), pgrx::spi::Error> {
    let relation = owned(relation);
    let resource = quota::resource(&resource);
    refuse_unmetered(relation, resource);
    pg::query::run(
        meters(),
        "SELECT _tenancy.take_meter($1, $2)",
        &[relation.into(), resource.as_str().into()],
    )?;
    recount_resource(&resource);
    Ok(())
}

/// Gives a table, and what is below it, the triggers that its meters and those of its parents ask for. The caller must own the
/// table. Volatile. For the event trigger on new tables.
#[pg_extern(schema = "_tenancy", volatile)]
#[search_path(pg_catalog, pg_temp)]
pub fn fit_meters(relation: pg::Oid) -> Result<(), pgrx::spi::Error> {
    if !pg::user::owns_relation(relation) {
        Error::NotOwned.raise()
    }
    pg::query::run(meters(), "SELECT _tenancy.make_meter_triggers($1)", &[relation.into()])
}

/// Why a table cannot be metered for a resource, if it cannot: it is not protected, it is metered for it, or the resource is
/// tracked.
fn obstacle(relation: pg::Oid, resource: Resource) -> Option<String> {
    let mut found = None;
    let query = "SELECT _tenancy.meter_obstacle($1, $2)";
    pg::query::at_latest(|| {
        pg::query::select(meters(), query, &[relation.into(), resource.as_str().into()], |row| {
            found = row.get::<String>(1)?;
            Ok(())
        })
    })
    .unwrap_or_else(|error| internal(error));
    found
}

fn refuse_obstacle(relation: pg::Oid, resource: Resource) {
    match obstacle(relation, resource).as_deref() {
        None => {}
        Some("metered") => Error::AlreadyMetered(resource).raise(),
        Some("tracked") => Error::Tracked(resource).raise(),
        Some(_) => Error::NotProtected.raise(),
    }
}

fn refuse_unmetered(relation: pg::Oid, resource: Resource) {
    if obstacle(relation, resource).as_deref() != Some("metered") {
        Error::NotMetered(resource).raise()
    }
}

fn meters() -> pg::Oid {
    pg::scan::table(c"meters").unwrap_or_else(|| Error::NotInstalled.raise())
}
