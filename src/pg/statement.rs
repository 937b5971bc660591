//! Which tables a statement reads and writes, and whether their policies apply to it.

use std::ffi::{CStr, c_int};

use pgrx::pg_sys;

use super::running::Tenant;

mod raw {
    use super::*;
    unsafe extern "C-unwind" {
        pub fn relation_open(number: pg_sys::Oid, lock: pg_sys::LOCKMODE) -> pg_sys::Relation;
        pub fn relation_close(relation: pg_sys::Relation, lock: pg_sys::LOCKMODE);
    }
}

/// A statement that is about to run.
pub struct Statement {
    pub plan: *const pg_sys::PlannedStmt,
    /// As which its tables are accessed where a view names no other.
    pub role: pg_sys::Oid,
    /// Whose rows the earlier parts of the same run have read or written.
    pub began: Option<Tenant>,
    pub is_kept: bool,
}

/// The table of an entry, where the role that it is accessed as is exempt from the policies that it has.
pub unsafe fn bypassed(
    plan: *const pg_sys::PlannedStmt,
    entry: *const pg_sys::RangeTblEntry,
    policy: &CStr,
) -> Option<pg_sys::Oid> {
    // SAFETY: a valid entry of the plan, whose relation the statement has locked.
    unsafe {
        let is_table = (*entry).rtekind == pg_sys::RTEKind::RTE_RELATION;
        let role = accessed_as(plan, entry).filter(|_| is_table)?;
        let table = (*entry).relid;
        (is_exempt(table, role) && (has_policy(table, policy) || has_lost_policies(table))).then_some(table)
    }
}

/// The table of an entry that a statement names, itself or by a view; none for a partition or child, which is reached by its parent.
pub unsafe fn named(
    plan: *const pg_sys::PlannedStmt,
    entry: *const pg_sys::RangeTblEntry,
) -> Option<pg_sys::Oid> {
    // SAFETY: a valid entry of the plan.
    unsafe {
        let is_table = (*entry).rtekind == pg_sys::RTEKind::RTE_RELATION;
        accessed_as(plan, entry).filter(|_| is_table).map(|_| (*entry).relid)
    }
}

/// Whether the role (none for the current one) is exempt from a table's policies.
pub unsafe fn is_exempt(table: pg_sys::Oid, role: pg_sys::Oid) -> bool {
    // SAFETY: a relation that exists.
    unsafe {
        pg_sys::check_enable_rls(table, role, true) != pg_sys::CheckEnableRlsResult::RLS_ENABLED as c_int
    }
}

/// The role that a view names for its tables (zero for the current role); none for a partition or child, which is accessed as
/// its parent.
#[cfg(feature = "pg15")]
unsafe fn accessed_as(
    _plan: *const pg_sys::PlannedStmt,
    entry: *const pg_sys::RangeTblEntry,
) -> Option<pg_sys::Oid> {
    // SAFETY: a valid entry.
    unsafe { ((*entry).requiredPerms != 0).then_some((*entry).checkAsUser) }
}

#[cfg(not(feature = "pg15"))]
unsafe fn accessed_as(
    plan: *const pg_sys::PlannedStmt,
    entry: *const pg_sys::RangeTblEntry,
) -> Option<pg_sys::Oid> {
    // SAFETY: a valid entry of the plan, whose `perminfoindex` is zero or counts the entries of `permInfos` from one.
    unsafe {
        let index = ((*entry).perminfoindex as usize).checked_sub(1)?;
        let info = entries((*plan).permInfos).get(index)?.ptr_value.cast::<pg_sys::RTEPermissionInfo>();
        Some((*info).checkAsUser)
    }
}

impl Statement {
    /// Whose rows the earlier parts of the same run have read or written.
    pub fn began(&self) -> Option<Tenant> {
        self.began
    }

    /// Whether its rows are kept past the end of the transaction, and of the context.
    pub fn is_kept(&self) -> bool {
        self.is_kept
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
                && pg_sys::check_enable_rls(
                    (*entry).relid,
                    accessed_as(self.plan, entry)
                        .filter(|role| *role != pg_sys::InvalidOid)
                        .unwrap_or(self.role),
                    true,
                ) == pg_sys::CheckEnableRlsResult::RLS_ENABLED as c_int
                && has_policy((*entry).relid, policy)
        }
    }
}

/// Whether the relation has a policy of that name, as the relation cache knows it: other tables under row-level
/// security are asked about as well, and should not pay a scan of the catalog for it.
pub unsafe fn has_policy(relation: pg_sys::Oid, name: &CStr) -> bool {
    // SAFETY: as below; errors are caught at the boundary.
    unsafe { pg_sys::ffi::pg_guard_ffi_boundary(|| look_for_policy(relation, name)) }
}

/// The same without the boundary, for frames of plain data, which an error may skip.
pub unsafe fn look_for_policy(relation: pg_sys::Oid, name: &CStr) -> bool {
    // SAFETY: a locked relation, whose cache entry stays while it is open; policies have names.
    unsafe {
        let table = raw::relation_open(relation, pg_sys::NoLock as pg_sys::LOCKMODE);
        let found = (*table).rd_rsdesc.as_ref().is_some_and(|security| {
            entries(security.policies).iter().any(|cell| {
                let policy = cell.ptr_value.cast::<pg_sys::RowSecurityPolicy>();
                CStr::from_ptr((*policy).policy_name) == name
            })
        });
        raw::relation_close(table, pg_sys::NoLock as pg_sys::LOCKMODE);
        found
    }
}

/// Whether the relation is protected, by its trigger against TRUNCATE, and row-level security is disabled: then PostgreSQL knows no policy
/// of it, and no trigger of ours is that of a table of kind `system`, which has none to lose.
pub unsafe fn has_lost_policies(relation: pg_sys::Oid) -> bool {
    // SAFETY: as above; `triggers` has `numtriggers` entries, with names.
    unsafe {
        let table = pg_sys::relation_open(relation, pg_sys::NoLock as pg_sys::LOCKMODE);
        let found = !(*(*table).rd_rel).relrowsecurity
            && (*table).trigdesc.as_ref().is_some_and(|described| {
                let triggers = std::slice::from_raw_parts(described.triggers, described.numtriggers as usize);
                triggers.iter().any(|trigger| {
                    CStr::from_ptr(trigger.tgname) == c"tenancy_guard"
                        && u32::from(trigger.tgtype as u16) & pg_sys::TRIGGER_TYPE_INSERT == 0
                })
            });
        pg_sys::relation_close(table, pg_sys::NoLock as pg_sys::LOCKMODE);
        found
    }
}

/// The cells of a list that outlives its use.
pub unsafe fn entries<'a>(list: *mut pg_sys::List) -> &'a [pg_sys::ListCell] {
    // SAFETY: a list is null or has `length` cells.
    unsafe {
        list.as_ref().map_or(&[], |list| std::slice::from_raw_parts(list.elements, list.length as usize))
    }
}

/// The same, to be changed.
pub unsafe fn entries_mut<'a>(list: *mut pg_sys::List) -> &'a mut [pg_sys::ListCell] {
    // SAFETY: as above; nobody else holds on to the cells.
    unsafe {
        list.as_ref()
            .map_or(&mut [], |list| std::slice::from_raw_parts_mut(list.elements, list.length as usize))
    }
}
