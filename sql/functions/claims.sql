-- Claiming: which tasks run next, within limits that hold over all replicas. The queue's row is the mutex: who holds it counts and
-- claims, everyone else is told `contended` and comes back. Every count is a statement of its own, so it sees what the claimer before did.

-- Up to p_room tasks of a queue in its order, locked. The floor is where the last full batch ended: it spares the index entries of tasks
-- that are gone but that an open snapshot keeps from being cleared away. It is a hint; without it the answer is the same.
CREATE OR REPLACE FUNCTION app.pick(p_queue text, p_room int, p_floor_priority smallint, p_floor_run_at timestamptz, p_floor_id uuid)
RETURNS uuid[] LANGUAGE plpgsql SET search_path = public, app, pg_temp AS $$
DECLARE
  moment timestamptz := app.now();
  floor_priority smallint := coalesce(p_floor_priority, -1);
  floor_run_at timestamptz := coalesce(p_floor_run_at, '-infinity');
  floor_id uuid := coalesce(p_floor_id, '00000000-0000-0000-0000-000000000000');
BEGIN
  RETURN ARRAY(
    SELECT t.id FROM tasks t
    WHERE t.queue = p_queue AND t.state = 'queued' AND (t.start_before IS NULL OR t.start_before > moment OR t.fence > 0)
      AND (t.priority, t.run_at, t.id) >= (floor_priority, floor_run_at, floor_id)
    ORDER BY t.priority, t.run_at, t.id
    LIMIT p_room
    FOR NO KEY UPDATE SKIP LOCKED);
END $$;

-- The same for a queue that looks at tenants: each gets no more than its limit allows, and in a fair queue the next slot goes to the
-- tenant that has the fewest running, equals in turn. A hundred tenants that have room are looked at from the last turn on, found by hopping
-- over the index, so a backlog of one costs nothing to the others. Those that are full are hopped over as well: there are no more of them
-- than running tasks.
CREATE OR REPLACE FUNCTION app.pick_by_tenant(p_queue text, p_room int, p_fair boolean, p_limit int, p_last_tenant uuid)
RETURNS uuid[] LANGUAGE plpgsql SET search_path = public, app, pg_temp AS $$
DECLARE
  moment timestamptz := app.now();
  after_tenant uuid := coalesce(p_last_tenant, '00000000-0000-0000-0000-000000000000');
  window_of_tenants CONSTANT int := 100;
  full_tenants uuid[];
  tenants_in_turn uuid[];
  chosen uuid[];
BEGIN
  full_tenants := ARRAY(
    SELECT r.tenant_id
    FROM (SELECT t.tenant_id, count(*) AS tasks FROM tasks t WHERE t.queue = p_queue AND t.state = 'running' GROUP BY t.tenant_id) r
    LEFT JOIN queue_tenant_limits l ON l.queue = p_queue AND l.tenant_id = r.tenant_id
    WHERE r.tasks >= coalesce(l.max_running, p_limit));
  WITH RECURSIVE later (tenant_id, turn) AS (
    (SELECT t.tenant_id, (t.tenant_id <> ALL (full_tenants))::int FROM tasks t WHERE t.queue = p_queue AND t.state = 'queued' AND t.tenant_id > after_tenant ORDER BY t.tenant_id LIMIT 1)
    UNION ALL
    SELECT n.tenant_id, l.turn + (n.tenant_id <> ALL (full_tenants))::int FROM later l CROSS JOIN LATERAL (
      SELECT t.tenant_id FROM tasks t WHERE t.queue = p_queue AND t.state = 'queued' AND t.tenant_id > l.tenant_id ORDER BY t.tenant_id LIMIT 1) n
    WHERE l.turn < window_of_tenants
  ), earlier (tenant_id, turn) AS (
    (SELECT t.tenant_id, (t.tenant_id <> ALL (full_tenants))::int FROM tasks t
     WHERE t.queue = p_queue AND t.state = 'queued' AND t.tenant_id <= after_tenant ORDER BY t.tenant_id LIMIT 1)
    UNION ALL
    SELECT n.tenant_id, e.turn + (n.tenant_id <> ALL (full_tenants))::int FROM earlier e CROSS JOIN LATERAL (
      SELECT t.tenant_id FROM tasks t
      WHERE t.queue = p_queue AND t.state = 'queued' AND t.tenant_id > e.tenant_id AND t.tenant_id <= after_tenant ORDER BY t.tenant_id LIMIT 1) n
    WHERE e.turn < window_of_tenants
  )
  SELECT array_agg(x.tenant_id ORDER BY x.half, x.turn) INTO tenants_in_turn
  FROM (SELECT 1 AS half, l.turn, l.tenant_id FROM later l WHERE l.tenant_id <> ALL (full_tenants)
        UNION ALL SELECT 2, e.turn, e.tenant_id FROM earlier e WHERE e.tenant_id <> ALL (full_tenants)
        ORDER BY 1, 2 LIMIT window_of_tenants) x;
  IF tenants_in_turn IS NULL THEN
    RETURN '{}';
  END IF;
  WITH running AS MATERIALIZED (
    SELECT t.tenant_id, count(*) AS tasks FROM tasks t WHERE t.queue = p_queue AND t.state = 'running' GROUP BY t.tenant_id
  ), turns AS MATERIALIZED (
    SELECT u.tenant_id, u.turn, coalesce(r.tasks, 0) AS running, coalesce(l.max_running, p_limit) - coalesce(r.tasks, 0) AS room
    FROM unnest(tenants_in_turn) WITH ORDINALITY AS u (tenant_id, turn)
    LEFT JOIN running r ON r.tenant_id = u.tenant_id
    LEFT JOIN queue_tenant_limits l ON l.queue = p_queue AND l.tenant_id = u.tenant_id
  )
  SELECT array_agg(c.id) INTO chosen FROM (
    SELECT n.id
    FROM turns u CROSS JOIN LATERAL (
      SELECT t.id, t.priority, t.run_at, row_number() OVER (ORDER BY t.priority, t.run_at, t.id) AS place
      FROM (SELECT q.id, q.priority, q.run_at FROM tasks q
            WHERE q.queue = p_queue AND q.tenant_id = u.tenant_id AND q.state = 'queued' AND (q.start_before IS NULL OR q.start_before > moment OR q.fence > 0)
            ORDER BY q.priority, q.run_at, q.id
            LIMIT greatest(0, least(p_room, u.room, CASE WHEN p_fair THEN greatest(3, 2 * p_room / cardinality(tenants_in_turn)) END))) t
    ) n
    ORDER BY CASE WHEN p_fair THEN u.running + n.place END, CASE WHEN p_fair THEN u.turn END, n.priority, n.run_at, n.id
    LIMIT p_room) c;
  -- In the order chosen; whoever is being cancelled just now is left out.
  RETURN ARRAY(
    SELECT t.id FROM tasks t WHERE t.id = ANY (chosen) AND t.state = 'queued'
    ORDER BY array_position(chosen, t.id) FOR NO KEY UPDATE SKIP LOCKED);
END $$;

-- Park those of the locked candidates whose concurrency key is full, and return the others. A hot key at the head of the queue so costs
-- once, not at every claim.
CREATE OR REPLACE FUNCTION app.park(p_executor uuid, p_candidates uuid[]) RETURNS uuid[]
LANGUAGE plpgsql SET search_path = public, app, pg_temp AS $$
DECLARE
  moment timestamptz := app.now();
  parked uuid[];
BEGIN
  SELECT array_agg(ranked.id) INTO parked
  FROM (
    SELECT t.id, t.concurrency_limit AS room_of_key,
           row_number() OVER (PARTITION BY t.tenant_id, t.concurrency_key ORDER BY t.priority, t.run_at, t.id) +
           (SELECT count(*) FROM tasks h WHERE h.tenant_id = t.tenant_id AND h.queue = t.queue
              AND h.concurrency_key = t.concurrency_key AND h.state = 'running') AS place
    FROM tasks t
    WHERE t.id = ANY (p_candidates) AND t.concurrency_key IS NOT NULL
  ) ranked
  WHERE ranked.place > ranked.room_of_key;
  IF parked IS NULL THEN
    RETURN p_candidates;
  END IF;
  WITH blocked AS (
    UPDATE tasks t SET state = 'blocked' WHERE t.id = ANY (parked) RETURNING t.*
  )
  INSERT INTO task_events (tenant_id, task_id, at, event, fence, attempt, actor, executor_id, detail)
  SELECT b.tenant_id, b.id, moment, 'blocked', b.fence, b.attempt, 'executor', p_executor, jsonb_build_object('key', b.concurrency_key)
  FROM blocked b;
  RETURN ARRAY(SELECT c.id FROM unnest(p_candidates) WITH ORDINALITY AS c (id, place) WHERE c.id <> ALL (parked) ORDER BY c.place);
END $$;

-- How many tasks a queue with a rate may start at a moment; NULL: it has no rate.
CREATE OR REPLACE FUNCTION app.count_tokens(p_queue queues, p_moment timestamptz) RETURNS double precision
LANGUAGE sql IMMUTABLE SET search_path = public, app, pg_temp AS $$
  SELECT least(p_queue.burst, p_queue.tokens + date_part('epoch', p_moment - p_queue.tokens_at) * p_queue.rate_per_second)
$$;

-- Claim up to p_want tasks of one queue for an executor.
-- outcome: claimed (with a task), empty, contended (try again: another executor holds the queue, or so many had to be parked that it was
-- enough for one transaction, which must end well before its caller gives it up, or it is too late by now for all that was picked), paused,
-- unregistered, limited (seconds_left then says when the rate has room again; NULL: when a run ends).
CREATE OR REPLACE FUNCTION app.claim(p_executor uuid, p_queue text, p_want int, p_floor_priority smallint DEFAULT NULL,
                                     p_floor_run_at timestamptz DEFAULT NULL, p_floor_id uuid DEFAULT NULL)
RETURNS TABLE (outcome text, id uuid, tenant_id uuid, type text, type_version smallint, fence int, attempt smallint, max_attempts smallint,
               priority smallint, run_at timestamptz, seconds_left double precision, created_by text, request_id text, payload jsonb,
               snoozes smallint, deadline_is_total boolean, waited_seconds double precision)
LANGUAGE plpgsql SECURITY DEFINER SET search_path = public, app, pg_temp AS $$
#variable_conflict use_column
DECLARE
  moment timestamptz := app.now();
  chosen_queue queues;
  room int := p_want;
  tokens_now double precision;
  by_tenant boolean;
  picking int;
  parked int := 0;
  most_parked CONSTANT int := 2000;
  picked uuid[];
  candidates uuid[];
  taken int;
BEGIN
  IF app.current_tenant() IS NOT NULL THEN
    PERFORM app.require_no_tenant();
  END IF;
  SELECT * INTO chosen_queue FROM queues q WHERE q.name = p_queue FOR NO KEY UPDATE SKIP LOCKED;
  IF NOT FOUND THEN
    outcome := CASE WHEN EXISTS (SELECT FROM queues q WHERE q.name = p_queue) THEN 'contended' ELSE 'empty' END;
  ELSIF chosen_queue.paused_at IS NOT NULL AND coalesce(chosen_queue.resume_at > moment, true) THEN
    outcome := 'paused';
  ELSIF NOT EXISTS (SELECT FROM executors e WHERE e.id = p_executor AND e.lease_until > moment AND e.draining_at IS NULL) THEN
    outcome := 'unregistered';
  END IF;
  IF outcome IS NULL AND chosen_queue.max_running IS NOT NULL THEN
    room := least(room, chosen_queue.max_running - (SELECT count(*) FROM tasks t WHERE t.queue = p_queue AND t.state = 'running')::int);
    IF room <= 0 THEN
      outcome := 'limited';
    END IF;
  END IF;
  IF outcome IS NULL AND chosen_queue.rate_per_second IS NOT NULL THEN
    IF chosen_queue.tokens_at > moment THEN
      moment := app.now();                    -- whoever had the queue just now has read the clock after us
      IF chosen_queue.tokens_at > moment THEN -- the clock was set back: the rate goes on from here, not when that hour comes again
        UPDATE queues q SET tokens_at = moment WHERE q.name = p_queue;
        chosen_queue.tokens_at := moment;
      END IF;
    END IF;
    tokens_now := app.count_tokens(chosen_queue, moment);
    room := least(room, floor(tokens_now)::int);
    IF room <= 0 THEN
      outcome := 'limited';
      seconds_left := (1 - tokens_now) / chosen_queue.rate_per_second;
    END IF;
  END IF;
  IF outcome IS NOT NULL THEN
    RETURN NEXT;
    RETURN;
  END IF;

  by_tenant := chosen_queue.fair OR chosen_queue.max_running_per_tenant IS NOT NULL
    OR EXISTS (SELECT FROM queue_tenant_limits l WHERE l.queue = p_queue);
  picking := room;
  LOOP
    IF by_tenant THEN
      picked := app.pick_by_tenant(p_queue, picking, chosen_queue.fair, chosen_queue.max_running_per_tenant, chosen_queue.last_tenant);
    ELSE
      picked := app.pick(p_queue, picking, p_floor_priority, p_floor_run_at, p_floor_id);
    END IF;
    IF cardinality(picked) = 0 THEN
      outcome := 'empty';
      RETURN NEXT;
      RETURN;
    END IF;
    candidates := picked;
    IF EXISTS (SELECT FROM tasks t WHERE t.id = ANY (picked) AND t.concurrency_key IS NOT NULL) THEN
      candidates := app.park(p_executor, picked);
    END IF;
    EXIT WHEN cardinality(candidates) > 0;
    parked := parked + cardinality(picked);
    IF parked >= most_parked THEN
      outcome := 'contended';
      RETURN NEXT;
      RETURN;
    END IF;
    picking := greatest(room, least(2 * picking, 500));  -- where one hot key stands, there are more of it
  END LOOP;
  candidates := candidates[:room];
  -- Read again: what was picked may have been created, or become due, after the first look at the clock. A run starts after both, and
  -- neither after the last moment for it nor faster than the rate by the moments that are kept.
  moment := app.now();
  RETURN QUERY
    UPDATE tasks t
    SET state = 'running', attempt = t.attempt + 1, fence = t.fence + 1, executor_id = p_executor, started_at = moment,
        deadline_at = least(moment + make_interval(secs => t.timeout_seconds), t.total_deadline_at), progress = NULL
    WHERE t.id = ANY (candidates) AND (t.start_before IS NULL OR t.start_before > moment OR t.fence > 0)
    RETURNING 'claimed', t.id, t.tenant_id, t.type, t.type_version, t.fence, t.attempt, t.max_attempts, t.priority, t.run_at,
      date_part('epoch', t.deadline_at - moment), t.created_by, t.request_id, t.payload,
      t.snoozes, t.deadline_at IS NOT DISTINCT FROM t.total_deadline_at,
      greatest(date_part('epoch', moment - t.run_at), 0);
  GET DIAGNOSTICS taken = ROW_COUNT;
  IF taken = 0 THEN
    outcome := 'contended';
    RETURN NEXT;
  ELSIF by_tenant OR tokens_now IS NOT NULL THEN
    UPDATE queues q
    SET tokens = coalesce(app.count_tokens(chosen_queue, moment) - taken, q.tokens), tokens_at = moment,
        last_tenant = CASE WHEN by_tenant THEN (SELECT t.tenant_id FROM tasks t WHERE t.id = candidates[cardinality(candidates)]) END
    WHERE q.name = p_queue;
  END IF;
END $$;

-- Which queues have something to claim: one cheap question per poll, however many queues there are. Floors as in app.pick, by queue.
CREATE OR REPLACE FUNCTION app.ready_queues(p_queues text[] DEFAULT '{}', p_priorities smallint[] DEFAULT '{}', p_run_ats timestamptz[] DEFAULT '{}',
                                            p_ids uuid[] DEFAULT '{}')
RETURNS text[] LANGUAGE plpgsql STABLE SECURITY DEFINER SET search_path = public, app, pg_temp AS $$
BEGIN
  IF app.current_tenant() IS NOT NULL THEN
    PERFORM app.require_no_tenant();
  END IF;
  RETURN (
    SELECT coalesce(array_agg(q.name ORDER BY q.name), '{}')
    FROM queues q
    LEFT JOIN unnest(p_queues, p_priorities, p_run_ats, p_ids) AS f (queue, priority, run_at, id) ON f.queue = q.name
    CROSS JOIN LATERAL (
      SELECT FROM tasks t
      WHERE t.queue = q.name AND t.state = 'queued'
        AND (t.priority, t.run_at, t.id) >= (coalesce(f.priority, -1::smallint), coalesce(f.run_at, '-infinity'), coalesce(f.id, '00000000-0000-0000-0000-000000000000'))
      ORDER BY t.priority, t.run_at, t.id          -- never a sequential scan, however many there seem to be
      LIMIT 1) ready
    WHERE q.paused_at IS NULL OR q.resume_at <= app.now());
END $$;

ALTER FUNCTION app.claim(uuid, text, int, smallint, timestamptz, uuid) OWNER TO galley_engine;
ALTER FUNCTION app.ready_queues(text[], smallint[], timestamptz[], uuid[]) OWNER TO galley_engine;
