-- What is put right now and then, by whichever replica comes first; safe to run anywhere at any time. Each call is one batch: it takes what
-- nobody else has locked and leaves the rest to the next round, so that nothing that hangs holds anything else up.

-- End what nobody may wait for any longer: tasks that were not started in time, tasks whose total time is up. remaining: those that are left,
-- counted up to p_limit. After a batch that ended none, somebody is writing to them, or to an item that they wait for a decision about.
CREATE OR REPLACE FUNCTION app.time_out(p_limit int) RETURNS TABLE (timed_out int, remaining int)
LANGUAGE plpgsql SECURITY DEFINER SET search_path = public, app, pg_temp AS $$
DECLARE
  moment timestamptz := app.now();
  late uuid[];
  overdue uuid[];
  held uuid[];
  passed_over uuid[] := '{}';
BEGIN
  PERFORM app.require_no_tenant();
  late := ARRAY(
    SELECT t.id FROM tasks t
    WHERE t.start_before <= moment AND t.state IN ('scheduled', 'queued', 'blocked') AND t.fence = 0
    ORDER BY t.start_before LIMIT p_limit FOR NO KEY UPDATE SKIP LOCKED);
  IF cardinality(late) > 0 THEN
    PERFORM app.end_tasks(late, 'timed_out', 'timed_out', '{"class": "start_before", "message": "it was not started in time"}', 'system:scheduler', NULL);
  END IF;
  LOOP
    overdue := ARRAY(
      SELECT t.id FROM tasks t
      WHERE t.total_deadline_at <= moment AND t.state IN ('scheduled', 'queued', 'blocked') AND t.id <> ALL (passed_over)
      ORDER BY t.total_deadline_at LIMIT p_limit FOR NO KEY UPDATE SKIP LOCKED);
    held := app.lock_reviewed(overdue);
    passed_over := passed_over || held;
    overdue := ARRAY(SELECT o FROM unnest(overdue) o WHERE o <> ALL (held));
    EXIT WHEN cardinality(overdue) > 0 OR cardinality(held) = 0;
  END LOOP;
  IF cardinality(overdue) > 0 THEN
    PERFORM app.end_tasks(overdue, 'timed_out', 'timed_out', '{"class": "total_timeout", "message": "its total time is up"}', 'system:scheduler', NULL);
  END IF;
  RETURN QUERY
    SELECT cardinality(late) + cardinality(overdue), count(*)::int
    FROM (SELECT FROM tasks t WHERE t.start_before <= moment AND t.state IN ('scheduled', 'queued', 'blocked') AND t.fence = 0
          UNION ALL
          SELECT FROM tasks t WHERE t.total_deadline_at <= moment AND t.state IN ('scheduled', 'queued', 'blocked')
          LIMIT p_limit) AS left_over;
END $$;

-- Wake tasks whose keys have room. Every end of a run does so for its own keys; this finds what was parked at that very moment. Looks at up to
-- p_limit keys behind the given one (NULL: from the first on), and says where to go on; no tenant: that was the last. Paused queues sleep on, and
-- keys of which a task is ready, whose end will wake others: until it is claimed there would be room for another one every time.
CREATE OR REPLACE FUNCTION app.wake_keys(p_limit int, p_tenant uuid, p_queue text, p_key text)
RETURNS TABLE (woken text[], tenant_id uuid, queue text, key text)
LANGUAGE plpgsql SECURITY DEFINER SET search_path = public, app, pg_temp AS $$
#variable_conflict use_column
DECLARE
  tenants_of uuid[];
  queues_of text[];
  keys_of text[];
BEGIN
  PERFORM app.require_no_tenant();
  WITH RECURSIVE hop (tenant_id, queue, key, place) AS (
    (SELECT t.tenant_id, t.queue, t.concurrency_key, 1 FROM tasks t
     WHERE t.state = 'blocked' AND (t.tenant_id, t.queue, t.concurrency_key)
           > (coalesce(p_tenant, '00000000-0000-0000-0000-000000000000'), coalesce(p_queue, ''), coalesce(p_key, ''))
     ORDER BY t.tenant_id, t.queue, t.concurrency_key LIMIT 1)
    UNION ALL
    SELECT n.tenant_id, n.queue, n.concurrency_key, h.place + 1
    FROM hop h CROSS JOIN LATERAL (
      SELECT t.tenant_id, t.queue, t.concurrency_key FROM tasks t
      WHERE t.state = 'blocked' AND (t.tenant_id, t.queue, t.concurrency_key) > (h.tenant_id, h.queue, h.key)
      ORDER BY t.tenant_id, t.queue, t.concurrency_key LIMIT 1) n
    WHERE h.place < p_limit
  )
  SELECT array_agg(h.tenant_id ORDER BY h.place), array_agg(h.queue ORDER BY h.place), array_agg(h.key ORDER BY h.place)
  INTO tenants_of, queues_of, keys_of
  FROM hop h;
  woken := (
    SELECT app.release_keys(array_agg(k.tenant_id), array_agg(k.queue), array_agg(k.key))
    FROM unnest(tenants_of, queues_of, keys_of) AS k (tenant_id, queue, key)
    JOIN queues q ON q.name = k.queue AND (q.paused_at IS NULL OR q.resume_at <= app.now())
    WHERE NOT EXISTS (
      SELECT FROM tasks t WHERE t.tenant_id = k.tenant_id AND t.queue = k.queue AND t.concurrency_key = k.key AND t.state = 'queued'));
  IF cardinality(keys_of) = p_limit THEN
    tenant_id := tenants_of[p_limit];
    queue := queues_of[p_limit];
    key := keys_of[p_limit];
  END IF;
  RETURN NEXT;
END $$;

-- Drop what has expired: calls that nobody is left to settle, pauses, keys of repeated requests, sessions, executors that went without a word.
-- Returns how many of the kind that had most: as many as p_limit, and there may be more.
CREATE OR REPLACE FUNCTION app.clear_expired(p_limit int) RETURNS int
LANGUAGE plpgsql SECURITY DEFINER SET search_path = public, app, pg_temp AS $$
DECLARE
  moment timestamptz := app.now();
  most int := 0;
  cleared int;
BEGIN
  PERFORM app.require_no_tenant();
  UPDATE llm_calls c SET state = 'unknown', finished_at = moment, error = 'nobody was left to receive the answer'
  WHERE c.id = ANY (ARRAY(
    SELECT x.id FROM llm_calls x
    WHERE x.state = 'reserved' AND x.started_at < moment - interval '1 minute'
      AND NOT EXISTS (SELECT FROM tasks t WHERE t.id = x.task_id AND t.fence = x.fence AND t.state = 'running')
    LIMIT p_limit FOR NO KEY UPDATE SKIP LOCKED));
  GET DIAGNOSTICS most = ROW_COUNT;
  UPDATE queues q SET paused_at = NULL, paused_by = NULL, pause_reason = NULL, resume_at = NULL
  WHERE q.name = ANY (ARRAY(SELECT x.name FROM queues x WHERE x.resume_at <= moment FOR NO KEY UPDATE SKIP LOCKED));
  DELETE FROM idempotency i
  WHERE i.ctid = ANY (ARRAY(SELECT x.ctid FROM idempotency x WHERE x.expires_at <= moment LIMIT p_limit FOR UPDATE SKIP LOCKED));
  GET DIAGNOSTICS cleared = ROW_COUNT;
  most := greatest(most, cleared);
  DELETE FROM sessions s
  WHERE s.id = ANY (ARRAY(SELECT x.id FROM sessions x WHERE x.expires_at <= moment LIMIT p_limit FOR UPDATE SKIP LOCKED));
  GET DIAGNOSTICS cleared = ROW_COUNT;
  most := greatest(most, cleared);
  DELETE FROM executors e
  WHERE e.id = ANY (ARRAY(
    SELECT x.id FROM executors x
    WHERE x.lease_until < moment - interval '1 hour' AND NOT EXISTS (SELECT FROM tasks t WHERE t.state = 'running' AND t.executor_id = x.id)
    LIMIT p_limit FOR UPDATE SKIP LOCKED));
  GET DIAGNOSTICS cleared = ROW_COUNT;
  RETURN greatest(most, cleared);
END $$;

-- All of that at once, as the release before asks for it.
CREATE OR REPLACE FUNCTION app.sweep(p_limit int) RETURNS TABLE (timed_out int, woken text[])
LANGUAGE plpgsql SECURITY DEFINER SET search_path = public, app, pg_temp AS $$
BEGIN
  PERFORM app.require_no_tenant();
  timed_out := (SELECT o.timed_out FROM app.time_out(p_limit) o);
  woken := (SELECT k.woken FROM app.wake_keys(p_limit, NULL, NULL, NULL) k);
  PERFORM app.clear_expired(p_limit);
  RETURN NEXT;
END $$;

-- Clear away signals and live output of tasks that ended: nothing reads them any more.
CREATE OR REPLACE FUNCTION app.sweep_leftovers(p_limit int) RETURNS int
LANGUAGE plpgsql SECURITY DEFINER SET search_path = public, app, pg_temp AS $$
DECLARE
  removed int;
  forgotten int;
BEGIN
  PERFORM app.require_no_tenant();
  DELETE FROM task_output o WHERE o.task_id IN (
    SELECT DISTINCT x.task_id FROM task_output x WHERE NOT EXISTS (SELECT FROM tasks t WHERE t.id = x.task_id) LIMIT p_limit);
  GET DIAGNOSTICS removed = ROW_COUNT;
  DELETE FROM task_signals s WHERE s.ctid = ANY (ARRAY(
    SELECT x.ctid FROM task_signals x
    WHERE x.created_at < app.now() - interval '1 day' AND NOT EXISTS (SELECT FROM tasks t WHERE t.id = x.task_id)
    LIMIT p_limit));
  GET DIAGNOSTICS forgotten = ROW_COUNT;
  RETURN greatest(removed, forgotten);
END $$;

ALTER FUNCTION app.time_out(int) OWNER TO galley_engine;
ALTER FUNCTION app.wake_keys(int, uuid, text, text) OWNER TO galley_engine;
ALTER FUNCTION app.clear_expired(int) OWNER TO galley_engine;
ALTER FUNCTION app.sweep(int) OWNER TO galley_engine;
ALTER FUNCTION app.sweep_leftovers(int) OWNER TO galley_engine;
