//! The executor hook.
//!
//! A guarded Rust frame around a statement would strip an application's error of its constraint name,
//! position and context. So the entry is unguarded, owns only plain values (a longjmp through it skips
//! nothing), and calls PostgreSQL's own functions by raw declarations.
//!
//! It runs before each run of a query, which is each FETCH of a cursor as well as each statement.

use std::ffi::{CStr, c_int};

use pgrx::{pg_sys, prelude::*};

use crate::tenant::TenantId;

mod raw {
    use super::*;
    unsafe extern "C-unwind" {
        #[cfg(not(feature = "pg18"))]
        pub fn standard_ExecutorRun(
            query: *mut pg_sys::QueryDesc,
            direction: pg_sys::ScanDirection::Type,
            count: u64,
            once: bool,
        );
        #[cfg(feature = "pg18")]
        pub fn standard_ExecutorRun(
            query: *mut pg_sys::QueryDesc,
            direction: pg_sys::ScanDirection::Type,
            count: u64,
        );
        pub fn AcceptInvalidationMessages();
    }
}

/// A statement that is about to run.
pub struct Statement {
    plan: *const pg_sys::PlannedStmt,
    began_for_another: bool,
}

/// Judges a statement that runs while the current tenant is not known, or in parts. Raises where it must not run; returns
/// whether parallel workers may run it.
type Judge = fn(&Statement) -> bool;

static mut PREVIOUS: pg_sys::ExecutorRun_hook_type = None;
static mut JUDGE: Option<Judge> = None;

/// Installs the hook.
pub fn init(judge: Judge) {
    // SAFETY: a backend is single-threaded; this runs once, when the library is loaded.
    unsafe {
        JUDGE = Some(judge);
        PREVIOUS = pg_sys::ExecutorRun_hook;
        pg_sys::ExecutorRun_hook = Some(executor_run);
    }
}

/// Absorbs the news of other backends: PostgreSQL does so only where it takes a new lock, and a suspended tenant
/// must be out at its next statement even inside a long transaction. Then asks, if there is anything to ask.
unsafe fn before_run(query: *mut pg_sys::QueryDesc, count: u64) {
    // SAFETY: PostgreSQL passes a valid query; these frames hold only pointers and integers.
    unsafe {
        raw::AcceptInvalidationMessages();
        let in_parts = count != 0 || (*query).already_executed;
        if (in_parts || !super::accessor::is_resolved()) && !super::in_parallel_worker() {
            ask(query, in_parts);
        }
    }
}

#[cfg(not(feature = "pg18"))]
unsafe extern "C-unwind" fn executor_run(
    query: *mut pg_sys::QueryDesc,
    direction: pg_sys::ScanDirection::Type,
    count: u64,
    once: bool,
) {
    // SAFETY: PostgreSQL's own arguments, passed on.
    unsafe {
        before_run(query, count);
        match PREVIOUS {
            Some(previous) => previous(query, direction, count, once),
            None => raw::standard_ExecutorRun(query, direction, count, once),
        }
    }
}

#[cfg(feature = "pg18")]
unsafe extern "C-unwind" fn executor_run(
    query: *mut pg_sys::QueryDesc,
    direction: pg_sys::ScanDirection::Type,
    count: u64,
) {
    // SAFETY: PostgreSQL's own arguments, passed on.
    unsafe {
        before_run(query, count);
        match PREVIOUS {
            Some(previous) => previous(query, direction, count),
            None => raw::standard_ExecutorRun(query, direction, count),
        }
    }
}

#[pg_guard]
unsafe extern "C-unwind" fn ask(query: *mut pg_sys::QueryDesc, in_parts: bool) {
    // SAFETY: a valid query; JUDGE is only written at load. The plan may be a cached one, so it is not changed: the
    // query is given a copy of its top node, in the memory context of its execution, which lives as long as it.
    unsafe {
        let Some(judge) = JUDGE else { return };
        let plan = (*query).plannedstmt;
        let context = (*(*query).estate).es_query_cxt;
        let may_be_parallel =
            judge(&Statement { plan, began_for_another: began_for_another(context, in_parts) });
        if (*plan).parallelModeNeeded && !may_be_parallel {
            let size = size_of::<pg_sys::PlannedStmt>();
            let copy = pg_sys::MemoryContextAlloc(context, size);
            let copy = copy.cast::<pg_sys::PlannedStmt>();
            std::ptr::copy_nonoverlapping(plan, copy, 1);
            (*copy).parallelModeNeeded = false;
            (*query).plannedstmt = copy;
        }
    }
}

/// What the first part of a run leaves for the next: a callback on the memory of the execution, which does nothing
/// but live as long as it.
#[repr(C)]
struct Began {
    callback: pg_sys::MemoryContextCallback,
    tenant: Option<TenantId>,
}

unsafe extern "C-unwind" fn ended(_began: *mut std::ffi::c_void) {}

/// Whether an earlier part of this run was for another tenant. Notes the tenant at the first part.
unsafe fn began_for_another(context: pg_sys::MemoryContext, in_parts: bool) -> bool {
    let tenant = super::guc::assigned().map(|assigned| assigned.id);
    let ours = ended as *const () as usize;
    // SAFETY: walks PostgreSQL's list of callbacks on a live memory context; those with our function are `Began`,
    // of which the callback is the first field.
    unsafe {
        let mut callback = (*context).reset_cbs;
        while let Some(found) = callback.as_ref() {
            if found.func.is_some_and(|function| function as *const () as usize == ours) {
                return (*callback.cast::<Began>()).tenant != tenant;
            }
            callback = found.next;
        }
        if in_parts {
            let began = pg_sys::MemoryContextAllocZero(context, size_of::<Began>()).cast::<Began>();
            (*began).callback.func = Some(ended);
            std::ptr::addr_of_mut!((*began).tenant).write(tenant);
            pg_sys::MemoryContextRegisterResetCallback(context, began.cast());
        }
    }
    false
}

impl Statement {
    /// Whether it goes on with a run that an earlier part began for another tenant.
    pub fn began_for_another(&self) -> bool {
        self.began_for_another
    }

    /// Whether it reads or writes a table with a policy of that name that applies.
    pub fn touches(&self, policy: &CStr) -> bool {
        // SAFETY: `self.plan` is a valid plan, of which `rtable` is a list of range table entries.
        unsafe {
            let tables = entries((*self.plan).rtable);
            tables.iter().any(|cell| self.is_under(cell.ptr_value.cast(), policy))
        }
    }

    /// Whether it writes to a table with a policy of that name that applies.
    pub fn writes(&self, policy: &CStr) -> bool {
        // SAFETY: as above; `resultRelations` counts the entries of `rtable` from one.
        unsafe {
            let tables = entries((*self.plan).rtable);
            entries((*self.plan).resultRelations).iter().any(|cell| {
                let table = tables.get(cell.int_value as usize - 1);
                table.is_some_and(|cell| self.is_under(cell.ptr_value.cast(), policy))
            })
        }
    }

    /// Whether the entry is a table with a policy of that name that applies to the role it is accessed as.
    unsafe fn is_under(&self, entry: *const pg_sys::RangeTblEntry, policy: &CStr) -> bool {
        // SAFETY: a valid entry, whose relation the statement has locked.
        unsafe {
            (*entry).rtekind == pg_sys::RTEKind::RTE_RELATION
                && pg_sys::check_enable_rls((*entry).relid, self.accessed_as(entry), true)
                    == pg_sys::CheckEnableRlsResult::RLS_ENABLED as c_int
                && has_policy((*entry).relid, policy)
        }
    }

    /// The role that a view names for its tables; none for the current role.
    #[cfg(feature = "pg15")]
    unsafe fn accessed_as(&self, entry: *const pg_sys::RangeTblEntry) -> pg_sys::Oid {
        // SAFETY: a valid entry.
        unsafe { (*entry).checkAsUser }
    }

    #[cfg(not(feature = "pg15"))]
    unsafe fn accessed_as(&self, entry: *const pg_sys::RangeTblEntry) -> pg_sys::Oid {
        // SAFETY: a valid entry, whose `perminfoindex` is zero or counts the entries of `permInfos` from one.
        unsafe {
            let index = (*entry).perminfoindex as usize;
            let infos = entries((*self.plan).permInfos);
            index.checked_sub(1).and_then(|i| infos.get(i)).map_or(pg_sys::InvalidOid, |cell| {
                (*cell.ptr_value.cast::<pg_sys::RTEPermissionInfo>()).checkAsUser
            })
        }
    }
}

/// Whether the relation has a policy of that name, as the relation cache knows it: other tables under row-level
/// security are asked about as well, and should not pay a scan of the catalog for it.
unsafe fn has_policy(relation: pg_sys::Oid, name: &CStr) -> bool {
    // SAFETY: a locked relation, whose cache entry stays while it is open; policies have names.
    unsafe {
        let table = pg_sys::relation_open(relation, pg_sys::NoLock as pg_sys::LOCKMODE);
        let found = (*table).rd_rsdesc.as_ref().is_some_and(|security| {
            entries(security.policies).iter().any(|cell| {
                let policy = cell.ptr_value.cast::<pg_sys::RowSecurityPolicy>();
                CStr::from_ptr((*policy).policy_name) == name
            })
        });
        pg_sys::relation_close(table, pg_sys::NoLock as pg_sys::LOCKMODE);
        found
    }
}

/// The cells of a list that outlives its use.
unsafe fn entries<'a>(list: *mut pg_sys::List) -> &'a [pg_sys::ListCell] {
    // SAFETY: a list is null or has `length` cells.
    unsafe {
        list.as_ref().map_or(&[], |list| std::slice::from_raw_parts(list.elements, list.length as usize))
    }
}
