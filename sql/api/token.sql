-- Tokens: whose are trusted, and signing in with one. Re-runnable.

COMMENT ON FUNCTION _tenancy.check_keys(jsonb) IS
'Raises 22023 KEY_INVALID unless the document has keys by which tokens can be verified. Immutable. For tenancy.set_issuer.';
COMMENT ON FUNCTION _tenancy.sign(jsonb, jsonb) IS
'Returns a token with these claims, signed by a private key. Error: 22023 KEY_INVALID. Volatile. For tenancy.sign_token.';
COMMENT ON FUNCTION _tenancy.use_token(text, boolean) IS
'Sets tenancy.token, and uses it up where it is good for one use only; returns whom it speaks for. Errors: 28000 TOKEN_INVALID,
TOKEN_EXPIRED, those of current_tenant(). Volatile. For tenancy.authenticate, with the rights of its caller.';

CREATE VIEW tenancy.issuers WITH (security_barrier) AS
    SELECT i.issuer, nullif(i.tenant_id, '') AS tenant_id,
           CASE WHEN i.audience IS NOT NULL THEN ARRAY(SELECT jsonb_array_elements_text(i.audience)) END AS audience, i.tenant_claim, i.user_claim, i.single_use,
           ARRAY(SELECT coalesce(k ->> 'kid', '') FROM jsonb_array_elements(i.jwks -> 'keys') AS k) AS key_ids,
           EXISTS (SELECT FROM _tenancy.signing_keys s WHERE s.issuer = i.issuer) AS signs_here, i.created_at, i.changed_at
    FROM _tenancy.issuers i;
COMMENT ON VIEW tenancy.issuers IS
'The issuers whose tokens are trusted, without their keys. tenant_id: the only tenant that it is trusted for. Granted to nobody.';

CREATE FUNCTION _tenancy.refuse_reserved_issuer(issuer text) RETURNS void
    LANGUAGE plpgsql STABLE
    SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    IF starts_with(issuer, 'tenancy:') THEN
        PERFORM _tenancy.raise('PARAMETER_INVALID', 'issuers whose names begin with tenancy: are the extension''s own', '{"argument": "issuer"}',
            'To make the tokens of passwords void: SELECT tenancy.renew_password_key();');
    END IF;
END
$$;
COMMENT ON FUNCTION _tenancy.refuse_reserved_issuer(text) IS 'raises an error for the name of an issuer of the extension itself';

CREATE FUNCTION tenancy.set_issuer(
    issuer text, jwks jsonb, audience text[] DEFAULT NULL, tenant_id text DEFAULT NULL, tenant_claim text DEFAULT 'tenant_id',
    user_claim text DEFAULT 'sub', single_use boolean DEFAULT false) RETURNS void
    LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE SECURITY DEFINER
    SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    only_tenant text := coalesce(tenancy.normalize_tenant_id(set_issuer.tenant_id), '');
    argument text;
BEGIN
    PERFORM _tenancy.refuse_in_context('set_issuer');
    argument := CASE WHEN coalesce(set_issuer.issuer, '') = '' THEN 'issuer' WHEN set_issuer.jwks IS NULL THEN 'jwks'
                     WHEN set_issuer.single_use IS NULL THEN 'single_use' END;
    IF argument IS NOT NULL THEN
        PERFORM _tenancy.raise('PARAMETER_INVALID', format('%s must not be null or empty', argument), jsonb_build_object('argument', argument));
    END IF;
    PERFORM _tenancy.refuse_reserved_issuer(set_issuer.issuer);
    IF array_position(set_issuer.audience, NULL) IS NOT NULL OR set_issuer.audience = '{}' THEN
        PERFORM _tenancy.raise('PARAMETER_INVALID', 'audience must have one text at least, and no null', '{"argument": "audience"}',
            'Null stands for tokens that are meant for nobody in particular.');
    END IF;
    IF only_tenant = '' AND coalesce(set_issuer.tenant_claim, '') = '' THEN
        PERFORM _tenancy.raise('PARAMETER_INVALID', 'tenant_claim must name a claim', '{"argument": "tenant_claim"}',
            'It may be null only for an issuer that is trusted for one tenant.');
    END IF;
    IF only_tenant <> '' AND NOT EXISTS (SELECT FROM _tenancy.tenants t WHERE t.id = only_tenant) THEN
        PERFORM _tenancy.raise('TENANT_NOT_FOUND', format('tenant "%s" does not exist', only_tenant), jsonb_build_object('tenant_id', only_tenant),
            format('Register it with: SELECT tenancy.create_tenant(%L);', only_tenant));
    END IF;
    PERFORM _tenancy.check_keys(set_issuer.jwks);
    INSERT INTO _tenancy.issuers AS i (issuer, tenant_id, jwks, audience, tenant_claim, user_claim, single_use)
    VALUES (set_issuer.issuer, only_tenant, set_issuer.jwks, to_jsonb(set_issuer.audience), nullif(set_issuer.tenant_claim, ''),
            nullif(set_issuer.user_claim, ''), set_issuer.single_use)
    ON CONFLICT ON CONSTRAINT issuers_pkey DO UPDATE
        SET jwks = excluded.jwks, audience = excluded.audience, tenant_claim = excluded.tenant_claim,
            user_claim = excluded.user_claim, single_use = excluded.single_use, changed_at = now();
END
$$;
COMMENT ON FUNCTION tenancy.set_issuer(text, jsonb, text[], text, text, text, boolean) IS
'Makes the tokens of an issuer trusted, or changes what is known of it: from the next statement of every session on, tokens are good
only by these keys. issuer: the claim iss of its tokens. jwks: a JSON Web Key Set with public keys (RSA, EC P-256, OKP Ed25519) or
symmetric ones (oct); to exchange a key, hold both for as long as tokens of the old one live. audience: whom its tokens are meant for
(aud); null: for nobody in particular. tenant_id: the only tenant that it is trusted for; null: whichever a token names.
tenant_claim, user_claim: the claims that name tenant and user, with dots between members (app_metadata.tenant_id); a tenant_claim must be
there; null, for an issuer of one tenant: none is needed. single_use: each
token is good for one authenticate(), and needs an id (jti). Errors: 22023 KEY_INVALID, PARAMETER_INVALID, TENANT_ID_INVALID, 42704
TENANT_NOT_FOUND. Volatile. Granted to nobody; refused in the context of a tenant.';

CREATE FUNCTION tenancy.remove_issuer(issuer text, tenant_id text DEFAULT NULL) RETURNS boolean
    LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE SECURITY DEFINER
    SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    PERFORM _tenancy.refuse_in_context('remove_issuer');
    PERFORM _tenancy.refuse_reserved_issuer(remove_issuer.issuer);
    DELETE FROM _tenancy.issuers i
    WHERE i.issuer = remove_issuer.issuer
      AND (remove_issuer.tenant_id IS NULL OR i.tenant_id = tenancy.normalize_tenant_id(remove_issuer.tenant_id));
    RETURN FOUND;
END
$$;
COMMENT ON FUNCTION tenancy.remove_issuer(text, text) IS
'Trusts the tokens of an issuer no longer, from the next statement of every session on; returns whether it was known. tenant_id: the
tenant that it was trusted for; null: whichever. Error: 22023 TENANT_ID_INVALID. Volatile. Granted to nobody; refused in the context of a tenant.';

CREATE FUNCTION tenancy.set_signing_key(issuer text, key jsonb) RETURNS void
    LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE SECURITY DEFINER
    SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    PERFORM _tenancy.refuse_in_context('set_signing_key');
    IF coalesce(set_signing_key.issuer, '') = '' THEN
        PERFORM _tenancy.raise('PARAMETER_INVALID', 'issuer must not be null or empty', '{"argument": "issuer"}');
    END IF;
    PERFORM _tenancy.refuse_reserved_issuer(set_signing_key.issuer);
    IF set_signing_key.key IS NULL THEN
        DELETE FROM _tenancy.signing_keys k WHERE k.issuer = set_signing_key.issuer;
        RETURN;
    END IF;
    -- A key that is of no use is refused here, and not when somebody is waiting for a token.
    PERFORM _tenancy.sign('{}', set_signing_key.key);
    INSERT INTO _tenancy.signing_keys AS k (issuer, key) VALUES (set_signing_key.issuer, set_signing_key.key)
    ON CONFLICT ON CONSTRAINT signing_keys_pkey DO UPDATE SET key = excluded.key, created_at = now();
END
$$;
COMMENT ON FUNCTION tenancy.set_signing_key(text, jsonb) IS
'Sets the private key with which sign_token() signs for an issuer: a JSON Web Key (OKP Ed25519, EC P-256, or oct); null removes it. Its
public part goes into the jwks of set_issuer(). Errors: 22023 KEY_INVALID, PARAMETER_INVALID. Volatile. Granted to nobody; refused
in the context of a tenant.';

CREATE FUNCTION tenancy.sign_token(
    issuer text, tenant_id text, user_id text DEFAULT NULL, expires_in interval DEFAULT '15 minutes', claims jsonb DEFAULT '{}')
    RETURNS text
    LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE SECURITY DEFINER
    SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    key jsonb;
    known _tenancy.issuers;
    now_at bigint := floor(extract(epoch FROM clock_timestamp()))::bigint;
    all_claims jsonb := sign_token.claims;
BEGIN
    PERFORM _tenancy.refuse_in_context('sign_token');
    PERFORM _tenancy.refuse_reserved_issuer(sign_token.issuer);
    IF sign_token.tenant_id IS NULL OR sign_token.claims IS NULL OR jsonb_typeof(sign_token.claims) <> 'object'
       OR sign_token.expires_in IS NULL OR sign_token.expires_in <= '0' THEN
        PERFORM _tenancy.raise('PARAMETER_INVALID', 'sign_token needs a tenant, a time to expire in, and claims that are a JSON object');
    END IF;
    SELECT k.key INTO key FROM _tenancy.signing_keys k WHERE k.issuer = sign_token.issuer;
    IF key IS NULL THEN
        PERFORM _tenancy.raise('KEY_INVALID', 'issuer has no key here to sign with', '{"argument": "issuer"}',
            'Set one with: SELECT tenancy.set_signing_key(''<issuer>'', ''<private key>'');');
    END IF;
    SELECT i.* INTO known FROM _tenancy.issuers i
    WHERE i.issuer = sign_token.issuer AND i.tenant_id IN ('', tenancy.normalize_tenant_id(sign_token.tenant_id))
    ORDER BY i.tenant_id DESC LIMIT 1;
    IF strpos(coalesce(known.tenant_claim, 'tenant_id'), '.') > 0 OR strpos(coalesce(known.user_claim, 'sub'), '.') > 0 THEN
        PERFORM _tenancy.raise('PARAMETER_INVALID', 'sign_token writes claims at the top only', '{"argument": "issuer"}');
    END IF;
    all_claims := all_claims || jsonb_build_object(
        'iss', sign_token.issuer, coalesce(known.tenant_claim, 'tenant_id'), tenancy.normalize_tenant_id(sign_token.tenant_id),
        'iat', now_at, 'exp', now_at + extract(epoch FROM sign_token.expires_in)::bigint, 'jti', gen_random_uuid());
    IF sign_token.user_id IS NOT NULL THEN
        all_claims := all_claims || jsonb_build_object(coalesce(known.user_claim, 'sub'), sign_token.user_id);
    END IF;
    IF known.audience IS NOT NULL AND NOT all_claims ? 'aud' THEN
        all_claims := all_claims || jsonb_build_object('aud', known.audience -> 0);
    END IF;
    RETURN _tenancy.sign(all_claims, key);
END
$$;
COMMENT ON FUNCTION tenancy.sign_token(text, text, text, interval, jsonb) IS
'Returns a token for a tenant and user, signed with the key of set_signing_key(). expires_in: from now on. claims: what it says besides.
Errors: 22023 KEY_INVALID, PARAMETER_INVALID, TENANT_ID_INVALID. Volatile. Granted to nobody: whoever may call it can speak for every
tenant; refused in the context of a tenant.';

-- Whether a token was not used before. Removes some that have expired on the way.
CREATE FUNCTION _tenancy.note_use(issuer text, tenant_id text, id text, expires bigint) RETURNS boolean
    LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE
    SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    -- In an older snapshot, what another session has removed could not be removed.
    IF current_setting('transaction_isolation') = 'read committed' THEN
        DELETE FROM _tenancy.used_tokens u WHERE u.ctid = ANY (ARRAY(
            SELECT o.ctid FROM _tenancy.used_tokens o WHERE o.expires_at < clock_timestamp() - interval '1 hour'
            ORDER BY o.expires_at LIMIT 20 FOR UPDATE SKIP LOCKED));
    END IF;
    INSERT INTO _tenancy.used_tokens (issuer, tenant_id, id, expires_at)
    VALUES (note_use.issuer, note_use.tenant_id, note_use.id, to_timestamp(least(note_use.expires, 32503680000))) ON CONFLICT DO NOTHING;
    RETURN FOUND;
END
$$;
COMMENT ON FUNCTION _tenancy.note_use(text, text, text, bigint) IS 'notes that a token which is good for one use was used; false where it was before';
