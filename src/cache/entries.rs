//! What a tenant keeps in the database for a while: `_tenancy.cache_entries`.

use pgrx::{datum::TimestampWithTimeZone, prelude::*};

use super::table;
use crate::context;
use crate::error::{Error, internal};
use crate::pg::{
    self, scan,
    text::{Json, Text},
    xact,
};
use crate::tenant::TenantId;

// Columns of _tenancy.cache_entries.
const VALUE: i32 = 3;
const EXPIRES_AT: i32 = 4;

// A tenant's own entries are swept as one is kept, two at a time, so that the table does not grow with what nobody asks for again, and
// nobody waits for another tenant.

/// The most bytes of a key.
const LONGEST: usize = 1024;
fn argument(tenant: &TenantId) -> pgrx::datum::DatumWithOid<'static> {
    Text::of(tenant.as_bytes()).argument()
}

/// Keeps a value for the current tenant until then. Errors: those of `current_tenant()`, 22023 (`PARAMETER_INVALID`). Volatile. For
/// `tenancy.cache_set`.
#[pg_extern(schema = "_tenancy", volatile)]
#[search_path(pg_catalog, pg_temp)]
pub fn keep_entry(key: Option<Text>, value: Option<Json>, expires_at: Option<TimestampWithTimeZone>) {
    pg::forget_error_context();
    pg::refuse_read_only(c"tenancy.cache_set()");
    let tenant = context::required();
    let key = key.unwrap_or_else(|| Error::NullArgument("key").raise());
    let value = value.unwrap_or_else(|| Error::NullArgument("value").raise());
    let expires_at = expires_at.unwrap_or_else(|| Error::NullArgument("ttl").raise());
    if !(1..=LONGEST).contains(&key.as_bytes().len()) {
        Error::Argument("key", "must have 1 to 1024 bytes").raise()
    }
    let entries = table(c"cache_entries");
    let command = "INSERT INTO _tenancy.cache_entries AS e (tenant_id, key, value, expires_at) VALUES ($1, $2, $3, $4)
        ON CONFLICT ON CONSTRAINT cache_entries_pkey DO UPDATE SET value = excluded.value, expires_at = excluded.expires_at";
    let arguments = [argument(&tenant), key.argument(), value.argument(), expires_at.into()];
    pg::query::run_planned(entries, command, &arguments).unwrap_or_else(|error| internal(error));
    // Elsewhere a row that another has swept is an error.
    if !xact::keeps_snapshot() {
        let command = "DELETE FROM _tenancy.cache_entries e WHERE e.ctid = ANY (ARRAY(
                SELECT o.ctid FROM _tenancy.cache_entries o WHERE o.tenant_id = $1 AND o.expires_at <= $2 ORDER BY o.expires_at LIMIT 2 FOR UPDATE SKIP LOCKED))";
        // Not clock_timestamp() in the query, by which no index is searched: it is volatile.
        let now = pg::query::timestamp(xact::now());
        pg::query::run_planned(entries, command, &[argument(&tenant), now])
            .unwrap_or_else(|error| internal(error));
    }
}

/// What the current tenant has kept under a key; NULL where there is nothing, or it has expired, and on a standby. Errors: those of
/// `current_tenant()`. Stable. PUBLIC may call it.
#[pg_extern(schema = "tenancy", stable, strict, parallel_restricted)]
pub fn cache_get(key: Text) -> Option<Json> {
    let tenant = context::required();
    // Which cannot read a table without WAL.
    if xact::in_recovery() {
        return None;
    }
    let entries = table(c"cache_entries");
    let key_of = scan::index(c"cache_entries_pkey", entries).unwrap_or_else(|| Error::NotInstalled.raise());
    let now = xact::now();
    let read = |row: &scan::Row| {
        row.bigint(EXPIRES_AT).is_some_and(|until| until > now).then(|| row.stored_json(VALUE)).flatten()
    };
    let relations = scan::Relations { table: entries, key: key_of };
    scan::seen_rows(relations, &[tenant.as_bytes(), key.as_bytes()], read).into_iter().flatten().next()
}

/// Removes what the current tenant has kept under a key; returns whether there was anything. Errors: those of `current_tenant()`.
/// Volatile. PUBLIC may call it.
#[pg_extern(schema = "tenancy", volatile, strict)]
#[search_path(pg_catalog, pg_temp)]
pub fn cache_delete(key: Text) -> bool {
    pg::refuse_read_only(c"tenancy.cache_delete()");
    let tenant = context::required();
    let mut is_there = false;
    let command = "DELETE FROM _tenancy.cache_entries e WHERE e.tenant_id = $1 AND e.key = $2 RETURNING true";
    pg::query::write(table(c"cache_entries"), command, &[argument(&tenant), key.argument()], |_| {
        is_there = true;
        Ok(())
    })
    .unwrap_or_else(|error| internal(error));
    is_there
}

/// Removes all that a tenant has kept.
pub fn remove_all(tenant: &TenantId) {
    let command = "DELETE FROM _tenancy.cache_entries e WHERE e.tenant_id = $1";
    pg::query::run_planned(table(c"cache_entries"), command, &[argument(tenant)])
        .unwrap_or_else(|error| internal(error));
}

/// Removes up to so many entries of all tenants that have expired, but for those that another removes; returns how many. Upkeep, which
/// `cache_set` mostly does itself. Raises 22023 (`PARAMETER_INVALID`). Volatile. Granted to nobody.
#[pg_extern(schema = "tenancy", volatile)]
#[search_path(pg_catalog, pg_temp)]
pub fn sweep_cache(batch: default!(i32, 10000)) -> i64 {
    if batch < 1 {
        Error::Argument("batch", "must be positive").raise()
    }
    let mut swept = 0;
    let command = "WITH gone AS (
            DELETE FROM _tenancy.cache_entries e WHERE e.ctid = ANY (ARRAY(
                SELECT o.ctid FROM _tenancy.cache_entries o WHERE o.expires_at <= clock_timestamp() LIMIT $1 FOR UPDATE SKIP LOCKED))
            RETURNING 1)
        SELECT count(*) FROM gone";
    pg::query::write(table(c"cache_entries"), command, &[batch.into()], |row| {
        swept = row.get::<i64>(1)?.unwrap_or(0);
        Ok(())
    })
    .unwrap_or_else(|error| internal(error));
    swept
}
