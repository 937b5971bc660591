//! What is left with PostgreSQL's memory contexts, and is there as long as they are.
//!
//! Each FETCH of a cursor, and each part of a portal, runs the same query again. What the first of them leaves for the next lies
//! in the memory of the query's execution.

use std::ffi::c_void;

use pgrx::pg_sys;

use crate::tenant::TenantId;

/// Calls a function when a memory context is reset or deleted.
pub unsafe fn when_gone(
    context: pg_sys::MemoryContext,
    call: unsafe extern "C-unwind" fn(*mut c_void),
    argument: *mut c_void,
) {
    // SAFETY: the callback is allocated in the context that it is for.
    unsafe {
        let size = size_of::<pg_sys::MemoryContextCallback>();
        let callback = pg_sys::MemoryContextAllocZero(context, size).cast::<pg_sys::MemoryContextCallback>();
        (*callback).func = Some(call);
        (*callback).arg = argument;
        pg_sys::MemoryContextRegisterResetCallback(context, callback);
    }
}

/// What is known of the earlier parts of a run.
#[derive(Clone, Copy)]
pub struct Began {
    tenant: Option<TenantId>,
    /// A statement inside one of them has read or written protected tables.
    pub has_touched: bool,
    /// They were for another tenant.
    pub is_another: bool,
}

pub const NO_PART: Began = Began { tenant: None, has_touched: false, is_another: false };

/// What the first part of a run leaves for the next: a callback on the memory of the execution, which does nothing
/// but live as long as it.
#[repr(C)]
pub struct Part {
    callback: pg_sys::MemoryContextCallback,
    pub began: Began,
}

unsafe extern "C-unwind" fn ended(_part: *mut c_void) {}

impl Part {
    /// What was left in a memory context.
    pub unsafe fn of(context: pg_sys::MemoryContext) -> Option<*mut Part> {
        let ours = ended as *const () as usize;
        // SAFETY: walks PostgreSQL's list of callbacks on a live memory context; those with our function are `Part`,
        // of which the callback is the first field.
        unsafe {
            let mut callback = (*context).reset_cbs;
            while let Some(found) = callback.as_ref() {
                if found.func.is_some_and(|function| function as *const () as usize == ours) {
                    return Some(callback.cast());
                }
                callback = found.next;
            }
        }
        None
    }

    /// What the earlier parts of this run were for. Notes the tenant at the first part.
    pub unsafe fn note(context: pg_sys::MemoryContext, in_parts: bool) -> Began {
        let tenant = super::guc::assigned().map(|assigned| assigned.id);
        let began = Began { tenant, ..NO_PART };
        // SAFETY: as above; memory that lives as long as the context.
        unsafe {
            if let Some(part) = Part::of(context) {
                let began = (*part).began;
                return Began { is_another: began.tenant != tenant, ..began };
            }
            if in_parts {
                let part = pg_sys::MemoryContextAllocZero(context, size_of::<Part>()).cast::<Part>();
                (*part).callback.func = Some(ended);
                std::ptr::addr_of_mut!((*part).began).write(began);
                pg_sys::MemoryContextRegisterResetCallback(context, part.cast());
            }
        }
        began
    }
}
