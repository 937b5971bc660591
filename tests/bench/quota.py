"""What metering costs, as ratios measured in one run: against the same table unmetered, and against what one would write by hand.

On a server with the counters in shared memory, and on one without.
"""

import os
import statistics
import subprocess

from slices import CLIENTS, ROUNDS, alternate, insertion, one_call, per_second, throughput, timed
from support import QUICK, SCRIPTS, heading, print_results, psql, ratio, result, say

ROWS = 30_000 if QUICK else 300_000
TENANTS = 10_000 if QUICK else 1_000_000
RECORDS = 200_000 if QUICK else 10_000_000

SCHEMA = """
CREATE EXTENSION tenancy;
SELECT tenancy.create_tenant('acme');
CREATE TABLE unmetered (id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, tenant_id text NOT NULL, body text);
CREATE TABLE metered (LIKE unmetered INCLUDING ALL);
CREATE TABLE counter_row (LIKE unmetered INCLUDING ALL);
CREATE TABLE count_all (LIKE unmetered INCLUDING ALL);
SELECT tenancy.protect(t) FROM unnest('{unmetered,metered,counter_row,count_all}'::regclass[]) AS t;
SELECT tenancy.meter('metered', 'rows');
SELECT tenancy.set_quota('acme', 'rows', 1000000000);

-- What one writes by hand: a counter that is updated in the transaction, and a count of what is there.
CREATE TABLE counters (tenant_id text PRIMARY KEY, used bigint NOT NULL, most bigint NOT NULL) WITH (fillfactor = 10);
INSERT INTO counters VALUES ('acme', 0, 1000000000);
CREATE FUNCTION by_counter() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    UPDATE counters SET used = used + 1 WHERE tenant_id = NEW.tenant_id AND used < most;
    IF NOT FOUND THEN
        RAISE 'quota exceeded';
    END IF;
    RETURN NULL;
END
$$;
CREATE TRIGGER by_counter AFTER INSERT ON counter_row FOR EACH ROW EXECUTE FUNCTION by_counter();
CREATE FUNCTION by_count() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF (SELECT count(*) FROM count_all WHERE tenant_id = NEW.tenant_id) > 1000000000 THEN
        RAISE 'quota exceeded';
    END IF;
    RETURN NULL;
END
$$;
CREATE TRIGGER by_count AFTER INSERT ON count_all FOR EACH ROW EXECUTE FUNCTION by_count();
GRANT ALL ON ALL TABLES IN SCHEMA public TO bench_app;
GRANT SET ON PARAMETER tenancy.tenant_id TO bench_app;
"""


def single_rows(database, where, tables, aim=None):
    for commit in ("on", "off"):
        say(f"single rows, synchronous_commit {commit}, {where} …")
        # What one slice has written does not slow the next one down.
        scripts = {table: insertion(table) for table in ["unmetered", *tables]}
        taken = alternate(database, scripts, commit, between="TRUNCATE count_all;")
        for table in tables:
            result(f"{table} : unmetered, synchronous_commit {commit}, {where}", ratio(taken[table], taken["unmetered"]),
                   aim if table == "metered" else None, figures=per_second(taken, table, "unmetered"))


def bulk(database):
    file = os.path.join(SCRIPTS, "quota-rows")
    with open(file, "w") as rows:
        rows.writelines(f"acme\tbody of row {n}\n" for n in range(ROWS))
    for name, statement in [
        ("COPY", f"\\copy {{table}} (tenant_id, body) FROM '{file}'"),
        ("INSERT ... SELECT", f"INSERT INTO {{table}} (tenant_id, body) SELECT 'acme', 'body of row ' || n FROM generate_series(1, {ROWS}) AS n;"),
    ]:
        say(f"{ROWS:,} rows by {name} …")
        taken = {"unmetered": [], "metered": []}
        for n in range(3 if QUICK else 11):
            for table in taken if n % 2 == 0 else reversed(taken):
                taken[table].append(timed(database, statement.format(table=table), f"TRUNCATE {table}; CHECKPOINT;"))
        result(f"metered : unmetered, {ROWS:,} rows by {name}, time", ratio(taken["metered"], taken["unmetered"]), 1.10, True,
               " : ".join(f"{statistics.median(taken[t]):.0f} ms" for t in ("metered", "unmetered")))


def ledger(database):
    say(f"a ledger of {RECORDS:,} entries …")
    psql(database, text=f"""
        SELECT tenancy.create_usage_partitions(1);
        INSERT INTO _tenancy.usage_settled (tenant_id, resource, amount, recorded_at, is_correction, hash, is_settled)
            SELECT 't' || n % 1000, 'calls', 1, now() - n % 80000 * interval '1 second', false, 0, true FROM generate_series(1, {RECORDS}) AS n;
        INSERT INTO _tenancy.usage_totals SELECT tenant_id, resource, sum(amount) FROM _tenancy.usage_settled GROUP BY 1, 2
            ON CONFLICT ON CONSTRAINT usage_totals_pkey DO UPDATE SET amount = excluded.amount;
        INSERT INTO _tenancy.usage_hourly SELECT tenant_id, resource, date_trunc('hour', recorded_at, 'UTC'), sum(amount), 0, 0
            FROM _tenancy.usage_settled GROUP BY 1, 2, 3 ON CONFLICT DO NOTHING;
        SELECT tenancy.set_default_quota('calls', 1000000000, 'day');
        VACUUM ANALYZE;""")
    taken = [timed(database, "SELECT * FROM tenancy.quota_status WHERE tenant_id = 'acme';") for _ in range(9)]
    result(f"quota_status of one tenant, {RECORDS:,} entries, ms", statistics.median(taken))
    say("settling while others write …")
    taken = {"alone": [], "settled": []}
    settle = "SELECT tenancy.settle_usage(20000);\n\\watch 0.1\n"
    for n in range(ROUNDS):
        for variant in taken if n % 2 == 0 else reversed(taken):
            worker = None
            if variant == "settled":
                worker = subprocess.Popen(["psql", "-XqAt", "-U", "postgres", "-d", database], stdin=subprocess.PIPE,
                                          stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, text=True)
                worker.stdin.write(settle)
                worker.stdin.flush()
            taken[variant].append(throughput(database, "metered", insertion("metered"), "off"))
            if worker:
                worker.kill()
                worker.wait()
    result("metered while the ledger is settled : alone", ratio(taken["settled"], taken["alone"]),
           figures=per_second(taken, "settled", "alone"))


def main():
    preloaded = os.environ["TENANCY_BENCH_SERVER"] == "preloaded"
    where = "in shared memory" if preloaded else "by the row of the total"
    psql("postgres", text="CREATE ROLE bench_app LOGIN; CREATE DATABASE quota;")
    psql("quota", text=SCHEMA)
    heading(f"Metering, {CLIENTS} clients of one tenant, one row a transaction: transactions per second")
    by_hand = ["counter_row", "count_all"] if preloaded else []
    single_rows("quota", where, ["metered", *by_hand], 0.90 if preloaded else None)
    if preloaded:
        bulk("quota")
        setup = "SET tenancy.tenant_id = 'acme';"
        heading("The time of a call in microseconds")
        result("check_quota", one_call("quota", "tenancy.check_quota('rows')", setup))
        say(f"{TENANTS:,} tenants with quotas …")
        # As a restore does, without an entry in the audit trail for each.
        psql("quota", text=f"""
            SET tenancy.restoring = on;
            INSERT INTO _tenancy.tenants (id) SELECT 't' || n FROM generate_series(1, {TENANTS}) AS n;
            INSERT INTO _tenancy.quotas SELECT 'tenant', 't' || n, 'rows', '', 1000, NULL FROM generate_series(1, {TENANTS}) AS n;
            VACUUM ANALYZE;""")
        heading(f"The same, {TENANTS:,} tenants with quotas")
        single_rows("quota", where, ["metered"], 0.90)
        result("check_quota, microseconds", one_call("quota", "tenancy.check_quota('rows')", setup))
        heading("The ledger")
        ledger("quota")
    print_results()


if __name__ == "__main__":
    main()
