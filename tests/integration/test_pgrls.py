"""pgrls, a linter of row-level security that is not ours, run on what we install and on what protect makes: it reports nothing that is true.

What it reports otherwise is listed, each rule with the objects that it is about, and why it is not true of them. A table that is
open by intention must be reported, or the linter would not have looked.
"""

import json
import os
import re
import subprocess
import sys

import pytest
from support import APP, OWNER, Database

# Rule: the objects that it may name, and why that is no fault.
EXPECTED = {
    "SEC001": (
        r"_tenancy\.(accepted_findings|meters|protected|protected_schemas|quota_periods|quotas|tenants|usage_hourly|usage_keys|usage_totals)"
        r"|public\.currencies",
        "private tables, granted to nobody, which no policy could make more private; and a table of kind system, which holds no tenant's rows",
    ),
    "SEC003": (
        r".*\.tenancy_access",
        "to PUBLIC on purpose: a policy for one role can be shed by it (DROP OWNED); the restrictive tenancy_isolation is to PUBLIC as well",
    ),
    "SEC020": (
        r".*\.tenancy_access",
        "WITH CHECK (true) on the permissive policy only: what is written is checked by the restrictive ones, which say whose row it is",
    ),
    "SEC013": (r".*\.tenancy_(guard|meter_\w+)", "our own triggers, in Rust: they count rows, or refuse; they return none"),
    "SEC014": (
        r"_?tenancy\.\w+",
        "SECURITY DEFINER with a pinned search_path, on private tables and catalogs only: none reads a table of users",
    ),
    "SEC017": (r"tenancy\.current_tenant(_uuid|_bigint)?", "LEAKPROOF is right: they take no argument, and so see no row"),
    "SEC022": (r"_tenancy\.usage", "the ledger: nobody but the library writes to it"),
    "SEC042": (
        r"_tenancy\.(is_protected|meters_of|protection|schema_column|tenant_of_subdomain|unregistered)|tenancy\.track_usage",
        "what they tell is in pg_catalog for all to see, of the caller's own tenant, or refused in the context of one",
    ),
    "PERF003": (r"_tenancy\.usage\..*", "the ledger's settled partitions have an index that leads with the tenant; what is open is short"),
    "VIEW002": (r"tenancy\.usage_records", "with security_invoker, over a table under policies: it hides no rows of its own"),
}


@pytest.fixture(scope="module")
def findings(server):
    database = Database(server, "it_pgrls")
    try:
        database.run(
            "CREATE TABLE orders (id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, tenant_id text, code text, UNIQUE (tenant_id, code))",
            "CREATE TABLE lines (id uuid PRIMARY KEY DEFAULT gen_random_uuid(), tenant_id text, order_id bigint REFERENCES orders)",
            "CREATE TABLE by_uuid (id integer, tenant_id uuid)",
            "CREATE TABLE by_number (id integer, org bigint)",
            "CREATE TABLE parts (id integer, tenant_id text) PARTITION BY RANGE (id)",
            "CREATE TABLE part_1 PARTITION OF parts FOR VALUES FROM (0) TO (10)",
            "CREATE TABLE base (id integer, tenant_id text)",
            "CREATE TABLE derived (more text) INHERITS (base)",
            "CREATE TABLE prices (id integer PRIMARY KEY, tenant_id text)",
            "CREATE TABLE journal (tenant_id text, what text)",
            "CREATE TABLE currencies (code text PRIMARY KEY)",
            "SELECT tenancy.protect(t) FROM unnest('{orders,lines,by_uuid,parts,base}'::regclass[]) AS t",
            "SELECT tenancy.protect('by_number', tenant_column => 'org')",
            "SELECT tenancy.protect('prices', 'shared'), tenancy.protect('journal', 'audit'), tenancy.protect('currencies', 'system')",
            "CREATE TABLE part_2 PARTITION OF parts FOR VALUES FROM (10) TO (20)",
            role=OWNER,
        )
        database.run(
            "SELECT tenancy.meter('orders', 'orders')",
            "CREATE TABLE open_on_purpose (id integer, tenant_id text)",
            f"GRANT SELECT, INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA public TO {APP}",
        )
        program = os.path.join(os.path.dirname(sys.executable), "pgrls")
        url = f"host={server.host} port={server.port} user=postgres dbname={database.name}"
        command = [program, "lint", "--database-url", url, "--schemas", "public,tenancy,_tenancy", "--format", "json"]
        done = subprocess.run(command, capture_output=True, text=True, timeout=120, cwd=os.path.dirname(__file__))
        yield json.loads(done.stdout)["violations"]
    finally:
        database.drop()


def test_nothing_that_it_reports_is_true(findings):
    unexpected = []
    for finding in findings:
        rule, place = finding["rule_id"], finding["location"]
        if "open_on_purpose" not in place and not re.fullmatch(EXPECTED.get(rule, ("", ""))[0], place):
            unexpected.append(f"{rule} {place}: {finding['message'][:200]}")
    assert unexpected == []


def test_it_has_looked(findings):
    assert ("SEC001", "public.open_on_purpose") in {(finding["rule_id"], finding["location"]) for finding in findings}
    # An expectation that nothing needs any more is to go.
    assert set(EXPECTED) == {finding["rule_id"] for finding in findings}
