-- Tokens: whose are trusted, and what a role can do that has nothing but a token.
SET timezone = 'UTC';
CREATE TABLE letters (tenant_id text, body text);
SELECT tenancy.protect('letters');
INSERT INTO letters VALUES ('acme', 'of acme'), ('beta', 'of beta');
GRANT SELECT, INSERT ON letters TO regress_outsider, regress_app, regress_bound;

-- Two keys, of which none has been anywhere but here.
\set ed_public '{"kty": "OKP", "crv": "Ed25519", "kid": "e1", "x": "11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo"}'
\set ed_private '{"kty": "OKP", "crv": "Ed25519", "kid": "e1", "x": "11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo", "d": "nWGxne_9WmC6hEr0kuwsxERJxWl7MmkZcDusAxyuf2A"}'
\set oct '{"kty": "oct", "kid": "h1", "k": "AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA"}'
SELECT tenancy.set_issuer('https://id.example', jsonb_build_object('keys', jsonb_build_array(:'ed_public'::jsonb, :'oct'::jsonb)), '{app}');
SELECT tenancy.set_signing_key('https://id.example', :'ed_private');
SELECT issuer, tenant_id, audience, tenant_claim, user_claim, single_use, key_ids, signs_here FROM tenancy.issuers;

SELECT tenancy.sign_token('https://id.example', 'acme', 'ann') AS acme, tenancy.sign_token('https://id.example', 'beta', 'bob') AS beta,
       tenancy.sign_token('https://id.example', 'gone') AS gone, tenancy.sign_token('https://id.example', 'nobody') AS nobody,
       tenancy.sign_token('https://id.example', 'acme', claims => '{"aud": "another"}') AS audience \gset

-- The library reads these columns by number.
SELECT attnum, attname, atttypid::regtype FROM pg_attribute WHERE attrelid = '_tenancy.issuers'::regclass AND attnum BETWEEN 1 AND 7 ORDER BY 1;

-- A role without the privilege, by a token.
SET ROLE regress_outsider;
SET tenancy.tenant_id = 'acme';                                -- SHOULD FAIL
SELECT * FROM letters;                                         -- SHOULD FAIL
BEGIN;
SELECT tenancy.authenticate(jsonb_build_object('token', :'acme')) - 'expires_at' AS who;
SELECT * FROM letters;
INSERT INTO letters (body) VALUES ('written by ann');
INSERT INTO letters VALUES ('beta', 'smuggled');               -- SHOULD FAIL
ROLLBACK;
SELECT * FROM letters;                                         -- SHOULD FAIL: it was for the transaction
BEGIN;
SET LOCAL tenancy.token = :'beta';
SELECT *, tenancy.current_tenant() FROM letters;
SELECT tenancy.context() - 'user_id' AS context, tenancy.context() ->> 'user_id' AS user_id;
COMMIT;
SET tenancy.token = :'acme';
SELECT * FROM letters;
-- Nobody reads it.
SHOW tenancy.token;
SELECT current_setting('tenancy.token');
SELECT count(*) FROM pg_settings WHERE setting LIKE '%eyJ%';
SELECT count(*) FROM pg_show_all_settings() WHERE name = 'tenancy.token';
SET tenancy.tenant_id = 'acme';                                -- SHOULD FAIL
SELECT set_config('tenancy.user_id', 'mallory', false);        -- SHOULD FAIL
SELECT tenancy.set_tenant('beta');                             -- SHOULD FAIL
RESET tenancy.token;
SELECT * FROM letters;                                         -- SHOULD FAIL

-- What is not accepted: nothing of it is repeated.
SET tenancy.token = 'secret';                                  -- SHOULD FAIL
SET tenancy.token = 'eyJhbGciOiJub25lIn0.e30.';                -- SHOULD FAIL
SELECT tenancy.authenticate('{"token": "secret"}');            -- SHOULD FAIL
SELECT tenancy.authenticate('{"user": "ann"}');                -- SHOULD FAIL
SELECT tenancy.authenticate(NULL);                             -- SHOULD FAIL
SET tenancy.token = :'audience';                               -- SHOULD FAIL
SELECT tenancy.authenticate(jsonb_build_object('token', :'gone'));   -- SHOULD FAIL
SELECT tenancy.authenticate(jsonb_build_object('token', :'nobody')); -- SHOULD FAIL
-- Another's signature under these claims.
SELECT split_part(:'acme', '.', 1) || '.' || split_part(:'beta', '.', 2) || '.' || split_part(:'acme', '.', 3) AS mixed \gset
SET tenancy.token = :'mixed';                                  -- SHOULD FAIL
RESET ROLE;
ALTER ROLE regress_outsider SET tenancy.token = :'acme';       -- SHOULD FAIL: everybody could read it there
ALTER DATABASE regress SET tenancy.token = :'acme';            -- SHOULD FAIL
CREATE FUNCTION kept() RETURNS text LANGUAGE sql SET tenancy.token = :'acme' AS 'SELECT 1::text';   -- SHOULD FAIL

-- A statement never sees two tenants, whoever names them.
SET ROLE regress_outsider;
SELECT set_config('tenancy.token', :'acme', false) IS NOT NULL AS set;
SELECT body, set_config('tenancy.token', :'beta', false) IS NOT NULL AS set FROM letters;   -- SHOULD FAIL
BEGIN;
DECLARE c CURSOR FOR SELECT body FROM letters;
FETCH c;
SET LOCAL tenancy.token = :'beta';
FETCH c;                                                    -- SHOULD FAIL
ROLLBACK;
BEGIN;
SELECT tenancy.seal();
SET LOCAL tenancy.token = :'beta';                             -- SHOULD FAIL
ROLLBACK;
-- A savepoint takes the token along.
BEGIN;
SAVEPOINT s;
SET LOCAL tenancy.token = :'beta';
SELECT body FROM letters;
ROLLBACK TO s;
SELECT body FROM letters;
COMMIT;
RESET tenancy.token;

-- With a tenant of another's choice: both must agree.
SET SESSION AUTHORIZATION regress_bound;
SET tenancy.tenant_id = 'beta';                                -- SHOULD FAIL
RESET SESSION AUTHORIZATION;
SET ROLE regress_app;
BEGIN;
SET LOCAL tenancy.tenant_id = 'acme';
SET LOCAL tenancy.token = :'acme';
SELECT body FROM letters;
SET LOCAL tenancy.token = :'beta';
SELECT body FROM letters;                                      -- SHOULD FAIL
ROLLBACK;

-- Keys come and go; each change counts from the next statement on.
SET tenancy.token = :'acme';
SELECT body FROM letters;
RESET ROLE;
SELECT tenancy.set_issuer('https://id.example', jsonb_build_object('keys', jsonb_build_array(:'oct'::jsonb)), '{app}');   -- SHOULD FAIL: in a context
RESET tenancy.token;
SET ROLE regress_app;
SET tenancy.token = :'acme';
SELECT body FROM letters;
RESET ROLE;
-- The administrator's own hands: a change in the same session, with the token set.
UPDATE _tenancy.issuers SET jwks = jsonb_build_object('keys', jsonb_build_array(:'oct'::jsonb));
SET ROLE regress_app;
SELECT body FROM letters;                                      -- SHOULD FAIL
RESET ROLE;
UPDATE _tenancy.issuers SET jwks = jsonb_build_object('keys', jsonb_build_array(:'oct'::jsonb, :'ed_public'::jsonb));
SET ROLE regress_app;
SELECT body FROM letters;
RESET ROLE;
RESET tenancy.token;
SELECT tenancy.remove_issuer('https://id.example');
SET ROLE regress_app;
SET tenancy.token = :'acme';                                   -- SHOULD FAIL
RESET ROLE;

-- An issuer that is trusted for one tenant.
SELECT tenancy.set_issuer('https://id.example', jsonb_build_object('keys', jsonb_build_array(:'ed_public'::jsonb)), '{app}', 'beta');
SET ROLE regress_app;
SET tenancy.token = :'acme';                                   -- SHOULD FAIL
BEGIN;
SET LOCAL tenancy.token = :'beta';
SELECT body FROM letters;
COMMIT;
RESET ROLE;

-- Tokens for one use.
SELECT tenancy.set_issuer('https://once.example', jsonb_build_object('keys', jsonb_build_array(:'oct'::jsonb)), single_use => true);
SELECT tenancy.set_signing_key('https://once.example', :'oct');
SELECT tenancy.sign_token('https://once.example', 'acme', 'ann') AS once \gset
SET ROLE regress_outsider;
SET tenancy.token = :'once';
SELECT body FROM letters;                                      -- SHOULD FAIL
RESET tenancy.token;
BEGIN;
SELECT tenancy.authenticate(jsonb_build_object('token', :'once')) - 'expires_at' AS who;
SELECT body FROM letters;
COMMIT;
SELECT tenancy.authenticate(jsonb_build_object('token', :'once'));   -- SHOULD FAIL
SET tenancy.token = :'once';
SELECT body FROM letters;                                      -- SHOULD FAIL
RESET tenancy.token;

-- Who may not.
SELECT tenancy.sign_token('https://once.example', 'acme');     -- SHOULD FAIL
SELECT tenancy.set_issuer('https://mine.example', '{}');       -- SHOULD FAIL
SELECT * FROM tenancy.issuers;                                 -- SHOULD FAIL
SELECT * FROM _tenancy.issuers;                                -- SHOULD FAIL
SELECT * FROM _tenancy.signing_keys;                           -- SHOULD FAIL
SELECT _tenancy.sign('{}', '{}');                              -- SHOULD FAIL
SELECT _tenancy.note_use('a', 'b', 'c', 1);                    -- SHOULD FAIL
RESET ROLE;

-- What is no key, and what is no issuer.
SELECT tenancy.set_issuer('', '{}');                           -- SHOULD FAIL
SELECT tenancy.set_issuer('x', NULL);                          -- SHOULD FAIL
SELECT tenancy.set_issuer('x', '{}');                          -- SHOULD FAIL
SELECT tenancy.set_issuer('x', '{"keys": [{"kty": "oct", "k": "c2hvcnQ"}]}');   -- SHOULD FAIL
SELECT tenancy.set_issuer('x', jsonb_build_object('keys', jsonb_build_array(:'ed_private'::jsonb)));   -- SHOULD FAIL
SELECT tenancy.set_issuer('x', jsonb_build_object('keys', jsonb_build_array(:'oct'::jsonb)), '{}');   -- SHOULD FAIL
SELECT tenancy.set_issuer('x', jsonb_build_object('keys', jsonb_build_array(:'oct'::jsonb)), tenant_claim => NULL);   -- SHOULD FAIL
SELECT tenancy.set_issuer('x', jsonb_build_object('keys', jsonb_build_array(:'oct'::jsonb)), tenant_id => 'none');   -- SHOULD FAIL
SELECT tenancy.set_signing_key('x', '{"kty": "RSA"}');         -- SHOULD FAIL
SELECT tenancy.set_signing_key('x', :'ed_public');             -- SHOULD FAIL
SELECT tenancy.sign_token('x', 'acme');                        -- SHOULD FAIL
SELECT tenancy.sign_token('https://once.example', 'acme', expires_in => '0');   -- SHOULD FAIL
SELECT tenancy.remove_issuer('x');
SELECT tenancy.set_signing_key('https://once.example', NULL), tenancy.remove_issuer('https://once.example'), tenancy.remove_issuer('https://id.example', 'beta');
SELECT tenancy.set_signing_key('https://id.example', NULL);
SELECT count(*) FROM tenancy.issuers;
DROP TABLE letters;
