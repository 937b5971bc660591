//! What is left with PostgreSQL's memory contexts, and is there as long as they are.
//!
//! Each FETCH of a cursor, and each part of a portal, runs the same query again. What the first of them leaves for the next lies
//! in the memory of the query's execution.

use std::ffi::c_void;

use pgrx::pg_sys;

use super::running::Tenant;

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

/// What the first part of a run leaves for the next: a callback on the memory of the execution, which does nothing
/// but live as long as it.
#[repr(C)]
pub struct Part {
    callback: pg_sys::MemoryContextCallback,
    /// Whose rows the earlier parts have read or written.
    pub touched: Option<Tenant>,
}

unsafe extern "C-unwind" fn ended(_part: *mut c_void) {}

impl Part {
    /// What was left in a memory context.
    #[inline]
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

    /// The same; at the first part it is made.
    pub unsafe fn at(context: pg_sys::MemoryContext) -> *mut Part {
        // SAFETY: as above; memory that lives as long as the context.
        unsafe {
            Part::of(context).unwrap_or_else(|| {
                let part = pg_sys::MemoryContextAllocZero(context, size_of::<Part>()).cast::<Part>();
                (*part).callback.func = Some(ended);
                std::ptr::addr_of_mut!((*part).touched).write(None);
                pg_sys::MemoryContextRegisterResetCallback(context, part.cast());
                part
            })
        }
    }
}
