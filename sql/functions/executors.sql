-- The processes that run tasks: register, renew the lease, go.

-- Again under the same id when the first answer was lost. p_former is the id under which this process lost its lease: if it was being
-- drained, it still is.
DROP FUNCTION IF EXISTS app.register_executor(uuid, text, int, text, int, double precision);
CREATE OR REPLACE FUNCTION app.register_executor(p_id uuid, p_host text, p_pid int, p_release text, p_slots int, p_lease_seconds double precision,
                                                 p_former uuid DEFAULT NULL)
RETURNS void LANGUAGE plpgsql SECURITY DEFINER SET search_path = public, app, pg_temp AS $$
BEGIN
  PERFORM app.require_no_tenant();
  INSERT INTO executors (id, host, pid, release, slots, lease_until, draining_at, draining_by)
  SELECT p_id, p_host, p_pid, p_release, p_slots, app.now() + make_interval(secs => p_lease_seconds), f.draining_at, f.draining_by
  FROM (SELECT) AS always LEFT JOIN executors f ON f.id = p_former
  ON CONFLICT (id) DO UPDATE SET lease_until = excluded.lease_until, seen_at = app.now();
END $$;

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
  PERFORM app.require_no_tenant();
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
LANGUAGE plpgsql SECURITY DEFINER SET search_path = public, app, pg_temp AS $$
BEGIN
  PERFORM app.require_no_tenant();
  DELETE FROM executors e WHERE e.id = p_id;
END $$;

-- True once per call when the database takes writes: what readiness asks.
CREATE OR REPLACE FUNCTION app.prove_write(p_id uuid) RETURNS boolean
LANGUAGE plpgsql SECURITY DEFINER SET search_path = public, app, pg_temp AS $$
BEGIN
  PERFORM app.require_no_tenant();
  UPDATE executors e SET slots = e.slots WHERE e.id = p_id;
  RETURN FOUND;
END $$;

-- The executors as people see them, oldest first. Hosts, slots and loads are for those who operate the installation; everybody else sees
-- which there are, in what state, and how many of its own tasks each one runs.
CREATE OR REPLACE FUNCTION app.list_executors(p_installation boolean)
RETURNS TABLE (id uuid, host text, pid int, release text, slots int, busy int, leaked int, lag_ms real, started_at timestamptz,
               seen_at timestamptz, seconds_left double precision, draining_at timestamptz, draining_by text, running bigint)
LANGUAGE plpgsql STABLE SECURITY DEFINER SET search_path = public, app, pg_temp AS $$
#variable_conflict use_column
DECLARE
  own uuid := app.current_tenant();
  moment timestamptz := app.now();
BEGIN
  IF p_installation THEN
    PERFORM app.require_operates();
  END IF;
  RETURN QUERY
    SELECT e.id, CASE WHEN p_installation THEN e.host END, CASE WHEN p_installation THEN e.pid END,
           CASE WHEN p_installation THEN e.release END, CASE WHEN p_installation THEN e.slots END,
           CASE WHEN p_installation THEN e.busy END, CASE WHEN p_installation THEN e.leaked END,
           CASE WHEN p_installation THEN e.lag_ms END, e.started_at, e.seen_at,
           greatest(extract(epoch FROM e.lease_until - moment), 0)::double precision, e.draining_at,
           CASE WHEN p_installation THEN e.draining_by END, coalesce(r.tasks, 0)
    FROM executors e
    LEFT JOIN (SELECT t.executor_id, count(*) AS tasks FROM tasks t
               WHERE t.state = 'running' AND (p_installation OR t.tenant_id = own) GROUP BY t.executor_id) r ON r.executor_id = e.id
    ORDER BY e.started_at, e.id;
END $$;

-- Let an executor claim nothing more, or again. Claims ask for it, so it is in force at once; the process itself learns of it with its
-- next heartbeat. False when there is none of this id.
CREATE OR REPLACE FUNCTION app.drain_executor(p_id uuid, p_drain boolean, p_actor text) RETURNS boolean
LANGUAGE plpgsql SECURITY DEFINER SET search_path = public, app, pg_temp AS $$
BEGIN
  PERFORM app.require_operates();
  UPDATE executors e
  SET draining_at = CASE WHEN p_drain THEN coalesce(e.draining_at, app.now()) END,
      draining_by = CASE WHEN p_drain THEN coalesce(e.draining_by, p_actor) END
  WHERE e.id = p_id;
  RETURN FOUND;
END $$;

ALTER FUNCTION app.register_executor(uuid, text, int, text, int, double precision, uuid) OWNER TO galley_engine;
ALTER FUNCTION app.heartbeat(uuid, double precision, uuid[], int[], int, int, real) OWNER TO galley_engine;
ALTER FUNCTION app.deregister_executor(uuid) OWNER TO galley_engine;
ALTER FUNCTION app.prove_write(uuid) OWNER TO galley_engine;
ALTER FUNCTION app.list_executors(boolean) OWNER TO galley_engine;
ALTER FUNCTION app.drain_executor(uuid, boolean, text) OWNER TO galley_engine;
