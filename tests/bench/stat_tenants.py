"""What statistics of tenants cost: reads of one row, on a server that keeps them and on one that does not, by turns."""

import os
import re
import subprocess
import sys

from slices import CLIENTS, ROUNDS, SLICE
from support import SCRIPTS, heading, print_results, psql, ratio, result, say

ROWS = 100_000
SCHEMA = f"""
CREATE EXTENSION tenancy;
SELECT count(tenancy.create_tenant('t' || n)) FROM generate_series(0, 99) AS n;
CREATE TABLE account (id integer, tenant_id text, balance integer, PRIMARY KEY (tenant_id, id));
SELECT tenancy.protect('account');
INSERT INTO account SELECT n, 't' || n % 100, n FROM generate_series(1, {ROWS}) AS n;
VACUUM ANALYZE;
GRANT ALL ON account TO bench_app;
GRANT SET ON PARAMETER tenancy.tenant_id TO bench_app;
"""
SCRIPT = """\\set id random(1, %d)
\\set tenant :id %% 100
BEGIN;
SET LOCAL tenancy.tenant_id = 't:tenant';
SELECT balance FROM account WHERE id = :id;
COMMIT;
""" % ROWS


def throughput(server, mode):
    path = os.path.join(SCRIPTS, "stat")
    with open(path, "w") as file:
        # In the text of the statement: SET takes no parameter.
        file.write(SCRIPT.replace("'t:tenant'", "t:tenant"))
    command = ["pgbench", "-n", "-U", "bench_app", "-c", str(CLIENTS), "-j", "1", "-T", str(SLICE), "-M", mode, "-f", path, "stat"]
    done = subprocess.run(command, capture_output=True, text=True, env={**os.environ, **server})
    found = re.search(r"tps = ([0-9.]+)", done.stdout)
    if done.returncode != 0 or not found:
        sys.exit(f"{' '.join(command)}\n{done.stdout}{done.stderr}")
    return float(found[1])


def main():
    with_it = {name: os.environ[name] for name in ("PGHOST", "PGPORT")}
    without = dict(zip(("PGHOST", "PGPORT"), os.environ["TENANCY_BENCH_OTHER"].split(), strict=True))
    servers = {"with": with_it, "without": without}
    for server in servers.values():
        os.environ.update(server)
        psql("postgres", text="CREATE ROLE bench_app LOGIN; CREATE DATABASE stat;")
        psql("stat", text=SCHEMA)
    heading(f"Statistics of tenants, {CLIENTS} clients of 100 tenants, one row a transaction: transactions per second")
    for mode in ("simple",):
        say(f"reads of one row, {mode} protocol …")
        taken = {name: [] for name in servers}
        for n in range(2 * ROUNDS):
            for name in servers if n % 2 == 0 else reversed(servers):
                taken[name].append(throughput(servers[name], mode))
        medians = " : ".join(f"{sorted(taken[name])[len(taken[name]) // 2]:,.0f}/s" for name in servers)
        result("with statistics : without", ratio(taken["with"], taken["without"]), 0.98, figures=medians)
    print_results()


main()
