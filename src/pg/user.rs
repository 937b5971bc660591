//! Whose rights are in force.

use std::ffi::{CStr, c_int};

use pgrx::pg_sys;

use super::text::{Text, of_c_string};

/// Whether the current role owns the relation, by itself, through a role it inherits, or as a superuser.
pub fn owns_relation(relation: pg_sys::Oid) -> bool {
    // SAFETY: called inside a transaction; raises where the relation does not exist.
    unsafe {
        let role = pg_sys::GetUserId();
        #[cfg(feature = "pg15")]
        return pg_sys::pg_class_ownercheck(relation, role);
        #[cfg(not(feature = "pg15"))]
        return pg_sys::object_ownercheck(pg_sys::RelationRelationId, relation, role);
    }
}

/// Whether the client has said that it means the rows of all tenants, by `row_security = off` as a role that is exempt from
/// row-level security; pg_dump and pg_restore do. Not as one that became so in a function of another's: anybody may set that
/// parameter.
pub fn says_all_rows() -> bool {
    // SAFETY: called inside a transaction; reads a parameter and the role of the session.
    unsafe { !pg_sys::row_security && is_exempt(pg_sys::GetOuterUserId()) }
}

/// The same, or as such a role copies and applies what is replicated: as a connection for replication, as a worker of a subscription.
pub fn means_all_rows() -> bool {
    says_all_rows() || replicates()
}

fn replicates() -> bool {
    unsafe extern "C-unwind" {
        static am_walsender: bool;
        fn IsLogicalWorker() -> bool;
    }
    // SAFETY: called inside a transaction; a flag of the process and a function that reads another.
    unsafe { (am_walsender || IsLogicalWorker()) && is_exempt(pg_sys::GetOuterUserId()) }
}

/// Whether the client is such a role, and an ALTER TABLE of its own asks whether rows without a parent exist.
pub fn alters_all_rows() -> bool {
    // SAFETY: as above.
    super::running::is_in_utility() && unsafe { is_exempt(pg_sys::GetOuterUserId()) }
}

unsafe fn is_exempt(role: pg_sys::Oid) -> bool {
    // SAFETY: a role that exists.
    unsafe { pg_sys::superuser_arg(role) || pg_sys::has_bypassrls_privilege(role) }
}

/// Whether the current role is a superuser.
pub fn is_superuser() -> bool {
    // SAFETY: called inside a transaction.
    unsafe { pg_sys::superuser() }
}

/// Whether the current role is exempt from row-level security: a superuser, or a role with BYPASSRLS.
pub fn bypasses() -> bool {
    // SAFETY: called inside a transaction; a role that exists.
    unsafe { is_exempt(pg_sys::GetUserId()) }
}

/// Whether the current role may see the figures of all tenants: a superuser, a role with BYPASSRLS, or one that inherits
/// `pg_monitor`.
pub fn may_monitor() -> bool {
    // SAFETY: called inside a transaction; a role that exists.
    unsafe { monitors(pg_sys::GetUserId()) }
}

/// Whether the client may, as the role that it acts as, whatever function runs: but for code of another's that it has not called, as
/// ANALYZE, REINDEX and the like have run.
pub fn client_may_monitor() -> bool {
    // SAFETY: as above; reads backend-local state.
    unsafe { monitors(pg_sys::GetOuterUserId()) && !pg_sys::InSecurityRestrictedOperation() }
}

unsafe fn monitors(role: pg_sys::Oid) -> bool {
    let monitor = pg_sys::Oid::from(pg_sys::ROLE_PG_MONITOR);
    // SAFETY: role lookups of an existing role.
    unsafe { is_exempt(role) || pg_sys::has_privs_of_role(role, monitor) }
}

/// The role of that name, if there is one.
pub fn named(name: &Text) -> Option<pg_sys::Oid> {
    let name = std::ffi::CString::new(name.as_bytes()).ok()?;
    // SAFETY: called inside a transaction, with a C string; returns zero where there is none.
    let role = unsafe { pg_sys::get_role_oid(name.as_ptr(), true) };
    (role != pg_sys::InvalidOid).then_some(role)
}

/// Whether the current role may SET ROLE to another.
pub fn may_become(role: pg_sys::Oid) -> bool {
    // SAFETY: called inside a transaction; looks up roles that exist.
    unsafe {
        #[cfg(feature = "pg15")]
        return pg_sys::is_member_of_role(pg_sys::GetUserId(), role);
        #[cfg(not(feature = "pg15"))]
        return pg_sys::member_can_set_role(pg_sys::GetUserId(), role);
    }
}

/// Whether a role, or the current one, is exempt from row-level security.
pub fn is_exempt_role(role: Option<pg_sys::Oid>) -> bool {
    // SAFETY: called inside a transaction; a role that exists.
    unsafe { is_exempt(role.unwrap_or_else(|| pg_sys::GetUserId())) }
}

/// Whether a role is another, or inherits its privileges. False where either is gone.
pub fn inherits(role: pg_sys::Oid, other: pg_sys::Oid) -> bool {
    // SAFETY: called inside a transaction; looks up roles that may be gone. A role has its own privileges even then.
    unsafe { !pg_sys::GetUserNameFromId(role, true).is_null() && pg_sys::has_privs_of_role(role, other) }
}

/// Whether the function of another's that runs has rights that the client has not.
pub fn is_inside_definer() -> bool {
    // SAFETY: reads backend-local state.
    unsafe { pg_sys::GetUserId() != pg_sys::GetOuterUserId() }
}

/// The role that the client acts as: that it has logged in as, or has SET.
pub fn role() -> pg_sys::Oid {
    // SAFETY: reads backend-local state.
    unsafe { pg_sys::GetOuterUserId() }
}

/// The role whose rights are in force.
pub fn current() -> pg_sys::Oid {
    // SAFETY: reads backend-local state.
    unsafe { pg_sys::GetUserId() }
}

/// Its name.
pub fn role_name() -> Text {
    // SAFETY: called inside a transaction; a copy of the name, or null where the role is gone.
    unsafe { of_c_string(pg_sys::GetUserNameFromId(role(), true)) }
}

/// Whether the current role may set a parameter that asks for a privilege.
pub fn may_set(parameter: &CStr) -> bool {
    // Wider since 16.
    #[allow(clippy::useless_conversion)]
    let set = pg_sys::AclMode::from(pg_sys::ACL_SET);
    // SAFETY: called inside a transaction, with a C string; looks up a role that exists.
    unsafe {
        let result = pg_sys::pg_parameter_aclcheck(parameter.as_ptr(), pg_sys::GetUserId(), set);
        result == pg_sys::AclResult::ACLCHECK_OK
    }
}

/// The rights of the relation's owner, until dropped.
pub struct AsOwner {
    role: pg_sys::Oid,
    security_context: c_int,
}

impl AsOwner {
    /// Switches to the owner of a relation. An error on the way restores the role as well:
    /// PostgreSQL does so when it aborts the (sub)transaction.
    pub fn of(relation: pg_sys::Oid) -> AsOwner {
        AsOwner::with(relation, pg_sys::SECURITY_RESTRICTED_OPERATION)
    }

    /// Switches to the owner of a table, for whom the policies of its own tables do not count then, as in a check of a foreign key.
    pub fn unforced(relation: pg_sys::Oid) -> AsOwner {
        AsOwner::with(relation, pg_sys::SECURITY_RESTRICTED_OPERATION | pg_sys::SECURITY_NOFORCE_RLS)
    }

    fn with(relation: pg_sys::Oid, flags: u32) -> AsOwner {
        let mut role = pg_sys::InvalidOid;
        let mut security_context = 0;
        // SAFETY: called inside a transaction; the pointers are to live variables.
        unsafe {
            let table = pg_sys::relation_open(relation, pg_sys::AccessShareLock as i32);
            let owner = (*(*table).rd_rel).relowner;
            pg_sys::relation_close(table, pg_sys::NoLock as i32);
            pg_sys::GetUserIdAndSecContext(&mut role, &mut security_context);
            pg_sys::SetUserIdAndSecContext(
                owner,
                security_context | (pg_sys::SECURITY_LOCAL_USERID_CHANGE | flags) as c_int,
            );
        }
        AsOwner { role, security_context }
    }
}

impl AsOwner {
    /// Switches to the role that the client acts as.
    pub fn client() -> AsOwner {
        let mut role = pg_sys::InvalidOid;
        let mut security_context = 0;
        // SAFETY: called inside a transaction; the pointers are to live variables.
        unsafe {
            pg_sys::GetUserIdAndSecContext(&mut role, &mut security_context);
            let local = pg_sys::SECURITY_LOCAL_USERID_CHANGE as c_int;
            pg_sys::SetUserIdAndSecContext(pg_sys::GetOuterUserId(), security_context | local);
        }
        AsOwner { role, security_context }
    }
}

impl Drop for AsOwner {
    fn drop(&mut self) {
        // SAFETY: restores what `of` read; cannot fail.
        unsafe { pg_sys::SetUserIdAndSecContext(self.role, self.security_context) }
    }
}

/// Whether the current role has a right to a table, or to one of its columns at the least.
pub fn has_right(table: pg_sys::Oid, right: pg_sys::AclMode) -> bool {
    // SAFETY: called inside a transaction; a table that is locked.
    unsafe {
        let (role, good) = (pg_sys::GetUserId(), pg_sys::AclResult::ACLCHECK_OK);
        pg_sys::pg_class_aclcheck(table, role, right) == good
            || pg_sys::pg_attribute_aclcheck_all(table, role, right, pg_sys::AclMaskHow::ACLMASK_ANY) == good
    }
}
