-- Take an Idempotency-Key for a call, or find what the first call with it answered.
-- A twin under way holds the key's row: this waits for it, at most 2 s, and then fails with lock_not_available.
-- Each statement here has its own snapshot, so what the twin committed meanwhile is seen.
CREATE OR REPLACE FUNCTION app.take_idempotency_key(p_tenant uuid, p_principal uuid, p_route text, p_key text, p_hash bytea)
RETURNS TABLE (taken boolean, request_hash bytea, status smallint, headers jsonb, body bytea)
LANGUAGE plpgsql SET search_path = public, app, pg_temp SET lock_timeout = '2s' AS $$
#variable_conflict use_column
BEGIN
  INSERT INTO idempotency (tenant_id, principal_id, route, key, request_hash)
  VALUES (p_tenant, p_principal, p_route, p_key, p_hash)
  ON CONFLICT DO NOTHING;
  taken := FOUND;
  IF NOT taken THEN
    UPDATE idempotency
    SET request_hash = p_hash, status = NULL, headers = NULL, body = NULL, created_at = app.now(), expires_at = app.now() + interval '24 hours'
    WHERE tenant_id = p_tenant AND principal_id = p_principal AND route = p_route AND key = p_key AND expires_at <= app.now();
    taken := FOUND;
  END IF;
  IF taken THEN
    RETURN NEXT;
    RETURN;
  END IF;
  RETURN QUERY
    SELECT false, i.request_hash, i.status, i.headers, i.body
    FROM idempotency i
    WHERE i.tenant_id = p_tenant AND i.principal_id = p_principal AND i.route = p_route AND i.key = p_key;
END $$;

REVOKE EXECUTE ON FUNCTION app.take_idempotency_key(uuid, uuid, text, text, bytea) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION app.take_idempotency_key(uuid, uuid, text, text, bytea) TO galley_web;
