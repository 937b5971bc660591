//! DROP EXTENSION of this extension: somebody may be told before, and after.

use std::ffi::CStr;
use std::sync::OnceLock;

use pgrx::{pg_guard, pg_sys};

/// Who is told.
#[derive(Clone, Copy)]
pub struct Listener {
    /// It begins; whether with CASCADE.
    pub begins: fn(bool),
    /// It has been dropped.
    pub ended: fn(),
}

static LISTENER: OnceLock<Listener> = OnceLock::new();

/// To be called when the library is loaded.
pub fn listen(listener: Listener) {
    LISTENER.get_or_init(|| listener);
}

/// Whether a command drops the extension, and then whether with CASCADE. Nothing in it raises.
pub(super) unsafe fn drops_us(command: *const pg_sys::Node) -> Option<bool> {
    // SAFETY: a node of the type that its tag tells; what DROP EXTENSION names are strings.
    unsafe {
        if (*command).type_ != pg_sys::NodeTag::T_DropStmt {
            return None;
        }
        let statement = command.cast::<pg_sys::DropStmt>();
        let list = (*statement).objects;
        if (*statement).removeType != pg_sys::ObjectType::OBJECT_EXTENSION || list.is_null() {
            return None;
        }
        let names = std::slice::from_raw_parts((*list).elements, (*list).length as usize);
        let is_ours = |name: &pg_sys::ListCell| {
            CStr::from_ptr((*name.ptr_value.cast::<pg_sys::String>()).sval) == c"tenancy"
        };
        names.iter().any(is_ours).then_some((*statement).behavior == pg_sys::DropBehavior::DROP_CASCADE)
    }
}

#[pg_guard]
pub(super) unsafe extern "C-unwind" fn begins(is_cascade: bool) {
    if let Some(listener) = LISTENER.get() {
        (listener.begins)(is_cascade);
    }
}

#[pg_guard]
pub(super) unsafe extern "C-unwind" fn ended() {
    if let Some(listener) = LISTENER.get() {
        (listener.ended)();
    }
}
