-- The processes that run tasks: register, renew the lease, go.

CREATE OR REPLACE FUNCTION app.register_executor(p_id uuid, p_host text, p_pid int, p_release text, p_slots int, p_lease_seconds double precision)
RETURNS void LANGUAGE sql SECURITY DEFINER SET search_path = public, app, pg_temp AS $$
  INSERT INTO executors (id, host, pid, release, slots, lease_until)
  VALUES (p_id, p_host, p_pid, p_release, p_slots, app.now() + make_interval(secs => p_lease_seconds))
$$;

-- Renew the lease, unless it has already expired: then its runs may belong to others. The same round trip says which of the
-- given runs are no longer this executor's (cancelled, rescued), so a lost notification costs one heartbeat at most.
CREATE OR REPLACE FUNCTION app.heartbeat(p_id uuid, p_lease_seconds double precision, p_ids uuid[], p_fences int[], p_busy int DEFAULT 0,
                                         p_leaked int DEFAULT 0, p_lag_ms real DEFAULT 0)
RETURNS TABLE (alive boolean, draining boolean, lost uuid[])
LANGUAGE plpgsql SECURITY DEFINER SET search_path = public, app, pg_temp AS $$
DECLARE
  moment timestamptz := app.now();
  drain timestamptz;
BEGIN
  UPDATE executors e
  SET lease_until = moment + make_interval(secs => p_lease_seconds), seen_at = moment, busy = p_busy, leaked = p_leaked, lag_ms = p_lag_ms
  WHERE e.id = p_id AND e.lease_until > moment
  RETURNING e.draining_at INTO drain;
  IF NOT FOUND THEN
    RETURN QUERY SELECT false, false, p_ids;
    RETURN;
  END IF;
  RETURN QUERY
    SELECT true, drain IS NOT NULL,
      ARRAY(SELECT r.id FROM unnest(p_ids, p_fences) AS r (id, fence)
            WHERE NOT EXISTS (SELECT FROM tasks t WHERE t.id = r.id AND t.fence = r.fence AND t.executor_id = p_id));
END $$;

CREATE OR REPLACE FUNCTION app.deregister_executor(p_id uuid) RETURNS void
LANGUAGE sql SECURITY DEFINER SET search_path = public, app, pg_temp AS $$
  DELETE FROM executors e WHERE e.id = p_id
$$;

-- True once per call when the database takes writes: what readiness asks.
CREATE OR REPLACE FUNCTION app.prove_write(p_id uuid) RETURNS boolean
LANGUAGE sql SECURITY DEFINER SET search_path = public, app, pg_temp AS $$
  UPDATE executors e SET slots = e.slots WHERE e.id = p_id RETURNING true
$$;

ALTER FUNCTION app.register_executor(uuid, text, int, text, int, double precision) OWNER TO galley_engine;
ALTER FUNCTION app.heartbeat(uuid, double precision, uuid[], int[], int, int, real) OWNER TO galley_engine;
ALTER FUNCTION app.deregister_executor(uuid) OWNER TO galley_engine;
ALTER FUNCTION app.prove_write(uuid) OWNER TO galley_engine;
