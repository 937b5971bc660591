//! Whether a condition tells nothing of a row besides its result, so that it may be evaluated on one that a policy hides.
//!
//! PostgreSQL's own answer (`contain_leaked_vars`) is the LEAKPROOF mark, which few operators have: one that can raise an error for any
//! argument at all does not get it. Here each operator is looked at with its arguments. `docs/index_pushdown.md` has the reasons.
//!
//! A condition comes to an index as `<key> <operator> <value>`. The columns of the table are in the key alone, and what the key is made of was
//! computed for each row when it came into the index: so a built-in immutable function there raises no error that it has not raised before.

use std::ffi::{CStr, c_int};

use pgrx::pg_sys;

use super::{raw, statement::entries};
use calm::{LONGEST, is_calm_like, is_calm_path, is_calm_regex};
pub use functions::{Function, changes, forget_trust, function, init, is_symbol};

mod calm;
mod functions;

/// What must hold besides, so that an operator tells nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Check {
    Nothing,
    /// The collation is deterministic.
    Collation,
    /// The pattern is known, and one that LIKE never complains of.
    Like,
    /// The pattern is known, and a regular expression that is matched without recursion.
    Regex,
    /// The value that is searched for is known, and small.
    Query,
    /// The same of that argument, where functions call themselves as deep as it goes.
    QueryAt(usize),
    /// The path, the second argument, is known, and has nothing that raises errors.
    Path,
    /// The element type compares by functions that are trusted.
    Array,
    /// The element type of the range does.
    Range,
}

/// Types whose functions call nothing of a user's own. Of what depends on the session, only functions of these may be in a value: those of
/// others read tables (`table_to_xml`), call casts (`to_jsonb`), or the functions of a type.
const PLAIN: [pg_sys::Oid; 14] = [
    pg_sys::BOOLOID,
    pg_sys::INT2OID,
    pg_sys::INT4OID,
    pg_sys::INT8OID,
    pg_sys::FLOAT8OID,
    pg_sys::NUMERICOID,
    pg_sys::TEXTOID,
    pg_sys::NAMEOID,
    pg_sys::DATEOID,
    pg_sys::TIMEOID,
    pg_sys::TIMETZOID,
    pg_sys::TIMESTAMPOID,
    pg_sys::TIMESTAMPTZOID,
    pg_sys::INTERVALOID,
];

/// Types whose functions call themselves as deep as a value goes: what is stored may go deeper than the stack that is kept free.
const DEEP: [pg_sys::Oid; 5] =
    [pg_sys::JSONOID, pg_sys::JSONBOID, pg_sys::JSONPATHOID, pg_sys::TSQUERYOID, pg_sys::XMLOID];

/// What an expression is, and so on which rows its functions are called.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum As {
    /// A condition, or a part that AND, OR and NOT make it of: on rows that have passed no policy.
    Condition,
    /// An argument, as the key of an index is, or its predicate: on rows that it was computed of before, when they were written.
    Key,
    /// Any row of the table.
    AnyRow,
}

/// Whether an expression tells nothing of the rows that it is evaluated on, besides its result.
pub unsafe fn holds(node: *mut pg_sys::Node, what: As) -> bool {
    use pg_sys::NodeTag::*;
    // SAFETY: the tag of a node tells its type; lists have nodes, or numbers where said.
    unsafe {
        if node.is_null() {
            return true;
        }
        let inside = if what == As::AnyRow { As::AnyRow } else { As::Key };
        match (*node).type_ {
            T_Var | T_Const | T_Param | T_SQLValueFunction => true,
            T_List => all(node.cast(), what),
            T_BoolExpr => all((*node.cast::<pg_sys::BoolExpr>()).args, what),
            T_RestrictInfo => holds((*node.cast::<pg_sys::RestrictInfo>()).clause.cast(), what),
            T_RelabelType => holds((*node.cast::<pg_sys::RelabelType>()).arg.cast(), inside),
            T_CollateExpr => holds((*node.cast::<pg_sys::CollateExpr>()).arg.cast(), inside),
            T_NullTest => holds((*node.cast::<pg_sys::NullTest>()).arg.cast(), inside),
            T_BooleanTest => holds((*node.cast::<pg_sys::BooleanTest>()).arg.cast(), inside),
            T_CoalesceExpr => all((*node.cast::<pg_sys::CoalesceExpr>()).args, inside),
            T_ArrayExpr => all((*node.cast::<pg_sys::ArrayExpr>()).elements, inside),
            T_FuncExpr => {
                let call = node.cast::<pg_sys::FuncExpr>();
                Call::new((*call).funcid, (*call).args, (*call).inputcollid, what).holds()
            }
            T_OpExpr => {
                let operation = node.cast::<pg_sys::OpExpr>();
                let function = function_of((*operation).opfuncid, (*operation).opno);
                Call::new(function, (*operation).args, (*operation).inputcollid, what).holds()
            }
            T_ScalarArrayOpExpr => {
                let operation = node.cast::<pg_sys::ScalarArrayOpExpr>();
                let function = function_of((*operation).opfuncid, (*operation).opno);
                let mut call = Call::new(function, (*operation).args, (*operation).inputcollid, what);
                call.is_for_elements = true;
                call.holds()
            }
            // An index may have the first columns of a row only, and PostgreSQL looks at the others where it looks at a row once more.
            T_RowCompareExpr => {
                let row = node.cast::<pg_sys::RowCompareExpr>();
                entries((*row).opnos).iter().all(|cell| {
                    let function = function(opcode(cell.oid_value));
                    function.is_some_and(|function| function.is_plain())
                }) && all((*row).largs, As::AnyRow)
                    && all((*row).rargs, As::AnyRow)
            }
            _ => false,
        }
    }
}

/// Whether a condition that is trusted may be estimated with the most common values of all tenants: an estimate may call the negator or the
/// commutator of an operator in its place, which anybody can declare, and of a range it calls a function that measures distances.
pub unsafe fn may_see_values(node: *mut pg_sys::Node) -> bool {
    use pg_sys::NodeTag::*;
    // SAFETY: as above; the operators of a condition are in the catalogs.
    unsafe {
        if node.is_null() {
            return true;
        }
        let all =
            |list: *mut pg_sys::List| entries(list).iter().all(|cell| may_see_values(cell.ptr_value.cast()));
        let is_good = |operator: pg_sys::Oid| {
            [raw::get_negator(operator), raw::get_commutator(operator)].into_iter().all(|other| {
                other == pg_sys::InvalidOid
                    || function(opcode(other)).is_some_and(|function| {
                        function.is_leakproof || function.is_built_in() || function.check().is_some()
                    })
            })
        };
        match (*node).type_ {
            T_List => all(node.cast()),
            T_BoolExpr => all((*node.cast::<pg_sys::BoolExpr>()).args),
            T_RestrictInfo => may_see_values((*node.cast::<pg_sys::RestrictInfo>()).clause.cast()),
            T_NullTest | T_BooleanTest => true,
            T_OpExpr => {
                let operation = node.cast::<pg_sys::OpExpr>();
                is_good((*operation).opno) && measures_well((*operation).args)
            }
            T_ScalarArrayOpExpr => {
                let operation = node.cast::<pg_sys::ScalarArrayOpExpr>();
                is_good((*operation).opno) && measures_well((*operation).args)
            }
            T_RowCompareExpr => {
                let row = node.cast::<pg_sys::RowCompareExpr>();
                entries((*row).opnos).iter().all(|cell| is_good(cell.oid_value))
                    && measures_well((*row).largs)
            }
            _ => false,
        }
    }
}

/// Whether the distances between bounds of all ranges are measured by functions that raise no error, if they are.
unsafe fn measures_well(arguments: *mut pg_sys::List) -> bool {
    const GOOD: [u32; 6] = [
        0,
        pg_sys::F_INT4RANGE_SUBDIFF,
        pg_sys::F_INT8RANGE_SUBDIFF,
        pg_sys::F_DATERANGE_SUBDIFF,
        pg_sys::F_TSRANGE_SUBDIFF,
        pg_sys::F_TSTZRANGE_SUBDIFF,
    ];
    // SAFETY: a list of expressions.
    unsafe {
        entries(arguments).iter().all(|cell| {
            let kind = raw::exprType(cell.ptr_value.cast());
            let is_range = || raw::type_is_range(kind) || raw::type_is_multirange(kind);
            PLAIN.contains(&kind)
                || !is_range()
                || GOOD.contains(&(*range_of(kind)).rng_subdiff_finfo.fn_oid.to_u32())
        })
    }
}

/// What is known of a range type, of that of a multirange; of any other, what is known of it.
unsafe fn range_of(kind: pg_sys::Oid) -> *mut pg_sys::TypeCacheEntry {
    // SAFETY: a type that exists; entries of the cache live as long as the backend.
    unsafe {
        let flags = pg_sys::TYPECACHE_RANGE_INFO | pg_sys::TYPECACHE_MULTIRANGE_INFO;
        let entry = pg_sys::lookup_type_cache(kind, flags as c_int);
        if (*entry).rngtype.is_null() { entry } else { (*entry).rngtype }
    }
}

unsafe fn all(list: *mut pg_sys::List, what: As) -> bool {
    // SAFETY: a list of nodes.
    unsafe { entries(list).iter().all(|cell| holds(cell.ptr_value.cast(), what)) }
}

/// The function of an operation, which is looked up where nobody has done so.
unsafe fn function_of(known: pg_sys::Oid, operator: pg_sys::Oid) -> pg_sys::Oid {
    if known == pg_sys::InvalidOid { opcode(operator) } else { known }
}

/// The function of an operator; zero where there is no such operator.
fn opcode(operator: pg_sys::Oid) -> pg_sys::Oid {
    // SAFETY: called inside a transaction.
    unsafe { raw::get_opcode(operator) }
}

/// A function that is called on arguments.
struct Call {
    function: pg_sys::Oid,
    arguments: *mut pg_sys::List,
    collation: pg_sys::Oid,
    what: As,
    /// For each element of the second argument.
    is_for_elements: bool,
}

impl Call {
    fn new(function: pg_sys::Oid, arguments: *mut pg_sys::List, collation: pg_sys::Oid, what: As) -> Call {
        Call { function, arguments, collation, what, is_for_elements: false }
    }

    unsafe fn holds(&self) -> bool {
        // SAFETY: a list of nodes.
        unsafe {
            let Some(function) = function(self.function) else { return false };
            let is_of_rows = raw::contain_var_clause(self.arguments.cast());
            let is_good = function.is_leakproof
                || if is_of_rows { self.tells_nothing(&function) } else { self.is_same_again(&function) };
            let inside = if self.what == As::AnyRow { As::AnyRow } else { As::Key };
            if !is_good || !all(self.arguments, inside) {
                return false;
            }
            // A collation that the server has in another version than the one it was made for, PostgreSQL tells of when it is first used: here,
            // and not where there is a row.
            if self.collation != pg_sys::InvalidOid {
                raw::pg_newlocale_from_collation(self.collation);
            }
            true
        }
    }

    /// Whether it may be called on rows.
    unsafe fn tells_nothing(&self, function: &Function) -> bool {
        // SAFETY: a list of nodes.
        unsafe {
            if let Some(check) = function.check() {
                return self.passes(check);
            }
            match self.what {
                As::Condition => false,
                As::Key => self.is_flat(function) || function.takes_any,
                As::AnyRow => function.takes_any,
            }
        }
    }

    /// Whether it is one of PostgreSQL's own that gives the same again, and does not call itself as deep as a value goes.
    unsafe fn is_flat(&self, function: &Function) -> bool {
        // SAFETY: arguments are nodes.
        unsafe {
            let is_deep = || DEEP.contains(&function.returns) || !self.types(|kind| !DEEP.contains(&kind));
            function.is_built_in() && function.is_immutable && (!is_deep() || function.is_flat)
        }
    }

    /// Whether it can be called on what is no row once, or as often as there are rows: it is, where a row is looked at once more.
    unsafe fn is_same_again(&self, function: &Function) -> bool {
        // SAFETY: a list of nodes.
        unsafe {
            self.is_flat(function)
                || function.makes_queries
                || function.is_built_in()
                    && self.types(|kind| PLAIN.contains(&kind))
                    && PLAIN.contains(&function.returns)
        }
    }

    unsafe fn passes(&self, check: Check) -> bool {
        // SAFETY: arguments are nodes; a constant of a type with a length has one.
        unsafe {
            match check {
                Check::Nothing => true,
                Check::Collation => self.is_deterministic(),
                _ if self.is_for_elements => false,
                Check::Like => self.is_deterministic() && self.known(is_calm_like),
                Check::Regex => self.is_deterministic() && self.known(is_calm_regex),
                Check::Query => self.known(|bytes| bytes.len() <= LONGEST),
                Check::QueryAt(place) => self.is_known_at(place),
                Check::Path => self.is_known_at(1) && self.is_calm_path(),
                Check::Array => self.types(|kind| match pg_sys::get_element_type(kind) {
                    pg_sys::InvalidOid => true,
                    element => compares_well(element),
                }),
                Check::Range => self.types(|kind| range_compares_well(kind)),
            }
        }
    }

    unsafe fn is_deterministic(&self) -> bool {
        // SAFETY: called inside a transaction.
        unsafe {
            match self.collation {
                // Bytes have none; text without one is an error, which PostgreSQL raises when it comes to a row.
                pg_sys::InvalidOid => self.types(|kind| kind == pg_sys::BYTEAOID),
                collation => raw::get_collation_isdeterministic(collation),
            }
        }
    }

    unsafe fn types(&self, each: impl Fn(pg_sys::Oid) -> bool) -> bool {
        // SAFETY: arguments are nodes.
        unsafe { entries(self.arguments).iter().all(|cell| each(raw::exprType(cell.ptr_value.cast()))) }
    }

    /// Whether what columns are compared with is known now and is what `test` asks for.
    unsafe fn known(&self, test: impl Fn(&[u8]) -> bool) -> bool {
        // SAFETY: arguments are nodes.
        unsafe {
            let mut known = entries(self.arguments)
                .iter()
                .map(|cell| cell.ptr_value.cast::<pg_sys::Node>())
                .filter(|argument| !raw::contain_var_clause(*argument))
                .peekable();
            known.peek().is_some() && known.all(|argument| constant(argument).is_some_and(&test))
        }
    }

    /// Whether an argument is known now, and small.
    unsafe fn is_known_at(&self, place: usize) -> bool {
        // SAFETY: arguments are nodes.
        unsafe {
            let argument = entries(self.arguments).get(place);
            argument
                .and_then(|cell| constant(cell.ptr_value.cast()))
                .is_some_and(|bytes| bytes.len() <= LONGEST)
        }
    }

    unsafe fn is_calm_path(&self) -> bool {
        // SAFETY: `known` has found constants; one of that type is printed by its function.
        unsafe {
            // Strings are compared in UTF-8, in which not every character of other encodings has a place.
            let encoding = pg_sys::GetDatabaseEncoding();
            let is_utf8 = encoding == pg_sys::pg_enc::PG_UTF8 as c_int;
            if !is_utf8 && encoding != pg_sys::pg_enc::PG_SQL_ASCII as c_int {
                return false;
            }
            entries(self.arguments).iter().all(|cell| {
                let constant = cell.ptr_value.cast::<pg_sys::Const>();
                let is_path = (*constant).xpr.type_ == pg_sys::NodeTag::T_Const
                    && (*constant).consttype == pg_sys::JSONPATHOID;
                !is_path || {
                    let printer = pg_sys::Oid::from(pg_sys::F_JSONPATH_OUT);
                    let text = pg_sys::OidOutputFunctionCall(printer, (*constant).constvalue);
                    is_calm_path(CStr::from_ptr(text).to_bytes())
                }
            })
        }
    }
}

/// The bytes of a value that is known: a constant, or a text search query made of constants by a function of PostgreSQL's own.
unsafe fn constant<'a>(node: *mut pg_sys::Node) -> Option<&'a [u8]> {
    // SAFETY: the tag of a node tells its type; a value without a fixed length has one of its own.
    unsafe {
        match (*node).type_ {
            pg_sys::NodeTag::T_Const => {
                let constant = node.cast::<pg_sys::Const>();
                if (*constant).constisnull || (*constant).constlen != -1 {
                    return None;
                }
                let value = pg_sys::pg_detoast_datum_packed((*constant).constvalue.cast_mut_ptr());
                let bytes = pgrx::varlena::vardata_any(value).cast::<u8>();
                Some(std::slice::from_raw_parts(bytes, pgrx::varlena::varsize_any_exhdr(value)))
            }
            pg_sys::NodeTag::T_RelabelType => constant((*node.cast::<pg_sys::RelabelType>()).arg.cast()),
            // Never much longer than the text.
            pg_sys::NodeTag::T_FuncExpr => {
                let call = node.cast::<pg_sys::FuncExpr>();
                let function = function((*call).funcid)?;
                match entries((*call).args) {
                    [text] if function.makes_queries => constant(text.ptr_value.cast()),
                    _ => None,
                }
            }
            _ => None,
        }
    }
}

/// Whether values of a type are compared by functions that are trusted.
unsafe fn compares_well(kind: pg_sys::Oid) -> bool {
    // SAFETY: a type that exists; entries of the cache live as long as the backend.
    unsafe {
        let flags = pg_sys::TYPECACHE_EQ_OPR | pg_sys::TYPECACHE_CMP_PROC;
        let entry = pg_sys::lookup_type_cache(kind, flags as c_int);
        let is_good = |number: pg_sys::Oid| function(number).is_some_and(|function| function.is_plain());
        // Without one of them, arrays are not compared: an error, where there is a row.
        is_good(opcode((*entry).eq_opr)) && is_good((*entry).cmp_proc)
    }
}

/// The same of the bounds of a range or multirange; any other type is a bound that it is compared with.
unsafe fn range_compares_well(kind: pg_sys::Oid) -> bool {
    // SAFETY: as above; of a type that is no range, there is no information on ranges.
    unsafe {
        let range = range_of(kind);
        if (*range).rngelemtype.is_null() {
            return true;
        }
        // See `Call::holds`: a range has a collation of its own.
        if (*range).rng_collation != pg_sys::InvalidOid {
            raw::pg_newlocale_from_collation((*range).rng_collation);
        }
        let number = (*range).rng_cmp_proc_finfo.fn_oid;
        function(number).is_some_and(|function| function.is_plain())
    }
}
