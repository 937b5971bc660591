//! Checks that a query passes by what it says itself.
//!
//! A row that is inserted with the current tenant is the current tenant's, and one of its rows that is changed in other columns stays that: as long as
//! no trigger has a say. So is a row that is in the way of such a one, where it is the tenant column, among others, by which they are the same.
//! A plan that is kept asks nevertheless; this is for those that are made for one tenant (`fixed`).

use pgrx::pg_sys;

use super::{Comparison, Form, Known, comparison, is_null_test, raw, unless_it_raises};
use crate::pg::{fixed, statement::entries};

mod own {
    use super::pg_sys;
    unsafe extern "C-unwind" {
        pub fn RelationIdGetRelation(relation: pg_sys::Oid) -> pg_sys::Relation;
        pub fn RelationClose(relation: pg_sys::Relation);
        pub fn get_constraint_index(constraint: pg_sys::Oid) -> pg_sys::Oid;
        pub fn RelationGetIndexList(relation: pg_sys::Relation) -> *mut pg_sys::List;
        pub fn get_attgenerated(relation: pg_sys::Oid, column: pg_sys::AttrNumber) -> std::ffi::c_char;
    }
}

/// The families of operators, of indexes, that take the same bytes for equal: text_ops, text_pattern_ops, uuid_ops, integer_ops.
const FAMILIES: [u32; 4] = [1994, 2095, 2968, 1976];

/// The most unique indexes over the tenant column of a table of which conflicts are proven.
const ARBITERS: usize = 8;
/// Those that were looked at. A query inside one that is being planned is not made for a tenant, and looks at none.
static mut FOUND: [pg_sys::Oid; ARBITERS] = [pg_sys::InvalidOid; ARBITERS];

/// What is proven of the rows of a plan, now that it is made: raises where it finds conflicts by an index that was not looked at, and has come meanwhile.
pub unsafe fn kept_by(plan: *const pg_sys::PlannedStmt, proven: u32) -> u32 {
    // SAFETY: a plan that was made just now, of which the tag of the topmost node tells its type; backend-local numbers.
    unsafe {
        let top = (*plan).planTree.cast::<pg_sys::ModifyTable>();
        if (*top.cast::<pg_sys::Node>()).type_ != pg_sys::NodeTag::T_ModifyTable {
            return proven | fixed::proven::ELSEWHERE;
        }
        let found = *std::ptr::addr_of!(FOUND);
        if proven & fixed::proven::CONFLICTS != 0
            && !entries((*top).arbiterIndexes).iter().all(|cell| found.contains(&cell.oid_value))
        {
            fixed::refuse_changed();
        }
        proven
    }
}

/// A query that writes, for a tenant.
struct Writing<'a> {
    query: *mut pg_sys::Query,
    checks: *mut pg_sys::List,
    tenant: &'a Known,
    /// Whether nothing changes what is inserted, and what is updated, where it is known.
    is_as_said: [Option<bool>; 2],
}

/// Leaves out the checks of a query that are proven; of what rows, see `fixed::proven`.
pub unsafe fn leave_out_proven(query: *mut pg_sys::Query, tenant: &Known) -> u32 {
    // SAFETY: a query that PostgreSQL lets its planner change, and its checks. Frames of plain data, which an error may skip.
    unsafe {
        let checks = (*query).withCheckOptions;
        let mut writing = Writing { query, checks, tenant, is_as_said: [None; 2] };
        let (mut places, mut proven) = (0u64, 0);
        for (cell, place) in entries(checks).iter().zip(0..u64::BITS) {
            let check = cell.ptr_value.cast::<pg_sys::WithCheckOption>();
            if writing.passes(check) {
                places |= 1 << place;
                proven |= match (*check).kind {
                    pg_sys::WCOKind::WCO_RLS_INSERT_CHECK => fixed::proven::INSERTS,
                    pg_sys::WCOKind::WCO_RLS_CONFLICT_CHECK => {
                        fixed::proven::INSERTS | fixed::proven::CONFLICTS
                    }
                    _ => fixed::proven::UPDATES,
                };
            }
        }
        if proven != 0 {
            let mut kept = std::ptr::null_mut();
            for (cell, place) in entries(checks).iter().zip(0..) {
                if place >= u64::BITS || places >> place & 1 == 0 {
                    kept = raw::lappend(kept, cell.ptr_value);
                }
            }
            (*query).withCheckOptions = kept;
        }
        proven
    }
}

impl Writing<'_> {
    unsafe fn passes(&mut self, check: *const pg_sys::WithCheckOption) -> bool {
        // SAFETY: the caller's query, and one of its checks.
        unsafe {
            let query = self.query;
            let kind = (*check).kind;
            let is_update = kind == pg_sys::WCOKind::WCO_RLS_UPDATE_CHECK;
            let is_conflict = kind == pg_sys::WCOKind::WCO_RLS_CONFLICT_CHECK;
            if !is_update && !is_conflict && kind != pg_sys::WCOKind::WCO_RLS_INSERT_CHECK {
                return false;
            }
            let Some(asked) = Asked::by((*check).qual) else { return false };
            if asked.table != (*query).resultRelation {
                return false;
            }
            let stays = |list| assigned(list, asked.column).is_null();
            match ((*query).commandType, is_update) {
                (pg_sys::CmdType::CMD_INSERT, false) => {
                    let target = assigned((*query).targetList, asked.column);
                    !target.is_null()
                        && self.is_written_as_said(false, asked.column)
                        && (!is_conflict || self.is_same_in_conflict(&asked))
                        && is_tenant(&mut (*target).expr, &asked.its, self.tenant)
                }
                // It was found by the same comparison.
                (pg_sys::CmdType::CMD_UPDATE, true) => {
                    stays((*query).targetList)
                        && entries((*self.entry()).securityQuals).iter().any(|cell| {
                            Asked::plainly(cell.ptr_value.cast()).is_some_and(|other| other == asked)
                        })
                        && self.is_written_as_said(true, asked.column)
                }
                // It has passed the same check before it is changed.
                (pg_sys::CmdType::CMD_INSERT, true) => {
                    let conflict = (*query).onConflict;
                    let is_checked = |cell: &pg_sys::ListCell| {
                        let other = cell.ptr_value.cast::<pg_sys::WithCheckOption>();
                        let qual = (*other).qual;
                        let bare = unless_it_raises(qual);
                        (*other).kind == pg_sys::WCOKind::WCO_RLS_CONFLICT_CHECK
                            && Asked::plainly(if bare.is_null() { qual } else { bare })
                                .is_some_and(|other| other == asked)
                    };
                    !conflict.is_null()
                        && stays((*conflict).onConflictSet)
                        && entries(self.checks).iter().any(is_checked)
                        && self.is_written_as_said(true, asked.column)
                }
                _ => false,
            }
        }
    }

    /// Whether a row that is in the way of one with the tenant is the tenant's: the column is a key of each index that may find it, which takes for
    /// equal what the check does, or no more than the same bytes.
    unsafe fn is_same_in_conflict(&self, asked: &Asked) -> bool {
        // SAFETY: the table that the query writes, which is locked, and what it says of conflicts; an index that is being dropped may be gone.
        unsafe {
            let Some(conflict) = (*self.query).onConflict.as_ref() else { return false };
            let only = match conflict.constraint {
                pg_sys::InvalidOid => pg_sys::InvalidOid,
                constraint => own::get_constraint_index(constraint),
            };
            let is_named = entries(conflict.arbiterElems).iter().any(|cell| {
                let column = (*cell.ptr_value.cast::<pg_sys::InferenceElem>()).expr.cast::<pg_sys::Var>();
                (*column.cast::<pg_sys::Node>()).type_ == pg_sys::NodeTag::T_Var
                    && (*column).varattno == asked.column
            });
            if !is_named && only == pg_sys::InvalidOid {
                return false;
            }
            let table = own::RelationIdGetRelation((*self.entry()).relid);
            if table.is_null() {
                return false;
            }
            let mut found = [pg_sys::InvalidOid; ARBITERS];
            let mut is_same = true;
            let mut places = found.iter_mut();
            for cell in entries(own::RelationGetIndexList(table)) {
                if only != pg_sys::InvalidOid && cell.oid_value != only {
                    continue;
                }
                let index = own::RelationIdGetRelation(cell.oid_value);
                let Some(known) = index.as_ref() else { continue };
                if (*known.rd_index).indisunique {
                    let keys = (*known.rd_index).indnkeyatts as usize;
                    let columns = (*known.rd_index).indkey.values.as_slice(keys);
                    if let Some(key) = columns.iter().position(|column| *column == asked.column) {
                        let collation = *known.rd_indcollation.add(key);
                        // There are classes that take more for equal, as bpchar_ops does of texts.
                        is_same &= FAMILIES.contains(&(*known.rd_opfamily.add(key)).to_u32());
                        is_same &= collation == asked.collation
                            || collation == pg_sys::InvalidOid
                            || collation == pg_sys::DEFAULT_COLLATION_OID
                            || collation == pg_sys::C_COLLATION_OID;
                        match places.next() {
                            Some(place) => *place = cell.oid_value,
                            None => is_same = false,
                        }
                    }
                }
                own::RelationClose(index);
            }
            own::RelationClose(table);
            FOUND = found;
            is_same && found[0] != pg_sys::InvalidOid
        }
    }

    /// The table that is written.
    unsafe fn entry(&self) -> *const pg_sys::RangeTblEntry {
        // SAFETY: a query that writes has an entry for what it writes.
        unsafe {
            let number = (*self.query).resultRelation as usize;
            entries((*self.query).rtable)[number - 1].ptr_value.cast()
        }
    }

    /// Whether a column of rows of the table is written as the query says: it is not computed, no other table has a part of the rows, and no
    /// trigger changes them.
    unsafe fn is_written_as_said(&mut self, is_update: bool, column: pg_sys::AttrNumber) -> bool {
        // SAFETY: the table that the query writes, which is locked.
        unsafe {
            let entry = self.entry();
            let is_plain = *self.is_as_said[usize::from(is_update)].get_or_insert_with(|| {
                if (*entry).relkind as u8 != pg_sys::RELKIND_RELATION || !fixed::is_protected(entry) {
                    return false;
                }
                let relation = own::RelationIdGetRelation((*entry).relid);
                if relation.is_null() {
                    return false;
                }
                let is_changed = (*relation).trigdesc.as_ref().is_some_and(|triggers| match is_update {
                    true => triggers.trig_update_before_row,
                    false => triggers.trig_insert_before_row,
                });
                let has_children = (*(*relation).rd_rel).relhassubclass;
                own::RelationClose(relation);
                !is_changed && !has_children
            });
            is_plain && own::get_attgenerated((*entry).relid, column) == 0
        }
    }
}

/// A comparison with the current tenant, of a column.
struct Asked {
    its: Comparison,
    collation: pg_sys::Oid,
    table: i32,
    column: pg_sys::AttrNumber,
}

impl PartialEq for Asked {
    fn eq(&self, other: &Asked) -> bool {
        (self.its.operator, self.its.tenant, self.collation, self.table, self.column)
            == (other.its.operator, other.its.tenant, other.collation, other.table, other.column)
    }
}

impl Asked {
    /// What is enough for a check.
    unsafe fn by(check: *mut pg_sys::Node) -> Option<Asked> {
        // SAFETY: null or a node, whose tag tells its type.
        unsafe {
            let bare = unless_it_raises(check);
            let node = if bare.is_null() { check } else { bare };
            if node.is_null() || (*node).type_ != pg_sys::NodeTag::T_BoolExpr {
                return Asked::plainly(node);
            }
            // `<column> IS NULL OR <column> = current_tenant()`.
            let either = node.cast::<pg_sys::BoolExpr>();
            match entries((*either).args) {
                [first, last]
                    if (*either).boolop == pg_sys::BoolExprType::OR_EXPR
                        && is_null_test(first.ptr_value.cast()) =>
                {
                    Asked::plainly(last.ptr_value.cast())
                }
                _ => None,
            }
        }
    }

    /// What a condition is.
    unsafe fn plainly(node: *mut pg_sys::Node) -> Option<Asked> {
        // SAFETY: as above; a comparison is of a column.
        unsafe {
            if node.is_null() || (*node).type_ != pg_sys::NodeTag::T_OpExpr {
                return None;
            }
            let operation = node.cast::<pg_sys::OpExpr>();
            let (its, mut column) = comparison(operation)?;
            while (*column.cast::<pg_sys::Node>()).type_ == pg_sys::NodeTag::T_RelabelType {
                column = (*column.cast::<pg_sys::RelabelType>()).arg.cast();
            }
            let column = column.cast::<pg_sys::Var>();
            // What the system keeps of a row changes with it.
            (*column).varattno.is_positive().then(|| Asked {
                its,
                collation: (*operation).inputcollid,
                table: (*column).varno,
                column: (*column).varattno,
            })
        }
    }
}

/// What is assigned to a column, or null.
unsafe fn assigned(list: *mut pg_sys::List, column: pg_sys::AttrNumber) -> *mut pg_sys::TargetEntry {
    // SAFETY: a list of such entries.
    unsafe {
        entries(list)
            .iter()
            .map(|cell| cell.ptr_value.cast::<pg_sys::TargetEntry>())
            .find(|target| !(**target).resjunk && (**target).resno == column)
            .unwrap_or(std::ptr::null_mut())
    }
}

/// Whether a value is the tenant. Where it is a call that asks for it, the tenant takes its place.
unsafe fn is_tenant(value: &mut *mut pg_sys::Expr, its: &Comparison, tenant: &Known) -> bool {
    // SAFETY: an expression, whose tag tells its type; a constant is a datum of its type.
    unsafe {
        let node = value.cast::<pg_sys::Node>();
        match (*node).type_ {
            pg_sys::NodeTag::T_RelabelType => {
                is_tenant(&mut (*node.cast::<pg_sys::RelabelType>()).arg, its, tenant)
            }
            pg_sys::NodeTag::T_FuncExpr if (*node.cast::<pg_sys::FuncExpr>()).funcid == its.tenant => {
                let constant = fixed::constant(node, tenant);
                if let Some(constant) = constant {
                    *value = constant.cast();
                }
                constant.is_some()
            }
            pg_sys::NodeTag::T_Const => {
                let constant = &*node.cast::<pg_sys::Const>();
                !constant.constisnull
                    && tenant.datum(its.form).is_some_and(|datum| is_same(constant, datum, its.form))
            }
            _ => false,
        }
    }
}

/// Whether a constant is the tenant, to the byte: then any collation takes it for equal.
unsafe fn is_same(constant: &pg_sys::Const, tenant: pg_sys::Datum, form: Form) -> bool {
    // SAFETY: datums of the types that are said; the text of a constant is stored as it is, or in a way that is none of these.
    unsafe {
        let text = |datum: pg_sys::Datum| {
            let text = datum.cast_mut_ptr::<pg_sys::varlena>();
            let is_plain = !pgrx::varlena::varatt_is_1b_e(text) && !pgrx::varlena::varatt_is_4b_c(text);
            is_plain.then(|| {
                std::slice::from_raw_parts(
                    pgrx::varlena::vardata_any(text).cast::<u8>(),
                    pgrx::varlena::varsize_any_exhdr(text),
                )
            })
        };
        let value = constant.constvalue;
        match (form, constant.consttype) {
            (Form::Text, pg_sys::TEXTOID | pg_sys::VARCHAROID) => {
                text(value).is_some_and(|value| Some(value) == text(tenant))
            }
            (Form::Uuid, pg_sys::UUIDOID) => {
                *value.cast_mut_ptr::<[u8; 16]>() == *tenant.cast_mut_ptr::<[u8; 16]>()
            }
            (Form::Bigint, pg_sys::INT8OID) => value.value() == tenant.value(),
            (Form::Bigint, pg_sys::INT4OID) => i64::from(value.value() as i32) == tenant.value() as i64,
            _ => false,
        }
    }
}
