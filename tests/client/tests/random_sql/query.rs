//! Random queries. Everything that can be read has the same columns, `id tenant_id q n s d a`, so that each can stand where
//! another does: a table, a partition, a view, a function, a subquery, a common table expression.

use crate::canary::{self, Ids, TENANTS};
use tenancy_client_tests::random::Random;

/// What may be named in an expression: the alias of a relation, and whether it is a table with system columns.
#[derive(Clone)]
pub struct Name {
    pub alias: String,
    pub is_table: bool,
}

pub struct Generator {
    pub random: Random,
    pub ids: Ids,
    pub tenant: usize,
    /// Only what gives one and the same result to whoever may see the same rows: for comparison with a filter.
    pub pure: bool,
    /// Nothing that writes, or that names values of this tenant's own to return.
    pub reads: bool,
    ctes: Vec<String>,
    count: usize,
}

/// What is read by name. In braces: what a comparison puts a filter in place of.
const READ: [&str; 17] = [
    "{acct}",
    "{line}",
    "{price}",
    "{journal}",
    "{event}",
    "{asset}",
    "{car}",
    "{event_low}",
    "{event_high}",
    "{only asset}",
    "{v_own}",
    "{v_invoker}",
    "v_barrier",
    "rows_sql()",
    "rows_definer()",
    "rows_plpgsql()",
    "(SELECT c.id, NULL::text AS tenant_id, c.q, c.n, c.s, c.d, c.a FROM currency c)",
];
/// So many of those have system columns, and as many are equal to a filter.
const TABLES: usize = 10;
const PURE: usize = 12;

pub fn columns(alias: &str) -> String {
    format!(
        "{alias}.id, {alias}.tenant_id::text AS tenant_id, {alias}.q, {alias}.n, {alias}.s, {alias}.d, {alias}.a"
    )
}

impl Generator {
    pub fn new(seed: u64, ids: Ids) -> Generator {
        Generator {
            random: Random::new(seed),
            ids,
            tenant: 0,
            pure: false,
            reads: false,
            ctes: Vec::new(),
            count: 0,
        }
    }

    pub fn alias(&mut self) -> String {
        self.count += 1;
        format!("x{}", self.count)
    }

    /// Begins a statement.
    pub fn fresh(&mut self) {
        self.ctes.clear();
        self.count = 0;
        self.reads = false;
    }

    /// A tenant: mostly another one.
    pub fn any_tenant(&mut self) -> usize {
        self.random.below(TENANTS)
    }

    fn other_tenant(&mut self) -> usize {
        (self.tenant + 1 + self.random.below(TENANTS - 1)) % TENANTS
    }

    /// A text that somebody's row may have, to compare with; never to return.
    fn probe(&mut self) -> String {
        let (tenant, row) = (self.any_tenant(), self.random.below(14));
        format!("'{}'", canary::text(tenant, row))
    }

    pub fn text(&mut self, scope: &[Name], depth: usize) -> String {
        let x = &scope[self.random.below(scope.len())].clone();
        let alias = &x.alias;
        let deep = usize::from(depth > 0);
        match self.random.weighted(&[
            12,
            4,
            4,
            2,
            3,
            2,
            2,
            2,
            2 * deep,
            2 * deep,
            3 * deep,
            2 * deep,
            2,
            1,
            1,
            2 * usize::from(x.is_table),
        ]) {
            0 => format!("{alias}.s"),
            1 => format!("{alias}.tenant_id::text"),
            2 => format!("{alias}.n::text"),
            3 => format!("{alias}.id::text"),
            4 => format!("({alias}.d ->> 'k')"),
            5 => format!("{alias}.a[1]"),
            6 => format!("{alias}::text"),
            7 => format!(
                "{}({alias}.s)",
                self.random.pick(&["upper", "reverse", "initcap", "btrim", "quote_literal"])
            ),
            8 => format!("concat({}, '/', {})", self.text(scope, depth - 1), self.text(scope, depth - 1)),
            9 => format!("coalesce(nullif({}, 'zz1'), 'zz2')", self.text(scope, depth - 1)),
            10 => {
                let inner = self.source(depth - 1, scope);
                let of = self.text(&inner.1, 0);
                let how = self.random.pick(&["max", "min"]);
                format!("(SELECT {how}({of}) FROM {} WHERE {})", inner.0, self.condition(&inner.1, depth - 1))
            }
            11 => {
                let (when, then) = (self.condition(scope, depth - 1), self.text(scope, depth - 1));
                format!("CASE WHEN {when} THEN {then} ELSE {alias}.s END")
            }
            12 => format!("(to_jsonb({alias}) ->> 's')"),
            13 => format!("row_to_json({alias})::text"),
            14 => format!("array_to_string({alias}.a, ',')"),
            _ if self.pure => format!("{alias}.s"),
            _ => format!(
                "{alias}.{}",
                self.random.pick(&["ctid::text", "tableoid::regclass::text", "xmin::text"])
            ),
        }
    }

    /// An expression of any type.
    fn any(&mut self, scope: &[Name], depth: usize) -> String {
        let alias = &scope[self.random.below(scope.len())].alias.clone();
        match self.random.weighted(&[8, 2, 2, 2, 2, 2, 1, 1, 1]) {
            0 => self.text(scope, depth),
            1 => format!("{alias}.id"),
            2 => format!("{alias}.n"),
            3 => format!("{alias}.q"),
            4 => format!("{alias}.d"),
            5 => format!("{alias}.a"),
            6 => alias.clone(),
            7 => format!("jsonb_path_query_first({alias}.d, '$.t[*]')"),
            _ => format!("({})", self.condition(scope, depth.min(1))),
        }
    }

    pub fn condition(&mut self, scope: &[Name], depth: usize) -> String {
        let x = scope[self.random.below(scope.len())].clone();
        let y = scope[self.random.below(scope.len())].alias.clone();
        let alias = &x.alias;
        let deep = 2 * usize::from(depth > 0);
        let impure = usize::from(!self.pure);
        let choice = self.random.weighted(&[
            4,
            3,
            2,
            4,
            2,
            2,
            2,
            2,
            2,
            2,
            2,
            deep,
            deep,
            deep,
            2,
            2,
            5 * impure,
            3 * impure,
            3 * impure,
            impure,
            impure,
            impure * usize::from(x.is_table),
            2 * impure * usize::from(x.is_table),
            2 * impure * usize::from(x.is_table),
        ]);
        match choice {
            0 => format!("{alias}.s = {}", self.probe()),
            1 => format!("{alias}.s LIKE {}", self.random.pick(&["'kqx%'", "'%-r1%'", "'%qx%'", "'zz%'"])),
            2 => format!("lower({alias}.s) = {}", self.probe()),
            3 => format!("{alias}.q {} {}", self.random.pick(&["=", "<", ">=", "<>"]), self.random.below(10)),
            4 => format!("{alias}.n > {}", canary::number(self.tenant, 0) + self.random.below(14) as i64),
            5 => format!("{alias}.d @> jsonb_build_object('k', {})", self.probe()),
            6 => format!("{alias}.d ? '{}'", self.random.pick(&["k", "n", "none"])),
            7 => format!("{alias}.a {} ARRAY[{}]", self.random.pick(&["@>", "&&", "<@"]), self.probe()),
            8 => {
                let tenant = self.any_tenant();
                format!("{alias}.tenant_id::text = '{}'", self.ids.id(tenant))
            }
            9 => format!("to_tsvector('simple', {alias}.s) @@ to_tsquery('simple', 'r1 | kqxbet | r3')"),
            10 => format!("{alias}.s ~ {}", self.random.pick(&["'^kqx.*[0-9]$'", "'-r[1-4]'", "'bet|gam'"])),
            11 => {
                let inner = self.source(depth - 1, scope);
                let column = self.random.pick(&["id", "n", "s", "q"]);
                let of = self.random.below(inner.1.len());
                let not = self.random.pick(&["", "", "NOT "]);
                format!(
                    "{alias}.{column} {not}IN (SELECT {}.{column} FROM {} WHERE {})",
                    inner.1[of].alias,
                    inner.0,
                    self.condition(&inner.1, depth - 1)
                )
            }
            12 => {
                let inner = self.source(depth - 1, scope);
                let mut both = inner.1.clone();
                both.extend_from_slice(scope);
                let not = self.random.pick(&["", "", "NOT "]);
                format!("{not}EXISTS (SELECT FROM {} WHERE {})", inner.0, self.condition(&both, depth - 1))
            }
            13 => {
                let (one, two) = (self.condition(scope, depth - 1), self.condition(scope, depth - 1));
                let how = self.random.pick(&["AND", "OR", "AND NOT"]);
                format!("({one} {how} {two})")
            }
            14 => format!("{alias}.q = {y}.q"),
            15 => format!("({alias}.s, {alias}.n) >= ({}, 0)", self.probe()),
            16 => format!("tell({alias}.s)"),
            17 => format!("{alias}.s === {}", self.probe()),
            // Nobody's own rows have that number: an error tells of a row that is not theirs.
            18 => {
                let number = canary::number(self.other_tenant(), self.random.below(12));
                format!("1 / ({alias}.n - {number}) IS NOT NULL")
            }
            19 => format!("{alias}.{}::integer > 0", self.random.pick(&["s", "d", "n"])),
            20 => "random() < 0.7".to_owned(),
            // The tenant when the plan starts, and another when rows are read.
            22 => {
                let (tenant, other) = (self.tenant, self.other_tenant());
                let cast = match self.ids {
                    Ids::Text => "",
                    Ids::Uuid => self.random.pick(&["::uuid", "::uuid", ""]),
                    Ids::Bigint => self.random.pick(&["::bigint", "::bigint", ""]),
                    Ids::Integer => self.random.pick(&["::integer", "::integer", ""]),
                };
                let value = format!(
                    "coalesce(nullif(current_setting('app.flip', true), ''), '{}')",
                    self.ids.id(tenant)
                );
                let value = self.random.pick(&["current_setting('app.flip', true)", &value]).to_owned();
                format!(
                    "({alias}.tenant_id = {}({value}){cast} AND set_config('app.flip', '{}', true) IS NOT NULL)",
                    self.random.pick(&["", "concat"]),
                    self.ids.id(other)
                )
            }
            // Its first part is true of no row but another's, and cheaper than the last. Without the second, an AND within an OR goes on
            // with the row of NULLs that an outer join makes; and of a table of an outer query, it would be asked elsewhere than the last.
            23 => {
                let (other, row) = (self.other_tenant(), self.random.below(12));
                let (text, alias) = (canary::text(other, row), &scope[0].alias);
                format!("({alias}.s = '{text}' AND {alias}.s IS NOT NULL AND 1 / zero() IS NOT NULL)")
            }
            _ => {
                format!("{alias}.ctid {} '(0,{})'", self.random.pick(&[">", "<", "="]), self.random.below(9))
            }
        }
    }

    /// A relation with its alias. It may name what is in `outer`, where it is LATERAL.
    fn relation(&mut self, depth: usize, outer: &[Name]) -> (String, Name) {
        let alias = self.alias();
        let deep = usize::from(depth > 0);
        let choice =
            self.random.weighted(&[8, 3 * deep, 2 * deep * usize::from(!outer.is_empty()), 2 * deep, 1, 3]);
        let (text, is_table) = match choice {
            1 => (format!("({})", self.seven(depth - 1, &[])), false),
            2 => (format!("LATERAL ({})", self.seven(depth - 1, outer)), false),
            3 => {
                let how = self.random.pick(&["UNION ALL", "UNION", "INTERSECT", "EXCEPT", "EXCEPT ALL"]);
                let (one, two) = (self.seven(depth - 1, &[]), self.seven(depth - 1, &[]));
                (format!("(({one}) {how} ({two}))"), false)
            }
            4 => (
                "(SELECT g AS id, NULL::text AS tenant_id, g AS q, g::bigint AS n, 'zz' || g AS s, '{}'::jsonb AS d,
                 ARRAY['zz'] AS a FROM generate_series(1, 3) g)"
                    .to_owned(),
                false,
            ),
            5 if !self.ctes.is_empty() => (self.ctes[self.random.below(self.ctes.len())].clone(), false),
            _ => {
                let place = self.random.below(if self.pure { PURE } else { READ.len() });
                let sampled = !self.pure && place < TABLES && self.random.chance(8);
                let sample = match (sampled, self.random.chance(50)) {
                    (false, _) => "",
                    (_, true) => " TABLESAMPLE BERNOULLI (60)",
                    (_, false) => " TABLESAMPLE SYSTEM (90) REPEATABLE (7)",
                };
                // The sample comes after the alias.
                let name = Name { alias: alias.clone(), is_table: place < TABLES };
                return (format!("{} AS {alias}{sample}", READ[place]), name);
            }
        };
        (format!("{text} AS {alias}"), Name { alias, is_table })
    }

    /// What follows FROM, and its names.
    pub fn source(&mut self, depth: usize, outer: &[Name]) -> (String, Vec<Name>) {
        let (mut text, name) = self.relation(depth, outer);
        let mut names = vec![name];
        let more = self.random.weighted(&[6, 3, usize::from(depth > 1)]);
        for _ in 0..more {
            let visible: Vec<_> = names.iter().chain(outer).cloned().collect();
            let (right, name) = self.relation(depth.saturating_sub(1), &visible);
            // LATERAL refers to the left only where the join is no RIGHT or FULL one.
            let joins = if right.starts_with("LATERAL") {
                &["JOIN", "LEFT JOIN"][..]
            } else {
                &["JOIN", "JOIN", "LEFT JOIN", "RIGHT JOIN", "FULL JOIN"]
            };
            let left = names[self.random.below(names.len())].alias.clone();
            let on = match self.random.below(5) {
                0 => format!("{left}.id = {}.id", name.alias),
                1 => format!("{left}.s = {}.s", name.alias),
                2 => format!("{left}.n = {}.n AND {left}.q = {}.q", name.alias, name.alias),
                _ => format!("{left}.q = {}.q", name.alias),
            };
            text = format!("{text} {} {right} ON {on}", self.random.pick(joins));
            names.push(name);
        }
        (text, names)
    }

    /// A query with the seven columns.
    pub fn seven(&mut self, depth: usize, outer: &[Name]) -> String {
        let (source, names) = self.source(depth, outer);
        let visible: Vec<_> = names.iter().chain(outer).cloned().collect();
        let alias = &names[self.random.below(names.len())].alias.clone();
        let mut list = columns(alias);
        if self.random.chance(30) {
            let text = self.text(&visible, depth.min(1));
            list = list.replace(&format!("{alias}.s,"), &format!("{text} AS s,"));
        }
        let distinct = if self.random.chance(10) { "DISTINCT " } else { "" };
        let mut query =
            format!("SELECT {distinct}{list} FROM {source} WHERE {}", self.condition(&visible, depth));
        if !self.pure && self.random.chance(15) {
            query += &format!(" ORDER BY {alias}.q LIMIT {}", 1 + self.random.below(20));
        }
        query
    }

    /// Common table expressions that may follow, or none.
    fn with(&mut self, depth: usize) -> String {
        let count = self.random.weighted(&[6, 3, 1]);
        let mut parts = Vec::new();
        for _ in 0..count {
            let name = format!("c{}", self.ctes.len() + 1);
            let how = self.random.pick(&["AS", "AS MATERIALIZED", "AS NOT MATERIALIZED"]);
            let body = match self.random.weighted(&[
                6,
                usize::from(!self.pure),
                usize::from(!self.pure && !self.reads) * 3,
            ]) {
                0 => self.seven(depth, &[]),
                1 => {
                    let one = self.seven(0, &[]);
                    format!(
                        "(SELECT y.* FROM ({one}) y LIMIT 5) UNION (SELECT r.id, r.tenant_id, r.q, r.n, r.s, r.d, r.a FROM {{acct}} r
                         JOIN {name} ON r.q = {name}.q + 1 LIMIT 9)"
                    )
                    .replace("r.tenant_id", "r.tenant_id::text")
                }
                _ => self.write(depth.min(1), true),
            };
            // What calls itself is RECURSIVE, what writes cannot be inlined.
            let how =
                if how.ends_with("NOT MATERIALIZED") && !body.starts_with("SELECT") { "AS" } else { how };
            parts.push(format!("{name} {how} ({body})"));
            self.ctes.push(name);
        }
        if parts.is_empty() { String::new() } else { format!("WITH RECURSIVE {} ", parts.join(", ")) }
    }

    /// A whole query.
    pub fn select(&mut self, depth: usize) -> String {
        let with = self.with(depth);
        let (source, names) = self.source(depth, &[]);
        let condition = self.condition(&names, depth);
        let alias = names[self.random.below(names.len())].clone();
        let x = &alias.alias;
        let pure = usize::from(self.pure);
        let body = match self.random.weighted(&[10, 4, 3, 3 - pure * 3, 3, 3 - 3 * pure, 2]) {
            0 => {
                let count = 1 + self.random.below(4);
                let list: Vec<_> = (0..count).map(|_| self.any(&names, depth)).collect();
                format!("SELECT {} FROM {source} WHERE {condition}", list.join(", "))
            }
            1 => {
                let of = self.text(&names, depth.min(1));
                format!(
                    "SELECT {x}.q, count(*), min({of}), max({x}.n), array_agg({x}.s ORDER BY {x}.s), sum({x}.n),
                     count(*) FILTER (WHERE {condition}) FROM {source} GROUP BY {x}.q"
                )
            }
            2 => {
                let of = self.text(&names, 0);
                format!(
                    "SELECT {x}.s, rank() OVER (PARTITION BY {x}.q ORDER BY {x}.n), max({of}) OVER (PARTITION BY {x}.q),
                     count(*) OVER () FROM {source} WHERE {condition}"
                )
            }
            3 => {
                let lock = self.random.pick(&["FOR UPDATE", "FOR SHARE", "FOR KEY SHARE", "FOR NO KEY UPDATE"]);
                let wait = self.random.pick(&["", " SKIP LOCKED", " NOWAIT"]);
                let place = self.random.below(TABLES);
                let name = Name { alias: x.clone(), is_table: true };
                let condition = self.condition(&[name], depth);
                format!("SELECT {x}.*, {x}.ctid FROM {} AS {x} WHERE {condition} {lock}{wait}", READ[place])
            }
            4 => {
                let how = self.random.pick(&["UNION ALL", "UNION", "EXCEPT", "INTERSECT"]);
                let (one, two) = (self.seven(depth, &[]), self.seven(depth.min(1), &[]));
                format!("({one}) {how} ({two})")
            }
            5 => {
                format!(
                    "SELECT DISTINCT ON ({x}.q) {x}.*, lag({x}.s) OVER (ORDER BY {x}.n) FROM {source} WHERE {condition}
                     ORDER BY {x}.q, {x}.s LIMIT {} OFFSET {}",
                    self.random.below(30),
                    self.random.below(3)
                )
            }
            _ => format!(
                "SELECT {x}.q, {x}.tenant_id::text, jsonb_agg({x}.d ORDER BY {x}.d), string_agg({x}.s, ',' ORDER BY {x}.s),
                 grouping({x}.q) FROM {source} WHERE {condition} GROUP BY GROUPING SETS (({x}.q), ({x}.tenant_id::text), ())"
            ),
        };
        format!("{with}{body}")
    }
}
