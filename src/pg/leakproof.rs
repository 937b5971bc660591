//! Whether a condition tells nothing of a row besides its result, so that it may be evaluated on one that a policy hides.
//!
//! PostgreSQL's own answer (`contain_leaked_vars`) is the LEAKPROOF mark, which few operators have: one that can raise an error for any
//! argument at all does not get it. Here each operator is looked at with its arguments. `docs/index_pushdown.md` has the reasons.
//!
//! A condition comes to an index as `<key> <operator> <value>`. The columns of the table are in the key alone, and what the key is made of was
//! computed for each row when it came into the index: so a built-in immutable function there raises no error that it has not raised before.

use std::ffi::{CStr, c_char, c_int};

use pgrx::{FromDatum, pg_sys};

use super::{statement::entries, text::Text};

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
    /// The path is known, and has nothing that raises errors.
    Path,
    /// The element type compares by functions that are trusted.
    Array,
    /// The element type of the range does.
    Range,
}

/// Says on what condition a function is trusted, if it is.
pub type Trust = fn(&Function) -> Option<Check>;

/// A function, by what cannot be copied under another name: only a superuser makes one in C.
pub struct Function {
    pub number: pg_sys::Oid,
    /// The library, empty for the server itself; and the symbol in it.
    pub symbol: Option<(Text, Text)>,
    pub is_immutable: bool,
    pub is_leakproof: bool,
}

/// The bytes that a value which is searched for may have, and characters of a pattern.
const LONGEST_QUERY: usize = 1000;
const LONGEST_PATTERN: usize = 1000;

/// What is known of a function; none where there is none.
pub fn function(number: pg_sys::Oid) -> Option<Function> {
    const INTERNAL: u32 = 12;
    const C: u32 = 13;
    let cache = pg_sys::SysCacheIdentifier::PROCOID as c_int;
    // SAFETY: the entry of the cache is held while it is read; its fixed part has these fields, and texts are copied.
    unsafe {
        let tuple = pg_sys::SearchSysCache1(cache, pg_sys::Datum::from(number));
        if tuple.is_null() {
            return None;
        }
        let row = pg_sys::GETSTRUCT(tuple).cast::<pg_sys::FormData_pg_proc>();
        let text = |column: u32| {
            let mut is_null = false;
            let datum = pg_sys::SysCacheGetAttr(cache, tuple, column as pg_sys::AttrNumber, &mut is_null);
            Text::from_datum(datum, is_null)
        };
        let library = match (*row).prolang.to_u32() {
            INTERNAL => Some(Text::of(b"")),
            C => text(pg_sys::Anum_pg_proc_probin)
                .map(|path| Text::of(path.as_bytes().strip_prefix(b"$libdir/").unwrap_or(path.as_bytes()))),
            _ => None,
        };
        let found = Function {
            number,
            symbol: library.zip(text(pg_sys::Anum_pg_proc_prosrc)),
            is_immutable: (*row).provolatile == pg_sys::PROVOLATILE_IMMUTABLE as c_char,
            is_leakproof: (*row).proleakproof,
        };
        pg_sys::ReleaseSysCache(tuple);
        Some(found)
    }
}

impl Function {
    /// One of PostgreSQL's own, in C.
    fn is_built_in(&self) -> bool {
        self.symbol.is_some() && self.number.to_u32() < pg_sys::FirstNormalObjectId
    }

    fn is(&self, symbol: &str) -> bool {
        self.is_built_in() && self.symbol.as_ref().is_some_and(|(_, its)| its.as_bytes() == symbol.as_bytes())
    }
}

/// Whether a condition may be evaluated on rows that a policy hides.
pub unsafe fn is_trusted(node: *mut pg_sys::Node, trust: Trust) -> bool {
    // SAFETY: the caller passes an expression.
    unsafe { holds(node, trust, true) }
}

/// `is_whole`: the node is the condition or a part of it that AND, OR and NOT make it of, and no argument.
unsafe fn holds(node: *mut pg_sys::Node, trust: Trust, is_whole: bool) -> bool {
    use pg_sys::NodeTag::*;
    // SAFETY: the tag of a node tells its type; lists have nodes, or numbers where said.
    unsafe {
        if node.is_null() {
            return true;
        }
        match (*node).type_ {
            T_Var | T_Const | T_Param | T_SQLValueFunction => true,
            T_List => all(node.cast(), trust, is_whole),
            T_BoolExpr => all((*node.cast::<pg_sys::BoolExpr>()).args, trust, is_whole),
            T_RestrictInfo => holds((*node.cast::<pg_sys::RestrictInfo>()).clause.cast(), trust, is_whole),
            T_RelabelType => holds((*node.cast::<pg_sys::RelabelType>()).arg.cast(), trust, false),
            T_CollateExpr => holds((*node.cast::<pg_sys::CollateExpr>()).arg.cast(), trust, false),
            T_NullTest => holds((*node.cast::<pg_sys::NullTest>()).arg.cast(), trust, false),
            T_BooleanTest => holds((*node.cast::<pg_sys::BooleanTest>()).arg.cast(), trust, false),
            T_CoalesceExpr => all((*node.cast::<pg_sys::CoalesceExpr>()).args, trust, false),
            T_ArrayExpr => all((*node.cast::<pg_sys::ArrayExpr>()).elements, trust, false),
            T_FuncExpr => {
                let call = node.cast::<pg_sys::FuncExpr>();
                let call = Call::new((*call).funcid, (*call).args, (*call).inputcollid, is_whole);
                call.holds(trust)
            }
            T_OpExpr => {
                let operation = node.cast::<pg_sys::OpExpr>();
                let function = opcode((*operation).opno);
                Call::new(function, (*operation).args, (*operation).inputcollid, is_whole).holds(trust)
            }
            T_ScalarArrayOpExpr => {
                let operation = node.cast::<pg_sys::ScalarArrayOpExpr>();
                let function = opcode((*operation).opno);
                let mut call = Call::new(function, (*operation).args, (*operation).inputcollid, is_whole);
                call.is_for_elements = true;
                call.holds(trust)
            }
            T_RowCompareExpr => {
                let row = node.cast::<pg_sys::RowCompareExpr>();
                entries((*row).opnos).iter().all(|cell| {
                    let function = function(opcode(cell.oid_value));
                    function.is_some_and(|function| is_plain(&function, trust))
                }) && all((*row).largs, trust, false)
                    && all((*row).rargs, trust, false)
            }
            _ => false,
        }
    }
}

unsafe fn all(list: *mut pg_sys::List, trust: Trust, is_whole: bool) -> bool {
    // SAFETY: a list of nodes.
    unsafe { entries(list).iter().all(|cell| holds(cell.ptr_value.cast(), trust, is_whole)) }
}

/// The function of an operator; zero where there is no such operator.
pub fn opcode(operator: pg_sys::Oid) -> pg_sys::Oid {
    // SAFETY: called inside a transaction.
    unsafe { pg_sys::get_opcode(operator) }
}

/// Whether a function is trusted with any arguments.
fn is_plain(function: &Function, trust: Trust) -> bool {
    function.is_leakproof || trust(function) == Some(Check::Nothing)
}

/// A function that is called on arguments.
struct Call {
    function: pg_sys::Oid,
    arguments: *mut pg_sys::List,
    collation: pg_sys::Oid,
    is_whole: bool,
    /// For each element of the second argument.
    is_for_elements: bool,
}

impl Call {
    fn new(
        function: pg_sys::Oid,
        arguments: *mut pg_sys::List,
        collation: pg_sys::Oid,
        is_whole: bool,
    ) -> Call {
        Call { function, arguments, collation, is_whole, is_for_elements: false }
    }

    unsafe fn holds(&self, trust: Trust) -> bool {
        // SAFETY: a list of nodes.
        unsafe {
            let Some(function) = function(self.function) else { return false };
            let is_of_rows = pg_sys::contain_var_clause(self.arguments.cast());
            let is_good = if !is_of_rows {
                // It is computed for the scan; but again where a row is looked at once more, which a function of a user's own could tell.
                function.is_leakproof || function.is_built_in()
            } else if function.is_leakproof {
                true
            } else if let Some(check) = trust(&function) {
                self.passes(check, trust)
            } else {
                !self.is_whole && function.is_built_in() && function.is_immutable
            };
            is_good && all(self.arguments, trust, false)
        }
    }

    unsafe fn passes(&self, check: Check, trust: Trust) -> bool {
        // SAFETY: arguments are nodes; a constant of a type with a length has one.
        unsafe {
            match check {
                Check::Nothing => true,
                Check::Collation => self.is_deterministic(),
                _ if self.is_for_elements => false,
                Check::Like => self.is_deterministic() && self.known(is_calm_like),
                Check::Regex => self.is_deterministic() && self.known(is_calm_regex),
                Check::Query => self.known(|bytes| bytes.len() <= LONGEST_QUERY),
                Check::Path => self.known(|bytes| bytes.len() <= LONGEST_QUERY) && self.is_calm_path(),
                Check::Array => self.types(|kind| match pg_sys::get_element_type(kind) {
                    pg_sys::InvalidOid => true,
                    element => compares_well(element, trust),
                }),
                Check::Range => self.types(|kind| range_compares_well(kind, trust)),
            }
        }
    }

    unsafe fn is_deterministic(&self) -> bool {
        // SAFETY: called inside a transaction.
        unsafe {
            self.collation != pg_sys::InvalidOid && pg_sys::get_collation_isdeterministic(self.collation)
        }
    }

    unsafe fn types(&self, each: impl Fn(pg_sys::Oid) -> bool) -> bool {
        // SAFETY: arguments are nodes.
        unsafe { entries(self.arguments).iter().all(|cell| each(pg_sys::exprType(cell.ptr_value.cast()))) }
    }

    /// Whether what columns are compared with is known now and is what `test` asks for.
    unsafe fn known(&self, test: impl Fn(&[u8]) -> bool) -> bool {
        // SAFETY: arguments are nodes.
        unsafe {
            let mut known = entries(self.arguments)
                .iter()
                .map(|cell| cell.ptr_value.cast::<pg_sys::Node>())
                .filter(|argument| !pg_sys::contain_var_clause(*argument))
                .peekable();
            known.peek().is_some() && known.all(|argument| constant(argument).is_some_and(&test))
        }
    }

    unsafe fn is_calm_path(&self) -> bool {
        // SAFETY: `known` has found constants; one of that type is printed by its function.
        unsafe {
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
            // With the configuration of the session they are not immutable; but never much longer than the text.
            pg_sys::NodeTag::T_FuncExpr => {
                let call = node.cast::<pg_sys::FuncExpr>();
                let function = function((*call).funcid)?;
                let names = ["to_tsquery", "plainto_tsquery", "phraseto_tsquery", "websearch_to_tsquery"];
                match entries((*call).args) {
                    [text] if names.iter().any(|name| function.is(name)) => constant(text.ptr_value.cast()),
                    _ => None,
                }
            }
            _ => None,
        }
    }
}

/// Whether LIKE takes a pattern whatever it is compared with: it complains of an escape character at the end, when it comes there.
fn is_calm_like(pattern: &[u8]) -> bool {
    let escapes = pattern.iter().rev().take_while(|byte| **byte == b'\\').count();
    pattern.len() <= LONGEST_PATTERN && escapes % 2 == 0
}

/// Whether a regular expression is matched by an automaton alone: without references back and lookaround, for which PostgreSQL
/// calls itself. What could be one counts as one.
fn is_calm_regex(pattern: &[u8]) -> bool {
    let mut pairs = pattern.windows(2);
    let refers_back = pairs.any(|pair| pair[0] == b'\\' && pair[1].is_ascii_digit());
    let has_option =
        pattern.windows(2).enumerate().any(|(at, pair)| pair == b"(?" && pattern.get(at + 2) != Some(&b':'));
    pattern.len() <= LONGEST_PATTERN && !refers_back && !has_option && !pattern.starts_with(b"***")
}

/// Whether a path, as it is printed, has no variables, methods and regular expressions: these raise errors where they come to a value.
fn is_calm_path(path: &[u8]) -> bool {
    let has = |what: &[u8]| path.windows(what.len()).any(|part| part == what);
    let mut calls =
        path.windows(2).enumerate().filter(|(_, pair)| pair[0] == b'.' && pair[1].is_ascii_lowercase());
    !has(b"$\"") && !has(b"like_regex") && calls.next().is_none()
}

/// Whether values of a type are compared by functions that are trusted.
unsafe fn compares_well(kind: pg_sys::Oid, trust: Trust) -> bool {
    // SAFETY: a type that exists; entries of the cache live as long as the backend.
    unsafe {
        let flags = pg_sys::TYPECACHE_EQ_OPR | pg_sys::TYPECACHE_CMP_PROC;
        let entry = pg_sys::lookup_type_cache(kind, flags as c_int);
        let is_good =
            |number: pg_sys::Oid| function(number).is_some_and(|function| is_plain(&function, trust));
        let has = |number: pg_sys::Oid| number != pg_sys::InvalidOid;
        has((*entry).eq_opr)
            && is_good(opcode((*entry).eq_opr))
            && (!has((*entry).cmp_proc) || is_good((*entry).cmp_proc))
    }
}

/// The same of the bounds of a range or multirange; any other type is a bound that it is compared with.
unsafe fn range_compares_well(kind: pg_sys::Oid, trust: Trust) -> bool {
    // SAFETY: as above; of a type that is no range, there is no information on ranges.
    unsafe {
        let flags = pg_sys::TYPECACHE_RANGE_INFO | pg_sys::TYPECACHE_MULTIRANGE_INFO;
        let entry = pg_sys::lookup_type_cache(kind, flags as c_int);
        let range = if (*entry).rngtype.is_null() { entry } else { (*entry).rngtype };
        if (*range).rngelemtype.is_null() {
            return true;
        }
        let number = (*range).rng_cmp_proc_finfo.fn_oid;
        function(number).is_some_and(|function| is_plain(&function, trust))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn like_patterns() {
        for pattern in ["", "%", "a%", "a\\%", "\\\\", "100\\%_"] {
            assert!(is_calm_like(pattern.as_bytes()), "{pattern}");
        }
        for pattern in ["\\", "a\\", "\\\\\\", "%\\"] {
            assert!(!is_calm_like(pattern.as_bytes()), "{pattern}");
        }
        assert!(!is_calm_like("%".repeat(LONGEST_PATTERN + 1).as_bytes()));
    }

    #[test]
    fn regular_expressions() {
        for pattern in ["", "a.*b", "^(?:ab|cd)+$", "\\mword\\M", "[0-9]{2,3}", "(a)(b)"] {
            assert!(is_calm_regex(pattern.as_bytes()), "{pattern}");
        }
        for pattern in ["(a)\\1", "a(?=b)", "a(?!b)", "(?<=a)b", "(?i)a", "***:a", "(?", "\\\\1"] {
            assert!(!is_calm_regex(pattern.as_bytes()), "{pattern}");
        }
    }

    #[test]
    fn paths() {
        for path in ["$.\"a\"", "$.\"a\"[*]?(@.\"b\" == 1)", "($.\"a\" > 1)", "$.*", "exists ($.\"a\")"] {
            assert!(is_calm_path(path.as_bytes()), "{path}");
        }
        for path in
            ["$\"x\"", "$.\"a\".size()", "$.\"a\"?(@ like_regex \"x\")", "$.\"a\".datetime()", "$.**.type()"]
        {
            assert!(!is_calm_path(path.as_bytes()), "{path}");
        }
    }
}
