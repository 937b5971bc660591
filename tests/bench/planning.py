"""What protection adds to planning, as ratios measured in one run: against the same query with a WHERE written by hand.

Queries that join 1, 10 and 100 tables, which all have the tenant column and an index that leads with it; then again where the database has
thousands of protected tables. Few orders of joins are tried, so that the tables are what takes the time. The time is the Planning Time of EXPLAIN; the variants take turns in one session.
"""

import re
import statistics

from support import QUICK, heading, print_results, psql, ratio, result, say

JOINED = (1, 10, 100)
ROUNDS = 20 if QUICK else 200
TABLES = 200 if QUICK else 10_000

SCHEMA = """
CREATE EXTENSION tenancy;
SELECT tenancy.create_tenant('acme');
SELECT format('CREATE TABLE hand_%1$s (id bigint PRIMARY KEY, tenant_id text NOT NULL, next_id bigint, body text);
               INSERT INTO hand_%1$s SELECT i, ''acme'', i %% 100 + 1, ''body'' FROM generate_series(1, 100) AS i;
               CREATE INDEX ON hand_%1$s (tenant_id);
               CREATE TABLE policy_%1$s (LIKE hand_%1$s INCLUDING ALL); INSERT INTO policy_%1$s TABLE hand_%1$s;
               ALTER TABLE policy_%1$s ENABLE ROW LEVEL SECURITY;
               CREATE POLICY isolation ON policy_%1$s USING (tenant_id = current_setting(''app.tenant_id''));
               CREATE TABLE ours_%1$s (LIKE hand_%1$s INCLUDING ALL); INSERT INTO ours_%1$s TABLE hand_%1$s;
               SELECT tenancy.protect(''ours_%1$s'');', n)
FROM generate_series(1, 100) AS n
\\gexec
GRANT SELECT ON ALL TABLES IN SCHEMA public TO bench_app;
GRANT SET ON PARAMETER tenancy.tenant_id TO bench_app;
VACUUM (FREEZE, ANALYZE);
"""

MORE = f"""
SELECT format('CREATE TABLE more_%1$s (id bigint PRIMARY KEY, tenant_id text NOT NULL); SELECT tenancy.protect(''more_%1$s'');', n)
FROM generate_series(1, {TABLES} - 100) AS n
\\gexec
VACUUM (FREEZE, ANALYZE);
"""


def query(variant, tables):
    joined = " ".join(f"JOIN {variant}_{n} ON {variant}_{n}.id = {variant}_{n - 1}.next_id" for n in range(2, tables + 1))
    where = [f"{variant}_{n}.tenant_id = 'acme'" for n in range(1, tables + 1)] if variant == "hand" else []
    return f"SELECT count(*) FROM {variant}_1 {joined} WHERE {' AND '.join([*where, variant + '_1.id < 10'])}"


def planning(tables):
    """Milliseconds of each variant in each round."""
    variants = ("hand", "policy", "ours")
    rounds = max(5, ROUNDS // tables)
    script = ["SET tenancy.tenant_id = 'acme'; SET app.tenant_id = 'acme';", "SET join_collapse_limit = 4;"]
    for n in range(rounds + 2):
        for variant in variants if n % 2 == 0 else reversed(variants):
            script += [f"\\echo {variant}", f"EXPLAIN (SUMMARY, COSTS OFF) {query(variant, tables)};"]
    out = psql("planning", text="\n".join(script), user="bench_app")
    taken = {variant: [] for variant in variants}
    for variant, time in re.findall(r"^(hand|policy|ours)$.*?^Planning Time: ([0-9.]+) ms$", out, re.M | re.S):
        taken[variant].append(float(time))
    # In the first two rounds the session meets its tables.
    return {variant: times[2:] for variant, times in taken.items()}


def measure(where):
    for tables in JOINED:
        say(f"queries of {tables} tables, {where} …")
        taken = planning(tables)
        for variant in ("ours", "policy"):
            result(f"{variant} : by hand, {tables} in the query, {where}", ratio(taken[variant], taken["hand"]), None, True,
                   " : ".join(f"{statistics.median(taken[v]):.3f} ms" for v in (variant, "hand")))


def main():
    psql("postgres", text="CREATE ROLE bench_app LOGIN; CREATE DATABASE planning;")
    psql("planning", text=SCHEMA)
    heading("The time that planning takes")
    measure("100 protected")
    say(f"{TABLES:,} protected tables …")
    psql("planning", text=MORE)
    measure(f"{TABLES:,} protected")
    print_results()


if __name__ == "__main__":
    main()
