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

-- Whether nothing in this month is needed any more: of tasks made in it (steps, history) or of events told in it. Needed is what belongs
-- to a task that has not ended, to one that ended after p_cutoff, or to a dead letter that nobody has handled.
CREATE OR REPLACE FUNCTION app.is_expired(p_parent text, p_month timestamptz, p_cutoff timestamptz) RETURNS boolean
LANGUAGE plpgsql STABLE SECURITY DEFINER SET search_path = public, app, pg_temp AS $$
DECLARE
  after timestamptz := app.month_after(p_month);
  lowest uuid := app.uuid7_floor(p_month);
  beyond uuid := app.uuid7_floor(after);
BEGIN
  IF after > p_cutoff THEN
    RETURN false;
  END IF;
  IF p_parent = 'task_events' THEN
    RETURN NOT EXISTS (
      SELECT FROM task_events e
      WHERE e.at >= p_month AND e.at < after
        AND (EXISTS (SELECT FROM tasks t WHERE t.id = e.task_id)
          OR EXISTS (SELECT FROM dead_letters d WHERE d.task_id = e.task_id AND d.handled_at IS NULL)
          OR EXISTS (SELECT FROM task_history h WHERE h.tenant_id = e.tenant_id AND h.id = e.task_id AND h.finished_at >= p_cutoff)));
  END IF;
  RETURN NOT EXISTS (SELECT FROM tasks t WHERE t.id >= lowest AND t.id < beyond)
     AND NOT EXISTS (SELECT FROM dead_letters d WHERE d.task_id >= lowest AND d.task_id < beyond AND d.handled_at IS NULL)
     AND coalesce((SELECT max(h.finished_at) < p_cutoff FROM task_history h WHERE h.id >= lowest AND h.id < beyond), true);
END $$;

-- Dead letters that were handled go with the tasks that they tell of.
CREATE OR REPLACE FUNCTION app.forget_dead_letters(p_month timestamptz) RETURNS void
LANGUAGE plpgsql SECURITY DEFINER SET search_path = public, app, pg_temp AS $$
BEGIN
  PERFORM app.require_no_tenant();
  DELETE FROM dead_letters d
  WHERE d.task_id >= app.uuid7_floor(p_month) AND d.task_id < app.uuid7_floor(app.month_after(p_month)) AND d.handled_at IS NOT NULL;
END $$;

-- The partitions that are old enough to ask about, oldest first.
CREATE OR REPLACE FUNCTION app.old_months(p_days int) RETURNS TABLE (parent text, month timestamptz)
LANGUAGE sql STABLE SET search_path = public, app, pg_temp AS $$
  SELECT p.parent, m.month
  FROM unnest(app.partitioned_tables()) WITH ORDINALITY AS p (parent, place) CROSS JOIN LATERAL app.months_of(p.parent) m
  WHERE app.month_after(m.month) <= app.now() - make_interval(days => p_days)
  ORDER BY m.month, p.place
$$;

-- Drop one partition if it has expired. Waits 250 ms at most for readers of its table (55P03 then: try again later).
CREATE OR REPLACE FUNCTION app.drop_month(p_parent text, p_month timestamptz, p_days int) RETURNS boolean
LANGUAGE plpgsql SECURITY DEFINER SET search_path = public, app, pg_temp SET lock_timeout = '250ms' AS $$
DECLARE
  chosen text;
BEGIN
  PERFORM app.require_no_tenant();
  IF p_days < 1 OR NOT pg_try_advisory_xact_lock(hashtext('galley.partitions')) THEN
    RETURN false;
  END IF;
  SELECT m.child INTO chosen FROM app.months_of(p_parent) m WHERE m.month = p_month AND p_parent = ANY (app.partitioned_tables());
  IF chosen IS NULL OR NOT app.is_expired(p_parent, p_month, app.now() - make_interval(days => p_days)) THEN
    RETURN false;
  END IF;
  EXECUTE format('DROP TABLE %I', chosen);
  IF p_parent = 'task_history' THEN
    PERFORM app.forget_dead_letters(p_month);
  END IF;
  RETURN true;
END $$;

ALTER FUNCTION app.make_month(text, timestamptz) OWNER TO galley_owner;
ALTER FUNCTION app.ensure_partitions(int) OWNER TO galley_owner;
ALTER FUNCTION app.drop_month(text, timestamptz, int) OWNER TO galley_owner;
ALTER FUNCTION app.is_expired(text, timestamptz, timestamptz) OWNER TO galley_engine;
ALTER FUNCTION app.forget_dead_letters(timestamptz) OWNER TO galley_engine;
