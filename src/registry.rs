//! Does this tenant exist, and is it active?
//!
//! Guarantees: the answer is never older than the last invalidation that this backend has received; a change
//! to `_tenancy.tenants` sends one to every backend. A tenant that was not found is not remembered.
//! Costs one index lookup per tenant and backend, whatever the number of tenants; or one read of all, where they are few and a backend meets
//! one after the other, as that of a pooler does, after each change of the registry.
//!
//! Reads `_tenancy.tenants` directly (`pg::scan`), so its columns have fixed places; a test checks it.

use std::cell::{Cell, RefCell};

use pgrx::{PgRelation, prelude::*};
use rustc_hash::FxHashMap;

use crate::error::Error;
use crate::pg::{
    self,
    accessor::{Forms, Resolved},
    scan::{Cached, Relations},
    text::{Json, Text},
};
use crate::tenant::TenantId;

/// Entries kept per backend, of about 200 bytes each: a pooled backend meets many tenants, and one that it has met costs no
/// lookup. Past this it starts afresh when idle.
const CACHED: usize = 16_384;
/// So many pages have few tenants: some thousand.
const FEW: u32 = 32;
const ID_COLUMN: i32 = 1;
const STATUS_COLUMN: i32 = 2;
const PLAN_COLUMN: i32 = 5;
const SSO_REQUIRED_COLUMN: i32 = 12;

#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Status {
    Active,
    Suspended,
    Archived,
}

impl Status {
    fn parse(text: &[u8]) -> Option<Status> {
        match text {
            b"active" => Some(Status::Active),
            b"suspended" => Some(Status::Suspended),
            b"archived" => Some(Status::Archived),
            _ => None,
        }
    }

    pub fn as_str(self) -> &'static str {
        match self {
            Status::Active => "active",
            Status::Suspended => "suspended",
            Status::Archived => "archived",
        }
    }
}

/// How a tenant may be entered.
#[derive(Clone, Copy)]
pub struct Standing {
    pub status: Status,
    /// It takes tokens of its own issuers only.
    pub sso_required: bool,
}

/// A tenant's forms, boxed so that they stay where they are, and its standing if that is known to be current.
struct Entry {
    forms: Box<Forms>,
    checked: Option<(u64, Standing)>,
}

thread_local! {
    /// By a quick hash, which has no key: only registered tenants are in it.
    static TENANTS: RefCell<FxHashMap<Box<[u8]>, Entry>> = RefCell::default();
    /// Holds a tenant that found the cache full, until the next one.
    static OVERFLOW: RefCell<Option<(TenantId, Entry)>> = const { RefCell::new(None) };
    /// How many tenants were read, one by one, in which generation.
    static MET: Cell<(u64, u32)> = const { Cell::new((0, 0)) };
    static TABLE: Cached = const { Cached::new(c"tenants", c"tenants_pkey") };
}

pub fn init() {
    pg::inval::listen(|changed| {
        if TABLE.with(|table| table.note(changed)) {
            pg::accessor::forget();
        }
    });
}

/// Drops the cache where it has grown and no query can hold a pointer into it. Called at transaction end.
pub fn trim() {
    let grown = TENANTS.with_borrow(|tenants| tenants.len() >= CACHED);
    if grown && pg::xact::nothing_is_running() {
        TENANTS.with_borrow_mut(FxHashMap::clear);
        OVERFLOW.set(None);
    }
}

fn relations() -> Option<Relations> {
    TABLE.with(Cached::relations)
}

fn read_standing(id: &TenantId) -> Result<Standing, Error<'static>> {
    let relations = relations().ok_or(Error::NotInstalled)?;
    pg::scan::rows(relations, &[id.as_bytes()], standing_of).pop().flatten().ok_or(Error::NotFound(*id))
}

fn standing_of(row: &pg::scan::Row) -> Option<Standing> {
    let status = Status::parse(row.text(STATUS_COLUMN)?.as_bytes())?;
    Some(Standing { status, sso_required: row.boolean(SSO_REQUIRED_COLUMN)? })
}

/// All tenants, in the order of their ids.
pub fn registered() -> Vec<TenantId> {
    let Some(relations) = relations() else { Error::NotInstalled.raise() };
    let ids = pg::scan::rows(relations, &[], |row| row.text(ID_COLUMN));
    ids.into_iter().flatten().filter_map(|id| TenantId::parse(id.as_bytes()).ok()).collect()
}

/// Returns the plan that the tenant is on, if it is registered and on one.
pub fn plan(id: &TenantId) -> Option<Text> {
    let relations = relations()?;
    pg::scan::rows(relations, &[id.as_bytes()], |row| row.text(PLAN_COLUMN)).pop().flatten()
}

/// Changes whenever any registered tenant may have.
pub fn generation() -> u64 {
    TABLE.with(Cached::generation)
}

/// Calls `with` on the tenant's place in the cache, if it has one.
fn cached<T>(id: &TenantId, with: impl FnOnce(&mut Entry) -> T) -> Option<(T, bool)> {
    TENANTS.with_borrow_mut(|tenants| match tenants.get_mut(id.as_bytes()) {
        Some(entry) => Some((with(entry), true)),
        None => OVERFLOW.with_borrow_mut(|place| match place {
            Some((held, entry)) if held == id => Some((with(entry), false)),
            _ => None,
        }),
    })
}

/// Whether this backend has met the tenant. Reads nothing.
pub fn is_known(id: &TenantId) -> bool {
    cached(id, |_| ()).is_some()
}

/// Returns the tenant's standing, from the cache where it is current.
pub fn standing(id: &TenantId) -> Result<Standing, Error<'static>> {
    entered(id).map(|(standing, _)| standing)
}

/// The same, and the tenant's forms.
pub fn entered(id: &TenantId) -> Result<(Standing, Resolved), Error<'static>> {
    let generation = generation();
    // One look into the cache: it is asked once in each transaction.
    let found = cached(id, |entry| {
        let (of, standing) = entry.checked?;
        (of == generation).then_some((standing, std::ptr::from_ref(entry.forms.as_ref())))
    });
    match found {
        Some((Some((standing, forms)), true)) => return Ok((standing, Resolved::Kept(forms))),
        Some((Some((standing, forms)), false)) => return Ok((standing, Resolved::Passing(forms))),
        _ => {}
    }
    if let (of, 2..) = MET.get()
        && of == generation
    {
        MET.set((generation, 0));
        // As many as that are not read again until something has changed.
        if meet_all(generation) {
            return entered(id);
        }
    }
    let standing = read_standing(id)?;
    MET.set(match MET.get() {
        (of, count) if of == generation => (generation, count + 1),
        _ => (generation, 1),
    });
    Ok((standing, enter(id, (generation, standing))))
}

/// Reads all tenants, if they are few; returns whether it has.
fn meet_all(generation: u64) -> bool {
    let Some(relations) = relations() else { return false };
    // What a transaction that is SERIALIZABLE has read, nobody else may write.
    if pg::xact::is_serializable() {
        return false;
    }
    let read = |row: &pg::scan::Row| {
        let id = TenantId::parse(row.text(ID_COLUMN)?.as_bytes()).ok()?;
        Some((id, standing_of(row)?))
    };
    let Some(all) = pg::scan::rows_of_small(relations, FEW, read) else { return false };
    let has_room = TENANTS.with_borrow(|tenants| tenants.len() + all.len() < CACHED);
    if has_room {
        for (id, standing) in all.into_iter().flatten() {
            enter(&id, (generation, standing));
        }
    }
    has_room
}

/// Keeps what was read of a tenant.
fn enter(id: &TenantId, checked: (u64, Standing)) -> Resolved {
    let again = |entry: &mut Entry| {
        entry.checked = Some(checked);
        std::ptr::from_ref(entry.forms.as_ref())
    };
    match cached(id, again) {
        Some((forms, true)) => return Resolved::Kept(forms),
        Some((forms, false)) => return Resolved::Passing(forms),
        None => {}
    }
    let forms = Box::new(Forms::new(id.as_str(), id.uuid(), id.bigint()));
    let place = std::ptr::from_ref(forms.as_ref());
    let entry = Entry { forms, checked: Some(checked) };
    TENANTS.with_borrow_mut(|tenants| {
        if tenants.len() < CACHED {
            tenants.insert(id.as_bytes().into(), entry);
            Resolved::Kept(place)
        } else {
            OVERFLOW.set(Some((*id, entry)));
            Resolved::Passing(place)
        }
    })
}

/// Returns a tenant id in its one spelling: a UUID in lower case, any other id unchanged.
/// Raises 22023 (`TENANT_ID_INVALID`) where the text is not a tenant id. Immutable. PUBLIC may call it.
#[pg_extern(schema = "tenancy", immutable, strict, parallel_safe)]
pub fn normalize_tenant_id(tenant_id: Text) -> String {
    match TenantId::parse(tenant_id.as_bytes()) {
        Ok(id) => id.as_str().to_owned(),
        Err(malformed) => {
            // Our own PL/pgSQL calls it: its lines would say nothing to its user.
            pg::forget_error_context();
            Error::IdInvalid(malformed).raise()
        }
    }
}

/// Trigger on what backends cache, tenants and quotas: tells every backend, at commit, that the table changed.
#[pg_trigger(sql = false)]
pub fn announce_change<'a>(
    trigger: &'a PgTrigger<'a>,
) -> Result<Option<PgHeapTuple<'a, impl WhoAllocated>>, PgTriggerError> {
    pg::inval::announce(trigger.relid()?);
    Ok(trigger.old())
}

/// Records that a table is protected, and what `protect` changed on it. The caller must own the table.
/// Raises 42501 (`RELATION_NOT_OWNED`, `TENANT_ACCESS_DENIED` in the context of a tenant), 42809
/// (`RELATION_NOT_SUPPORTED`). Volatile. For `tenancy.protect`, with the rights of its caller.
#[pg_extern(schema = "_tenancy", volatile)]
#[search_path(pg_catalog, pg_temp)]
pub fn save_protection(
    relation: PgRelation,
    kind: Text,
    tenant_column: Option<Text>,
    options: Json,
    undo: Json,
) -> Result<(), pgrx::spi::Error> {
    crate::context::refuse_in_context("protect");
    insert_protection(
        &relation,
        (kind, tenant_column, options, undo),
        "DO UPDATE SET kind = $2, tenant_column = $3, options = $4, undo = $5",
    )
}

/// Records that a table is protected as another is, one of its parents, or by the arguments given: what is protected already stays as
/// it is. The caller must own the table. Raises 42501 (`RELATION_NOT_OWNED`), 42809 (`RELATION_NOT_SUPPORTED`). Volatile. For new
/// tables, also in the context of a tenant, because it only adds.
#[pg_extern(schema = "_tenancy", volatile)]
#[search_path(pg_catalog, pg_temp)]
pub fn add_protection(
    relation: PgRelation,
    kind: Text,
    tenant_column: Option<Text>,
    options: Json,
    undo: Json,
) -> Result<(), pgrx::spi::Error> {
    // What was begun is looked at when it ends; by itself this would make a table count as protected that is not.
    if !crate::guard::is_changing(relation.oid()) {
        crate::context::refuse_in_context("protect");
    }
    insert_protection(&relation, (kind, tenant_column, options, undo), "DO NOTHING")
}

/// Records the new name of a tenant column that was renamed, for the protection and the meters of a table: that of the column by
/// which the policy isolates, which has followed. The caller must own the table. Raises 42501 (`RELATION_NOT_OWNED`). Volatile. For the event trigger.
#[pg_extern(schema = "_tenancy", volatile)]
#[search_path(pg_catalog, pg_temp)]
pub fn follow_column(relation: PgRelation) -> Result<(), pgrx::spi::Error> {
    let arguments = [relation.oid().into()];
    for command in [
        "UPDATE _tenancy.protected SET tenant_column = _tenancy.isolated_column($1)
         WHERE relation OPERATOR(pg_catalog.=) $1 AND _tenancy.isolated_column($1) IS NOT NULL",
        "UPDATE _tenancy.meters SET tenant_column = _tenancy.isolated_column($1)
         WHERE relation OPERATOR(pg_catalog.=) $1 AND _tenancy.isolated_column($1) IS NOT NULL",
    ] {
        write_as_owner(relation.oid(), command, &arguments)?;
    }
    Ok(())
}

/// Records that a table is no longer protected. The caller must own the table.
/// Raises 42501 (`RELATION_NOT_OWNED`). Volatile. For `tenancy.unprotect`, with the rights of its caller.
#[pg_extern(schema = "_tenancy", volatile)]
#[search_path(pg_catalog, pg_temp)]
pub fn forget_protection(relation: PgRelation) -> Result<(), pgrx::spi::Error> {
    crate::context::refuse_in_context("protect");
    write_as_owner(
        relation.oid(),
        "DELETE FROM _tenancy.protected WHERE relation OPERATOR(pg_catalog.=) $1",
        &[relation.oid().into()],
    )
}

/// Whether a table is protected, as far as the current statement sees.
pub fn is_protected(relation: pg::Oid) -> bool {
    let Some(relations) = relations() else { Error::NotInstalled.raise() };
    let query = "SELECT FROM _tenancy.protected p WHERE p.relation = $1";
    let mut found = false;
    pg::query::at_latest(|| {
        pg::query::select(relations.table, query, &[relation.into()], |_| {
            found = true;
            Ok(())
        })
    })
    .unwrap_or_else(|error| crate::error::internal(error));
    found
}

/// Raises an error where the transaction reads an older state than that of now of what concerns the protection of `relations`, tables or
/// composite types: of them and all their ancestors and descendants, what is protected and metered, and which table is whose parent; of
/// their schemas, and of `schema`, whether new tables are protected; and which tables are in `schema`. Nothing that depends on it could
/// be told then. What others change elsewhere is no reason to refuse.
pub fn refuse_old_snapshot(relations: Vec<pg::Oid>, schema: Option<pg::Oid>) {
    if !pg::xact::keeps_snapshot() {
        return;
    }
    let Some(registry) = self::relations() else { Error::NotInstalled.raise() };
    let query = "
        WITH RECURSIVE family(relation) AS (
            SELECT unnest($1)
            UNION
            SELECT c.oid FROM pg_class y JOIN pg_class c ON c.reloftype = y.reltype WHERE y.oid = ANY ($1) AND y.relkind = 'c'
            UNION
            SELECT k.relation FROM family f, LATERAL (
                SELECT i.inhparent FROM pg_inherits i WHERE i.inhrelid = f.relation
                UNION ALL
                SELECT i.inhrelid FROM pg_inherits i WHERE i.inhparent = f.relation) AS k(relation)
        ), schemas(schema) AS (
            SELECT $2 UNION SELECT c.relnamespace FROM family f JOIN pg_class c ON c.oid = f.relation
        )
        SELECT concat(
            (SELECT sum(hashtextextended(p::text, 0)) FROM _tenancy.protected p JOIN family f USING (relation)), ' ',
            (SELECT sum(hashtextextended(m::text, 0)) FROM _tenancy.meters m JOIN family f USING (relation)), ' ',
            (SELECT sum(hashtextextended(concat(i.inhrelid, ' ', i.inhparent), 0))
             FROM pg_inherits i JOIN family f ON f.relation = i.inhrelid), ' ',
            (SELECT sum(hashtextextended(s::text, 0)) FROM _tenancy.protected_schemas s
             JOIN pg_namespace n ON n.nspname = s.schema JOIN schemas h ON h.schema = n.oid), ' ',
            (SELECT sum(hashtextextended(c.oid::text, 0)) FROM pg_class c WHERE c.relnamespace = $2 AND c.relkind IN ('r', 'p')))";
    let arguments = [relations.into(), schema.into()];
    let read = || {
        let mut state = None;
        pg::query::select(registry.table, query, &arguments, |row| {
            state = row.get::<String>(1)?;
            Ok(())
        })
        .unwrap_or_else(|error| crate::error::internal(error));
        state
    };
    if pg::query::at_current(read) != pg::query::at_latest(read) {
        Error::ProtectionChanged.raise()
    }
}

/// What a protected table has lost, of what event triggers watch over, and how it disagrees with its parents and children; of one that
/// is not protected, whether it has a child that is.
pub fn weakness(relation: pg::Oid) -> Option<String> {
    let Some(relations) = relations() else { Error::NotInstalled.raise() };
    let query = "SELECT coalesce((SELECT _tenancy.weakness($1, p.kind, p.tenant_column, p.undo, '{ROW SECURITY,NOT NULL,POLICY,TRIGGERS}')
                                  FROM _tenancy.protected p WHERE p.relation = $1), (SELECT f FROM _tenancy.family_problems($1) AS f LIMIT 1))";
    names(relations.table, query, &[relation.into()]).pop()
}

/// The protected table that one which is not protected is a partition or child of, if it is.
pub fn protected_parent(relation: pg::Oid) -> Option<String> {
    let relations = relations()?;
    let query = "SELECT i.inhparent::regclass::text FROM pg_inherits i JOIN _tenancy.protected p ON p.relation = i.inhparent
             WHERE i.inhrelid = $1 AND NOT EXISTS (SELECT FROM _tenancy.protected o WHERE o.relation = $1) LIMIT 1";
    names(relations.table, query, &[relation.into()]).pop()
}

/// What a query on a private table gives, which is a column of names.
pub fn names(table: pg::Oid, query: &str, arguments: &[pgrx::datum::DatumWithOid]) -> Vec<String> {
    let mut names = Vec::new();
    pg::query::at_latest(|| {
        pg::query::select(table, query, arguments, |row| {
            names.extend(row.get::<Text>(1)?.map(|name| name.to_utf8().into_owned()));
            Ok(())
        })
    })
    .unwrap_or_else(|error| crate::error::internal(error));
    names
}

/// `on_conflict`: what becomes of the row of a table that has one.
fn insert_protection(
    relation: &PgRelation,
    (kind, tenant_column, options, undo): (Text, Option<Text>, Json, Json),
    on_conflict: &str,
) -> Result<(), pgrx::spi::Error> {
    let insertion = format!(
        "INSERT INTO _tenancy.protected (relation, kind, tenant_column, options, undo) VALUES ($1, $2, $3, $4, $5)
         ON CONFLICT (relation) {on_conflict}"
    );
    let arguments = [
        relation.oid().into(),
        kind.argument(),
        pg::text::nullable(tenant_column),
        options.argument(),
        undo.argument(),
    ];
    write_as_owner(relation.oid(), &insertion, &arguments)
}

/// Runs a command with the rights of the extension's owner, so what it calls must not be the caller's to choose: the
/// functions above pin their search_path, and the commands name their operators.
fn write_as_owner(
    relation: pg::Oid,
    command: &str,
    arguments: &[pgrx::datum::DatumWithOid],
) -> Result<(), pgrx::spi::Error> {
    if !pg::scan::is_permanent_table(relation) {
        Error::NotPermanent.raise()
    }
    if !pg::user::owns_relation(relation) {
        Error::NotOwned.raise()
    }
    let Some(relations) = relations() else { Error::NotInstalled.raise() };
    let _owner = pg::user::AsOwner::of(relations.table);
    Spi::run_with_args(command, arguments)
}
