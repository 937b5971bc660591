"""From one tenant to many, and a tenant's way out: how long it takes, and how long others wait for it. Of 3 million flights, and of a tenant of a million rows."""

import json
import os
import re
import subprocess
import sys
import threading
import time

from support import QUICK, SCRIPTS, heading, print_results, psql, result, say
from wire import Connection, query, rows

COPIES = 1 if QUICK else 9  # of 336,776 flights
ROWS = 10_000 if QUICK else 100_000  # of each of ten tables
FLIGHTS = os.path.join(os.environ["TENANCY_FLIGHTS"], "flights.csv")
CLIENTS = 4

SCHEMA = f"""
CREATE EXTENSION tenancy;
CREATE TEMPORARY TABLE given (year int, month int, day int, dep_time text, sched_dep_time text, dep_delay text, arr_time text, sched_arr_time text, arr_delay text, carrier text, flight int,
    tailnum text, origin text, dest text, air_time text, distance int, hour int, minute int, time_hour timestamptz);
\\copy given FROM '{FLIGHTS}' WITH (FORMAT csv, HEADER, NULL 'NA')
CREATE TABLE flights (id bigserial PRIMARY KEY, carrier text, flight int, tailnum text, origin text, dest text, dep_time text, arr_time text, distance int, time_hour timestamptz);
INSERT INTO flights (carrier, flight, tailnum, origin, dest, dep_time, arr_time, distance, time_hour)
    SELECT carrier, flight, tailnum, origin, dest, dep_time, arr_time, distance, time_hour FROM given, generate_series(1, {COPIES});
CREATE TABLE by_hand (LIKE flights INCLUDING ALL);
INSERT INTO by_hand TABLE flights;
SELECT tenancy.create_tenant(c) FROM (SELECT DISTINCT carrier FROM given) AS t(c);
GRANT ALL ON ALL TABLES IN SCHEMA public TO bench_app;
GRANT ALL ON ALL SEQUENCES IN SCHEMA public TO bench_app;
GRANT SET ON PARAMETER tenancy.tenant_id TO bench_app;
VACUUM ANALYZE;
"""

# What a client does, without a tenant: reads, writes and deletes what it has written.
CLIENT = """
\\set at random(1, 3000000)
BEGIN;
SELECT count(*) FROM {table} WHERE id BETWEEN :at AND :at + 20;
UPDATE {table} SET dep_time = 'x' WHERE id = :at;
INSERT INTO {table} (id, carrier, flight) VALUES (10000000 + :client_id * 10000000 + (random() * 9000000)::int, 'UA', 1) ON CONFLICT DO NOTHING;
COMMIT;
"""


class Clients:
    """pgbench beside what is measured: the time of each transaction, in microseconds."""

    def __init__(self, table):
        self.log = os.path.join(SCRIPTS, f"log-{table}-{time.monotonic_ns()}")
        script = os.path.join(SCRIPTS, f"client-{table}")
        with open(script, "w") as file:
            file.write(CLIENT.format(table=table))
        self.process = subprocess.Popen(
            ["pgbench", "-n", "-M", "prepared", "-c", str(CLIENTS), "-T", "3600", "-f", script, "-l", f"--log-prefix={self.log}", "-U", "bench_app", "migrate"],
            stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True,
        )  # fmt: skip

    def stop(self):
        self.process.terminate()
        said = self.process.communicate()[1]
        if "ERROR" in said:
            sys.exit(said[:2000])
        taken = []
        for name in os.listdir(SCRIPTS):
            if name.startswith(os.path.basename(self.log)):
                with open(os.path.join(SCRIPTS, name)) as file:
                    taken += [int(line.split()[2]) for line in file if line.endswith("\n")]
        return sorted(taken)


class Waits:
    """The longest time that a client has waited for a lock, in milliseconds: looked at a hundred times a second."""

    ASK = query("""SELECT coalesce(max(extract(epoch FROM clock_timestamp() - l.waitstart)) * 1000, 0)::int FROM pg_locks l
                   WHERE NOT l.granted AND l.pid IN (SELECT a.pid FROM pg_stat_activity a WHERE a.usename = 'bench_app')""")

    def __init__(self):
        self.longest, self.stopped = 0, threading.Event()
        self.connection = Connection("postgres", "migrate")
        self.thread = threading.Thread(target=self.look)
        self.thread.start()

    def look(self):
        while not self.stopped.wait(0.01):
            found = re.match(rb"D.{10}(\d+)", rows(self.connection.ask(self.ASK)), re.S)
            self.longest = max(self.longest, int(found[1]))

    def stop(self):
        self.stopped.set()
        self.thread.join()
        self.connection.close()
        return self.longest


def measured(table, *statements, run=lambda statement: psql("migrate", text=statement)):
    """Seconds that statements take while clients work, how many transactions these make in a second, and in milliseconds the longest of
    them and their longest wait for a lock."""
    clients, waits = Clients(table), Waits()
    time.sleep(2)
    begun = time.monotonic()
    for statement in statements:
        run(statement)
    taken = time.monotonic() - begun
    # What pgbench has not written to its log when it is stopped is of this time.
    time.sleep(3)
    times = clients.stop()
    return taken, len(times) / (taken + 5), times[-1] / 1000, waits.stop()


def killed_three_times(statement):
    """Runs a migration; its connection is ended when a quarter of the rows are done, a half, and three quarters."""
    for share in (0.25, 0.5, 0.75):
        process = subprocess.Popen(["psql", "-Xq", "-U", "postgres", "-d", "migrate", "-c", statement], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        while process.poll() is None:
            psql("migrate", text=f"""
                SELECT pg_terminate_backend(a.pid) FROM pg_stat_activity a, tenancy.migration_progress p
                WHERE a.query LIKE 'CALL tenancy.migrate_table%' AND a.pid <> pg_backend_pid() AND p.rows_done BETWEEN {share} * p.rows_total AND {share + 0.24} * p.rows_total;""")
            time.sleep(0.05)
        # Else it has come to its end, and not to ours.
        assert process.returncode != 0, share
    psql("migrate", text=statement)


def check():
    wrong = psql("migrate", text="SELECT count(*) FROM flights WHERE tenant_id IS DISTINCT FROM carrier;").strip()
    assert wrong == "0", wrong


def main():
    psql("postgres", text="CREATE ROLE bench_app LOGIN; CREATE DATABASE migrate;")
    say(f"{COPIES * 336_776:,} flights …")
    psql("migrate", text=SCHEMA)
    heading(f"{COPIES * 336_776:,} flights of one tenant become those of many, while {CLIENTS} clients read and write: seconds, transactions per second, the longest, and the longest wait for a lock")

    def told(name, taken):
        result(name, taken[0], figures=f"{taken[1]:,.0f}/s, {taken[2]:,.0f} ms, {taken[3]:,.0f} ms")

    say("nothing …")
    told("nothing, 10 s", measured("flights", "SELECT pg_sleep(10);"))
    say("one tenant …")
    told("migrate_table, one tenant, before it is enforced", measured("flights", "CALL tenancy.migrate_table('flights', 'UA');"))
    psql("migrate", text="CALL tenancy.undo_migration('flights');")
    say("a mapping …")
    told("migrate_table, each row its carrier's", measured("flights", "CALL tenancy.migrate_table('flights', NULL, 'd.carrier');"))
    told("its index, CONCURRENTLY", measured("flights", "CREATE INDEX CONCURRENTLY ON flights (tenant_id);", "CALL tenancy.migrate_table('flights', NULL, 'd.carrier');"))
    check()
    psql("migrate", text="CALL tenancy.undo_migration('flights');")
    say("a mapping, killed three times …")
    told("migrate_table, killed three times on the way", measured("flights", "CALL tenancy.migrate_table('flights', NULL, 'd.carrier');", run=killed_three_times))
    psql("migrate", text="CREATE INDEX ON flights (tenant_id); CALL tenancy.migrate_table('flights', NULL, 'd.carrier');")
    check()
    begun = time.monotonic()
    psql("migrate", text="CALL tenancy.finish_migration();")
    result("finish_migration, with nobody there", time.monotonic() - begun)
    say("by hand …")
    told("by hand: ADD COLUMN, UPDATE, SET NOT NULL, CREATE INDEX", measured(
        "by_hand", "BEGIN; ALTER TABLE by_hand ADD COLUMN tenant_id text DEFAULT 'UA'; UPDATE by_hand SET tenant_id = carrier; ALTER TABLE by_hand ALTER tenant_id SET NOT NULL;"
                   "CREATE INDEX ON by_hand (tenant_id); COMMIT;"))  # fmt: skip

    say(f"a tenant of {10 * ROWS:,} rows in ten tables …")
    for database in ("leaves", "comes"):
        psql("postgres", text=f"CREATE DATABASE {database};")
        tables = [f"CREATE TABLE t{n} (id bigserial PRIMARY KEY, tenant_id text NOT NULL, parent bigint, body text, UNIQUE (tenant_id, id)"
                  + (f", FOREIGN KEY (tenant_id, parent) REFERENCES t{n - 1} (tenant_id, id)" if n else "") + f"); CREATE INDEX ON t{n} (tenant_id, parent); SELECT tenancy.protect('t{n}');" for n in range(10)]  # fmt: skip
        psql(database, text="CREATE EXTENSION tenancy;" + "".join(tables))
    for tenant in ("big", "other"):
        psql("leaves", text=f"SELECT tenancy.create_tenant('{tenant}');" + "".join(
            f"INSERT INTO t{n} (tenant_id, parent, body) SELECT '{tenant}', {f'id FROM t{n - 1}' if n else f'NULL FROM generate_series(1, {ROWS})'}{f''' WHERE tenant_id = '{tenant}' ''' if n else ''};"
            .replace("SELECT '" + tenant + "', id FROM", "SELECT '" + tenant + "', id, repeat('x', 50) FROM").replace("NULL FROM", "NULL, repeat('x', 50) FROM")
            for n in range(10)))  # fmt: skip
    psql("leaves", text="VACUUM ANALYZE;")
    heading(f"A tenant of {10 * ROWS:,} rows in ten tables with foreign keys: seconds")
    file = os.path.join(SCRIPTS, "big.jsonl")
    begun = time.monotonic()
    with open(file, "w") as out:
        subprocess.run(["psql", "-XAtq", "-U", "postgres", "-d", "leaves", "-c", "SELECT tenancy.export_tenant('big')"], check=True, stdout=out)
    result("export_tenant, to a file", time.monotonic() - begun, figures=f"{os.path.getsize(file) / 1e6:.0f} MB")
    with open(file) as lines:
        assert json.loads(lines.readlines()[-1]) == {"end": 10 * ROWS}
    begun = time.monotonic()
    psql("comes", text=f"CREATE TEMPORARY TABLE lines (line text);\n\\copy lines FROM '{file}' WITH (FORMAT csv, QUOTE E'\\x01', DELIMITER E'\\x02')\nSELECT tenancy.import_tenant('lines');")
    result("import_tenant, into another database", time.monotonic() - begun)
    sums = [psql(database, text="".join(f"SELECT md5(string_agg(t::text, ',' ORDER BY id)) FROM t{n} t WHERE tenant_id = 'big';" for n in range(10))) for database in ("leaves", "comes")]
    assert sums[0] == sums[1]
    begun = time.monotonic()
    psql("leaves", text="SELECT tenancy.clone_tenant('big', 'twin');")
    result("clone_tenant, with new keys", time.monotonic() - begun)
    begun = time.monotonic()
    psql("leaves", text="CALL tenancy.delete_tenant_in_batches('big');")
    result("delete_tenant_in_batches", time.monotonic() - begun)
    begun = time.monotonic()
    psql("comes", text="SELECT tenancy.delete_tenant('big');")
    result("delete_tenant", time.monotonic() - begun)
    print_results()


if __name__ == "__main__":
    main()
