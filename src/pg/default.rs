//! The default of the tenant column, as PostgreSQL would find it.
//!
//! PostgreSQL keeps a default as text, and reads it for each INSERT that leaves the column out (`build_column_default`). Where it is the call that
//! `protect` has put there, the call is added to what the statement says when that has been parsed, so that the rewriter has none to look for.

use pgrx::pg_sys;

use super::{policies, raw, statement::entries, statistics};

static mut PREVIOUS: pg_sys::post_parse_analyze_hook_type = None;

/// Called once, when the library is loaded.
pub(super) fn init() {
    // SAFETY: a backend is single-threaded.
    unsafe {
        PREVIOUS = pg_sys::post_parse_analyze_hook;
        pg_sys::post_parse_analyze_hook = Some(analyzed);
    }
}

/// A call that a column has as its default.
#[derive(Clone, Copy)]
pub struct Default {
    function: pg_sys::Oid,
    returns: pg_sys::Oid,
    collation: pg_sys::Oid,
}

impl Default {
    /// The default of a column, where it is a call that asks for the tenant and nothing else.
    pub(super) unsafe fn of(relation: pg_sys::Relation, column: i16) -> Option<Default> {
        // SAFETY: a relation that is open, and one of its columns; the tag of a node tells its type.
        unsafe {
            let node = pg_sys::build_column_default(relation, i32::from(column));
            let call = node.cast::<pg_sys::FuncExpr>();
            let is_call = !node.is_null()
                && (*node).type_ == pg_sys::NodeTag::T_FuncExpr
                && (*call).args.is_null()
                && (*call).funcformat == pg_sys::CoercionForm::COERCE_EXPLICIT_CALL
                && policies::is_tenant((*call).funcid);
            is_call.then(|| Default {
                function: (*call).funcid,
                returns: (*call).funcresulttype,
                collation: (*call).funccollid,
            })
        }
    }
}

unsafe extern "C-unwind" fn analyzed(
    state: *mut pg_sys::ParseState,
    query: *mut pg_sys::Query,
    jumble: *mut pg_sys::JumbleState,
) {
    // SAFETY: PostgreSQL's own arguments. A frame of plain data, which an error may skip.
    unsafe {
        if let Some(previous) = PREVIOUS {
            previous(state, query, jumble);
        }
        if (*query).commandType == pg_sys::CmdType::CMD_INSERT {
            fill_in(query);
        }
    }
}

/// Has an INSERT that leaves out the tenant column say its default.
unsafe fn fill_in(query: *mut pg_sys::Query) {
    // SAFETY: a query that has been parsed, whose table is locked.
    unsafe {
        let place = (*query).resultRelation as usize - 1;
        let Some(entry) = entries((*query).rtable).get(place) else { return };
        let entry = entry.ptr_value.cast::<pg_sys::RangeTblEntry>();
        // What a view leaves out is the view's to fill in.
        if !matches!((*entry).relkind as u8, pg_sys::RELKIND_RELATION | pg_sys::RELKIND_PARTITIONED_TABLE) {
            return;
        }
        let Some((column, default)) = statistics::default_of((*entry).relid) else { return };
        let is_said = |cell: &pg_sys::ListCell| {
            let target = cell.ptr_value.cast::<pg_sys::TargetEntry>();
            (*target).resno == column && !(*target).resjunk
        };
        if entries((*query).targetList).iter().any(is_said) {
            return;
        }
        let call = raw::makeFuncExpr(
            default.function,
            default.returns,
            std::ptr::null_mut(),
            default.collation,
            pg_sys::InvalidOid,
            pg_sys::CoercionForm::COERCE_EXPLICIT_CALL,
        );
        let name = raw::get_attname((*entry).relid, column, false);
        let target = raw::makeTargetEntry(call.cast(), column, name, false);
        (*query).targetList = raw::lappend((*query).targetList, target.cast());
    }
}
