//! To which tenants may the session cross, and until when?
//!
//! Guarantees: a scope is one that `tenancy.begin_cross_tenant` has begun, for the role that began it and nobody else; it ends when its time
//! is over, and at the next statement of any session when what an administrator has granted is no longer so. Rows of tenants that it
//! does not name stay hidden: see `pg::rewrite`.
//! Does not decide who may read a table: PostgreSQL does.

use std::cell::{Cell, RefCell};
use std::rc::Rc;

use serde_json::{Value, json};

use crate::error::Error;
use crate::pg::{self, rewrite, scan::Cached, xact};
use crate::tenant::TenantId;

// Columns of _tenancy.cross_tenant_grants.
const TENANT: i32 = 1;
const ROLE: i32 = 2;
const UNTIL: i32 = 3;
const READ_ONLY: i32 = 4;

/// What is granted for all tenants.
pub const ALL: &[u8] = b"*";

/// A scope, as `tenancy.cross_tenant` says it: number, role, end, `r` or `w`, and tenants, with a space between.
pub struct Scope {
    pub number: i64,
    /// The role that has begun it.
    pub role: pg::Oid,
    /// In microseconds since 2000-01-01 UTC.
    pub until: i64,
    pub is_read_only: bool,
    pub tenants: Vec<TenantId>,
}

/// What a role was granted for some tenants together.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Granted {
    pub until: i64,
    pub is_read_only: bool,
    /// The roles that it was granted to: the role itself, or those that it inherits.
    roles: Vec<pg::Oid>,
}

thread_local! {
    static TABLE: Cached = const { Cached::new(c"cross_tenant_grants", c"cross_tenant_grants_pkey") };
    /// The scope that was asked for last.
    static KNOWN: RefCell<Option<Rc<Scope>>> = const { RefCell::new(None) };
    /// Of the scope of that number, what was granted, and in which generation.
    static GRANTED: RefCell<Option<(i64, u64, Granted)>> = const { RefCell::new(None) };
    /// The scope that is being begun.
    static BEGINNING: Cell<Option<i64>> = const { Cell::new(None) };
}

pub fn init() {
    rewrite::init(|| {
        let scope = current().unwrap_or_else(|| Error::ScopeOver("ended").raise());
        rewrite::Tenants {
            number: scope.number,
            texts: scope.tenants.iter().map(|id| id.as_bytes().to_vec()).collect(),
            uuids: scope.tenants.iter().filter_map(TenantId::uuid).collect(),
            bigints: scope.tenants.iter().filter_map(TenantId::bigint).collect(),
        }
    });
    pg::inval::listen(|changed| {
        if TABLE.with(|table| table.note(changed)) {
            pg::accessor::forget();
        }
    });
}

impl Scope {
    pub fn parse(text: &[u8]) -> Option<Scope> {
        let mut parts = std::str::from_utf8(text).ok()?.split(' ');
        let mut part = || parts.next();
        let (number, role, until) =
            (part()?.parse().ok()?, part()?.parse::<u32>().ok()?, part()?.parse().ok()?);
        let is_read_only = part()? == "r";
        let tenants: Result<_, _> = parts.map(|id| TenantId::parse(id.as_bytes())).collect();
        Some(Scope { number, role: role.into(), until, is_read_only, tenants: tenants.ok()? })
    }

    /// What `tenancy.context` says of it.
    pub fn describe(&self) -> Value {
        let tenants: Vec<_> = self.tenants.iter().map(TenantId::as_str).collect();
        json!({"scope": self.number, "tenants": tenants, "until": xact::to_text(self.until), "read_only": self.is_read_only})
    }

    pub fn to_text(&self) -> String {
        let kind = if self.is_read_only { 'r' } else { 'w' };
        let mut text = format!("{} {} {} {kind}", self.number, self.role.to_u32(), self.until);
        for tenant in &self.tenants {
            text.push(' ');
            text.push_str(tenant.as_str());
        }
        text
    }
}

/// The scope that the session is in, whether it is good or not.
pub fn current() -> Option<Rc<Scope>> {
    let given = pg::scope::given()?;
    let known = KNOWN.with_borrow(|known| known.clone().filter(|known| known.number == given.number));
    known.or_else(|| {
        let scope = Rc::new(pg::scope::with_text(Scope::parse)?);
        KNOWN.set(Some(scope.clone()));
        Some(scope)
    })
}

/// Sees to it that the scope that the session is in is good now.
pub fn confirm() -> Result<(), Error<'static>> {
    let Some(scope) = current() else { return Err(Error::ScopeOver("ended")) };
    // Its leader has asked.
    if pg::in_parallel_worker() {
        return Ok(());
    }
    if scope.role != pg::user::role() {
        return Err(Error::ScopeOver("of another role"));
    }
    let until = granted_now(&scope)?.min(scope.until);
    if xact::now() >= until { Err(Error::ScopeOver("expired")) } else { Ok(()) }
}

/// Until when what is granted now lets the scope last.
fn granted_now(scope: &Scope) -> Result<i64, Error<'static>> {
    let generation = TABLE.with(Cached::generation);
    let inherits = |granted: &Granted| granted.roles.iter().all(|role| pg::user::inherits(scope.role, *role));
    let known = GRANTED.with_borrow(|known| match known {
        Some((number, of, granted)) if *number == scope.number && *of == generation && inherits(granted) => {
            Some(granted.until)
        }
        _ => None,
    });
    if let Some(until) = known {
        return Ok(until);
    }
    let generation = TABLE.with(Cached::generation);
    let granted = granted(scope.role, &scope.tenants).map_err(|_| Error::ScopeOver("revoked"))?;
    if granted.is_read_only && !scope.is_read_only {
        return Err(Error::ScopeOver("revoked"));
    }
    let until = granted.until;
    GRANTED.set(Some((scope.number, generation, granted)));
    Ok(until)
}

/// What is granted to a role for a tenant, or `*`: to which role, until when, for reading only.
fn grants_of(relations: pg::scan::Relations, role: pg::Oid, tenant: &[u8]) -> Vec<(pg::Oid, i64, bool)> {
    let now = xact::now();
    let read = |row: &pg::scan::Row| Some((row.oid(ROLE)?, row.bigint(UNTIL)?, row.boolean(READ_ONLY)?));
    let rows = pg::scan::rows(relations, &[tenant], read);
    let is_good = |(of, until, _): &(pg::Oid, i64, bool)| *until > now && pg::user::inherits(role, *of);
    rows.into_iter().flatten().filter(is_good).collect()
}

/// Whether a role may cross to all tenants.
pub fn is_granted_all(role: pg::Oid) -> bool {
    let relations = TABLE.with(Cached::relations);
    relations.is_some_and(|relations| !grants_of(relations, role, ALL).is_empty())
}

/// The tenants that a role was granted by their names, and may cross to now.
pub fn granted_by_name(role: pg::Oid) -> Vec<TenantId> {
    let Some(relations) = TABLE.with(Cached::relations) else { return Vec::new() };
    let now = xact::now();
    let read = |row: &pg::scan::Row| {
        let is_good = row.bigint(UNTIL)? > now && pg::user::inherits(role, row.oid(ROLE)?);
        is_good.then(|| row.text(TENANT)).flatten()
    };
    let names = pg::scan::rows(relations, &[], read);
    names.into_iter().flatten().filter_map(|name| TenantId::parse(name.as_bytes()).ok()).collect()
}

/// What a role is granted now for all of these tenants; where that is nothing for one, for which.
pub fn granted(role: pg::Oid, tenants: &[TenantId]) -> Result<Granted, Option<TenantId>> {
    let relations = TABLE.with(Cached::relations).ok_or(None)?;
    let for_all = grants_of(relations, role, ALL);
    let mut each = Vec::with_capacity(tenants.len());
    for tenant in tenants {
        let mut grants = grants_of(relations, role, tenant.as_bytes());
        grants.extend_from_slice(&for_all);
        if grants.is_empty() {
            return Err(Some(*tenant));
        }
        each.push(grants);
    }
    // One tenant that may only be read makes it a scope for reading.
    let is_read_only = each.iter().any(|grants| grants.iter().all(|(_, _, read_only)| *read_only));
    let mut together = Granted { until: i64::MAX, is_read_only, roles: Vec::new() };
    for grants in each {
        let good = grants.into_iter().filter(|(_, _, read_only)| is_read_only || !read_only);
        if let Some((role, until, _)) = good.max_by_key(|(_, until, _)| *until) {
            together.until = together.until.min(until);
            if !together.roles.contains(&role) {
                together.roles.push(role);
            }
        }
    }
    Ok(together)
}

/// Whether a value of the parameter is that of the scope that is being begun.
pub fn is_beginning(text: &[u8]) -> Option<Scope> {
    Scope::parse(text).filter(|scope| Some(scope.number) == BEGINNING.get())
}

/// Until dropped, by an error as well.
struct Beginning;

impl Drop for Beginning {
    fn drop(&mut self) {
        BEGINNING.set(None);
    }
}

/// Enters a scope.
pub fn enter(scope: &Scope, is_local: bool) {
    let _beginning = Beginning;
    BEGINNING.set(Some(scope.number));
    pg::setter::set_cross_tenant(&scope.to_text(), is_local);
}

/// Leaves the scope that the session is in.
pub fn leave(is_local: bool) {
    pg::setter::set_cross_tenant("", is_local);
}
