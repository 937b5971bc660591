"""The tour: SQL as typed, its real output. Standard library only; psql does the talking."""

import os
import re
import subprocess
import sys
import textwrap

COLOUR = sys.stdout.isatty() and "NO_COLOR" not in os.environ
PSQL = os.path.join(os.environ["TENANCY_PG_BIN"], "psql")


def paint(code, text):
    return f"\x1b[{code}m{text}\x1b[0m" if COLOUR else text


class Session:
    """One psql that stays connected."""

    def __init__(self, user, label=None):
        self.label = label or user
        self.psql = subprocess.Popen(
            [PSQL, "-X", "-q", "-U", user, "-v", "ON_ERROR_STOP=0", "-P", "null=∅", "-P", "footer=on"],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        )  # fmt: skip

    def ask(self, sql):
        """The output of some SQL, whatever psql says about it included."""
        # psql flushes its output before it reads the next line, so the marker comes last.
        self.psql.stdin.write(f"{sql}\n\\echo :::end\n")
        self.psql.stdin.flush()
        lines = []
        for line in self.psql.stdout:
            if line == ":::end\n":
                return "".join(lines)
            lines.append(line)
        raise SystemExit("psql ended: " + "".join(lines))

    def show(self, sql, expect=None, tags=False):
        """Types some SQL, prints what comes; `expect` must be in it, or the demo has failed.

        `tags`: lines such as DELETE 0 too."""
        sql = textwrap.dedent(sql).strip()
        for number, line in enumerate(sql.splitlines()):
            prompt = f"{self.label}=> " if number == 0 else " " * len(self.label) + "-> "
            print(paint("2", prompt) + paint("1", line))
        output = self.ask(f"\\set QUIET off\n{sql}\n\\set QUIET on" if tags else sql)
        # The empty table of a function that returns nothing tells nothing.
        shown = re.sub(r"^ *\w+ *\n-+\n *\n\(1 row\)\n\n?", "", output, flags=re.M)
        code = ""
        for line in shown.rstrip("\n").splitlines():
            # A DETAIL may have several lines; a table's lines begin with a blank.
            code = "31" if line.startswith("ERROR") else "33" if re.match("DETAIL|HINT|NOTICE", line) else code
            code = "" if line.startswith((" ", "(")) else code
            print("    " + (paint(code, line) if code else line))
        print(flush=True)
        if expect is None and re.search("^(ERROR|FATAL)", output, re.M):
            raise SystemExit("the demo did not expect this error")
        if expect is not None and expect not in output:
            raise SystemExit(f"the demo expected this to show: {expect}")

    def close(self):
        self.psql.stdin.close()
        self.psql.wait()


def heading(text, explanation=""):
    print("\n" + paint("1;36", f"── {text} " + "─" * max(0, 76 - len(text))))
    if explanation:
        print(textwrap.fill(textwrap.dedent(explanation).strip(), 92))
    print(flush=True)


dba = Session("postgres", "dba")

heading("One table, sixteen airlines", "Every flight that left New York in 2013. The airline is the tenant.")
dba.show("SELECT count(*) AS flights, count(DISTINCT carrier) AS airlines FROM flights;", "336776")

heading("The DBA's part: one call per table")
dba.show("CREATE EXTENSION tenancy;")
dba.show(
    """
    SELECT count(tenancy.create_tenant(carrier, name => name, subdomain => lower(carrier)))
           AS tenants FROM airlines;
    """,
    "16",
)
dba.show("SELECT tenancy.protect('flights', tenant_column => 'carrier');")
dba.show("SELECT tenancy.protect('planes', 'shared', 'carrier');  -- for everybody, and each may override")
dba.show(
    """
    SELECT tenancy.protect('airports', 'system');  -- no tenant column, on purpose
    SELECT tenancy.protect('weather', 'system');
    SELECT tenancy.protect('airlines', 'system');
    """
)
dba.show(
    """
    CREATE ROLE app LOGIN;
    GRANT SELECT, INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA public TO app;
    GRANT SET ON PARAMETER tenancy.tenant_id TO app;
    """
)

app = Session("app")
heading(
    "The same query, each airline its own rows",
    "The application is an ordinary role. It names the tenant of its transaction and then writes plain SQL:"
    " no WHERE, no filter to forget.",
)
query = """
SELECT a.name AS worst_destination, count(*) AS flights, round(avg(arr_delay), 1) AS minutes_late
  FROM flights f JOIN airports a ON a.faa = f.dest
 GROUP BY 1 HAVING count(*) >= 100 ORDER BY 3 DESC LIMIT 3;
"""
for carrier in ("UA", "DL", "HA"):
    name = dba.ask(f"\\t on\nSELECT name FROM airlines WHERE carrier = '{carrier}';\n\\t off").strip().splitlines()[0]
    print(paint("2", f"-- {name.strip()}"))
    app.show(f"BEGIN; SET LOCAL tenancy.tenant_id = '{carrier}';{query}COMMIT;", "row")

heading("No tenant, no rows", "Forgetting the tenant is an error that says what to do, not a leak.")
app.show("SELECT count(*) FROM flights;", "TENANT_CONTEXT_MISSING")

heading("A write across tenants is refused")
app.show("SET tenancy.tenant_id = 'UA';")
app.show("UPDATE flights SET carrier = 'DL' WHERE dest = 'IAH' AND month = 1;", '{"code":"TENANT_ACCESS_DENIED"')
app.show("INSERT INTO flights (carrier, flight, origin, dest) VALUES ('DL', 1, 'JFK', 'LAX');", "TENANT_ACCESS_DENIED")
app.show("DELETE FROM flights WHERE carrier = 'DL';  -- theirs are not even there", "DELETE 0", tags=True)
app.show("DELETE FROM airports;  -- a system table", "ERROR")

heading("Reference data for everybody, with an airline's own version", "The tenant column fills itself in.")
app.show(
    """
    INSERT INTO planes (tailnum, model, seats) VALUES ('N14228', '737-824 refitted', 160);
    SELECT tailnum, model, seats, carrier FROM planes WHERE tailnum = 'N14228';
    """,
    "(2 rows)",
)
app.show(
    """
    SET tenancy.tenant_id = 'DL';  -- Delta sees what is for everybody, not United's version
    SELECT tailnum, model, seats, carrier FROM planes WHERE tailnum = 'N14228';
    """,
    "(1 row)",
)

heading(
    "A suspended tenant is locked out at once",
    "Envoy's connection is already open and has just answered. The DBA suspends Envoy in another one.",
)
envoy = Session("app", "envoy")
envoy.show("SET tenancy.tenant_id = 'MQ';\nSELECT count(*) FROM flights;", "26397")
dba.show("SELECT tenancy.suspend_tenant('MQ', 'invoice overdue');")
envoy.show("SELECT count(*) FROM flights;", "TENANT_SUSPENDED")
dba.show("SELECT tenancy.resume_tenant('MQ');")
envoy.show("SELECT count(*) FROM flights;", "26397")
envoy.close()

heading("It uses the index", "protect() made an index that leads with the tenant; the policy's condition is an index condition.")
app.show(
    """
    SET tenancy.tenant_id = 'HA';
    EXPLAIN (ANALYZE, COSTS OFF, TIMING OFF, SUMMARY OFF)
    SELECT * FROM flights WHERE dest = 'HNL' AND month = 7 AND day = 4;
    """,
    "Index Cond",
)

heading("What is protected")
dba.show("SELECT relation, kind, tenant_column, forced, drift FROM tenancy.protected_tables ORDER BY 2, 1;", "row")
app.close()
dba.close()
