//! How do a tenant's rows leave, and come? Which, and in what order, is SQL: `sql/api/delete_tenant.sql`, `sql/api/export_tenant.sql`.
//!
//! Guarantees: nothing of a user's (a trigger, a CHECK, an expression of an index) has other rights than the owner's of its table.

use pgrx::prelude::*;

use crate::error::{Error, internal};
use crate::guard;
use crate::pg::{self, moving::Mover, text::Text};
use crate::quota::resource;
use crate::tenant::TenantId;
use crate::usage::{self, Maximums, Note};

/// Runs a statement that removes rows of a tenant from a table or inserts them, as its owner, and in the context of the tenant, archived or not; returns
/// how many it was. `rows` is the statement's argument. A table of kind `audit` lets them go. Volatile.
/// For `tenancy.delete_tenant` and `tenancy.import_tenant`.
#[pg_extern(schema = "_tenancy", volatile)]
#[search_path(pg_catalog, pg_temp)]
pub fn move_tenant_rows(relation: pg::Oid, tenant_id: Text, statement: Text, rows: Option<Text>) -> i64 {
    let tenant = TenantId::parse(tenant_id.as_bytes()).unwrap_or_else(|why| Error::IdInvalid(why).raise());
    let moved = guard::while_tenant_moves(tenant, || {
        let arguments: &[_] = &[pg::text::nullable(rows)];
        Mover::of(relation).command_for(&tenant, &statement.to_utf8(), arguments)
    });
    moved.unwrap_or_else(|error| internal(error)) as i64
}

/// Runs a statement that changes rows of a table that is not protected yet, as its owner; returns how many it was. Volatile. For
/// `tenancy.migrate_table`.
#[pg_extern(schema = "_tenancy", volatile)]
#[search_path(pg_catalog, pg_temp)]
pub fn change_rows(relation: pg::Oid, statement: Text) -> i64 {
    let changed = Mover::of(relation).command(&statement.to_utf8(), true, &[]);
    changed.unwrap_or_else(|error| internal(error)) as i64
}

/// Returns the texts that a query about a table returns as its first column, with the rights of the table's owner, without its policies. Volatile. For
/// `tenancy.export_tenant` and others that read tables of users: planning a query alone may call functions of their owners.
#[pg_extern(schema = "_tenancy", volatile)]
#[search_path(pg_catalog, pg_temp)]
pub fn read_as_owner(relation: pg::Oid, query: Text) -> TableIterator<'static, (name!(line, Text),)> {
    let lines = Mover::of(relation).lines(&query.to_utf8()).unwrap_or_else(|error| internal(error));
    TableIterator::new(lines.map(|line| (line,)))
}

/// Checks all constraints that were deferred now, and from now on at once, with the rights of the client: who has queued a trigger must not
/// have it run with the rights of the extension's owner. Volatile. For `tenancy.delete_tenant` and `tenancy.import_tenant`.
#[pg_extern(schema = "_tenancy", volatile)]
pub fn check_constraints_now() {
    pg::query::as_client("SET CONSTRAINTS ALL IMMEDIATE").unwrap_or_else(|error| internal(error));
}

/// Takes off what a tenant uses of what is tracked, for good, by corrections in the ledger: who comes under its id later uses nothing. Volatile.
/// For `tenancy.delete_tenant`.
#[pg_extern(schema = "_tenancy", volatile)]
#[search_path(pg_catalog, pg_temp)]
pub fn settle_accounts(tenant_id: Text) {
    let tenant = TenantId::parse(tenant_id.as_bytes()).unwrap_or_else(|why| Error::IdInvalid(why).raise());
    let ledger = pg::scan::table(c"usage_totals").unwrap_or_else(|| Error::NotInstalled.raise());
    let query = "SELECT DISTINCT u.resource FROM (
             SELECT t.resource FROM _tenancy.usage_totals t WHERE t.tenant_id = $1
             UNION ALL
             SELECT o.resource FROM _tenancy.usage_open o WHERE o.tenant_id = $1
         ) AS u WHERE NOT EXISTS (SELECT FROM _tenancy.meters m WHERE m.resource = u.resource)";
    let mut resources = Vec::new();
    pg::query::at_latest(|| {
        pg::query::select(ledger, query, &[tenant.as_str().into()], |row| {
            resources.extend(row.get::<Text>(1)?);
            Ok(())
        })
    })
    .unwrap_or_else(|error| internal(error));
    for name in resources {
        let key = usage::key(&tenant, &resource(&name));
        let used = usage::amounts(&key)[0].used;
        if used != 0 {
            let _charged = usage::charge(&key, used.saturating_neg(), &Maximums::default(), Note::Correction);
        }
    }
}
