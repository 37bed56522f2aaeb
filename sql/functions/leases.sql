-- What becomes of runs whose executor stops, dies, or lived on without its lease. All across tenants: for galley_engine, as app.finish is.

-- Give the runs of a stopping executor back, attempt refunded: nothing waits for its lease to expire. Says which of them were given back, and
-- which are busy: somebody is writing to them right now, and they may be given back a moment later.
CREATE OR REPLACE FUNCTION app.give_back_free(p_executor uuid, p_ids uuid[], p_fences int[], OUT given uuid[], OUT busy uuid[])
LANGUAGE plpgsql SECURITY DEFINER SET search_path = public, app, pg_temp AS $$
DECLARE
  moment timestamptz := app.now();
  freed_tenants uuid[];
  freed_queues text[];
  freed_keys text[];
BEGIN
  PERFORM app.require_no_tenant();
  WITH locked AS MATERIALIZED (
    SELECT t.id FROM tasks t
    WHERE (t.id, t.fence) IN (SELECT * FROM unnest(p_ids, p_fences)) AND t.executor_id = p_executor
    ORDER BY t.id FOR NO KEY UPDATE SKIP LOCKED
  ), back AS (
    UPDATE tasks t
    SET state = 'queued', attempt = t.attempt - 1, fence = t.fence + 1, executor_id = NULL, deadline_at = NULL
    FROM locked l WHERE t.id = l.id
    RETURNING t.*
  ), told AS (
    INSERT INTO task_events (tenant_id, task_id, at, event, fence, attempt, actor, executor_id, detail)
    SELECT b.tenant_id, b.id, moment, 'interrupted', b.fence - 1, b.attempt, 'executor', p_executor,
           jsonb_build_object('reason', 'its executor gave it back', 'started_at', b.started_at)
    FROM back b
  )
  SELECT array_agg(b.id), array_agg(b.tenant_id) FILTER (WHERE b.concurrency_key IS NOT NULL),
         array_agg(b.queue) FILTER (WHERE b.concurrency_key IS NOT NULL),
         array_agg(b.concurrency_key) FILTER (WHERE b.concurrency_key IS NOT NULL)
  INTO given, freed_tenants, freed_queues, freed_keys
  FROM back b;
  PERFORM app.mark_unknown_calls(given);
  PERFORM app.release_keys(freed_tenants, freed_queues, freed_keys);
  given := coalesce(given, '{}');
  busy := ARRAY(SELECT t.id FROM tasks t WHERE (t.id, t.fence) IN (SELECT * FROM unnest(p_ids, p_fences)) AND t.executor_id = p_executor);
END $$;

CREATE OR REPLACE FUNCTION app.give_back(p_executor uuid, p_ids uuid[], p_fences int[]) RETURNS uuid[]
LANGUAGE plpgsql SECURITY DEFINER SET search_path = public, app, pg_temp AS $$
BEGIN
  PERFORM app.require_no_tenant();
  RETURN (SELECT g.given FROM app.give_back_free(p_executor, p_ids, p_fences) g);
END $$;

-- Give back what an executor has claimed without learning of it: the connection broke between the commit and the answer.
CREATE OR REPLACE FUNCTION app.give_back_unknown(p_executor uuid, p_known uuid[], p_seconds double precision) RETURNS uuid[]
LANGUAGE plpgsql SECURITY DEFINER SET search_path = public, app, pg_temp AS $$
DECLARE
  ids uuid[];
  fences int[];
BEGIN
  PERFORM app.require_no_tenant();
  SELECT array_agg(t.id), array_agg(t.fence) INTO ids, fences
  FROM tasks t
  WHERE t.state = 'running' AND t.executor_id = p_executor AND t.started_at < app.now() - make_interval(secs => p_seconds)
    AND t.id <> ALL (p_known);
  RETURN CASE WHEN ids IS NULL THEN '{}' ELSE app.give_back(p_executor, ids, fences) END;
END $$;

-- Take over what dead executors left: their executor is missing or its lease has expired, or the run is long past its deadline. What
-- somebody is writing to, or to an item that it waits for a decision about, is left for the next round.
CREATE OR REPLACE FUNCTION app.rescue(p_limit int, p_overdue_seconds int)
RETURNS TABLE (id uuid, queue text, type text, outcome text)
LANGUAGE plpgsql SECURITY DEFINER SET search_path = public, app, pg_temp AS $$
#variable_conflict use_column
DECLARE
  moment timestamptz := app.now();
  lost uuid[];
  exhausted uuid[];
  looping uuid[];
  refused uuid[];
  freed_tenants uuid[];
  freed_queues text[];
  freed_keys text[];
  held uuid[];
BEGIN
  PERFORM app.require_no_tenant();
  -- The clock was set back: these leases count from now, or what a dead executor left would wait until that hour has come again.
  UPDATE executors e SET lease_until = e.lease_until - (e.seen_at - moment), seen_at = moment
  WHERE e.id = ANY (ARRAY(SELECT x.id FROM executors x WHERE x.seen_at > moment + interval '1 second' FOR NO KEY UPDATE SKIP LOCKED));
  lost := ARRAY(
    SELECT t.id FROM tasks t
    WHERE t.state = 'running'
      AND (NOT EXISTS (SELECT FROM executors e WHERE e.id = t.executor_id AND e.lease_until > moment)
           OR t.deadline_at + make_interval(secs => p_overdue_seconds) < moment)
    ORDER BY t.id
    LIMIT p_limit
    FOR NO KEY UPDATE OF t SKIP LOCKED);
  IF cardinality(lost) = 0 THEN
    RETURN;
  END IF;
  held := app.lock_reviewed(ARRAY(
    SELECT t.id FROM tasks t WHERE t.id = ANY (lost) AND (t.attempt >= t.max_attempts OR t.crashes >= 2 OR t.on_crash = 'fail')));
  SELECT array_agg(r.id),
         array_agg(r.id) FILTER (WHERE r.attempt >= r.max_attempts),
         array_agg(r.id) FILTER (WHERE r.attempt < r.max_attempts AND r.crashes >= 2),
         array_agg(r.id) FILTER (WHERE r.attempt < r.max_attempts AND r.crashes < 2 AND r.on_crash = 'fail'),
         array_agg(r.tenant_id) FILTER (WHERE r.concurrency_key IS NOT NULL),
         array_agg(r.queue) FILTER (WHERE r.concurrency_key IS NOT NULL),
         array_agg(r.concurrency_key) FILTER (WHERE r.concurrency_key IS NOT NULL)
  INTO lost, exhausted, looping, refused, freed_tenants, freed_queues, freed_keys
  FROM tasks r
  WHERE r.id = ANY (lost) AND r.id <> ALL (held);
  RETURN QUERY
    SELECT t.id, t.queue, t.type,
           CASE WHEN t.id = ANY (coalesce(exhausted, '{}') || coalesce(looping, '{}') || coalesce(refused, '{}')) THEN 'failed'
                WHEN t.on_crash = 'hold' THEN 'held' ELSE 'rescued' END
    FROM tasks t WHERE t.id = ANY (lost);
  PERFORM app.mark_unknown_calls(lost);
  IF exhausted IS NOT NULL THEN
    PERFORM app.end_tasks(exhausted, 'failed', 'failed', '{"class": "crash", "message": "its executor died or lost its lease, and no attempts are left"}', 'system:rescuer', NULL);
  END IF;
  IF looping IS NOT NULL THEN
    PERFORM app.end_tasks(looping, 'failed', 'crash_limit', '{"class": "crash_loop", "message": "its executor died three times while running this task"}', 'system:rescuer', NULL);
  END IF;
  IF refused IS NOT NULL THEN
    PERFORM app.end_tasks(refused, 'failed', 'failed', '{"class": "crash", "message": "its executor died or lost its lease, and this type of task does not run again after that"}', 'system:rescuer', NULL);
  END IF;
  WITH rescued AS (
    UPDATE tasks t
    SET state = CASE WHEN t.on_crash = 'hold' THEN 'waiting' ELSE 'queued' END,
        waiting_for = CASE WHEN t.on_crash = 'hold' THEN 'operator' END,
        waiting_since = CASE WHEN t.on_crash = 'hold' THEN moment END,
        wait_until = NULL,
        executor_id = NULL, deadline_at = NULL, fence = t.fence + 1, crashes = t.crashes + 1,
        error = '{"class": "crash", "message": "its executor died or lost its lease"}'
    FROM tasks before
    WHERE t.id = ANY (lost) AND before.id = t.id AND t.state = 'running'
    RETURNING t.*, before.executor_id AS dead_executor
  ), counted AS (
    INSERT INTO task_statistics (tenant_id, minute, queue, type, outcome, tasks, waited_ms, waited_max_ms, ran_ms, ran_max_ms)
    SELECT r.tenant_id, date_trunc('minute', moment), r.queue, r.type, 'rescued', count(*), 0, 0, 0, 0
    FROM rescued r
    GROUP BY r.tenant_id, r.queue, r.type
  )
  INSERT INTO task_events (tenant_id, task_id, at, event, fence, attempt, actor, executor_id, detail)
  SELECT r.tenant_id, r.id, moment, CASE WHEN r.state = 'waiting' THEN 'held' ELSE 'rescued' END, r.fence - 1, r.attempt, 'system:rescuer',
         r.dead_executor, jsonb_build_object('crashes', r.crashes, 'started_at', r.started_at)
  FROM rescued r;
  PERFORM app.release_keys(freed_tenants, freed_queues, freed_keys);
END $$;

-- What a process says whose lease ended although it lives, as soon as it reaches the database again: those runs did not crash. What the
-- rescuer has not taken yet is given back (p_refund), or taken as after a crash; then no crash is counted, and with p_refund no attempt.
-- p_refund is for a process whose event loop was never blocked: no code that it ran can be what cost the lease. Anything else
-- counts as an attempt, so that code which blocks the loop at every run ends after max_attempts. Once for each executor.
CREATE OR REPLACE FUNCTION app.report_lost_lease(p_executor uuid, p_ids uuid[], p_fences int[], p_refund boolean) RETURNS int
LANGUAGE plpgsql SECURITY DEFINER SET search_path = public, app, pg_temp AS $$
DECLARE
  excused int;
BEGIN
  PERFORM app.require_no_tenant();
  DELETE FROM executors e WHERE e.id = p_executor;
  IF NOT FOUND THEN
    RETURN 0;
  END IF;
  -- A rescuer may be at it: what it does is seen below only when it has committed.
  PERFORM FROM tasks t WHERE t.id = ANY (p_ids) ORDER BY t.id FOR NO KEY UPDATE;
  IF p_refund THEN
    PERFORM app.give_back(p_executor, p_ids, p_fences);
  ELSE
    PERFORM app.rescue(10000, 86400);
  END IF;
  WITH mine AS MATERIALIZED (
    SELECT t.id FROM tasks t
    WHERE t.id = ANY (p_ids) AND EXISTS (
      SELECT FROM unnest(p_ids, p_fences) AS r (id, fence) JOIN task_events e ON e.task_id = r.id AND e.fence = r.fence
      WHERE r.id = t.id AND e.tenant_id = t.tenant_id AND e.executor_id = p_executor AND e.event IN ('rescued', 'held'))
    ORDER BY t.id FOR NO KEY UPDATE
  )
  UPDATE tasks t SET crashes = greatest(t.crashes - 1, 0), attempt = greatest(t.attempt - CASE WHEN p_refund THEN 1 ELSE 0 END, 0)
  FROM mine m WHERE t.id = m.id;
  GET DIAGNOSTICS excused = ROW_COUNT;
  RETURN excused;
END $$;

ALTER FUNCTION app.give_back_free(uuid, uuid[], int[]) OWNER TO galley_engine;
ALTER FUNCTION app.give_back(uuid, uuid[], int[]) OWNER TO galley_engine;
ALTER FUNCTION app.give_back_unknown(uuid, uuid[], double precision) OWNER TO galley_engine;
ALTER FUNCTION app.rescue(int, int) OWNER TO galley_engine;
ALTER FUNCTION app.report_lost_lease(uuid, uuid[], int[], boolean) OWNER TO galley_engine;
