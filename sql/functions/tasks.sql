-- The engine: every transition of a task that crosses tenants or moves rows between tables.
-- Functions marked SECURITY DEFINER belong to galley_engine and are the one door across tenants; the others run as the
-- caller, so a web transaction stays inside its tenant. The table of transitions is services/task_states.py.

-- Let blocked tasks of the given keys run again as far as there is room. Called by every transition out of running, after
-- the rows have moved, and by the reconciler. No more than there is room for: each too many is a row written twice and an event. Should it
-- be too many all the same, the claim counts exactly and parks them again.
CREATE OR REPLACE FUNCTION app.release_keys(p_tenants uuid[], p_queues text[], p_keys text[]) RETURNS text[]
LANGUAGE plpgsql SET search_path = public, app, pg_temp AS $$
DECLARE
  woken text[];
BEGIN
  IF coalesce(cardinality(p_keys), 0) = 0 THEN
    RETURN '{}';
  END IF;
  WITH freed AS (
    SELECT DISTINCT f.tenant_id, f.queue, f.key
    FROM unnest(p_tenants, p_queues, p_keys) AS f (tenant_id, queue, key)
    WHERE f.key IS NOT NULL
  ), chosen AS MATERIALIZED (
    SELECT b.id
    FROM freed f
    CROSS JOIN LATERAL (
      SELECT count(*) AS n FROM tasks h
      WHERE h.tenant_id = f.tenant_id AND h.queue = f.queue AND h.concurrency_key = f.key AND h.state = 'running'
    ) held
    CROSS JOIN LATERAL (
      SELECT t.concurrency_limit - held.n AS room FROM tasks t
      WHERE t.tenant_id = f.tenant_id AND t.queue = f.queue AND t.concurrency_key = f.key AND t.state = 'blocked'
        AND t.concurrency_limit > held.n
      ORDER BY t.priority, t.run_at, t.id
      LIMIT 1
    ) first
    CROSS JOIN LATERAL (
      SELECT t.id FROM tasks t
      WHERE t.tenant_id = f.tenant_id AND t.queue = f.queue AND t.concurrency_key = f.key AND t.state = 'blocked'
        AND t.concurrency_limit > held.n
      ORDER BY t.priority, t.run_at, t.id
      LIMIT least(first.room, 500)
      FOR NO KEY UPDATE SKIP LOCKED
    ) b
  ), unblocked AS (
    UPDATE tasks t SET state = 'queued' FROM chosen WHERE t.id = chosen.id RETURNING t.queue
  )
  SELECT array_agg(DISTINCT queue) INTO woken FROM unblocked;
  RETURN coalesce(woken, '{}');
END $$;

-- Write down the failed and timed out ones of tasks that have just ended as dead letters. A statement of its own, asked only when there are
-- any: as one more part of the statement in app.finish it costs every task that succeeds 26 µs of CPU, three times the rest.
CREATE OR REPLACE FUNCTION app.bury(p_tenants uuid[], p_ids uuid[]) RETURNS void
LANGUAGE sql SET search_path = public, app, pg_temp AS $$
  INSERT INTO dead_letters (task_id, tenant_id, queue, type, state, error_class, requeues, failed_at)
  SELECT h.id, h.tenant_id, h.queue, h.type, h.state, coalesce(h.error ->> 'class', 'unknown'), coalesce(d.requeues + 1, 0), h.finished_at
  FROM unnest(p_tenants, p_ids) AS e (tenant_id, id)
  JOIN task_history h ON h.tenant_id = e.tenant_id AND h.id = e.id
  LEFT JOIN dead_letters d ON d.tenant_id = h.tenant_id AND d.task_id = h.retry_of
  WHERE h.state IN ('failed', 'timed_out')
$$;

-- Move live rows, which the caller has locked, to history in a final state, with one event each.
CREATE OR REPLACE FUNCTION app.end_tasks(p_ids uuid[], p_state text, p_event text, p_error jsonb, p_actor text, p_reason text)
RETURNS void LANGUAGE plpgsql SET search_path = public, app, pg_temp AS $$
DECLARE
  moment timestamptz := app.now();
  tenants_of uuid[];
  ended uuid[];
  freed_tenants uuid[];
  freed_queues text[];
  freed_keys text[];
BEGIN
  WITH gone AS (
    DELETE FROM tasks t WHERE t.id = ANY (p_ids) RETURNING t.*
  ), moved AS (
    INSERT INTO task_history (id, tenant_id, queue, type, type_version, state, priority, attempt, max_attempts, crashes, snoozes, fence,
      executor_id, run_at, created_at, created_by, started_at, timeout_seconds, start_before, retry_of, concurrency_key, concurrency_limit,
      progress, error, request_id, payload, finished_at, ended_by, reason, result)
    SELECT g.id, g.tenant_id, g.queue, g.type, g.type_version, p_state, g.priority, g.attempt, g.max_attempts, g.crashes, g.snoozes, g.fence,
      g.executor_id, g.run_at, g.created_at, g.created_by, g.started_at, g.timeout_seconds, g.start_before, g.retry_of, g.concurrency_key,
      g.concurrency_limit, g.progress, coalesce(p_error, g.error), g.request_id, g.payload, moment, p_actor, p_reason, NULL
    FROM gone g
  ), told AS (
    INSERT INTO task_events (tenant_id, task_id, at, event, fence, attempt, actor, executor_id, detail)
    SELECT g.tenant_id, g.id, moment, p_event, g.fence, g.attempt, p_actor, g.executor_id,
           jsonb_strip_nulls(jsonb_build_object('from', g.state, 'reason', p_reason, 'error', p_error))
    FROM gone g
  ), counted AS (
    INSERT INTO task_statistics (tenant_id, minute, queue, type, outcome, tasks, waited_ms, waited_max_ms, ran_ms, ran_max_ms)
    SELECT g.tenant_id, date_trunc('minute', moment), g.queue, g.type, p_state, count(*), 0, 0,
           coalesce(sum(extract(epoch FROM moment - g.started_at) * 1000) FILTER (WHERE g.state = 'running'), 0),
           coalesce(max(extract(epoch FROM moment - g.started_at) * 1000) FILTER (WHERE g.state = 'running'), 0)
    FROM gone g
    GROUP BY g.tenant_id, g.queue, g.type
  )
  SELECT array_agg(g.tenant_id), array_agg(g.id),
         array_agg(g.tenant_id) FILTER (WHERE g.state = 'running' AND g.concurrency_key IS NOT NULL),
         array_agg(g.queue) FILTER (WHERE g.state = 'running' AND g.concurrency_key IS NOT NULL),
         array_agg(g.concurrency_key) FILTER (WHERE g.state = 'running' AND g.concurrency_key IS NOT NULL)
  INTO tenants_of, ended, freed_tenants, freed_queues, freed_keys
  FROM gone g;
  PERFORM app.bury(tenants_of, ended);
  PERFORM app.release_keys(freed_tenants, freed_queues, freed_keys);
  PERFORM app.close_reviews(p_ids);
END $$;

-- End runs in one batch. outcome per id: done (also when an earlier try of this very batch had committed), busy (its row, or an item that it
-- waits for a decision about, is locked by somebody: send it again), stale (the run no longer owns the task: its result is refused).
-- Results are texts of JSON: the driver would read a list inside jsonb[] as one more dimension.
CREATE OR REPLACE FUNCTION app.finish(p_ids uuid[], p_fences int[], p_states text[], p_results text[], p_errors jsonb[])
RETURNS TABLE (id uuid, outcome text)
LANGUAGE plpgsql SECURITY DEFINER SET search_path = public, app, pg_temp AS $$
#variable_conflict use_column
DECLARE
  moment timestamptz := app.now();
  done uuid[];
  ended_badly uuid[];
  tenants_of uuid[];
  freed_tenants uuid[];
  freed_queues text[];
  freed_keys text[];
  held uuid[];
BEGIN
  IF app.current_tenant() IS NOT NULL THEN               -- asked here first: 0.2 µs, the call alone is 4
    PERFORM app.require_no_tenant();
  END IF;
  IF num_nonnulls(VARIADIC p_errors) > 0 THEN            -- whoever ends badly says why; to compare 500 states takes 30 µs
    held := app.lock_reviewed(ARRAY(
      SELECT t.id FROM unnest(p_ids, p_fences, p_states) AS i (id, fence, state) JOIN tasks t ON t.id = i.id AND t.fence = i.fence
      WHERE i.state <> 'succeeded' ORDER BY t.id FOR NO KEY UPDATE OF t SKIP LOCKED));
    IF cardinality(held) > 0 THEN
      RETURN QUERY
        SELECT f.id, f.outcome
        FROM (SELECT array_agg(i.id) AS ids, array_agg(i.fence) AS fences, array_agg(i.state) AS states, array_agg(i.result) AS results,
                     array_agg(i.error) AS errors
              FROM unnest(p_ids, p_fences, p_states, p_results, p_errors) AS i (id, fence, state, result, error)
              WHERE i.id <> ALL (held)) AS free
        CROSS JOIN LATERAL app.finish(free.ids, free.fences, free.states, free.results, free.errors) f
        UNION ALL
        SELECT h, 'busy' FROM unnest(held) h;
      RETURN;
    END IF;
  END IF;
  WITH given AS MATERIALIZED (
    SELECT * FROM unnest(p_ids, p_fences, p_states, p_results, p_errors) AS i (id, fence, state, result, error)
  ), locked AS MATERIALIZED (
    -- No test of the state here: the fence implies it, and the planner would take the small running index (70 ms against 8).
    SELECT t.ctid AS place, i.state AS final_state, i.result, i.error AS final_error
    FROM tasks t JOIN given i ON t.id = i.id AND t.fence = i.fence
    ORDER BY t.id FOR NO KEY UPDATE OF t SKIP LOCKED
  ), gone AS (
    DELETE FROM tasks t USING locked l WHERE t.ctid = l.place RETURNING t.*, l.final_state, l.result, l.final_error
  ), moved AS (
    INSERT INTO task_history (id, tenant_id, queue, type, type_version, state, priority, attempt, max_attempts, crashes, snoozes, fence,
      executor_id, run_at, created_at, created_by, started_at, timeout_seconds, start_before, retry_of, concurrency_key, concurrency_limit,
      progress, error, request_id, payload, finished_at, ended_by, reason, result)
    SELECT g.id, g.tenant_id, g.queue, g.type, g.type_version, g.final_state, g.priority, g.attempt, g.max_attempts, g.crashes, g.snoozes, g.fence,
      g.executor_id, g.run_at, g.created_at, g.created_by, g.started_at, g.timeout_seconds, g.start_before, g.retry_of, g.concurrency_key,
      g.concurrency_limit, g.progress, g.final_error, g.request_id, g.payload, moment, NULL, NULL, g.result::jsonb
    FROM gone g
  ), timed AS (
    -- Grouped by ranges of lengths first, some twenty of 500 runs. date_part, since extract's numeric costs half a microsecond a run more.
    SELECT t.tenant_id, t.queue, t.type, t.final_state, app.length_range(t.waited) AS waited_range, app.length_range(t.ran) AS ran_range,
           count(*) AS runs, sum(t.waited) AS waited_ms, max(t.waited) AS waited_max_ms, sum(t.ran) AS ran_ms, max(t.ran) AS ran_max_ms
    FROM (SELECT g.tenant_id, g.queue, g.type, g.final_state, coalesce(date_part('epoch', g.started_at - g.run_at) * 1000, 0) AS waited,
                 coalesce(date_part('epoch', moment - g.started_at) * 1000, 0) AS ran
          FROM gone g) AS t
    GROUP BY 1, 2, 3, 4, 5, 6
  ), counted AS (
    INSERT INTO task_statistics (tenant_id, minute, queue, type, outcome, tasks, waited_ms, waited_max_ms, ran_ms, ran_max_ms, waited_spread, ran_spread)
    SELECT t.tenant_id, date_trunc('minute', moment), t.queue, t.type, t.final_state, sum(t.runs), sum(t.waited_ms), max(t.waited_max_ms),
           sum(t.ran_ms), max(t.ran_max_ms), array_agg(app.spread_entry(t.waited_range, t.runs)), array_agg(app.spread_entry(t.ran_range, t.runs))
    FROM timed t
    GROUP BY t.tenant_id, t.queue, t.type, t.final_state
  )
  SELECT array_agg(g.id),
         array_agg(g.id) FILTER (WHERE g.final_state <> 'succeeded'),
         array_agg(g.tenant_id) FILTER (WHERE g.final_state <> 'succeeded'),
         array_agg(g.tenant_id) FILTER (WHERE g.concurrency_key IS NOT NULL),
         array_agg(g.queue) FILTER (WHERE g.concurrency_key IS NOT NULL),
         array_agg(g.concurrency_key) FILTER (WHERE g.concurrency_key IS NOT NULL)
  INTO done, ended_badly, tenants_of, freed_tenants, freed_queues, freed_keys
  FROM gone g;
  PERFORM app.release_keys(freed_tenants, freed_queues, freed_keys);
  IF ended_badly IS NOT NULL THEN
    PERFORM app.bury(tenants_of, ended_badly);
    PERFORM app.close_reviews(ended_badly);
  END IF;
  IF cardinality(done) = cardinality(p_ids) THEN
    RETURN QUERY SELECT d, 'done' FROM unnest(done) d;
    RETURN;
  END IF;
  RETURN QUERY
    SELECT i.id,
           CASE WHEN i.id = ANY (coalesce(done, '{}')) THEN 'done'
                WHEN EXISTS (SELECT FROM tasks t WHERE t.id = i.id AND t.fence = i.fence) THEN 'busy'
                WHEN EXISTS (SELECT FROM tenants n JOIN task_history h ON h.tenant_id = n.id
                             WHERE h.id = i.id AND h.fence = i.fence AND h.state = i.state AND h.ended_by IS NULL) THEN 'done'
                ELSE 'stale' END
    FROM unnest(p_ids, p_fences, p_states) AS i (id, fence, state);
END $$;

-- Give one run's task back to its queue: after an error, a time-out (p_counts), or without using the attempt up (a snooze).
-- p_counts false also counts a snooze. False when the run no longer owns the task. Raises lock_not_available soon when somebody else
-- writes to it: others wait behind this one.
CREATE OR REPLACE FUNCTION app.retry(p_id uuid, p_fence int, p_event text, p_error jsonb, p_delay_seconds double precision, p_counts boolean)
RETURNS boolean LANGUAGE plpgsql SECURITY DEFINER SET search_path = public, app, pg_temp SET lock_timeout = '100ms' AS $$
DECLARE
  moment timestamptz := app.now();
  held tasks;
BEGIN
  IF app.current_tenant() IS NOT NULL THEN
    PERFORM app.require_no_tenant();
  END IF;
  SELECT * INTO held FROM tasks t WHERE t.id = p_id AND t.fence = p_fence FOR NO KEY UPDATE;
  IF NOT FOUND THEN
    -- Sent again because the first answer was lost: it is done, not late.
    RETURN EXISTS (
      SELECT FROM tenants n JOIN all_tasks x ON x.tenant_id = n.id JOIN task_events e ON e.tenant_id = n.id AND e.task_id = x.id
      WHERE x.id = p_id AND e.fence = p_fence AND e.event = p_event AND e.actor = 'executor');
  END IF;
  UPDATE tasks t
  SET state = CASE WHEN p_delay_seconds > 0 THEN 'scheduled' ELSE 'queued' END,
      run_at = moment + make_interval(secs => p_delay_seconds),
      executor_id = NULL, deadline_at = NULL, fence = t.fence + 1, error = coalesce(p_error, t.error),
      attempt = t.attempt - CASE WHEN p_counts THEN 0 ELSE 1 END,
      snoozes = t.snoozes + CASE WHEN p_counts THEN 0 ELSE 1 END
  WHERE t.id = p_id;
  INSERT INTO task_events (tenant_id, task_id, at, event, fence, attempt, actor, executor_id, detail)
  VALUES (held.tenant_id, p_id, moment, p_event, p_fence, held.attempt, 'executor', held.executor_id,
          jsonb_strip_nulls(jsonb_build_object('error', p_error, 'delay_seconds', p_delay_seconds, 'started_at', held.started_at)));
  INSERT INTO task_statistics (tenant_id, minute, queue, type, outcome, tasks, waited_ms, waited_max_ms, ran_ms, ran_max_ms, waited_spread, ran_spread)
  SELECT held.tenant_id, date_trunc('minute', moment), held.queue, held.type, p_event, 1, t.waited, t.waited, t.ran, t.ran,
         ARRAY[app.spread_entry(app.length_range(t.waited), 1)], ARRAY[app.spread_entry(app.length_range(t.ran), 1)]
  FROM (SELECT date_part('epoch', held.started_at - held.run_at) * 1000 AS waited, date_part('epoch', moment - held.started_at) * 1000 AS ran) t;
  PERFORM app.mark_unknown_calls(ARRAY[p_id]);
  PERFORM app.release_keys(ARRAY[held.tenant_id], ARRAY[held.queue], array_remove(ARRAY[held.concurrency_key], NULL));
  RETURN true;
END $$;

-- Queue what is due: scheduled tasks, and waiting ones whose time is up.
-- Returns the queues that have new work and the seconds until the next task is due (NULL: none).
CREATE OR REPLACE FUNCTION app.promote(p_limit int) RETURNS TABLE (queues text[], promoted int, next_due_seconds double precision)
LANGUAGE plpgsql SECURITY DEFINER SET search_path = public, app, pg_temp AS $$
#variable_conflict use_column
DECLARE
  moment timestamptz := app.now();
  due_queues text[];
  expired_queues text[];
  due_count int;
  expired_count int;
BEGIN
  PERFORM app.require_no_tenant();
  WITH due AS MATERIALIZED (
    SELECT t.id FROM tasks t WHERE t.state = 'scheduled' AND t.run_at <= moment ORDER BY t.run_at LIMIT p_limit FOR NO KEY UPDATE SKIP LOCKED
  ), ready AS (
    UPDATE tasks t SET state = 'queued' FROM due WHERE t.id = due.id RETURNING t.queue
  )
  SELECT array_agg(DISTINCT r.queue), count(*) INTO due_queues, due_count FROM ready r;
  WITH due AS MATERIALIZED (
    SELECT t.id FROM tasks t WHERE t.state = 'waiting' AND t.wait_until <= moment ORDER BY t.wait_until LIMIT p_limit FOR NO KEY UPDATE SKIP LOCKED
  ), ready AS (
    -- waiting_for and wait_until stay: the next run reads from them that nothing came.
    UPDATE tasks t SET state = 'queued', run_at = moment, total_deadline_at = t.total_deadline_at + (moment - t.waiting_since), waiting_since = NULL
    FROM due WHERE t.id = due.id RETURNING t.*
  ), told AS (
    INSERT INTO task_events (tenant_id, task_id, at, event, fence, attempt, actor, detail)
    SELECT r.tenant_id, r.id, moment, 'wait_expired', r.fence, r.attempt, 'system:scheduler', jsonb_build_object('signal', r.waiting_for) FROM ready r
  )
  SELECT array_agg(DISTINCT r.queue), count(*) INTO expired_queues, expired_count FROM ready r;
  RETURN QUERY
    SELECT coalesce(due_queues, '{}') || coalesce(expired_queues, '{}'), due_count + expired_count,
      extract(epoch FROM least(
        (SELECT min(t.run_at) FROM tasks t WHERE t.state = 'scheduled'),
        (SELECT min(t.wait_until) FROM tasks t WHERE t.state = 'waiting')) - moment)::double precision;
END $$;

-- Final at once: the caller's transaction holds the rows, and the fence goes with them, so a running attempt can write nothing more.
-- Runs as the caller: a tenant cancels its own tasks. Rows locked by others within lock_timeout raise 55P03.
CREATE OR REPLACE FUNCTION app.cancel(p_tenant uuid, p_ids uuid[], p_actor text, p_reason text)
RETURNS TABLE (id uuid, executor_id uuid, fence int)
LANGUAGE plpgsql SET search_path = public, app, pg_temp AS $$
#variable_conflict use_column
DECLARE
  live uuid[];
  executors_of uuid[];
  fences_of int[];
BEGIN
  SELECT array_agg(l.id), array_agg(l.executor_id), array_agg(l.fence) INTO live, executors_of, fences_of
  FROM (SELECT t.id, t.executor_id, t.fence FROM tasks t WHERE t.tenant_id = p_tenant AND t.id = ANY (p_ids) ORDER BY t.id FOR NO KEY UPDATE) l;
  IF live IS NULL THEN
    RETURN;
  END IF;
  PERFORM app.mark_unknown_calls(live);
  PERFORM app.end_tasks(live, 'cancelled', 'cancelled', NULL, p_actor, p_reason);
  RETURN QUERY SELECT * FROM unnest(live, executors_of, fences_of);
END $$;

ALTER FUNCTION app.finish(uuid[], int[], text[], text[], jsonb[]) OWNER TO galley_engine;
ALTER FUNCTION app.retry(uuid, int, text, jsonb, double precision, boolean) OWNER TO galley_engine;
ALTER FUNCTION app.promote(int) OWNER TO galley_engine;
