"""What it is worth to keep suspended tenants out of indexes: a partial index over a flag, and a partition of their own, against whole indexes.

Behind docs/active_tenants.md. `whole`, `flagged` and `parted` are described in active_tenants.sql.
"""

import os
import re
import statistics

import bench
from bench import per_second, throughputs
from support import HERE, QUICK, awake, heading, print_results, psql, ratio, result, say

ROWS = 100_000 if QUICK else 1_000_000
TENANTS = 200
SHARES = (10, 50, 90)  # per cent of the tenants, and of the rows
LAYOUTS = ("whole", "flagged", "parted")
BULK = ROWS // 50
ROUNDS = 3


def numbers(database, query):
    return [[float(field) for field in line.split("|")] for line in psql(database, text=query).split()]


def sizes(database, share):
    taken = {}
    for layout in LAYOUTS:
        ((second, keys, rows),) = numbers(database, f"""
            SELECT sum(pg_relation_size(i.indexrelid)) FILTER (WHERE c.relname ~ '_created$'), sum(pg_relation_size(i.indexrelid)) FILTER (WHERE i.indisprimary),
                   (SELECT sum(pg_relation_size(l.relid)) FROM leaves l WHERE l.layout = '{layout}')
            FROM leaves l JOIN pg_index i ON i.indrelid = l.relid JOIN pg_class c ON c.oid = i.indexrelid WHERE l.layout = '{layout}';""")
        taken[layout] = (second, keys, rows)
    for layout in LAYOUTS[1:]:
        mb = " : ".join(f"{taken[name][0] / 1e6:.1f} MB" for name in (layout, "whole"))
        result(f"size of the second index, {layout} : whole", taken[layout][0] / taken["whole"][0], figures=mb)
        result(f"size of table and indexes, {layout} : whole", sum(taken[layout]) / sum(taken["whole"]),
               figures=" : ".join(f"{sum(taken[name]) / 1e6:.0f} MB" for name in (layout, "whole")))


def blocks(database):
    """Blocks that the last twenty rows of an active tenant take: what a cache has to hold for them."""
    found = {}
    for layout in LAYOUTS:
        out = psql(database, text=f"""SET SESSION AUTHORIZATION bench_app; SET tenancy.tenant_id = '3';
            SELECT count(*) FROM (SELECT body FROM {layout} ORDER BY created_at DESC LIMIT 20) r;
            EXPLAIN (ANALYZE, BUFFERS, TIMING off, COSTS off) SELECT body FROM {layout} ORDER BY created_at DESC LIMIT 20;""")
        assert f"{layout}_created" in out, out
        found[layout] = int(re.search(r"Buffers: shared hit=(\d+)", out)[1])
    for layout in LAYOUTS[1:]:
        result(f"blocks read for the last 20 rows of an active tenant, {layout} : whole", found[layout] / found["whole"],
               figures=f"{found[layout]} : {found['whole']}")


def requests(database, active):
    bench.SET["simple"] = "SET LOCAL tenancy.tenant_id = :tenant;"
    read = {layout: ("", f"SELECT body FROM {layout} ORDER BY created_at DESC LIMIT 20;") for layout in LAYOUTS}
    insert = {layout: ("", f"INSERT INTO {layout} (body) VALUES ('new');") for layout in LAYOUTS}
    for what, name, work in (("last 20 rows of an active tenant", "read", read), ("insertion of a row", "insert", insert)):
        taken = throughputs(database, name, work, "simple", active)
        for layout in LAYOUTS[1:]:
            result(f"{what}, throughput, {layout} : whole", ratio(taken[layout], taken["whole"]), figures=per_second(taken, layout, "whole"))


def search(database, active):
    work = {name: ("", f"SELECT count(*) FROM search_{name} WHERE tags @> ARRAY[7];") for name in ("whole", "flagged", "tenant")}
    taken = throughputs(database, "search", work, "simple", active)
    for name, what in (("flagged", "of active tenants"), ("tenant", "with the tenant (btree_gin)")):
        result(f"search by a GIN index, throughput, {what} : of all", ratio(taken[name], taken["whole"]), figures=per_second(taken, name, "whole"))


def timed(database, statement, before=""):
    out = psql(database, text=f"{before}\n\\timing on\n{statement}\n\\timing off\n")
    return float(re.findall(r"^Time: ([0-9.]+) ms", out, re.M)[-1])


def bulk(database, active):
    """Many rows at once, and the VACUUM that a twentieth of them, deleted, asks for: it reads each index from end to end."""
    taken = {name: {layout: [] for layout in LAYOUTS} for name in ("insert", "vacuum", "reindex")}
    for n in range(ROUNDS):
        for layout in LAYOUTS if n % 2 == 0 else reversed(LAYOUTS):
            leaf = "parted_active" if layout == "parted" else layout
            insert = f"INSERT INTO {layout} (tenant_id, body) SELECT (n % {active})::text, 'new' FROM generate_series(1, {BULK}) AS n;"
            taken["insert"][layout].append(timed(database, insert))
            psql(database, text=f"DELETE FROM {layout} WHERE body = 'new' AND tenant_id = '1' AND id > {ROWS};")
            taken["vacuum"][layout].append(timed(database, f"VACUUM (INDEX_CLEANUP on) {leaf};"))
            taken["reindex"][layout].append(timed(database, f"REINDEX INDEX {layout}_created;"))
    for name, what in (("insert", f"insertion of {BULK:,} rows"), ("vacuum", "VACUUM with indexes"), ("reindex", "REINDEX of the second index")):
        for layout in LAYOUTS[1:]:
            medians = " : ".join(f"{statistics.median(taken[name][x]):,.0f} ms" for x in (layout, "whole"))
            result(f"{what}, time, {layout} : whole", ratio(taken[name][layout], taken[name]["whole"]), figures=medians)


def suspend(database, tenant):
    """What it takes to suspend a tenant: in `whole`, nothing but a row of the registry. Then the way back."""
    rows = ROWS // TENANTS
    for layout in LAYOUTS[1:]:
        size = f"SELECT sum(pg_total_relation_size(relid)) FROM leaves WHERE layout = '{layout}';"
        ((before,),) = numbers(database, size)
        times = [timed(database, f"UPDATE {layout} SET active = {to} WHERE tenant_id = '{tenant}';") for to in ("false", "true")]
        ((after,),) = numbers(database, size)
        result(f"suspending a tenant and back, µs for each of its rows, {layout}", sum(times) * 500 / rows,
               figures=f"{times[0]:,.0f} ms and {times[1]:,.0f} ms for {rows:,} rows; {(after - before) / 1e6:+.1f} MB until a VACUUM")


def main():
    psql("postgres", text="CREATE ROLE bench_app LOGIN;")
    for share in SHARES:
        suspended = TENANTS * share // 100
        database = f"active_{share}"
        say(f"{ROWS:,} rows in three layouts, {share} % of suspended tenants …")
        psql("postgres", text=f"CREATE DATABASE {database};")
        psql(database, "-v", f"rows={ROWS}", "-v", f"suspended={suspended}", "-f", os.path.join(HERE, "active_tenants.sql"))
        psql("postgres", text="CHECKPOINT;")
        heading(f"{share} % of the tenants are suspended and own as much of the rows")
        sizes(database, share)
        blocks(database)
        say("requests …")
        with awake():
            requests(database, TENANTS - suspended)
            search(database, TENANTS - suspended)
        say("bulk …")
        bulk(database, TENANTS - suspended)
        suspend(database, TENANTS - suspended - 1)
        psql("postgres", text=f"DROP DATABASE {database};")
    print_results()


if __name__ == "__main__":
    main()
