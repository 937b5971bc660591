//! The operators that tell nothing of a row besides their result, by the symbols of their functions.
//!
//! What a function may not do: raise an error for some values and not for others, report or write anything. Each group says why its functions
//! do not; docs/index_pushdown.md says it at length, and tests/integration/test_index_pushdown_leaks.py tries every entry. Not in the list is
//! what fails that: circles, polygons and lines (floating point overflow), adjacency of ranges (the next integer overflows), record comparison
//! (calls what its columns have), intarray (an error for a null element), json, xml.
//!
//! Idea: src/backend/utils/adt of PostgreSQL, where `proleakproof` is set by the same argument for types that need no such conditions.

use std::cell::OnceCell;
use std::collections::HashMap;

use crate::pg::leakproof::Check;

/// A function that is trusted.
#[derive(Clone, Copy)]
pub struct Entry {
    pub library: &'static str,
    pub symbol: &'static str,
    pub group: &'static str,
    pub check: Check,
}

/// Library, group, condition, and symbols.
type Group = (&'static str, &'static str, Check, &'static [&'static str]);

const GROUPS: &[Group] = &[
    // Digits are compared; nothing is computed that could overflow.
    (
        "",
        "numeric",
        Check::Nothing,
        &["numeric_eq", "numeric_ne", "numeric_lt", "numeric_le", "numeric_gt", "numeric_ge", "numeric_cmp"],
    ),
    // What is out of the other type's range counts as infinity since PostgreSQL 13.
    (
        "",
        "dates and times of different types",
        Check::Nothing,
        &[
            "date_eq_timestamp",
            "date_ne_timestamp",
            "date_lt_timestamp",
            "date_le_timestamp",
            "date_gt_timestamp",
            "date_ge_timestamp",
            "date_eq_timestamptz",
            "date_ne_timestamptz",
            "date_lt_timestamptz",
            "date_le_timestamptz",
            "date_gt_timestamptz",
            "date_ge_timestamptz",
            "timestamp_eq_date",
            "timestamp_ne_date",
            "timestamp_lt_date",
            "timestamp_le_date",
            "timestamp_gt_date",
            "timestamp_ge_date",
            "timestamptz_eq_date",
            "timestamptz_ne_date",
            "timestamptz_lt_date",
            "timestamptz_le_date",
            "timestamptz_gt_date",
            "timestamptz_ge_date",
            "timestamp_eq_timestamptz",
            "timestamp_ne_timestamptz",
            "timestamp_lt_timestamptz",
            "timestamp_le_timestamptz",
            "timestamp_gt_timestamptz",
            "timestamp_ge_timestamptz",
            "timestamptz_eq_timestamp",
            "timestamptz_ne_timestamp",
            "timestamptz_lt_timestamp",
            "timestamptz_le_timestamp",
            "timestamptz_gt_timestamp",
            "timestamptz_ge_timestamp",
        ],
    ),
    // Labels are compared by their place, which is in the catalog for every value that a column can hold.
    (
        "",
        "enum",
        Check::Nothing,
        &["enum_eq", "enum_ne", "enum_lt", "enum_le", "enum_gt", "enum_ge", "enum_cmp"],
    ),
    // Bits are compared.
    (
        "",
        "network addresses",
        Check::Nothing,
        &["network_overlap", "network_sub", "network_subeq", "network_sup", "network_supeq"],
    ),
    // The functions of bigint, which are leakproof, under the operators of other types (isn).
    ("", "bigint", Check::Nothing, &["int8eq", "int8ne", "int8lt", "int8le", "int8gt", "int8ge"]),
    // Coordinates are compared, and nothing is computed of them that could overflow.
    (
        "",
        "boxes and points",
        Check::Nothing,
        &[
            "box_above",
            "box_below",
            "box_contain",
            "box_contain_pt",
            "box_contained",
            "box_left",
            "box_overabove",
            "box_overbelow",
            "box_overlap",
            "box_overleft",
            "box_overright",
            "box_right",
            "box_same",
            "on_pb",
            "point_above",
            "point_below",
            "point_eq",
            "point_left",
            "point_right",
        ],
    ),
    // Elements are compared by the functions of their type.
    (
        "",
        "arrays",
        Check::Array,
        &[
            "array_eq",
            "array_ne",
            "array_lt",
            "array_le",
            "array_gt",
            "array_ge",
            "array_cmp",
            "btarraycmp",
            "arraycontained",
            "arraycontains",
            "arrayoverlap",
        ],
    ),
    // Bounds are compared by the function of the subtype; the canonical form of a range is not asked for.
    (
        "",
        "ranges",
        Check::Range,
        &[
            "range_eq",
            "range_ne",
            "range_lt",
            "range_le",
            "range_gt",
            "range_ge",
            "range_cmp",
            "range_before",
            "range_after",
            "range_overlaps",
            "range_overleft",
            "range_overright",
            "range_contains",
            "range_contained_by",
            "range_contains_elem",
            "elem_contained_by_range",
            "range_before_multirange",
            "range_after_multirange",
            "range_overlaps_multirange",
            "range_overleft_multirange",
            "range_overright_multirange",
            "range_contains_multirange",
            "range_contained_by_multirange",
            "multirange_eq",
            "multirange_ne",
            "multirange_lt",
            "multirange_le",
            "multirange_gt",
            "multirange_ge",
            "multirange_cmp",
            "multirange_before_range",
            "multirange_before_multirange",
            "multirange_after_range",
            "multirange_after_multirange",
            "multirange_overlaps_range",
            "multirange_overlaps_multirange",
            "multirange_overleft_range",
            "multirange_overleft_multirange",
            "multirange_overright_range",
            "multirange_overright_multirange",
            "multirange_contains_elem",
            "elem_contained_by_multirange",
            "multirange_contains_range",
            "multirange_contains_multirange",
            "multirange_contained_by_range",
            "multirange_contained_by_multirange",
        ],
    ),
    // A walk over both values, which calls itself as deep as the one that is searched for.
    (
        "",
        "jsonb",
        Check::Query,
        &["jsonb_contains", "jsonb_contained", "jsonb_exists_any", "jsonb_exists_all"],
    ),
    (
        "",
        "jsonb",
        Check::Nothing,
        &[
            "jsonb_exists",
            "jsonb_eq",
            "jsonb_ne",
            "jsonb_lt",
            "jsonb_le",
            "jsonb_gt",
            "jsonb_ge",
            "jsonb_cmp",
        ],
    ),
    // They suppress errors of values, and not those of variables, time zones and regular expressions.
    ("", "jsonpath", Check::Path, &["jsonb_path_exists_opr", "jsonb_path_match_opr"]),
    // Lexemes are compared. What a text is made a tsvector with, reports words that are too long: to nobody, in the scan of an index.
    ("", "full text", Check::QueryAt(1), &["ts_match_vq"]),
    ("", "full text", Check::QueryAt(0), &["ts_match_qv"]),
    (
        "",
        "full text",
        Check::Nothing,
        &[
            "tsvector_eq",
            "tsvector_ne",
            "tsvector_lt",
            "tsvector_le",
            "tsvector_gt",
            "tsvector_ge",
            "tsvector_cmp",
        ],
    ),
    ("", "LIKE", Check::Like, &["textlike", "texticlike", "namelike", "nameiclike", "bytealike"]),
    ("", "LIKE", Check::Collation, &["text_starts_with"]),
    (
        "",
        "regular expressions",
        Check::Regex,
        &["textregexeq", "texticregexeq", "nameregexeq", "nameicregexeq"],
    ),
    // Sets of trigrams are compared with a threshold. Those of words take room for the trigrams of both sides together.
    ("pg_trgm", "trigrams", Check::Nothing, &["similarity_op"]),
    (
        "pg_trgm",
        "trigrams",
        Check::Query,
        &[
            "word_similarity_op",
            "word_similarity_commutator_op",
            "strict_word_similarity_op",
            "strict_word_similarity_commutator_op",
        ],
    ),
    // Folded to lower case, then compared as text is.
    (
        "citext",
        "citext",
        Check::Nothing,
        &[
            "citext_eq",
            "citext_ne",
            "citext_lt",
            "citext_le",
            "citext_gt",
            "citext_ge",
            "citext_cmp",
            "citext_pattern_lt",
            "citext_pattern_le",
            "citext_pattern_gt",
            "citext_pattern_ge",
            "citext_pattern_cmp",
        ],
    ),
    // Sorted keys are compared.
    (
        "hstore",
        "hstore",
        Check::Nothing,
        &[
            "hstore_contains",
            "hstore_contained",
            "hstore_exists",
            "hstore_eq",
            "hstore_ne",
            "hstore_lt",
            "hstore_le",
            "hstore_gt",
            "hstore_ge",
            "hstore_cmp",
        ],
    ),
    ("hstore", "hstore", Check::Query, &["hstore_exists_any", "hstore_exists_all"]),
    // Labels are compared; queries are matched with recursion over the query.
    (
        "ltree",
        "ltree",
        Check::Nothing,
        &[
            "ltree_isparent",
            "ltree_risparent",
            "ltree_eq",
            "ltree_ne",
            "ltree_lt",
            "ltree_le",
            "ltree_gt",
            "ltree_ge",
            "ltree_cmp",
        ],
    ),
    ("ltree", "ltree", Check::QueryAt(1), &["ltq_regex", "ltxtq_exec"]),
    ("ltree", "ltree", Check::QueryAt(0), &["ltq_rregex", "ltxtq_rexec"]),
    // Bounding boxes are compared as they are stored; the reference system is not asked for.
    (
        "postgis-3",
        "PostGIS bounding boxes",
        Check::Nothing,
        &[
            "gserialized_overlaps_2d",
            "gserialized_contains_2d",
            "gserialized_within_2d",
            "gserialized_same_2d",
            "gserialized_left_2d",
            "gserialized_right_2d",
            "gserialized_overleft_2d",
            "gserialized_overright_2d",
            "gserialized_above_2d",
            "gserialized_below_2d",
            "gserialized_overabove_2d",
            "gserialized_overbelow_2d",
            "gserialized_overlaps",
            "gserialized_contains",
            "gserialized_within",
            "gserialized_same",
        ],
    ),
];

/// All entries, in the order of the groups.
pub fn all() -> impl Iterator<Item = Entry> {
    GROUPS.iter().flat_map(|(library, group, check, symbols)| {
        symbols.iter().map(|symbol| Entry { library, symbol, group, check: *check })
    })
}

type Known = HashMap<(&'static [u8], &'static [u8]), Check>;

thread_local! {
    static KNOWN: OnceCell<Known> = const { OnceCell::new() };
}

/// What is asked of the arguments of a function, if it is in the list.
pub fn find(library: &[u8], symbol: &[u8]) -> Option<Check> {
    let known =
        || all().map(|entry| ((entry.library.as_bytes(), entry.symbol.as_bytes()), entry.check)).collect();
    KNOWN.with(|cell| cell.get_or_init(known).get(&(library, symbol)).copied())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_once() {
        assert_eq!(
            all().count(),
            KNOWN.with(|_| all()
                .map(|entry| (entry.library, entry.symbol))
                .collect::<std::collections::HashSet<_>>()
                .len())
        );
    }

    #[test]
    fn found_by_library_and_symbol() {
        assert_eq!(find(b"", b"textlike"), Some(Check::Like));
        assert_eq!(find(b"pg_trgm", b"similarity_op"), Some(Check::Nothing));
        assert_eq!(find(b"pg_trgm", b"textlike"), None);
        assert_eq!(find(b"", b"similarity_op"), None);
    }
}
