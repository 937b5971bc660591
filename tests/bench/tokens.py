"""What a token costs: setting one that is verified, against setting a plain parameter of the same length; and verifying."""

import base64
import json
import os
import subprocess
import tempfile
import time

import bench
from bench import per_second, throughputs
from support import QUICK, awake, heading, print_results, psql, ratio, result, say

TOKENS = 200 if QUICK else 1_000  # of which each is verified once
KEYS = {
    "HS256": {"kty": "oct", "k": "A" * 43},
    "EdDSA": {"kty": "OKP", "crv": "Ed25519", "x": "11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo",
              "d": "nWGxne_9WmC6hEr0kuwsxERJxWl7MmkZcDusAxyuf2A"},
    "ES256": {"kty": "EC", "crv": "P-256", "x": "MKBCTNIcKUSDii11ySs3526iDZ8AiTo7Tu6KPAqv7D4",
              "y": "4Etl6SRW2YiLUrN5vfvVHuhp7x8PxltmWWlbbM4IFyM", "d": "870MB6gfuTJ4HtUnUvYMyJpr5eUZNP4Bk43bVdj3eAE"},
}  # of RFC 8037 and RFC 7517


def url64(data):
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def sql(value):
    text = value if isinstance(value, str) else json.dumps(value)
    return "'" + text.replace("'", "''") + "'"


def set_issuer(name, key):
    public = {part: value for part, value in key.items() if part != "d"}
    psql("token", text=f"SELECT tenancy.set_issuer({sql(name)}, {sql({'keys': [public]})});")


def signed_here(name, key):
    psql("token", text=f"SELECT tenancy.set_signing_key({sql(name)}, {sql(key)});")
    out = psql("token", text=f"""SELECT tenancy.sign_token({sql(name)}, 'acme', 'user ' || n)
                                 FROM generate_series(1, {TOKENS}) AS n;""")
    return out.split()


def signed_by_openssl():
    """Tokens of RS256, which the extension does not sign; few, because each takes a process."""
    path = os.path.join(tempfile.mkdtemp(), "key.pem")
    subprocess.run(["openssl", "genpkey", "-algorithm", "RSA", "-pkeyopt", "rsa_keygen_bits:2048", "-out", path],
                   check=True, capture_output=True)
    modulus = subprocess.run(["openssl", "rsa", "-in", path, "-noout", "-modulus"], check=True, capture_output=True)
    n = bytes.fromhex(modulus.stdout.decode().strip().split("=")[1])
    set_issuer("RS256", {"kty": "RSA", "n": url64(n), "e": "AQAB"})
    tokens = []
    for number in range(TOKENS // 5):
        claims = {"iss": "RS256", "tenant_id": "acme", "exp": int(time.time()) + 3600, "jti": str(number)}
        message = url64(b'{"alg":"RS256"}') + "." + url64(json.dumps(claims).encode())
        done = subprocess.run(["openssl", "dgst", "-sha256", "-sign", path], input=message.encode(), check=True,
                              capture_output=True)
        tokens.append(f"{message}.{url64(done.stdout)}")
    return tokens


def verified(tokens):
    """Tokens verified in a second by one connection that has met none of them; what setting one costs is taken off."""
    array = "ARRAY[" + ",".join(map(sql, tokens)) + "]"
    out = psql("token", text=f"""
        DO $$
        DECLARE token text; first float8; again float8; began timestamptz;
        BEGIN
            PERFORM set_config('tenancy.token', {sql(tokens[0])}, true);
            began := clock_timestamp();
            FOREACH token IN ARRAY ({array})[2:] LOOP PERFORM set_config('tenancy.token', token, true); END LOOP;
            first := extract(epoch FROM clock_timestamp() - began);
            began := clock_timestamp();
            FOREACH token IN ARRAY ({array})[2:] LOOP PERFORM set_config('tenancy.token', token, true); END LOOP;
            again := extract(epoch FROM clock_timestamp() - began);
            PERFORM set_config('bench.first', first::text, false), set_config('bench.again', again::text, false);
        END $$;
        SELECT current_setting('bench.first'), current_setting('bench.again');""")
    first, again = map(float, out.strip().split("|"))
    return (len(tokens) - 1) / (first - again)


def main():
    psql("postgres", text="CREATE ROLE bench_app LOGIN; CREATE DATABASE token;")
    psql("token", text="""
        CREATE EXTENSION tenancy; SELECT tenancy.create_tenant('acme');
        CREATE TABLE letters (id bigint PRIMARY KEY, tenant_id text NOT NULL, body text);
        INSERT INTO letters SELECT n, 'acme', 'letter ' || n FROM generate_series(1, 10000) AS n;
        SELECT tenancy.protect('letters');
        GRANT SELECT ON letters TO bench_app;
        GRANT SET ON PARAMETER tenancy.tenant_id TO bench_app;
        VACUUM ANALYZE letters;""")
    tokens = {}
    for name, key in KEYS.items():
        set_issuer(name, key)
        tokens[name] = signed_here(name, key)
    tokens["RS256"] = signed_by_openssl()
    heading("Setting a token that is verified: transactions of BEGIN; SET LOCAL …; COMMIT, one connection")
    one = tokens["EdDSA"][0]
    bench.SET["simple"] = "SET LOCAL {parameter};"
    token, plain, tenant = f"tenancy.token = {sql(one)}", f"app.token = {sql(one)}", "tenancy.tenant_id = 'acme'"
    read = "SELECT body FROM letters WHERE id = :id + 1;"
    say("setting a token …")
    with awake():
        taken = throughputs("token", "set", {"token": (token, ""), "plain": (plain, "")}, "simple", 1)
    result("time of a transaction: token : plain parameter", ratio(taken["plain"], taken["token"]), 1.10, at_most=True,
           figures=per_second(taken, "token", "plain"))
    say("reading by a token …")
    with awake():
        taken = throughputs("token", "read", {"token": (token, read), "tenant": (tenant, read)}, "simple", 1, 10_000)
    result("the same with a point read: token : tenancy.tenant_id", ratio(taken["tenant"], taken["token"]),
           figures=per_second(taken, "token", "tenant"))
    heading("Tokens verified in a second by one connection")
    for name, some in tokens.items():
        say(f"{name} …")
        result(name, verified(some))
    print_results()


if __name__ == "__main__":
    main()
