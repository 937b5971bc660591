//! Counting the rows of tables: the statement triggers of `tenancy.meter`, and counting anew.
//!
//! Guarantees: every row that a statement inserts, updates or deletes is counted for the tenant that it names, whoever runs the
//! statement, because the rows themselves are read and not the context. Rows without a tenant are nobody's.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::rc::Rc;

use pgrx::{AnyElement, PgRelation, prelude::*};

use crate::error::Error;
use crate::pg::{
    self,
    transition::{self, Layout, Measure, Trigger},
};
use crate::quota;
use crate::resource::Resource;
use crate::tenant::TenantId;
use crate::usage::{self, Note};

pub fn init() {
    transition::init(count);
    // Nothing that looks at it calls PostgreSQL, so it is not in use then.
    pg::inval::listen(|_| LAST.set(None));
}

/// What the arguments of a trigger ask for: where the tenant is, and a resource for each measure.
struct Meters {
    layout: Layout,
    resources: Vec<Resource>,
}

thread_local! {
    /// The meters of the trigger that was called last, until any relation changes.
    static LAST: RefCell<Option<(pg::Oid, Rc<Meters>)>> = const { RefCell::new(None) };
}

fn meters_of(trigger: &Trigger) -> Rc<Meters> {
    let known = LAST
        .with_borrow(|last| last.as_ref().filter(|(id, _)| *id == trigger.id()).map(|last| last.1.clone()));
    known.unwrap_or_else(|| {
        let found = Rc::new(parse(trigger));
        LAST.set(Some((trigger.id(), found.clone())));
        found
    })
}

/// Reads the arguments: the tenant column, then a resource and a measure for each meter.
fn parse(trigger: &Trigger) -> Meters {
    let column = |name: &str| trigger.column(name).unwrap_or_else(|| Error::MeteredColumn(name).raise());
    let arguments = trigger.arguments();
    let tenant = column(arguments.first().copied().unwrap_or_default());
    let mut meters = Meters { layout: Layout { tenant, measures: Vec::new() }, resources: Vec::new() };
    for pair in arguments.get(1..).unwrap_or_default().chunks_exact(2) {
        meters.resources.push(quota::resource(pair[0]));
        meters.layout.measures.push(match pair[1] {
            "rows" => Measure::Rows,
            "bytes" => Measure::Bytes,
            summed => Measure::Sum(column(summed.strip_prefix("sum:").unwrap_or(summed))),
        });
    }
    meters
}

/// Charges each tenant for what the statement did to its rows. Tenants in the order of their ids, so that two statements do not
/// wait for each other's.
fn count(trigger: &Trigger) {
    let Meters { layout, resources } = &*meters_of(trigger);
    if trigger.event() == transition::Event::Truncate {
        resources.iter().for_each(recount_resource);
        return;
    }
    let mut sums = Sums::default();
    trigger
        .old_rows(layout, |tenant, amounts| sums.add(-1, tenant, amounts))
        .and_then(|()| trigger.new_rows(layout, |tenant, amounts| sums.add(1, tenant, amounts)))
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
    let meters = meters();
    let mut counts = String::new();
    let meters_query =
        "SELECT _tenancy.count_query(m.relation, m.tenant_column, m.measure) FROM _tenancy.meters m
                        WHERE m.resource OPERATOR(pg_catalog.=) $1 ORDER BY m.relation";
    let read = pg::query::latest(meters, meters_query, &[resource.as_str().into()], |row| {
        if let Some(query) = row.get::<String>(1)? {
            counts.push_str(&query);
            counts.push_str(" UNION ALL ");
        }
        Ok(())
    });
    read.unwrap_or_else(|error| fail(error));
    let query = format!(
        "SELECT u.tenant_id, _tenancy.to_bigint(sum(u.recorded)), _tenancy.to_bigint(sum(u.counted)) FROM (
             {counts}
             SELECT t.tenant_id, t.amount, 0 FROM _tenancy.usage_totals t WHERE t.resource = $1
             UNION ALL
             SELECT o.tenant_id, o.amount, 0 FROM _tenancy.usage_open o WHERE o.resource = $1
         ) AS u (tenant_id, recorded, counted)
         WHERE u.tenant_id IS NOT NULL GROUP BY u.tenant_id"
    );
    // What this transaction has charged is not in the ledger yet, and its rows are counted.
    let mut found: BTreeMap<String, (i64, i64)> = BTreeMap::new();
    for (tenant, amount) in usage::charged(resource) {
        found.insert(tenant.as_str().to_owned(), (amount, 0));
    }
    let read = pg::query::latest(meters, &query, &[resource.as_str().into()], |row| {
        let tenant = row.get::<String>(1)?.unwrap_or_default();
        let place = found.entry(tenant).or_default();
        place.0 = place.0.saturating_add(row.get::<i64>(2)?.unwrap_or(0));
        place.1 = place.1.saturating_add(row.get::<i64>(3)?.unwrap_or(0));
        Ok(())
    });
    read.unwrap_or_else(|error| fail(error));
    let parse = |tenant: &str| {
        TenantId::parse(tenant.as_bytes()).unwrap_or_else(|why| Error::MeteredTenant(why).raise())
    };
    found
        .into_iter()
        .map(|(tenant, (recorded, counted))| Difference { tenant: parse(&tenant), recorded, counted })
        .collect()
}

fn mend(resource: &Resource, difference: &Difference) {
    // Not refused by any limit: what is there is there.
    let amount = difference.counted.saturating_sub(difference.recorded);
    if amount != 0 {
        let key = usage::key(&difference.tenant, resource);
        let _levels = usage::charge(&key, amount, &[None; 4], Note::Correction);
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
    resource: &str,
    mend_it: bool,
) -> TableIterator<'static, (name!(tenant_id, String), name!(recorded, i64), name!(counted, i64))> {
    let relation = owned(relation);
    let resource = quota::resource(resource);
    // A resource that is tracked has no rows: it would be counted as nothing.
    if obstacle(relation, resource).as_deref() != Some("metered") {
        Error::NotMetered(resource).raise()
    }
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
pub fn recount_after_drop(resource: &str) {
    recount_resource(&quota::resource(resource));
}

/// Returns the relation's number, and closes it: nobody can alter what is open.
fn owned(relation: PgRelation) -> pg::Oid {
    // The lines of our own PL/pgSQL, which calls this, would say nothing to its user.
    pg::forget_error_context();
    if let Some(assigned) = pg::guc::assigned() {
        Error::InContext(assigned.id, "meter").raise()
    }
    if !pg::user::owns_relation(relation.oid()) {
        crate::error::raise(
            "RELATION_NOT_OWNED",
            "must be owner of the table",
            pgrx::JsonB(serde_json::json!({})),
            Some("Call it as the owner of the table, or as a superuser."),
        );
    }
    relation.oid()
}

/// Meters a table for a resource: records it, and makes its triggers, which nobody but the owner of the extension can make,
/// because they charge whom their arguments tell them to. The caller must own the table, which must be protected. For
/// `tenancy.meter`.
#[pg_extern(schema = "_tenancy", volatile)]
#[search_path(pg_catalog, pg_temp)]
pub fn start_meter(relation: PgRelation, resource: &str, measure: &str) -> Result<(), pgrx::spi::Error> {
    let relation = owned(relation);
    let resource = quota::resource(resource);
    refuse_obstacle(relation, resource);
    pg::query::run(
        meters(),
        "SELECT _tenancy.add_meter($1, $2, $3)",
        &[relation.into(), resource.as_str().into(), measure.into()],
    )
}

/// No longer meters a table for a resource, and takes what it holds off what its tenants use. The caller must own the table,
/// which must be metered for it. For `tenancy.unmeter`.
#[pg_extern(schema = "_tenancy", volatile)]
#[search_path(pg_catalog, pg_temp)]
pub fn stop_meter(relation: PgRelation, resource: &str) -> Result<(), pgrx::spi::Error> {
    let relation = owned(relation);
    let resource = quota::resource(resource);
    if obstacle(relation, resource).as_deref() != Some("metered") {
        Error::NotMetered(resource).raise()
    }
    pg::query::run(
        meters(),
        "SELECT _tenancy.take_meter($1, $2)",
        &[relation.into(), resource.as_str().into()],
    )?;
    recount_resource(&resource);
    Ok(())
}

/// Why a table cannot be metered for a resource, if it cannot: it is not protected, it is metered for it, or the resource is
/// tracked.
fn obstacle(relation: pg::Oid, resource: Resource) -> Option<String> {
    let mut found = None;
    let query = "SELECT _tenancy.meter_obstacle($1, $2)";
    let read = pg::query::latest(meters(), query, &[relation.into(), resource.as_str().into()], |row| {
        found = row.get::<String>(1)?;
        Ok(())
    });
    read.unwrap_or_else(|error| fail(error));
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

fn meters() -> pg::Oid {
    pg::scan::relation(c"_tenancy", c"meters").unwrap_or_else(|| Error::NotInstalled.raise())
}

fn fail(error: pgrx::spi::Error) -> ! {
    Error::Internal(&error.to_string()).raise()
}

/// Returns the bytes of a row as a meter of `bytes` counts them: its header and its values, uncompressed. Stable. For
/// counting anew.
#[pg_extern(schema = "_tenancy", stable, parallel_safe)]
pub fn row_bytes(row: AnyElement) -> i64 {
    transition::row_bytes(row)
}
