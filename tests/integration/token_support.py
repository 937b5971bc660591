"""What the tests of signed tokens share: tokens, and issuers of them."""

import base64
import hashlib
import hmac
import json
import re
import time
from itertools import count

import psycopg
import pytest
from support import GUEST, items, refused

FIELDS = [name for name in dir(psycopg.errors.Diagnostic) if not name.startswith("_") and not name.startswith("source")]
ROWS = {"acme": ["a1", "a2", "a3"], "globex": ["g1", "g2"], "initech": ["i1"], "umbrella": []}
KEY, OTHER = b"k" * 32, b"o" * 32
AUTHENTICATE = "SELECT tenancy.authenticate(jsonb_build_object('token', %s::text), %s)"


def base64url(data):
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def sign(claims, key=KEY, **header):
    """A token, signed with HS256."""
    header = {"alg": "HS256", "typ": "JWT"} | header
    message = ".".join(base64url(json.dumps(part).encode()) for part in (header, claims))
    return message + "." + base64url(hmac.digest(key, message.encode(), hashlib.sha256))


def jwks(*keys):
    """A set of keys, each with its number as its name."""
    return json.dumps({"keys": [{"kty": "oct", "k": base64url(key), "kid": key[:1].decode()} for key in keys]})


class Issuer:
    """An issuer of tokens, which the database trusts once it is told to."""

    numbers = count()

    def __init__(self, db):
        self.db, self.name = db, f"https://issuer-{next(self.numbers)}.example"

    def trust(self, *keys, **arguments):
        arguments = {"issuer": self.name, "jwks": jwks(*keys or (KEY,))} | arguments
        named = ", ".join(f"{name} => %({name})s" for name in arguments)
        with self.db.connect("postgres") as dba:
            dba.execute(f"SELECT tenancy.set_issuer({named})", arguments)
        return self

    def distrust(self):
        assert self.db.run(f"SELECT tenancy.remove_issuer('{self.name}')") == [(True,)]

    def token(self, tenant="acme", key=KEY, seconds=600, header=(), **claims):
        """A token of this issuer. A claim that is None is left out."""
        claims = {"iss": self.name, "tenant_id": tenant, "exp": int(time.time()) + seconds} | claims
        return sign({name: claim for name, claim in claims.items() if claim is not None}, key, **dict(header))


def use(connection, token, is_local=True):
    """`SET LOCAL` or `SET`, with the token as a bound parameter."""
    connection.execute("SELECT set_config('tenancy.token', %s, %s)", [token, is_local])


def authenticate(connection, token, is_local=True, **options):
    return connection.execute(AUTHENTICATE, [token, is_local], **options).fetchone()[0]


def reaches(connection, token, rows):
    """The token is good, for exactly these rows."""
    with connection.transaction():
        use(connection, token)
        assert items(connection) == rows
    with connection.transaction():
        authenticate(connection, token)
        assert items(connection) == rows
    return True


def turned_down(connection, token, code="TOKEN_INVALID"):
    """The token is not good, however it is given; and the session has no tenant."""
    for give in (use, authenticate):
        for is_local in (True, False):
            with refused(code), connection.transaction():
                give(connection, token, is_local)
                items(connection)
            with refused("TENANT_CONTEXT_MISSING"):
                items(connection)
    return True


def bad_tokens(issuer):
    return {
        "expired": issuer.token("globex", seconds=-100),
        "forged": issuer.token("globex", key=OTHER),
        "early": issuer.token("globex", nbf=2**40),
        "foreign": sign({"iss": "nobody", "tenant_id": "globex", "exp": 2**40}),
        "without a tenant": issuer.token(None),
        "for others": issuer.token("globex", aud="others"),
        "no token": "wombat.wombat-wombat-wombat.wombat-wombat",
    }


def told(error):
    return "\n".join(str(getattr(error.diag, field)) for field in FIELDS) + str(error)


def got(connection, statement, arguments=None):
    """All that a statement returns, as text; or the error of the one that fails, which must be no defect's."""
    try:
        if statement.startswith("COPY"):
            with connection.cursor().copy(statement) as copy:
                return b"".join(copy).decode()
        cursor = connection.execute(statement, arguments)
        return str(cursor.fetchall()) if cursor.description else ""
    except psycopg.Error as error:
        assert not error.sqlstate or error.sqlstate[:2] not in ("XX", "08", "57", "58"), told(error)
        assert error.sqlstate != "42601", f"no attack: {error}"
        return told(error)


def tenants_in(text):
    """Whose rows a text tells of; a token that is in it has any two letters somewhere."""
    text = re.sub(r"eyJ[\w.-]+", "", text)
    return {tenant for tenant, rows in ROWS.items() if any(item in text for item in rows)}


def gives_nothing(db, bad):
    """A connection that starts with this token is refused, or has no rows of anybody."""
    try:
        guest = db.connect(GUEST, settings={"tenancy.token": bad})
    except psycopg.OperationalError as error:
        assert "token" in str(error)
        return
    with guest:
        for query in ("TABLE orders", "SELECT count(*) FROM orders", "INSERT INTO orders (item) VALUES ('x')"):
            with pytest.raises(psycopg.Error) as info:
                guest.execute(query)
            assert info.value.sqlstate in ("28000", "55000")
