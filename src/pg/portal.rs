//! Portals: cursors, and what the protocol reads in parts.
//!
//! Where a command writes and returns rows, or is EXECUTE or FETCH, PostgreSQL runs it to its end at the first FETCH and keeps
//! its rows in the portal; it does so as well with a loop's, where a procedure commits in the loop. Nothing is called when they are read.
//! So what is kept for a tenant is closed when another begins, and none begins in a statement that may have read it.

use std::ptr::addr_of_mut;

use pgrx::pg_sys;

use super::{part, running::Tenant, statement::entries};
use crate::tenant::TenantId;

/// A portal that keeps rows, and the tenant that they are of.
struct Kept {
    portal: *mut pg_sys::PortalData,
    tenant: Tenant,
}

static mut KEPT: Vec<Kept> = Vec::new();

/// The list, which is backend-local; nothing that holds on to it calls PostgreSQL.
fn kept() -> &'static mut Vec<Kept> {
    // SAFETY: a backend is single-threaded, and each caller in this file is done with it before another gets it.
    unsafe { &mut *addr_of_mut!(KEPT) }
}

/// The portal that is being run, or none.
#[inline]
pub fn active() -> Option<&'static pg_sys::PortalData> {
    // SAFETY: PostgreSQL's own pointer, which is null or to a portal that lives while it runs.
    unsafe { pg_sys::ActivePortal.as_ref() }
}

/// Whether what it runs is SET LOCAL, and not something that runs one.
pub fn sets_locally(portal: &pg_sys::PortalData) -> bool {
    // SAFETY: a portal that runs has statements; the tag of a command tells its type.
    unsafe {
        let [only] = entries(portal.stmts) else { return false };
        let command = (*only.ptr_value.cast::<pg_sys::PlannedStmt>()).utilityStmt;
        !command.is_null()
            && (*command).type_ == pg_sys::NodeTag::T_VariableSetStmt
            && (*command.cast::<pg_sys::VariableSetStmt>()).is_local
    }
}

/// Whether a cursor was declared WITH HOLD.
pub fn is_held(portal: &pg_sys::PortalData) -> bool {
    portal.cursorOptions as u32 & pg_sys::CURSOR_OPT_HOLD != 0
}

/// Whether a cursor can be read again from its start.
pub fn is_scrollable(portal: &pg_sys::PortalData) -> bool {
    portal.cursorOptions as u32 & pg_sys::CURSOR_OPT_SCROLL != 0
}

/// Whether the portal keeps the rows of a command that runs to its end at once. What CALL returns is made at its end.
#[inline]
pub fn is_keeping(portal: &pg_sys::PortalData) -> bool {
    !portal.holdStore.is_null() && !is_procedural(portal)
}

/// The commands of a portal: more than one where a rule made them of one.
#[inline]
pub fn commands(portal: &pg_sys::PortalData) -> impl Iterator<Item = *mut pg_sys::PlannedStmt> {
    // SAFETY: a list of planned statements, which lives as long as the portal.
    unsafe { super::statement::entries(portal.stmts) }.iter().map(|cell| {
        // SAFETY: as above.
        unsafe { cell.ptr_value.cast() }
    })
}

/// Whether the portal runs DO or CALL: each command in it is a statement of its own.
pub fn is_procedural(portal: &pg_sys::PortalData) -> bool {
    commands(portal).any(|command| {
        // SAFETY: a planned statement, whose `utilityStmt` is null or a node.
        unsafe { (*command).utilityStmt.as_ref() }.is_some_and(|node| is_procedure(node.type_))
    })
}

/// Whether it is DO or CALL.
pub fn is_procedure(tag: pg_sys::NodeTag) -> bool {
    matches!(tag, pg_sys::NodeTag::T_DoStmt | pg_sys::NodeTag::T_CallStmt)
}

/// Notes that a portal keeps rows of a tenant.
pub fn note(portal: &pg_sys::PortalData, tenant: Tenant) {
    let portal = std::ptr::from_ref(portal).cast_mut();
    if let Some(known) = kept().iter_mut().find(|known| known.portal == portal) {
        known.tenant = tenant;
        return;
    }
    // SAFETY: the memory of a portal goes with it.
    unsafe { part::when_gone((*portal).portalContext, dropped, portal.cast()) };
    kept().push(Kept { portal, tenant });
}

/// Whether any keeps rows of whatever tenant.
#[inline]
pub fn keeps_any() -> bool {
    !kept().is_empty()
}

/// The same, and can be read.
pub fn keeps_any_open() -> bool {
    // SAFETY: portals that are there: `dropped` is called when they go.
    kept().iter().any(|known| unsafe { (*known.portal).status } != DONE)
}

const DONE: pg_sys::PortalStatus::Type = pg_sys::PortalStatus::PORTAL_DONE;

unsafe extern "C-unwind" fn dropped(portal: *mut std::ffi::c_void) {
    kept().retain(|known| known.portal != portal.cast());
}

/// Closes what is kept for another tenant than this: reading on is an error of PostgreSQL's. Its locks stay with the transaction.
#[inline]
pub fn close_others(tenant: Option<&TenantId>) {
    for known in kept().iter().filter(|known| known.tenant.as_ref() != tenant) {
        // SAFETY: a portal that is there: `dropped` is called when it goes. One that is being run is not closed; its statement is
        // for one tenant. Such a portal has nothing left to run.
        unsafe {
            if (*known.portal).status == pg_sys::PortalStatus::PORTAL_READY {
                (*known.portal).status = DONE;
            }
        }
    }
}
