-- Signing in: with a password where a tenant takes them, with a token of its own issuers where it asks for that.
SET timezone = 'UTC';
CREATE TABLE letters (tenant_id text, body text);
SELECT tenancy.protect('letters');
INSERT INTO letters VALUES ('acme', 'of acme'), ('beta', 'of beta');
GRANT SELECT, INSERT ON letters TO regress_outsider, regress_app;
SELECT tenancy.add_user('ann', 'Ann@Example.com'), tenancy.add_user('bob', 'bob@example.com'), tenancy.add_user('cid', 'cid@example.com'),
       tenancy.add_user('dan', 'dan@example.com'), tenancy.add_user('Eve');
SELECT tenancy.add_member('acme', 'ann', 'admin'), tenancy.add_member('beta', 'ann'), tenancy.add_member('gone', 'ann'), tenancy.add_member('acme', 'bob'),
       tenancy.add_member('acme', 'cid'), tenancy.add_member('acme', 'Eve');
SELECT tenancy.suspend_member('acme', 'cid');
SELECT tenancy.invite_member('acme', 'dan') IS NOT NULL AS invited;

-- The library reads this column by number; and it inserts into this table directly.
SELECT attnum, attname, atttypid::regtype FROM pg_attribute
WHERE (attrelid = '_tenancy.tenants'::regclass AND attname = 'sso_required') OR (attrelid = '_tenancy.failed_sign_ins'::regclass AND attnum > 0) ORDER BY attrelid DESC, 1;

-- Passwords: 1 to 1024 bytes of any letters; only their hashes are kept.
SELECT tenancy.set_password('ann', 'correct horse'), tenancy.set_password('cid', 'c'), tenancy.set_password('dan', 'd'), tenancy.set_password('Eve', repeat('é', 512));
SELECT user_id, hash ~ '^\$argon2id\$v=19\$m=19456,t=2,p=1\$[A-Za-z0-9+/]{22}\$[A-Za-z0-9+/]{43}$' AS is_a_hash FROM _tenancy.passwords ORDER BY 1;
SELECT tenancy.set_password('nobody', 'x');                    -- SHOULD FAIL
SELECT tenancy.set_password(NULL, 'x');                        -- SHOULD FAIL
SELECT tenancy.set_password('ann', '');                        -- SHOULD FAIL
SELECT tenancy.set_password('ann', repeat('x', 1025));         -- SHOULD FAIL
SELECT tenancy.set_password('ann', repeat('é', 513));          -- SHOULD FAIL
-- Two that are alike have two hashes.
SELECT tenancy.set_password('bob', 'correct horse');
SELECT count(DISTINCT hash) FROM _tenancy.passwords WHERE user_id IN ('ann', 'bob');
-- It can be taken away.
SELECT tenancy.set_password('bob', NULL), tenancy.set_password('bob', NULL);
SELECT count(*) FROM _tenancy.passwords WHERE user_id = 'bob';

-- By user_id and by email, in any case, for the transaction and for the session.
SET ROLE regress_outsider;
BEGIN;
SELECT tenancy.authenticate('{"tenant_id": "acme", "user_id": "ann", "password": "correct horse"}') AS who \gset
SELECT :'who'::jsonb - '{token,expires_at}'::text[] AS who, (:'who'::jsonb ->> 'expires_at')::timestamptz - now() BETWEEN '59 minutes' AND '61 minutes' AS for_an_hour,
       :'who'::jsonb ->> 'token' AS token \gset sign_in_
SELECT :'sign_in_who' AS who, :'sign_in_for_an_hour' AS for_an_hour, :'sign_in_token' ~ '^[\w-]+\.[\w-]+\.[\w-]+$' AS has_token;
SELECT body, tenancy.current_user_id(), tenancy.has_role('admin') FROM letters;
SELECT tenancy.context();
INSERT INTO letters VALUES ('beta', 'smuggled');               -- SHOULD FAIL
ROLLBACK;
SELECT body FROM letters;                                      -- SHOULD FAIL: it was for the transaction
BEGIN;
SELECT tenancy.authenticate('{"tenant_id": "beta", "email": "aNN@eXAMPLE.com", "password": "correct horse"}') - '{token,expires_at}'::text[] AS who;
SELECT body FROM letters;
COMMIT;
SELECT tenancy.authenticate('{"tenant_id": "beta", "email": "ann@example.com", "password": "correct horse", "more": [1]}', false) - '{token,expires_at}'::text[] AS who;
SELECT body FROM letters;
SHOW tenancy.token;
RESET tenancy.token;
BEGIN;
SELECT tenancy.authenticate(jsonb_build_object('tenant_id', 'acme', 'user_id', 'Eve', 'password', repeat('é', 512))) ->> 'user_id' AS who;
ROLLBACK;
-- The token stands for the password in later transactions, and each is another.
BEGIN;
SELECT tenancy.authenticate(jsonb_build_object('token', :'sign_in_token')) - 'expires_at' AS who;
SELECT body FROM letters;
COMMIT;
BEGIN;
SET LOCAL tenancy.token = :'sign_in_token';
SELECT body FROM letters;
SELECT tenancy.authenticate('{"tenant_id": "acme", "user_id": "ann", "password": "correct horse"}') ->> 'token' <> :'sign_in_token' AS is_another;
COMMIT;
RESET ROLE;

-- Whatever is wrong, the answer is the same.
CREATE FUNCTION answer(credentials jsonb) RETURNS text LANGUAGE plpgsql AS $$
DECLARE
    state text; message text; detail text; hint text; context text; names text; more text;
BEGIN
    PERFORM tenancy.authenticate(credentials);
    RETURN 'accepted';
EXCEPTION WHEN OTHERS THEN
    GET STACKED DIAGNOSTICS state = RETURNED_SQLSTATE, message = MESSAGE_TEXT, detail = PG_EXCEPTION_DETAIL, hint = PG_EXCEPTION_HINT,
        context = PG_EXCEPTION_CONTEXT, names = SCHEMA_NAME, more = TABLE_NAME;
    RETURN concat_ws(' | ', state, message, detail, hint, context) || names || more;
END
$$;
SET ROLE regress_outsider;
SELECT tenancy.authenticate('{"tenant_id": "acme", "user_id": "ann", "password": "wrong"}');   -- SHOULD FAIL
BEGIN;
SELECT tenancy.authenticate('{"tenant_id": "acme", "user_id": "zoe", "password": "wrong"}', false);   -- SHOULD FAIL
COMMIT;
CREATE TEMPORARY TABLE wrongs (what text, credentials jsonb);
INSERT INTO wrongs VALUES
    ('wrong password', '{"tenant_id": "acme", "user_id": "ann", "password": "Correct horse"}'),
    ('wrong password, by email', '{"tenant_id": "acme", "email": "ann@example.com", "password": "correct horse "}'),
    ('empty password', '{"tenant_id": "acme", "user_id": "ann", "password": ""}'),
    ('too long a password', jsonb_build_object('tenant_id', 'acme', 'user_id', 'Eve', 'password', repeat('é', 513))),
    ('half a password', jsonb_build_object('tenant_id', 'acme', 'user_id', 'Eve', 'password', repeat('é', 511))),
    ('no password', '{"tenant_id": "acme", "user_id": "bob", "password": "correct horse"}'),
    ('no password, none given', '{"tenant_id": "acme", "user_id": "bob", "password": ""}'),
    ('unknown user', '{"tenant_id": "acme", "user_id": "zoe", "password": "correct horse"}'),
    ('another case of the id', '{"tenant_id": "acme", "user_id": "eve", "password": "correct horse"}'),
    ('no user', '{"tenant_id": "acme", "user_id": "", "password": "correct horse"}'),
    ('email of nobody', '{"tenant_id": "acme", "email": "zoe@example.com", "password": "correct horse"}'),
    ('an id for an email', '{"tenant_id": "acme", "email": "ann", "password": "correct horse"}'),
    ('an email for an id', '{"tenant_id": "acme", "user_id": "ann@example.com", "password": "correct horse"}'),
    ('unknown tenant', '{"tenant_id": "nope", "user_id": "ann", "password": "correct horse"}'),
    ('malformed tenant', '{"tenant_id": "a b", "user_id": "ann", "password": "correct horse"}'),
    ('no tenant', '{"tenant_id": "", "user_id": "ann", "password": "correct horse"}'),
    ('the word for none', '{"tenant_id": "none", "user_id": "ann", "password": "correct horse"}'),
    ('a tenant and more', '{"tenant_id": "acme ", "user_id": "ann", "password": "correct horse"}'),
    ('suspended tenant', '{"tenant_id": "gone", "user_id": "ann", "password": "wrong"}'),
    ('suspended tenant, no member', '{"tenant_id": "gone", "user_id": "Eve", "password": "wrong"}'),
    ('not a member', jsonb_build_object('tenant_id', 'beta', 'user_id', 'Eve', 'password', repeat('é', 512))),
    ('suspended member', '{"tenant_id": "acme", "user_id": "cid", "password": "c"}'),
    ('invited member', '{"tenant_id": "acme", "user_id": "dan", "password": "d"}'),
    ('invited member, wrong password', '{"tenant_id": "acme", "user_id": "dan", "password": "e"}');
SELECT count(*), CASE WHEN count(*) < 9 THEN string_agg(what, ', ') ELSE '' END AS odd, answer(credentials) FROM wrongs GROUP BY 3;
-- Who knows the password of a tenant's member is told that the tenant is suspended.
SELECT tenancy.authenticate('{"tenant_id": "gone", "user_id": "ann", "password": "correct horse"}');   -- SHOULD FAIL
RESET ROLE;
DELETE FROM _tenancy.failed_sign_ins;

-- What is no credentials is another mistake, whoever it names.
SET ROLE regress_outsider;
SELECT tenancy.authenticate(NULL);                             -- SHOULD FAIL
SELECT tenancy.authenticate('{"tenant_id": "acme", "user_id": "ann", "password": "correct horse"}', NULL);   -- SHOULD FAIL
SELECT tenancy.authenticate('{"tenant_id": "acme", "user_id": "ann"}');   -- SHOULD FAIL
SELECT tenancy.authenticate('{"tenant_id": "acme", "user_id": "ann", "password": null}');   -- SHOULD FAIL
SELECT count(*), answer(given) FROM unnest(ARRAY[
    '{}', '[]', 'null', '"password"', '["password"]', '["token"]', '1', '{"token": null}', '{"token": 1}', '{"token": {"token": "x"}}', '{"Password": "x"}',
    '{"token": "x", "password": "x"}', '{"token": "x", "tenant_id": "acme", "user_id": "ann", "password": "correct horse"}',
    '{"tenant_id": "acme", "password": "correct horse"}', '{"user_id": "ann", "password": "correct horse"}', '{"password": "correct horse"}',
    '{"tenant_id": "acme", "user_id": "ann", "email": "ann@example.com", "password": "correct horse"}',
    '{"tenant_id": 1, "user_id": "ann", "password": "correct horse"}', '{"tenant_id": "acme", "user_id": 1, "password": "correct horse"}',
    '{"tenant_id": "acme", "user_id": null, "password": "correct horse"}', '{"tenant_id": null, "user_id": "ann", "password": "correct horse"}',
    '{"tenant_id": "acme", "email": ["ann@example.com"], "password": "correct horse"}', '{"tenant_id": "acme", "user_id": "ann", "password": true}',
    '{"tenant_id": "acme", "user_id": "ann", "password": {"password": "correct horse"}}', '{"tenant_id": "acme", "user_id": "ann", "password": ["correct horse"]}',
    '{"tenant_id": "acme", "user_id": "ann", "password": "correct horse", "deep": ' || repeat('[', 200) || repeat(']', 200) || '}',
    '{"tenant_id": "acme", "user_id": "ann", "password": "correct horse", "big": 1e400}']::jsonb[]) AS given GROUP BY 2 ORDER BY 1, 2;
-- What is null or of another type is as if it were not there.
BEGIN;
SELECT answer('{"tenant_id": "acme", "user_id": "ann", "password": "correct horse", "token": null, "email": 1}');
ROLLBACK;
RESET ROLE;
SELECT count(*) AS failures FROM _tenancy.failed_sign_ins;

-- After some failures in a quarter of an hour, the right password is refused as well.
SET tenancy.max_failed_sign_ins = 3;
\set right '{"tenant_id": "acme", "user_id": "ann", "password": "correct horse"}'
\set wrong '{"tenant_id": "acme", "user_id": "ann", "password": "wrong"}'
SET ROLE regress_outsider;
SET tenancy.max_failed_sign_ins = 100;                         -- SHOULD FAIL
-- They outlast the ROLLBACK of a transaction, of a savepoint and of a block.
BEGIN;
SELECT tenancy.authenticate(:'wrong');                         -- SHOULD FAIL
ROLLBACK;
BEGIN;
SAVEPOINT s;
SELECT tenancy.authenticate(:'wrong');                         -- SHOULD FAIL
ROLLBACK TO s;
SELECT answer(:'wrong');
ROLLBACK;
SELECT tenancy.authenticate(:'right');                         -- SHOULD FAIL
SELECT answer(:'right') = answer(:'wrong') AS is_the_same;
-- By its other name a user is counted apart: that tells nobody whose it is.
SELECT left(answer('{"tenant_id": "acme", "email": "ANN@example.com", "password": "wrong"}'), 5) AS answer FROM generate_series(1, 2);
SELECT left(answer('{"tenant_id": "acme", "email": "ann@EXAMPLE.com", "password": "wrong"}'), 5) AS answer FROM generate_series(1, 2);
-- In whichever transaction it is tried.
BEGIN ISOLATION LEVEL REPEATABLE READ;
SELECT answer(:'right');
ROLLBACK;
BEGIN ISOLATION LEVEL SERIALIZABLE;
SELECT answer(:'right');
ROLLBACK;
-- Other users, and other tenants, are not.
BEGIN;
SELECT answer('{"tenant_id": "beta", "user_id": "ann", "password": "correct horse"}');
SELECT tenancy.authenticate(jsonb_build_object('tenant_id', 'acme', 'user_id', 'Eve', 'password', repeat('é', 512))) ->> 'user_id' AS who;
ROLLBACK;
RESET ROLE;
SELECT count(*) AS failures, count(DISTINCT key) AS keys FROM _tenancy.failed_sign_ins;
-- Fewer failures that are so young let it be tried again; success forgets them.
UPDATE _tenancy.failed_sign_ins SET failed_at = failed_at - interval '14 minutes';
SET ROLE regress_outsider;
SELECT answer(:'right');
RESET ROLE;
UPDATE _tenancy.failed_sign_ins SET failed_at = failed_at - interval '2 minutes' WHERE ctid = (SELECT min(ctid) FROM _tenancy.failed_sign_ins);
SET ROLE regress_outsider;
BEGIN;
SELECT answer(:'right');
ROLLBACK;
RESET ROLE;
SELECT count(*) AS not_forgotten_when_rolled_back FROM _tenancy.failed_sign_ins;
SET ROLE regress_outsider;
BEGIN;
SELECT answer(:'right');
COMMIT;
RESET ROLE;
SELECT count(*) AS failures FROM _tenancy.failed_sign_ins;
-- On the way some that count no more are removed, whoever's they are.
SET ROLE regress_outsider;
SELECT answer('{"tenant_id": "acme", "user_id": "zoe", "password": "x"}') = answer('{"tenant_id": "nope", "user_id": "zoe", "password": "x"}') AS is_the_same;
RESET ROLE;
UPDATE _tenancy.failed_sign_ins SET failed_at = failed_at - interval '16 minutes' WHERE ctid = (SELECT min(ctid) FROM _tenancy.failed_sign_ins);
SET ROLE regress_outsider;
BEGIN;
SELECT answer(:'right');
COMMIT;
-- Those who are not there are throttled like anybody.
SELECT left(answer('{"tenant_id": "nope", "email": "zoe@example.com", "password": "x"}'), 5) AS answer FROM generate_series(1, 4);
SELECT left(answer('{"tenant_id": "acme", "user_id": "cid", "password": "c"}'), 5) AS answer FROM generate_series(1, 4);
-- Guesses that one statement makes are counted one by one.
SELECT left(answer(jsonb_build_object('tenant_id', 'beta', 'user_id', 'ann', 'password', guess)), 5) AS answer
FROM unnest('{a,b,c,d,correct horse}'::text[]) AS guess;
RESET ROLE;
DELETE FROM _tenancy.failed_sign_ins;
RESET tenancy.max_failed_sign_ins;

-- A token is as good as the membership and the password of its user.
SET ROLE regress_outsider;
SET tenancy.token = :'sign_in_token';
SELECT body FROM letters;
RESET ROLE;
UPDATE _tenancy.members SET status = 'suspended' WHERE tenant_id = 'acme' AND user_id = 'ann';
SET ROLE regress_outsider;
SELECT body FROM letters;                                      -- SHOULD FAIL
RESET ROLE;
UPDATE _tenancy.members SET status = 'active' WHERE tenant_id = 'acme' AND user_id = 'ann';
SET ROLE regress_outsider;
SELECT body FROM letters;
RESET ROLE;
RESET tenancy.token;
SELECT tenancy.set_password('ann', 'battery staple');
SET ROLE regress_outsider;
BEGIN;
SELECT answer(:'right') ~ '^28P01' AS the_old_password_is_wrong, answer('{"tenant_id": "acme", "user_id": "ann", "password": "battery staple"}') AS the_new_one;
SET LOCAL tenancy.token = :'sign_in_token';
SELECT body FROM letters;                                      -- SHOULD FAIL
COMMIT;
SELECT tenancy.authenticate('{"tenant_id": "acme", "user_id": "ann", "password": "battery staple"}') ->> 'token' AS sign_in_token \gset
BEGIN;
SET LOCAL tenancy.token = :'sign_in_token';
SELECT body FROM letters;
COMMIT;
RESET ROLE;
-- All of them at once.
SELECT tenancy.renew_password_key();
SET ROLE regress_outsider;
SET tenancy.token = :'sign_in_token';                          -- SHOULD FAIL
BEGIN;
SELECT tenancy.authenticate('{"tenant_id": "acme", "user_id": "ann", "password": "battery staple"}') ->> 'token' AS token \gset
SELECT body FROM letters;
COMMIT;
RESET ROLE;
-- For how long, a parameter says.
SET tenancy.password_token_lifetime = '10 s';
SET ROLE regress_outsider;
BEGIN;
SELECT (tenancy.authenticate('{"tenant_id": "acme", "user_id": "ann", "password": "battery staple"}') ->> 'expires_at')::timestamptz - now() < '12 s' AS soon;
COMMIT;
SET tenancy.password_token_lifetime = '1 d';                   -- SHOULD FAIL
RESET ROLE;
RESET tenancy.password_token_lifetime;

-- A tenant that asks for its own identity provider.
\set ed_public '{"kty": "OKP", "crv": "Ed25519", "kid": "e1", "x": "11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo"}'
\set ed_private '{"kty": "OKP", "crv": "Ed25519", "kid": "e1", "x": "11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo", "d": "nWGxne_9WmC6hEr0kuwsxERJxWl7MmkZcDusAxyuf2A"}'
\set right '{"tenant_id": "acme", "user_id": "ann", "password": "battery staple"}'
SELECT jsonb_build_object('keys', jsonb_build_array(:'ed_public'::jsonb)) AS jwks \gset
SELECT tenancy.set_issuer('https://id.example', :'jwks', '{app}'), tenancy.set_signing_key('https://id.example', :'ed_private');
SELECT tenancy.sign_token('https://id.example', 'acme', 'ann') AS of_all, tenancy.sign_token('https://id.example', 'beta', 'ann') AS of_beta \gset
SET ROLE regress_outsider;
SET tenancy.token = :'of_all';
SELECT body FROM letters;
RESET ROLE;
RESET tenancy.token;
SELECT tenancy.set_identity_provider('acme', 'https://id.acme.example', 'app', :'jwks');
SELECT tenancy.set_signing_key('https://id.acme.example', :'ed_private');
SELECT tenancy.sign_token('https://id.acme.example', 'acme', 'ann') AS of_acme \gset
SELECT id, sso_required FROM tenancy.tenants WHERE id IN ('acme', 'beta', 'gone') ORDER BY 1;
SELECT issuer, tenant_id, audience, tenant_claim, user_claim FROM tenancy.issuers ORDER BY 1;
SET ROLE regress_outsider;
-- Not by a password, with the answer that a wrong one has; not by a token that was given for one, nor by one of an issuer of all tenants.
SELECT answer(:'right') = answer('{"tenant_id": "acme", "user_id": "zoe", "password": "x"}') AS is_the_same, answer(:'right');
SET tenancy.token = :'token';
SELECT body FROM letters;                                      -- SHOULD FAIL
SELECT tenancy.authenticate(jsonb_build_object('token', :'of_all'));   -- SHOULD FAIL
SET tenancy.token = :'of_all';
SELECT body FROM letters;                                      -- SHOULD FAIL
SELECT tenancy.context() ->> 'error' AS error;
-- By its own; whether a password is set does not matter, nor whether the user is known.
SET tenancy.token = :'of_acme';
SELECT body FROM letters;
RESET tenancy.token;
BEGIN;
SELECT tenancy.authenticate(jsonb_build_object('token', :'of_acme')) - 'expires_at' AS who;
SELECT body FROM letters;
COMMIT;
-- Others are as before.
SET tenancy.token = :'of_beta';
SELECT body FROM letters;
RESET tenancy.token;
BEGIN;
SELECT answer('{"tenant_id": "beta", "user_id": "ann", "password": "battery staple"}');
SELECT body FROM letters;
COMMIT;
RESET ROLE;
-- A role that may set the tenant needs no token; one that it shows must be good.
SET ROLE regress_app;
BEGIN;
SET LOCAL tenancy.tenant_id = 'acme';
SELECT body FROM letters;
SET LOCAL tenancy.token = :'of_all';
SELECT body FROM letters;                                      -- SHOULD FAIL
ROLLBACK;
RESET ROLE;
-- Its own provider may be known by more than one name.
SELECT tenancy.set_identity_provider('acme', 'https://new.acme.example', NULL, :'jwks', tenant_claim => 'org', user_claim => 'email');
SELECT tenancy.set_signing_key('https://new.acme.example', :'ed_private');
SELECT tenancy.sign_token('https://new.acme.example', 'acme', 'ann@acme.example') AS of_new \gset
SET ROLE regress_outsider;
BEGIN;
SELECT tenancy.authenticate(jsonb_build_object('token', :'of_new')) - 'expires_at' AS who;
ROLLBACK;
BEGIN;
SELECT tenancy.authenticate(jsonb_build_object('token', :'of_acme')) - 'expires_at' AS who;
ROLLBACK;
RESET ROLE;
-- Off again, with its issuers kept.
SELECT tenancy.set_identity_provider('acme', 'https://new.acme.example', NULL, :'jwks', false, 'org', 'email');
SELECT id, sso_required FROM tenancy.tenants WHERE id IN ('acme', 'beta', 'gone') ORDER BY 1;
SET ROLE regress_outsider;
BEGIN;
SELECT answer(:'right');
SET LOCAL tenancy.token = :'of_all';
SELECT body FROM letters;
SET LOCAL tenancy.token = :'of_new';
SELECT body FROM letters;
COMMIT;
RESET ROLE;
-- Without issuers, and still asked for them: nobody comes in by a token.
SELECT tenancy.set_identity_provider('acme', 'https://new.acme.example', NULL, :'jwks', tenant_claim => 'org', user_claim => 'email');
SELECT tenancy.remove_issuer('https://new.acme.example'), tenancy.remove_issuer('https://id.acme.example');
SET ROLE regress_outsider;
SELECT answer(jsonb_build_object('token', token)) FROM unnest(ARRAY[:'of_new', :'of_acme', :'of_all', :'token']) AS token;
RESET ROLE;
SET ROLE regress_app;
BEGIN;
SET LOCAL tenancy.tenant_id = 'acme';
SELECT body FROM letters;
COMMIT;
RESET ROLE;

-- What is no identity provider.
SELECT tenancy.set_identity_provider(NULL, 'x', NULL, :'jwks');            -- SHOULD FAIL
SELECT tenancy.set_identity_provider('nope', 'x', NULL, :'jwks');          -- SHOULD FAIL
SELECT tenancy.set_identity_provider('a b', 'x', NULL, :'jwks');           -- SHOULD FAIL
SELECT tenancy.set_identity_provider('beta', NULL, NULL, :'jwks');         -- SHOULD FAIL
SELECT tenancy.set_identity_provider('beta', '', NULL, :'jwks');           -- SHOULD FAIL
SELECT tenancy.set_identity_provider('beta', 'x', NULL, NULL);             -- SHOULD FAIL
SELECT tenancy.set_identity_provider('beta', 'x', NULL, '{}');             -- SHOULD FAIL
SELECT tenancy.set_identity_provider('beta', 'x', NULL, :'jwks', NULL);    -- SHOULD FAIL
SELECT tenancy.set_identity_provider('beta', 'tenancy:password', NULL, :'jwks');   -- SHOULD FAIL
SELECT tenancy.set_issuer('tenancy:password', :'jwks');                    -- SHOULD FAIL
SELECT tenancy.set_issuer('tenancy:other', :'jwks', tenant_id => 'beta');  -- SHOULD FAIL
SELECT tenancy.set_signing_key('tenancy:password', :'ed_private');         -- SHOULD FAIL
SELECT tenancy.set_signing_key('tenancy:password', NULL);                  -- SHOULD FAIL
SELECT tenancy.sign_token('tenancy:password', 'acme', 'ann');              -- SHOULD FAIL
SELECT id, sso_required FROM tenancy.tenants WHERE id IN ('acme', 'beta', 'gone') ORDER BY 1;

-- Who may not, and where nobody may.
SET ROLE regress_outsider;
SELECT tenancy.set_password('ann', 'mine');                    -- SHOULD FAIL
SELECT tenancy.renew_password_key();                           -- SHOULD FAIL
SELECT tenancy.set_identity_provider('acme', 'x', NULL, '{}'); -- SHOULD FAIL
SELECT _tenancy.make_password_key();                           -- SHOULD FAIL
SELECT _tenancy.hash_password('x');                            -- SHOULD FAIL
SELECT * FROM _tenancy.passwords;                              -- SHOULD FAIL
SELECT * FROM _tenancy.failed_sign_ins;                        -- SHOULD FAIL
DELETE FROM _tenancy.failed_sign_ins;                          -- SHOULD FAIL
SELECT * FROM _tenancy.signing_keys;                           -- SHOULD FAIL
SELECT * FROM tenancy.users;                                   -- SHOULD FAIL
SELECT * FROM tenancy.tenants;                                 -- SHOULD FAIL
RESET ROLE;
SET tenancy.tenant_id = 'beta';
SELECT tenancy.set_password('ann', 'mine');                    -- SHOULD FAIL
SELECT tenancy.renew_password_key();                           -- SHOULD FAIL
SELECT tenancy.set_identity_provider('beta', 'x', NULL, :'jwks');   -- SHOULD FAIL
RESET tenancy.tenant_id;
-- Roles that read and write everything see no hash and no failure, and plant none.
CREATE ROLE regress_all_data IN ROLE pg_read_all_data, pg_write_all_data;
SET ROLE regress_all_data;
SELECT (SELECT count(*) FROM _tenancy.passwords) AS passwords, (SELECT count(*) FROM _tenancy.failed_sign_ins) AS failures,
       (SELECT count(*) FROM _tenancy.signing_keys) AS keys, (SELECT count(*) FROM pg_stats WHERE schemaname = '_tenancy' AND tablename = 'passwords') AS statistics;
UPDATE _tenancy.passwords SET hash = hash;
DELETE FROM _tenancy.failed_sign_ins;
INSERT INTO _tenancy.passwords VALUES ('bob', '$argon2id$v=19$m=19456,t=2,p=1$x$x');   -- SHOULD FAIL
INSERT INTO _tenancy.failed_sign_ins VALUES ('\x00', now());   -- SHOULD FAIL
RESET ROLE;
SELECT count(*) AS passwords FROM _tenancy.passwords;
DROP ROLE regress_all_data;

-- Where nothing can be written, a password is refused and a token is good.
SET ROLE regress_outsider;
BEGIN READ ONLY;
SELECT tenancy.authenticate('{"tenant_id": "beta", "user_id": "ann", "password": "battery staple"}');   -- SHOULD FAIL
ROLLBACK;
BEGIN READ ONLY;
SELECT tenancy.authenticate(jsonb_build_object('token', :'of_beta')) ->> 'tenant_id' AS tenant_id;
COMMIT;
-- A statement sees one tenant, a sealed transaction as well; a session's context may be refused.
BEGIN;
SET LOCAL tenancy.token = :'of_beta';
SELECT tenancy.seal();
SELECT answer('{"tenant_id": "beta", "user_id": "ann", "password": "wrong"}');
SELECT answer('{"tenant_id": "beta", "user_id": "ann", "password": "battery staple"}');
ROLLBACK;
RESET ROLE;
SELECT tenancy.add_member('acme', 'dan'), tenancy.add_member('beta', 'dan');
UPDATE _tenancy.tenants SET sso_required = false;
SET ROLE regress_outsider;
BEGIN;
SELECT answer('{"tenant_id": "acme", "user_id": "dan", "password": "d"}');
SELECT tenancy.seal();
SELECT tenancy.authenticate('{"tenant_id": "beta", "user_id": "dan", "password": "d"}');   -- SHOULD FAIL
ROLLBACK;
BEGIN;
SELECT answer('{"tenant_id": "acme", "user_id": "dan", "password": "d"}');
SELECT body, answer('{"tenant_id": "beta", "user_id": "dan", "password": "d"}') FROM letters;   -- SHOULD FAIL
ROLLBACK;
RESET ROLE;
SET tenancy.session_context = 'refuse';
SET ROLE regress_outsider;
SELECT tenancy.authenticate('{"tenant_id": "acme", "user_id": "dan", "password": "d"}', false) ->> 'user_id' AS who;
SELECT body FROM letters;                                      -- SHOULD FAIL
RESET tenancy.token;
RESET ROLE;
RESET tenancy.session_context;

-- As it was.
SELECT tenancy.remove_user(id) FROM tenancy.users;
SELECT count(*) AS passwords FROM _tenancy.passwords;
DELETE FROM _tenancy.failed_sign_ins;
DELETE FROM _tenancy.issuers;
DELETE FROM _tenancy.signing_keys;
DROP TABLE letters;
DROP FUNCTION answer(jsonb);
