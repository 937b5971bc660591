"""What a probe of health and the page of all tenants cost, with ten thousand tenants: milliseconds of the server."""

import re
import statistics

from support import QUICK, heading, print_results, psql, result, say

TENANTS = 1_000 if QUICK else 10_000
TABLES = 100
HOURS = 100  # of each tenant, in the last month

SCHEMA = f"""
CREATE EXTENSION tenancy;
SELECT count(tenancy.create_tenant('tenant-' || n, plan => 'free')) FROM generate_series(1, {TENANTS}) n;
SELECT tenancy.set_plan_quota('free', r, 1000, 'month', soft_limit => 800) FROM unnest('{{agents,calls,files}}'::text[]) r;
SELECT count(tenancy.set_quota('tenant-' || n, r, 500)) FROM generate_series(1, {TENANTS}) n, unnest('{{agents,calls,files}}'::text[]) r;
DO $$ BEGIN FOR n IN 1..{TABLES} LOOP
    EXECUTE format('CREATE TABLE t%s (id bigint PRIMARY KEY, tenant_id text NOT NULL); SELECT tenancy.protect(%L)', n, 't' || n);
END LOOP; END $$;
INSERT INTO t1 SELECT n, 'tenant-' || 1 + n % {TENANTS} FROM generate_series(1, 20 * {TENANTS}) n;
INSERT INTO _tenancy.usage_hourly SELECT 'tenant-' || n, 'calls', date_trunc('hour', now()) - h * interval '7 hours', n % 10, 0, 0
    FROM generate_series(1, {TENANTS}) n, generate_series(0, {HOURS - 1}) h;
INSERT INTO _tenancy.usage_totals SELECT 'tenant-' || n, r, n % 501 FROM generate_series(1, {TENANTS}) n, unnest('{{agents,calls,files}}'::text[]) r;
VACUUM ANALYZE;
"""


def milliseconds(query, times=5):
    out = psql("health", text="\\timing on\n" + f"{query};\n" * times)
    return statistics.median(float(found) for found in re.findall(r"Time: ([0-9.]+) ms", out))


def main():
    psql("postgres", text="CREATE DATABASE health;")
    say(f"{TENANTS:,} tenants …")
    psql("health", text=SCHEMA)
    heading(f"{TENANTS:,} tenants with {6 * TENANTS:,} quotas and {HOURS * TENANTS:,} hours of usage, {TABLES} protected tables: milliseconds")
    for what, query in {
        "health() of all": "SELECT count(*) FROM tenancy.health()",
        "health() of one": "SELECT length(tenancy.health('tenant-7')::text)",
        "extension_health()": "SELECT count(*) FROM tenancy.extension_health()",
        "metrics()": "SELECT length(tenancy.metrics())",
        "report()": "SELECT length(tenancy.report())",
    }.items():
        result(what, milliseconds(query))
    page = psql("health", text="SELECT round(length(tenancy.report()) / 1e6, 1);").strip()
    result("the page of report(), 2000 tenants one by one, in MB", float(page))
    print_results()


main()
