-- Numbers per minute: the engine adds rows as tasks end (app.finish, app.end_tasks, app.retry, app.rescue); here they are folded.

-- Lengths of time are counted by ranges: 0 is below a millisecond, from there each is a fourth of a doubling wide (19 %), so 61 reach half a
-- minute and 120 eleven days. How many lie in one range is one number: the range in the upper bits, how many in the lower 40. Arrays of
-- such numbers, a spread, are added up by putting them together.
CREATE OR REPLACE FUNCTION app.length_range(p_ms double precision) RETURNS int LANGUAGE sql IMMUTABLE PARALLEL SAFE
  RETURN CASE WHEN p_ms >= 1 THEN 1 + floor(ln(p_ms) * 5.770780163555854)::int ELSE 0 END;   -- 4 / ln 2

CREATE OR REPLACE FUNCTION app.spread_entry(p_range int, p_runs bigint) RETURNS bigint LANGUAGE sql IMMUTABLE PARALLEL SAFE
  RETURN (p_range::bigint << 40) | p_runs;

-- The same with one entry for each range, ascending.
CREATE OR REPLACE FUNCTION app.tidy_spread(p_spread bigint[]) RETURNS bigint[]
LANGUAGE sql IMMUTABLE PARALLEL SAFE SET search_path = public, app, pg_temp AS $$
  SELECT coalesce(array_agg(app.spread_entry(e.range, e.runs) ORDER BY e.range), '{}')
  FROM (SELECT (x >> 40)::int AS range, sum(x & ((1::bigint << 40) - 1))::bigint AS runs FROM unnest(p_spread) AS x GROUP BY 1) AS e
$$;

CREATE OR REPLACE AGGREGATE app.sum_spreads(bigint[]) (SFUNC = array_cat, STYPE = bigint[], INITCOND = '{}', FINALFUNC = app.tidy_spread);

-- Make one row of what each minute that is over has for a tenant, queue, type and outcome, then the rows of those hours anew out of their
-- minutes; drop what is older than p_days. One at a time, and no more than some 20,000 rows: returns how many rows it made, 0 when nothing was
-- left to fold.
CREATE OR REPLACE FUNCTION app.fold_statistics(p_days int) RETURNS int
LANGUAGE plpgsql SECURITY DEFINER SET search_path = public, app, pg_temp SET enable_seqscan = off AS $$
DECLARE
  latest timestamptz := (
    SELECT max(o.minute)
    FROM (SELECT s.minute FROM task_statistics s WHERE NOT s.folded AND s.minute < date_trunc('minute', app.now()) ORDER BY s.minute LIMIT 20000) AS o);
  hours_folded timestamptz[];
  tenants_folded uuid[];
  written int;
BEGIN
  PERFORM app.require_no_tenant();
  IF NOT pg_try_advisory_xact_lock(hashtext('galley.statistics')) THEN
    RETURN 0;
  END IF;
  WITH loose AS (
    DELETE FROM task_statistics s WHERE NOT s.folded AND s.minute <= latest RETURNING s.*
  ), parts AS (
    -- By the hundred first: to put the spreads of 6,000 batches together one by one took 2.9 s, so it takes 0.09.
    SELECT l.tenant_id, l.minute, l.queue, l.type, l.outcome, sum(l.tasks) AS tasks, sum(l.waited_ms) AS waited_ms, max(l.waited_max_ms) AS waited_max_ms,
           sum(l.ran_ms) AS ran_ms, max(l.ran_max_ms) AS ran_max_ms, app.sum_spreads(l.waited_spread) AS waited, app.sum_spreads(l.ran_spread) AS ran
    FROM (SELECT *, row_number() OVER () / 100 AS part FROM loose) AS l
    GROUP BY l.tenant_id, l.minute, l.queue, l.type, l.outcome, l.part
  ), minutes AS (
    INSERT INTO task_statistics (tenant_id, minute, queue, type, outcome, tasks, waited_ms, waited_max_ms, ran_ms, ran_max_ms, waited_spread, ran_spread, folded)
    SELECT p.tenant_id, p.minute, p.queue, p.type, p.outcome, sum(p.tasks), sum(p.waited_ms), max(p.waited_max_ms), sum(p.ran_ms), max(p.ran_max_ms),
           app.sum_spreads(p.waited), app.sum_spreads(p.ran), true
    FROM parts p
    GROUP BY p.tenant_id, p.minute, p.queue, p.type, p.outcome
    RETURNING tenant_id, minute
  )
  SELECT count(*), array_agg(DISTINCT date_trunc('hour', m.minute, 'UTC')), array_agg(DISTINCT m.tenant_id)
  INTO written, hours_folded, tenants_folded
  FROM minutes m;
  DELETE FROM task_statistics_hours h WHERE h.tenant_id = ANY (tenants_folded) AND h.hour = ANY (hours_folded);
  INSERT INTO task_statistics_hours (tenant_id, hour, queue, type, outcome, tasks, waited_ms, waited_max_ms, ran_ms, ran_max_ms, waited_spread, ran_spread)
  SELECT s.tenant_id, h.hour, s.queue, s.type, s.outcome, sum(s.tasks), sum(s.waited_ms), max(s.waited_max_ms), sum(s.ran_ms), max(s.ran_max_ms),
         app.sum_spreads(s.waited_spread), app.sum_spreads(s.ran_spread)
  FROM unnest(tenants_folded) AS n (tenant_id) CROSS JOIN unnest(hours_folded) AS h (hour)
  JOIN task_statistics s ON s.tenant_id = n.tenant_id AND s.minute >= h.hour AND s.minute < h.hour + interval '1 hour' AND s.folded
  GROUP BY s.tenant_id, h.hour, s.queue, s.type, s.outcome;
  -- By tenant, as the indexes are.
  DELETE FROM task_statistics s
  WHERE s.tenant_id = ANY (ARRAY(SELECT n.id FROM tenants n)) AND s.minute < app.now() - make_interval(days => p_days);
  DELETE FROM task_statistics_hours h
  WHERE h.tenant_id = ANY (ARRAY(SELECT n.id FROM tenants n)) AND h.hour < app.now() - make_interval(days => p_days);
  RETURN written;
END $$;

-- How runs ended since a moment: by hours, and what is in none of them yet, or by minutes. Of the caller's tenant, or of all; history is not touched.
CREATE OR REPLACE FUNCTION app.runs_since(p_installation boolean, p_since timestamptz, p_by_hours boolean)
RETURNS TABLE (at timestamptz, queue text, type text, outcome text, tasks bigint, waited_ms bigint, waited_max_ms bigint, ran_ms bigint,
               ran_max_ms bigint, waited_spread bigint[], ran_spread bigint[])
LANGUAGE plpgsql STABLE SECURITY DEFINER SET search_path = public, app, pg_temp SET plan_cache_mode = force_custom_plan AS $$
#variable_conflict use_column
DECLARE
  own uuid := app.current_tenant();
BEGIN
  IF p_installation THEN
    PERFORM app.require_operates();
  END IF;
  RETURN QUERY
    SELECT s.at, s.queue, s.type, s.outcome, s.tasks, s.waited_ms, s.waited_max_ms, s.ran_ms, s.ran_max_ms, s.waited_spread, s.ran_spread
    FROM tenants n JOIN LATERAL (
      SELECT h.hour AS at, h.queue, h.type, h.outcome, h.tasks, h.waited_ms, h.waited_max_ms, h.ran_ms, h.ran_max_ms, h.waited_spread, h.ran_spread
      FROM task_statistics_hours h
      WHERE h.tenant_id = n.id AND h.hour >= p_since AND p_by_hours
      UNION ALL
      SELECT m.minute, m.queue, m.type, m.outcome, m.tasks, m.waited_ms, m.waited_max_ms, m.ran_ms, m.ran_max_ms, m.waited_spread, m.ran_spread
      FROM task_statistics m
      WHERE m.tenant_id = n.id AND m.minute >= p_since AND (NOT m.folded OR NOT p_by_hours)) AS s ON true
    WHERE p_installation OR n.id = own;
END $$;

ALTER FUNCTION app.fold_statistics(int) OWNER TO galley_engine;
ALTER FUNCTION app.runs_since(boolean, timestamptz, boolean) OWNER TO galley_engine;
