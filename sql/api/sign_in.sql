-- Signing in: with a token, or with a password where a tenant takes them. Re-runnable.

COMMENT ON FUNCTION _tenancy.sign_in(jsonb) IS
'Returns a token for a user who knows its password. Errors: 28P01 CREDENTIALS_INVALID, 53400 TOO_MANY_FAILURES, 22023 PARAMETER_INVALID,
25006 where nothing can be written. Volatile. For tenancy.authenticate.';
COMMENT ON FUNCTION _tenancy.hash_password(text) IS
'Returns the hash of a password (argon2id). Error: 22023 PARAMETER_INVALID. Volatile. For tenancy.set_password.';

CREATE FUNCTION tenancy.set_identity_provider(
    tenant_id text, issuer text, audience text, jwks jsonb, sso_required boolean DEFAULT true, tenant_claim text DEFAULT NULL,
    user_claim text DEFAULT 'sub') RETURNS void
    LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE SECURITY DEFINER
    SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    PERFORM _tenancy.refuse_in_context('set_identity_provider');
    IF set_identity_provider.tenant_id IS NULL THEN
        PERFORM _tenancy.raise('TENANT_ID_INVALID', 'tenant id must not be null');
    END IF;
    IF set_identity_provider.sso_required IS NULL THEN
        PERFORM _tenancy.raise('PARAMETER_INVALID', 'sso_required must not be null', '{"argument": "sso_required"}');
    END IF;
    PERFORM tenancy.set_issuer(set_identity_provider.issuer, set_identity_provider.jwks,
        CASE WHEN set_identity_provider.audience IS NOT NULL THEN ARRAY[set_identity_provider.audience] END, set_identity_provider.tenant_id,
        set_identity_provider.tenant_claim, set_identity_provider.user_claim);
    UPDATE _tenancy.tenants t SET sso_required = set_identity_provider.sso_required
    WHERE t.id = tenancy.normalize_tenant_id(set_identity_provider.tenant_id) AND t.sso_required <> set_identity_provider.sso_required;
END
$$;
COMMENT ON FUNCTION tenancy.set_identity_provider(text, text, text, jsonb, boolean, text, text) IS
'Makes the tokens of an issuer trusted for one tenant, as set_issuer() does, and says whether the tenant takes no others: with
sso_required, passwords and tokens of issuers that are trusted for all tenants are refused there, from the next statement of every
session on; roles that may set tenancy.tenant_id need no token still. audience: whom the tokens are meant for; null: for nobody in
particular. tenant_claim: the claim that must name the tenant; null: none needs to. user_claim: the claim that names the user. Errors:
those of set_issuer(). Volatile. Granted to nobody; refused in the context of a tenant.';

-- The tokens of passwords are signed by a key that only this database has. It is made as the statement runs, and never a constant in its plan,
-- which debug_print_plan shows to whoever was granted a function that calls this one.
CREATE FUNCTION _tenancy.make_password_key() RETURNS void
    LANGUAGE plpgsql VOLATILE
    SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    WITH made AS (
        INSERT INTO _tenancy.issuers AS i (issuer, jwks, tenant_claim, user_claim)
        SELECT 'tenancy:password', jsonb_build_object('keys', jsonb_build_array(jsonb_build_object(
                   'kty', 'oct', 'alg', 'HS256', 'kid', gen_random_uuid(), 'k', secret))), 'tenant_id', 'sub'
        -- 244 random bits, in base64url.
        FROM (SELECT rtrim(translate(encode(sha256(convert_to(gen_random_uuid()::text || gen_random_uuid()::text, 'UTF8')), 'base64'),
                                     '+/', '-_'), '=') AS secret) AS random
        ON CONFLICT ON CONSTRAINT issuers_pkey DO NOTHING
        RETURNING i.jwks)
    INSERT INTO _tenancy.signing_keys AS k (issuer, key) SELECT 'tenancy:password', made.jwks #> '{keys,0}' FROM made
    ON CONFLICT ON CONSTRAINT signing_keys_pkey DO UPDATE SET key = excluded.key, created_at = now();
END
$$;
COMMENT ON FUNCTION _tenancy.make_password_key() IS 'makes the key that signs the tokens of passwords, unless there is one';

CREATE FUNCTION tenancy.renew_password_key() RETURNS void
    LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE SECURITY DEFINER
    SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    PERFORM _tenancy.refuse_in_context('renew_password_key');
    DELETE FROM _tenancy.issuers i WHERE i.issuer = 'tenancy:password';
    PERFORM _tenancy.make_password_key();
END
$$;
COMMENT ON FUNCTION tenancy.renew_password_key() IS
'Makes all tokens void that were given for a password, from the next statement of every session on. Volatile. Granted to nobody; refused in
the context of a tenant.';

CREATE FUNCTION tenancy.set_password(user_id text, password text) RETURNS void
    LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE SECURITY DEFINER
    SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    PERFORM _tenancy.refuse_in_context('set_password');
    PERFORM FROM _tenancy.users u WHERE u.id = set_password.user_id FOR KEY SHARE;
    IF NOT FOUND THEN
        PERFORM _tenancy.raise_no_user(set_password.user_id);
    END IF;
    IF set_password.password IS NULL THEN
        DELETE FROM _tenancy.passwords p WHERE p.user_id = set_password.user_id;
        RETURN;
    END IF;
    PERFORM _tenancy.make_password_key();
    INSERT INTO _tenancy.passwords (user_id, hash) VALUES (set_password.user_id, _tenancy.hash_password(set_password.password))
    ON CONFLICT ON CONSTRAINT passwords_pkey DO UPDATE SET hash = excluded.hash, changed_at = now();
END
$$;
COMMENT ON FUNCTION tenancy.set_password(text, text) IS
'Sets the password by which a user signs in to its tenants, of 1 to 1024 bytes; null: none. Pass it as a parameter, not in the text of
the statement, which logs and statistics may keep. Tokens that were
given for an earlier password are void. Only its hash is stored (argon2id). Errors: 42704 USER_NOT_FOUND, 22023
PARAMETER_INVALID. Volatile. Granted to nobody; refused in the context of a tenant.';

CREATE FUNCTION tenancy.authenticate(credentials jsonb, is_local boolean DEFAULT true) RETURNS jsonb
    LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE
    SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    token text := credentials ->> 'token';
    who jsonb;
BEGIN
    -- One of both, and nothing that is null: use_token() and sign_in() are strict, and would pass over it.
    IF is_local IS NULL OR coalesce(jsonb_typeof(credentials -> 'token') = 'string', false) = coalesce(credentials ? 'password', false) THEN
        PERFORM _tenancy.raise('PARAMETER_INVALID', 'credentials must be a JSON object with a token, or with a password', '{"argument": "credentials"}',
            'SELECT tenancy.authenticate(jsonb_build_object(''token'', $1));');
    END IF;
    IF credentials ? 'password' THEN
        token := _tenancy.sign_in(credentials);
    END IF;
    who := _tenancy.use_token(token, is_local);
    RETURN who || jsonb_build_object('expires_at', to_timestamp(least((who ->> 'expires_at')::bigint, 32503680000)))
        || CASE WHEN credentials ? 'password' THEN jsonb_build_object('token', token) ELSE '{}' END;
END
$$;
COMMENT ON FUNCTION tenancy.authenticate(jsonb, boolean) IS
'Signs in and sets the context, for the transaction (is_local, the default) or for the session. With a token, {"token": "<JSON Web
Token>"}; or with a password, {"tenant_id", "user_id" or "email", "password"}, for an active member of a tenant that takes passwords.
Returns tenant_id, user_id, role (null where the user is no active member), issuer, expires_at, and for a password the token that stands for it until then. Errors:
28000 TOKEN_INVALID, TOKEN_EXPIRED; 28P01 CREDENTIALS_INVALID, whatever is wrong; 53400 TOO_MANY_FAILURES (tenancy.max_failed_sign_ins);
22023 PARAMETER_INVALID; those of current_tenant(); a password also 25006 where nothing can be written. Volatile. PUBLIC may call it.';
