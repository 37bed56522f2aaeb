-- Months of history: made ahead, and dropped whole when nothing in them is needed any more.
-- Run-time changes of the schema are made by galley_owner; what it may not see is asked of galley_engine.

-- The moment in the leading bits of an id.
CREATE OR REPLACE FUNCTION app.uuid7_time(p_id uuid) RETURNS timestamptz LANGUAGE sql IMMUTABLE STRICT PARALLEL SAFE
  RETURN to_timestamp(('x' || lpad(left(replace(p_id::text, '-', ''), 12), 16, '0'))::bit(64)::bigint / 1000.0);

CREATE OR REPLACE FUNCTION app.month_after(p_month timestamptz) RETURNS timestamptz LANGUAGE sql STABLE STRICT PARALLEL SAFE
  RETURN date_trunc('month', p_month + interval '32 days', 'UTC');

-- What retention drops whole: in this order, since a month of task_history says whether its steps are still needed.
CREATE OR REPLACE FUNCTION app.partitioned_tables() RETURNS text[] LANGUAGE sql IMMUTABLE PARALLEL SAFE
  RETURN ARRAY['task_steps', 'task_history', 'task_events'];

-- The months of p_parent that have a partition of their own.
CREATE OR REPLACE FUNCTION app.months_of(p_parent text) RETURNS TABLE (child text, month timestamptz)
LANGUAGE sql STABLE SET search_path = public, app, pg_temp AS $$
  SELECT c.relname::text, to_date(right(c.relname, 7), 'YYYY_MM')::timestamp AT TIME ZONE 'UTC'
  FROM pg_inherits i JOIN pg_class c ON c.oid = i.inhrelid
  WHERE i.inhparent = to_regclass(p_parent) AND c.relname ~ '_\d{4}_\d{2}$'
$$;

-- Make one month. Rows of it that landed in DEFAULT meanwhile move in, for which DEFAULT is taken out and put back: that waits for
-- every reader of the table, lock_timeout at most, and holds new ones up for as long as the rows take.
CREATE OR REPLACE FUNCTION app.make_month(p_parent text, p_month timestamptz) RETURNS void
LANGUAGE plpgsql SET search_path = public, app, pg_temp AS $$
DECLARE
  child text := p_parent || to_char(p_month AT TIME ZONE 'UTC', '_YYYY_MM');
  fallback text := p_parent || '_default';
  after timestamptz := app.month_after(p_month);
  key text := CASE p_parent WHEN 'task_history' THEN 'id' WHEN 'task_steps' THEN 'task_id' ELSE 'at' END;
  lower_bound text := CASE key WHEN 'at' THEN p_month::text ELSE app.uuid7_floor(p_month)::text END;
  upper_bound text := CASE key WHEN 'at' THEN after::text ELSE app.uuid7_floor(after)::text END;
  inside text := format('%I >= %L AND %I < %L', key, lower_bound, key, upper_bound);
  stray boolean;
BEGIN
  EXECUTE format('SELECT EXISTS (SELECT FROM %I WHERE %s)', fallback, inside) INTO stray;
  IF stray THEN
    EXECUTE format('ALTER TABLE %I DETACH PARTITION %I', p_parent, fallback);
  END IF;
  EXECUTE format('CREATE TABLE %I PARTITION OF %I FOR VALUES FROM (%L) TO (%L)', child, p_parent, lower_bound, upper_bound);
  IF stray THEN
    EXECUTE format('WITH moved AS (DELETE FROM %I WHERE %s RETURNING *) INSERT INTO %I SELECT * FROM moved', fallback, inside, child);
    EXECUTE format('ALTER TABLE %I ATTACH PARTITION %I DEFAULT', p_parent, fallback);
  END IF;
  EXECUTE format('ALTER TABLE %I ENABLE ROW LEVEL SECURITY', child);
  EXECUTE format('ALTER TABLE %I FORCE ROW LEVEL SECURITY', child);
END $$;

-- This month and the coming ones, and those that rows in DEFAULT belong to. Returns how many were made; 0 when another replica is at it.
CREATE OR REPLACE FUNCTION app.ensure_partitions(months_ahead int DEFAULT 3) RETURNS int
LANGUAGE plpgsql SECURITY DEFINER SET search_path = public, app, pg_temp SET lock_timeout = '250ms' AS $$
DECLARE
  this_month timestamptz := date_trunc('month', app.now(), 'UTC');
  last_month timestamptz := date_trunc('month', app.now() + make_interval(months => months_ahead), 'UTC');
  parent text;
  wanted timestamptz[];
  one timestamptz;
  made int := 0;
BEGIN
  PERFORM app.require_no_tenant();
  IF NOT pg_try_advisory_xact_lock(hashtext('galley.partitions')) THEN
    RETURN 0;
  END IF;
  FOREACH parent IN ARRAY app.partitioned_tables() LOOP
    EXECUTE format(
      'SELECT array_agg(DISTINCT date_trunc(''month'', %s, ''UTC'')) FROM %I',
      CASE parent WHEN 'task_history' THEN 'app.uuid7_time(id)' WHEN 'task_steps' THEN 'app.uuid7_time(task_id)' ELSE 'at' END,
      parent || '_default') INTO wanted;
    FOR one IN
      SELECT m FROM unnest(wanted) AS m WHERE m BETWEEN '2020-01-01' AND last_month
      UNION SELECT generate_series(this_month, last_month, interval '1 month', 'UTC')
      EXCEPT SELECT month FROM app.months_of(parent)
      ORDER BY 1
    LOOP
      PERFORM app.make_month(parent, one);
      made := made + 1;
    END LOOP;
  END LOOP;
  RETURN made;
END $$;

-- For how many months after this one, without a gap, every table has its partition.
CREATE OR REPLACE FUNCTION app.months_ahead() RETURNS int
LANGUAGE sql STABLE SET search_path = public, app, pg_temp AS $$
  SELECT coalesce(min(a.ahead), 0)::int
  FROM unnest(app.partitioned_tables()) AS p (parent) CROSS JOIN LATERAL (
    SELECT count(*) FILTER (WHERE ranked.month = date_add(date_trunc('month', app.now(), 'UTC'), make_interval(months => ranked.place::int), 'UTC')) AS ahead
    FROM (SELECT m.month, row_number() OVER (ORDER BY m.month) AS place
          FROM app.months_of(p.parent) m WHERE m.month > date_trunc('month', app.now(), 'UTC')) AS ranked) AS a
$$;

-- Look through the next p_batch rows of a month for something that is needed still. Needed is what belongs to a task that has not ended, to one
-- that ended after p_cutoff, or to a dead letter that nobody has handled. Steps and history are asked for by the tasks made in the month, events
-- by the tasks they were told of. Returns needed, more (nothing so far: ask again), or expired.
-- How far it got is kept, so that a month of any size is looked through once, in short transactions, whichever process comes next: what is not
-- needed will not be needed again, and nothing is added behind that place, since no task of the month is live and events are told of now.
CREATE OR REPLACE FUNCTION app.look_through(p_parent text, p_month timestamptz, p_cutoff timestamptz, p_batch int) RETURNS text
LANGUAGE plpgsql SECURITY DEFINER SET search_path = public, app, pg_temp SET plan_cache_mode = force_custom_plan AS $$
DECLARE
  after timestamptz := app.month_after(p_month);
  lowest uuid := app.uuid7_floor(p_month);
  beyond uuid := app.uuid7_floor(after);
  looked_at_table text := CASE p_parent WHEN 'task_events' THEN 'task_events' ELSE 'task_history' END;
  nowhere CONSTANT uuid := '00000000-0000-0000-0000-000000000000';
  place retention_looks;
  tenants_of uuid[];
  tasks_of uuid[];
  needed boolean;
BEGIN
  PERFORM app.require_no_tenant();
  IF after > p_cutoff OR looked_at_table = 'task_history' AND (
      EXISTS (SELECT FROM tasks t WHERE t.id >= lowest AND t.id < beyond)
      OR EXISTS (SELECT FROM dead_letters d WHERE d.task_id >= lowest AND d.task_id < beyond AND d.handled_at IS NULL)) THEN
    RETURN 'needed';
  END IF;
  INSERT INTO retention_looks (parent, month, cutoff, last_tenant, last_task) VALUES (looked_at_table, p_month, p_cutoff, nowhere, nowhere)
  ON CONFLICT DO NOTHING;
  SELECT * INTO place FROM retention_looks l WHERE l.parent = looked_at_table AND l.month = p_month FOR UPDATE;
  IF place.cutoff > p_cutoff THEN           -- kept for longer than before: what was not needed then may be now
    place.last_tenant := nowhere;
    place.last_task := nowhere;
    place.complete := false;
  END IF;
  IF NOT place.complete THEN
    IF looked_at_table = 'task_events' THEN
      SELECT array_agg(e.tenant_id), array_agg(e.task_id) INTO tenants_of, tasks_of
      FROM (SELECT x.tenant_id, x.task_id FROM task_events x
            WHERE x.at >= p_month AND x.at < after AND (x.tenant_id, x.task_id) > (place.last_tenant, place.last_task)
            ORDER BY x.tenant_id, x.task_id LIMIT p_batch) e;
      needed := EXISTS (
        SELECT FROM (SELECT DISTINCT u.tenant_id, u.id FROM unnest(tenants_of, tasks_of) AS u (tenant_id, id)) k
        WHERE EXISTS (SELECT FROM tasks t WHERE t.id = k.id)
           OR EXISTS (SELECT FROM dead_letters d WHERE d.task_id = k.id AND d.handled_at IS NULL)
           OR EXISTS (SELECT FROM task_history h WHERE h.tenant_id = k.tenant_id AND h.id = k.id AND h.finished_at >= p_cutoff));
    ELSE
      SELECT array_agg(e.tenant_id), array_agg(e.id), bool_or(e.finished_at >= p_cutoff) INTO tenants_of, tasks_of, needed
      FROM (SELECT x.tenant_id, x.id, x.finished_at FROM task_history x
            WHERE x.id >= lowest AND x.id < beyond AND (x.tenant_id, x.id) > (place.last_tenant, place.last_task)
            ORDER BY x.tenant_id, x.id LIMIT p_batch) e;
    END IF;
    IF needed THEN
      RETURN 'needed';
    END IF;
    place.complete := coalesce(cardinality(tasks_of), 0) < p_batch;
    place.last_tenant := coalesce(tenants_of[cardinality(tenants_of)], place.last_tenant);
    place.last_task := coalesce(tasks_of[cardinality(tasks_of)], place.last_task);
  END IF;
  UPDATE retention_looks l
  SET cutoff = p_cutoff, last_tenant = place.last_tenant, last_task = place.last_task, complete = place.complete
  WHERE l.parent = looked_at_table AND l.month = p_month;
  RETURN CASE WHEN place.complete THEN 'expired' ELSE 'more' END;
END $$;

-- A month of history is gone: so is the need to know how far it was looked through, and dead letters that were handled go with their tasks.
CREATE OR REPLACE FUNCTION app.forget_month(p_parent text, p_month timestamptz) RETURNS void
LANGUAGE plpgsql SECURITY DEFINER SET search_path = public, app, pg_temp AS $$
BEGIN
  PERFORM app.require_no_tenant();
  DELETE FROM retention_looks l WHERE l.parent = p_parent AND l.month = p_month;
  DELETE FROM dead_letters d
  WHERE p_parent = 'task_history' AND d.task_id >= app.uuid7_floor(p_month) AND d.task_id < app.uuid7_floor(app.month_after(p_month))
    AND d.handled_at IS NOT NULL;
END $$;

-- The partitions that are old enough to ask about, oldest first.
CREATE OR REPLACE FUNCTION app.old_months(p_days int) RETURNS TABLE (parent text, month timestamptz)
LANGUAGE sql STABLE SET search_path = public, app, pg_temp AS $$
  SELECT p.parent, m.month
  FROM unnest(app.partitioned_tables()) WITH ORDINALITY AS p (parent, place) CROSS JOIN LATERAL app.months_of(p.parent) m
  WHERE app.month_after(m.month) <= app.now() - make_interval(days => p_days)
  ORDER BY m.month, p.place
$$;

-- Look through the next part of one partition, and drop it when that was the last and nothing in it is needed. Waits 250 ms at most for readers
-- of its table (55P03 then: try again later). Returns dropped, more (ask again), needed, busy (another replica is at it), or gone.
CREATE OR REPLACE FUNCTION app.retire_month(p_parent text, p_month timestamptz, p_days int, p_batch int) RETURNS text
LANGUAGE plpgsql SECURITY DEFINER SET search_path = public, app, pg_temp SET lock_timeout = '250ms' AS $$
DECLARE
  chosen text;
  found text;
BEGIN
  PERFORM app.require_no_tenant();
  IF p_days < 1 THEN
    RETURN 'needed';
  ELSIF NOT pg_try_advisory_xact_lock(hashtext('galley.partitions')) THEN
    RETURN 'busy';
  END IF;
  SELECT m.child INTO chosen FROM app.months_of(p_parent) m WHERE m.month = p_month AND p_parent = ANY (app.partitioned_tables());
  IF chosen IS NULL THEN
    RETURN 'gone';
  END IF;
  found := app.look_through(p_parent, p_month, app.now() - make_interval(days => p_days), p_batch);
  IF found = 'expired' THEN
    EXECUTE format('DROP TABLE %I', chosen);
    PERFORM app.forget_month(p_parent, p_month);
    RETURN 'dropped';
  END IF;
  RETURN found;
END $$;

-- Drop what was decided about many tasks, and alerts, once they have been over for p_days; up to p_limit of each. Returns how many of the kind
-- that had most: as many as p_limit, and there may be more.
CREATE OR REPLACE FUNCTION app.forget_closed(p_days int, p_limit int) RETURNS int
LANGUAGE plpgsql SECURITY DEFINER SET search_path = public, app, pg_temp AS $$
DECLARE
  cutoff timestamptz := app.now() - make_interval(days => p_days);
  alerts_dropped int;
  operations_dropped int;
BEGIN
  PERFORM app.require_no_tenant();
  DELETE FROM alerts a
  WHERE p_days > 0 AND a.id = ANY (ARRAY(SELECT x.id FROM alerts x WHERE x.closed_at < cutoff LIMIT p_limit FOR UPDATE SKIP LOCKED));
  GET DIAGNOSTICS alerts_dropped = ROW_COUNT;
  DELETE FROM bulk_operations b
  WHERE p_days > 0 AND b.id = ANY (ARRAY(SELECT x.id FROM bulk_operations x WHERE x.finished_at < cutoff LIMIT p_limit FOR UPDATE SKIP LOCKED));
  GET DIAGNOSTICS operations_dropped = ROW_COUNT;
  RETURN greatest(alerts_dropped, operations_dropped);
END $$;

-- Of an unreleased state.
DROP FUNCTION IF EXISTS app.drop_month(text, timestamptz, int);
DROP FUNCTION IF EXISTS app.is_expired(text, timestamptz, timestamptz);
DROP FUNCTION IF EXISTS app.forget_dead_letters(timestamptz);

ALTER FUNCTION app.make_month(text, timestamptz) OWNER TO galley_owner;
ALTER FUNCTION app.ensure_partitions(int) OWNER TO galley_owner;
ALTER FUNCTION app.retire_month(text, timestamptz, int, int) OWNER TO galley_owner;
ALTER FUNCTION app.look_through(text, timestamptz, timestamptz, int) OWNER TO galley_engine;
ALTER FUNCTION app.forget_month(text, timestamptz) OWNER TO galley_engine;
ALTER FUNCTION app.forget_closed(int, int) OWNER TO galley_engine;
