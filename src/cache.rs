//! Is what a cache outside of the database has of a tenant still so?
//!
//! Guarantees: two snapshots give one version of a type only where no transaction that one of them sees, and the other does not, has changed
//! rows of the tenant, or of all, in a table that is watched for the type. So what was read with a version, in one statement, is what
//! every statement reads that sees this version, also after a crash, a failover, or on a copy of the database.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::rc::Rc;

use pgrx::prelude::*;

use crate::context;
use crate::error::{Error, internal};
use crate::pg::{
    self,
    scan::{self, Cached},
    text::Text,
    transition::{Event, Layout, Trigger},
};
use crate::resource::Resource;
use crate::tenant::TenantId;

mod changes;
pub mod entries;
mod key;

use changes::Scope;

// Columns of _tenancy.cache_watches.
const RELATION: i32 = 2;
const NOTIFY: i32 = 3;
// Of _tenancy.cache_channel.
const CHANNEL: i32 = 1;

thread_local! {
    static WATCHES: Cached = const { Cached::new(c"cache_watches", c"cache_watches_pkey") };
    /// The table of changes, until it changes.
    static CHANGES: Cell<Option<pg::Oid>> = const { Cell::new(None) };
    /// What the triggers that were called know of their tables, until any relation changes.
    static KNOWN: RefCell<HashMap<pg::Oid, Rc<Watched>>> = RefCell::new(HashMap::new());
}

pub fn init() {
    changes::init();
    pg::inval::listen(|changed| {
        WATCHES.with(|watches| watches.note(changed));
        KNOWN.with_borrow_mut(HashMap::clear);
        if CHANGES.get().is_none_or(|known| changed.is_none_or(|changed| changed == known)) {
            CHANGES.set(None);
            changes::forget_places();
        }
    });
}

/// For which types a table is watched.
#[derive(Default)]
struct Watched {
    /// Each, and whether whoever listens is to hear of its changes.
    kinds: Vec<(Resource, bool)>,
    /// Where the tenant is; none in a table whose rows are everybody's.
    layout: Option<Layout>,
}

fn table(name: &'static std::ffi::CStr) -> pg::Oid {
    scan::table(name).unwrap_or_else(|| Error::NotInstalled.raise())
}

/// Where changes are counted; none where the extension is not installed.
fn changes_table() -> Option<scan::Relations> {
    let table = scan::table(c"cache_changes")?;
    CHANGES.set(Some(table));
    Some(scan::Relations { table, key: scan::index(c"cache_changes_key", table)? })
}

fn kind(name: Option<Text>) -> Resource {
    let name = name.unwrap_or_else(|| Error::NullArgument("resource_type").raise());
    Resource::parse(name.as_bytes()).unwrap_or_else(|| {
        Error::Argument("resource_type", "must have 1 to 63 letters, digits or characters of . _ : / -")
            .raise()
    })
}

/// The channel on which changes are told, which is nobody's to guess.
fn channel() -> String {
    let relations = scan::table(c"cache_channel")
        .and_then(|table| Some(scan::Relations { table, key: scan::index(c"cache_channel_pkey", table)? }));
    let relations = relations.unwrap_or_else(|| Error::NotInstalled.raise());
    let found = scan::rows(relations, &[], |row| row.text(CHANNEL)).into_iter().flatten().next();
    found
        .unwrap_or_else(|| Error::Internal("the channel of the cache is gone").raise())
        .to_utf8()
        .into_owned()
}

/// Notes whose rows a statement has changed in a table that is watched.
pub fn note(trigger: &Trigger) {
    let known = KNOWN.with_borrow(|known| known.get(&trigger.relation()).cloned());
    let watched = known.unwrap_or_else(|| {
        let found = Rc::new(watched(trigger));
        KNOWN.with_borrow_mut(|known| known.insert(trigger.relation(), found.clone()));
        found
    });
    if watched.kinds.is_empty() {
        return;
    }
    let change = |tenant| {
        for (kind, is_told) in &watched.kinds {
            changes::note(Scope { tenant, kind: Some(*kind) }, *is_told);
        }
    };
    match &watched.layout {
        Some(layout) if trigger.event() != Event::Truncate => {
            let one = |tenant: &TenantId, _: &[i64]| change(Some(*tenant));
            let of_all = trigger
                .old_rows(layout, one)
                .and_then(|of_old| Ok(of_old | trigger.new_rows(layout, one)?))
                .unwrap_or_else(|why| Error::MeteredTenant(why).raise());
            if of_all {
                change(None);
            }
        }
        None if trigger.event() != Event::Truncate && !trigger.has_rows() => {}
        _ => change(None),
    }
}

/// The types that a table is watched for, or one that it is a partition or child of.
fn watched(trigger: &Trigger) -> Watched {
    let (mut kinds, mut column) = (Vec::new(), None);
    let query = "WITH RECURSIVE up (relation) AS (
                     SELECT $1
                     UNION
                     SELECT i.inhparent FROM up JOIN pg_inherits i ON i.inhrelid = up.relation
                 )
                 SELECT w.resource_type, bool_or(w.notify), (SELECT p.tenant_column::text FROM _tenancy.protected p WHERE p.relation = $1)
                 FROM up JOIN _tenancy.cache_watches w ON w.relation = up.relation GROUP BY 1";
    pg::query::latest_planned(table(c"cache_watches"), query, &[trigger.relation().into()], |row| {
        if let Some(name) = row.get::<Text>(1)? {
            kinds.push((kind(Some(name)), row.get(2)? == Some(true)));
        }
        column = row.get::<Text>(3)?;
        Ok(())
    })
    .unwrap_or_else(|error| internal(error));
    let layout = column.filter(|_| !kinds.is_empty()).map(|column| {
        trigger.layout(&column, []).unwrap_or_else(|name| Error::MeteredColumn(&name.to_utf8()).raise())
    });
    Watched { kinds, layout }
}

/// Whether a table is watched for the type, as the current query sees it: where it was not, changes were not noted.
fn is_watched(kind: Resource) -> bool {
    let relations = WATCHES.with(Cached::relations).unwrap_or_else(|| Error::NotInstalled.raise());
    !scan::seen_rows(relations, &[kind.as_bytes()], |row| row.oid(RELATION)).is_empty()
}

/// Whether any table is watched. Volatile. For functions of the extension, which every ALTER TABLE calls: a query would keep its lock on the
/// table until the transaction ends.
#[pg_extern(schema = "_tenancy", volatile)]
pub fn has_cache_watches() -> bool {
    let relations = WATCHES.with(Cached::relations).unwrap_or_else(|| Error::NotInstalled.raise());
    !scan::rows(relations, &[], |_| ()).is_empty()
}

/// The key of a resource in a cache outside of the database: `tenant:{id}:{type}:{id}`, of the current tenant. Errors: those of
/// `current_tenant()`. Stable. PUBLIC may call it.
#[pg_extern(schema = "tenancy", stable, strict, parallel_restricted)]
pub fn cache_key(resource_type: Text, resource_id: Text) -> String {
    key::key(context::required().as_bytes(), resource_type.as_bytes(), resource_id.as_bytes())
}

/// The same of a resource that has a number.
#[pg_extern(schema = "tenancy", name = "cache_key", stable, strict, parallel_restricted)]
pub fn cache_key_of_bigint(resource_type: Text, resource_id: i64) -> String {
    cache_key(resource_type, Text::of(resource_id.to_string().as_bytes()))
}

/// The same of a resource that has a UUID.
#[pg_extern(schema = "tenancy", name = "cache_key", stable, strict, parallel_restricted)]
pub fn cache_key_of_uuid(resource_type: Text, resource_id: pgrx::Uuid) -> String {
    cache_key(resource_type, Text::of(resource_id.to_string().as_bytes()))
}

/// The version of all that the current tenant has in the tables that are watched for a type, as the current query sees them. Where this
/// transaction has changed some of it, a version that no other transaction sees. Errors: those of `current_tenant()`, 22023
/// (`PARAMETER_INVALID`: NULL, malformed, or not watched). Stable. PUBLIC may call it.
#[pg_extern(schema = "tenancy", stable, parallel_restricted)]
pub fn cache_version(resource_type: Option<Text>) -> String {
    let scope = Scope { tenant: Some(context::required()), kind: Some(kind(resource_type)) };
    if !scope.kind.is_some_and(is_watched) {
        Error::Argument("resource_type", "must be one that a table is watched for").raise()
    }
    let relations = changes_table().unwrap_or_else(|| Error::NotInstalled.raise());
    let version = format!("{:016x}", changes::sum(relations, scope));
    // A statement that writes sees what it has written before it is noted.
    match changes::is_changed(scope) || !pg::running::only_reads() {
        true => format!("{version}+{}", changes::mark()),
        false => version,
    }
}

/// Notes a change of a type (NULL: of every) for a tenant (NULL: for all). Volatile. For functions of the extension.
#[pg_extern(schema = "_tenancy", volatile)]
pub fn note_cache_change(tenant_id: Option<Text>, resource_type: Option<Text>, notify: bool) {
    let tenant = tenant_id.map(|id| {
        TenantId::parse(id.as_bytes()).unwrap_or_else(|malformed| Error::IdInvalid(malformed).raise())
    });
    let kind = resource_type.map(|name| kind(Some(name)));
    changes::note(Scope { tenant, kind }, notify);
}

/// Makes everything void that caches have of a tenant (NULL: the current one). Errors: those of `current_tenant()`, 42501
/// (`TENANT_ACCESS_DENIED`: in the context of another tenant), 22023 (`TENANT_ID_INVALID`). Volatile. PUBLIC may call it; for another
/// tenant, a role that may set any.
#[pg_extern(schema = "tenancy", volatile)]
#[search_path(pg_catalog, pg_temp)]
pub fn invalidate_cache(tenant_id: default!(Option<Text>, "NULL")) {
    pg::refuse_read_only(c"tenancy.invalidate_cache()");
    let asked = tenant_id.map(|id| {
        TenantId::parse(id.as_bytes()).unwrap_or_else(|malformed| Error::IdInvalid(malformed).raise())
    });
    let tenant = match asked {
        Some(tenant) if context::is_unset() && pg::user::may_set(c"tenancy.tenant_id") => tenant,
        asked => {
            let current = context::required();
            if asked.is_some_and(|asked| asked != current) {
                Error::InContext(current, "invalidate_cache of another tenant").raise()
            }
            current
        }
    };
    entries::remove_all(&tenant);
    let relations = WATCHES.with(Cached::relations).unwrap_or_else(|| Error::NotInstalled.raise());
    let is_told = scan::rows(relations, &[], |row| row.boolean(NOTIFY)).contains(&Some(true));
    changes::note(Scope { tenant: Some(tenant), kind: None }, is_told);
}
