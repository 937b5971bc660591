"""What the tests of signing in share: users with passwords, and the answers that they get."""

import json
from itertools import count

import psycopg
from support import detail_of

PASSWORD = "correct horse"
AUTHENTICATE = "SELECT tenancy.authenticate(%s::jsonb, %s)"
FAILURES = "SELECT count(*) FROM _tenancy.failed_sign_ins"
# In a transaction that goes on after a refusal.
ANSWER = """CREATE FUNCTION pg_temp.answer(credentials jsonb) RETURNS text LANGUAGE plpgsql AS $$
    DECLARE detail text;
    BEGIN
        PERFORM tenancy.authenticate(credentials);
        RETURN 'accepted';
    EXCEPTION WHEN OTHERS THEN
        GET STACKED DIAGNOSTICS detail = PG_EXCEPTION_DETAIL;
        RETURN CASE WHEN detail LIKE '{"code":%' THEN detail::json ->> 'code' ELSE concat(sqlstate, ' ', sqlerrm, ' ', detail) END;
    END $$"""
numbers = count()


def credentials(user="ann", password=PASSWORD, tenant="acme", email=None):
    who = {"user_id": user} if email is None else {"email": email}
    return json.dumps({"tenant_id": tenant, "password": password} | who, ensure_ascii=False)


def sign_in(connection, *who, is_local=True, **more):
    """Signs in with a password; what an application is told."""
    return connection.execute(AUTHENTICATE, [credentials(*who, **more), is_local]).fetchone()[0]


def answer(connection, *who, **more):
    """`accepted`, or the code of the error, in a transaction of its own or a savepoint."""
    try:
        with connection.transaction():
            sign_in(connection, *who, **more)
        return "accepted"
    except psycopg.Error as error:
        if not (error.diag.message_detail or "").startswith('{"code"'):
            return f"{error.sqlstate} {error}"
        return detail_of(error)["code"]


def new_user(db, *tenants, user=None, password=PASSWORD, email=None):
    """A user with a password, who is a member of these tenants."""
    user = user or f"user-{next(numbers)}"
    with db.connect("postgres") as dba:
        dba.execute("SELECT tenancy.add_user(%s, %s)", [user, email or f"{user}@example.com"])
        for tenant in tenants or ("acme",):
            dba.execute("SELECT tenancy.add_member(%s, %s)", [tenant, user])
        dba.execute("SELECT tenancy.set_password(%s, %s)", [user, password])
    return user
