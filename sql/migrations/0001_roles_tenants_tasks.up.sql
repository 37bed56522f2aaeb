-- Why: the roles that keep tenants apart, the people and keys that may call, and the engine's tables.
-- Roles belong to the cluster, so several databases may share them: each CREATE tolerates a role that is already there.

DO $$
DECLARE
  wanted text;
BEGIN
  FOREACH wanted IN ARRAY ARRAY['galley_owner', 'galley_web', 'galley_engine'] LOOP
    BEGIN
      IF NOT EXISTS (SELECT FROM pg_roles WHERE rolname = wanted) THEN
        EXECUTE format('CREATE ROLE %I %s NOSUPERUSER NOBYPASSRLS', wanted,
                       CASE wanted WHEN 'galley_web' THEN 'LOGIN' ELSE 'NOLOGIN' END);
      END IF;
    EXCEPTION WHEN duplicate_object OR unique_violation THEN
      NULL;  -- another database's migration made it a moment ago
    END;
    -- A migrator that is no superuser must be able to act as each of them.
    IF NOT (SELECT rolsuper FROM pg_roles WHERE rolname = current_user)
       AND NOT pg_has_role(current_user, wanted, 'SET') THEN
      EXECUTE format('GRANT %I TO %I', wanted, current_user);
    END IF;
  END LOOP;
END $$;

CREATE EXTENSION IF NOT EXISTS vector;

CREATE SCHEMA app AUTHORIZATION galley_owner;
GRANT USAGE ON SCHEMA app TO galley_web, galley_engine;
GRANT CREATE ON SCHEMA app TO galley_engine;                  -- needed to own functions there
GRANT USAGE, CREATE ON SCHEMA public TO galley_owner;
GRANT USAGE ON SCHEMA public TO galley_web, galley_engine;

SET ROLE galley_owner;

-- The clock of every statement: the database's own, or the setting app.now in tests. STABLE, so a statement reads it once
-- and an index can be searched with it.
CREATE FUNCTION app.now() RETURNS timestamptz LANGUAGE plpgsql STABLE PARALLEL SAFE AS $$
DECLARE
  fixed text := current_setting('app.now', true);
BEGIN
  IF fixed IS NULL OR fixed = '' THEN
    RETURN clock_timestamp();
  END IF;
  RETURN fixed::timestamptz;
END $$;

-- The tenant of this transaction; NULL when none was set, which matches no row.
CREATE FUNCTION app.current_tenant() RETURNS uuid LANGUAGE sql STABLE PARALLEL SAFE
  RETURN nullif(current_setting('app.tenant', true), '')::uuid;

-- The smallest version-7 uuid of a moment: the border between two partitions.
CREATE FUNCTION app.uuid7_floor(moment timestamptz) RETURNS uuid LANGUAGE sql IMMUTABLE STRICT PARALLEL SAFE
  RETURN (lpad(to_hex(floor(extract(epoch FROM moment) * 1000)::bigint), 12, '0') || '70008000000000000000')::uuid;

-- Ids ordered by time, on the database clock. PostgreSQL 18 brings its own.
DO $$
BEGIN
  IF current_setting('server_version_num')::int >= 180000 THEN
    EXECUTE 'CREATE FUNCTION app.uuid7() RETURNS uuid LANGUAGE sql VOLATILE PARALLEL SAFE RETURN uuidv7()';
  ELSE
    EXECUTE $f$
      CREATE FUNCTION app.uuid7() RETURNS uuid LANGUAGE sql VOLATILE PARALLEL SAFE AS $b$
        SELECT encode(set_bit(set_bit(
                 overlay(uuid_send(gen_random_uuid())
                         PLACING substring(int8send(floor(extract(epoch FROM clock_timestamp()) * 1000)::bigint) FROM 3)
                         FROM 1 FOR 6), 52, 1), 53, 1), 'hex')::uuid
      $b$ $f$;
  END IF;
END $$;

-- Put a table with a tenant_id under forced row-level security and grant what the run-time roles need.
CREATE FUNCTION app.protect(target regclass, privileges text DEFAULT 'SELECT, INSERT, UPDATE, DELETE') RETURNS void
LANGUAGE plpgsql AS $$
BEGIN
  EXECUTE format('ALTER TABLE %s ENABLE ROW LEVEL SECURITY', target);
  EXECUTE format('ALTER TABLE %s FORCE ROW LEVEL SECURITY', target);
  EXECUTE format('CREATE POLICY tenant ON %s TO galley_web USING (tenant_id = app.current_tenant()) WITH CHECK (tenant_id = app.current_tenant())', target);
  EXECUTE format('CREATE POLICY engine ON %s TO galley_engine USING (true) WITH CHECK (true)', target);
  EXECUTE format('GRANT %s ON %s TO galley_web, galley_engine', privileges, target);
END $$;

-- Who may call ------------------------------------------------------------------------------------------------------

CREATE TABLE tenants (
  id uuid PRIMARY KEY DEFAULT app.uuid7(),
  name text NOT NULL UNIQUE CHECK (length(name) BETWEEN 1 AND 100),
  settings jsonb NOT NULL DEFAULT '{}',
  created_at timestamptz NOT NULL DEFAULT app.now()
);
ALTER TABLE tenants ENABLE ROW LEVEL SECURITY;
ALTER TABLE tenants FORCE ROW LEVEL SECURITY;
CREATE POLICY tenant ON tenants TO galley_web USING (id = app.current_tenant());
CREATE POLICY engine ON tenants TO galley_engine USING (true) WITH CHECK (true);
GRANT SELECT ON tenants TO galley_web;
GRANT SELECT, INSERT, UPDATE ON tenants TO galley_engine;

CREATE TABLE users (
  id uuid PRIMARY KEY DEFAULT app.uuid7(),
  tenant_id uuid NOT NULL REFERENCES tenants,
  email text NOT NULL CHECK (length(email) BETWEEN 3 AND 254),
  name text NOT NULL,
  password_hash text NOT NULL,
  role text NOT NULL CHECK (role IN ('viewer', 'author', 'reviewer', 'operator', 'admin')),
  created_at timestamptz NOT NULL DEFAULT app.now(),
  disabled_at timestamptz
);
CREATE UNIQUE INDEX users_email ON users (lower(email));               -- sign-in finds the user before the tenant is known
CREATE INDEX users_tenant ON users (tenant_id);
SELECT app.protect('users');

CREATE TABLE api_keys (
  id uuid PRIMARY KEY DEFAULT app.uuid7(),
  tenant_id uuid NOT NULL REFERENCES tenants,
  name text NOT NULL CHECK (length(name) BETWEEN 1 AND 100),
  role text NOT NULL CHECK (role IN ('viewer', 'author', 'reviewer', 'operator', 'admin')),
  secret_hash bytea NOT NULL,
  created_by text NOT NULL,
  created_at timestamptz NOT NULL DEFAULT app.now(),
  expires_at timestamptz,
  revoked_at timestamptz,
  last_used_at timestamptz
);
CREATE INDEX api_keys_tenant ON api_keys (tenant_id, id);
SELECT app.protect('api_keys');

CREATE TABLE sessions (
  id uuid PRIMARY KEY DEFAULT app.uuid7(),
  tenant_id uuid NOT NULL REFERENCES tenants,
  user_id uuid NOT NULL REFERENCES users ON DELETE CASCADE,
  token_hash bytea NOT NULL UNIQUE,
  csrf_token text NOT NULL,
  created_at timestamptz NOT NULL DEFAULT app.now(),
  last_seen_at timestamptz NOT NULL DEFAULT app.now(),
  expires_at timestamptz NOT NULL
);
CREATE INDEX sessions_expired ON sessions (expires_at);                -- the sweep deletes what has expired
CREATE INDEX sessions_user ON sessions (user_id);
SELECT app.protect('sessions');

CREATE TABLE idempotency (
  tenant_id uuid NOT NULL REFERENCES tenants,
  principal_id uuid NOT NULL,
  route text NOT NULL,
  key text NOT NULL CHECK (length(key) BETWEEN 1 AND 255),
  request_hash bytea NOT NULL,
  status smallint,                                                     -- NULL until the first answer is known
  headers jsonb,
  body bytea,                                                          -- as it was sent, so a repeat is the same to the byte
  created_at timestamptz NOT NULL DEFAULT app.now(),
  expires_at timestamptz NOT NULL DEFAULT app.now() + interval '24 hours',
  PRIMARY KEY (tenant_id, principal_id, route, key)
);
CREATE INDEX idempotency_expired ON idempotency (expires_at);
SELECT app.protect('idempotency');

-- The engine --------------------------------------------------------------------------------------------------------

-- Queues belong to the installation, not to a tenant. The row is the claim's mutex, so limits are exact.
CREATE TABLE queues (
  name text PRIMARY KEY CHECK (name ~ '^[a-z][a-z0-9_-]{0,62}$'),
  paused_at timestamptz,
  paused_by text,
  resume_at timestamptz,
  max_running int CHECK (max_running > 0),
  created_at timestamptz NOT NULL DEFAULT app.now()
) WITH (fillfactor = 50);
GRANT SELECT ON queues TO galley_web;
GRANT SELECT, INSERT, UPDATE, DELETE ON queues TO galley_engine;
INSERT INTO queues (name) VALUES ('default'), ('content'), ('documents');

-- One row per process that runs tasks; its lease covers all its runs.
CREATE TABLE executors (
  id uuid PRIMARY KEY,
  host text NOT NULL,
  pid int NOT NULL,
  release text NOT NULL,
  slots int NOT NULL,
  started_at timestamptz NOT NULL DEFAULT app.now(),
  lease_until timestamptz NOT NULL,
  draining_at timestamptz
) WITH (fillfactor = 50);
GRANT SELECT ON executors TO galley_web;
GRANT SELECT, INSERT, UPDATE, DELETE ON executors TO galley_engine;

-- Live tasks only: what has ended moves to task_history in the statement that ends it, so this table stays small.
CREATE TABLE tasks (
  id uuid PRIMARY KEY DEFAULT app.uuid7(),
  tenant_id uuid NOT NULL REFERENCES tenants,
  queue text NOT NULL REFERENCES queues,
  type text NOT NULL,
  type_version smallint NOT NULL DEFAULT 1,
  state text NOT NULL CONSTRAINT tasks_state CHECK (state IN ('scheduled', 'queued', 'blocked', 'running', 'waiting')),
  priority smallint NOT NULL DEFAULT 2 CHECK (priority BETWEEN 0 AND 9),     -- 0 runs first
  attempt smallint NOT NULL DEFAULT 0,             -- runs that count: error, crash, time-out, and the one under way
  max_attempts smallint NOT NULL DEFAULT 5 CHECK (max_attempts BETWEEN 1 AND 100),
  crashes smallint NOT NULL DEFAULT 0,
  snoozes smallint NOT NULL DEFAULT 0,
  fence int NOT NULL DEFAULT 0,                    -- numbers every run; raised whenever a run loses the task
  executor_id uuid,
  run_at timestamptz NOT NULL DEFAULT app.now(),   -- due time; orders the queue within a priority
  created_at timestamptz NOT NULL DEFAULT app.now(),
  created_by text NOT NULL,
  started_at timestamptz,                          -- of the latest run
  deadline_at timestamptz,                         -- of the run under way, a backstop behind the executor's own timer
  timeout_seconds int NOT NULL DEFAULT 300 CHECK (timeout_seconds BETWEEN 1 AND 604800),
  total_deadline_at timestamptz,                   -- moved on by the time spent waiting
  start_before timestamptz,
  on_crash text NOT NULL DEFAULT 'retry' CHECK (on_crash IN ('retry', 'fail', 'hold')),
  retry_of uuid,
  waiting_for text,
  waiting_since timestamptz,
  wait_until timestamptz,
  concurrency_key text CHECK (length(concurrency_key) BETWEEN 1 AND 200),
  concurrency_limit smallint CHECK (concurrency_limit > 0),
  progress jsonb,
  error jsonb,                                     -- of the latest run that failed
  request_id text,
  payload jsonb NOT NULL,
  CONSTRAINT tasks_running_has_executor CHECK ((state = 'running') = (executor_id IS NOT NULL)),
  CONSTRAINT tasks_waiting_has_signal CHECK (state <> 'waiting' OR (waiting_for IS NOT NULL AND waiting_since IS NOT NULL)),
  CONSTRAINT tasks_key_has_limit CHECK ((concurrency_key IS NULL) = (concurrency_limit IS NULL))
) WITH (fillfactor = 70, autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 2000, autovacuum_vacuum_cost_delay = 0,
        autovacuum_analyze_scale_factor = 0, autovacuum_analyze_threshold = 5000);
CREATE INDEX tasks_ready ON tasks (queue, priority, run_at, id) WHERE state = 'queued';                       -- app.claim
CREATE INDEX tasks_due ON tasks (run_at) WHERE state = 'scheduled';                                           -- app.promote
CREATE INDEX tasks_wait ON tasks (wait_until) WHERE state = 'waiting';                                        -- app.promote
CREATE INDEX tasks_blocked ON tasks (tenant_id, queue, concurrency_key, priority, run_at, id) WHERE state = 'blocked';   -- app.release_keys
CREATE INDEX tasks_running ON tasks (queue, executor_id) WHERE state = 'running';                              -- app.claim counts, app.rescue
CREATE INDEX tasks_held ON tasks (tenant_id, queue, concurrency_key) WHERE state = 'running' AND concurrency_key IS NOT NULL;   -- app.claim
CREATE INDEX tasks_start_before ON tasks (start_before) WHERE start_before IS NOT NULL;                       -- app.sweep
CREATE INDEX tasks_total_deadline ON tasks (total_deadline_at) WHERE total_deadline_at IS NOT NULL;           -- app.sweep
CREATE INDEX tasks_tenant ON tasks (tenant_id, id);                                                           -- lists, newest first
SELECT app.protect('tasks');

-- What has ended. Immutable: a trigger refuses every UPDATE. Ranges are by id, whose leading bits are the creation time.
CREATE TABLE task_history (
  id uuid PRIMARY KEY,
  tenant_id uuid NOT NULL,
  queue text NOT NULL,
  type text NOT NULL,
  type_version smallint NOT NULL,
  state text NOT NULL CONSTRAINT task_history_state CHECK (state IN ('succeeded', 'failed', 'timed_out', 'cancelled')),
  priority smallint NOT NULL,
  attempt smallint NOT NULL,
  max_attempts smallint NOT NULL,
  crashes smallint NOT NULL,
  snoozes smallint NOT NULL,
  fence int NOT NULL,
  executor_id uuid,
  run_at timestamptz NOT NULL,
  created_at timestamptz NOT NULL,
  created_by text NOT NULL,
  started_at timestamptz,
  timeout_seconds int NOT NULL,
  start_before timestamptz,
  retry_of uuid,
  concurrency_key text,
  concurrency_limit smallint,
  progress jsonb,
  error jsonb,
  request_id text,
  payload jsonb NOT NULL,
  finished_at timestamptz NOT NULL,
  ended_by text,                                   -- the actor, when it was not the run itself
  reason text,
  result jsonb
) PARTITION BY RANGE (id);
CREATE INDEX task_history_tenant ON task_history (tenant_id, id);                     -- lists, newest first
CREATE INDEX task_history_failed ON task_history (tenant_id, state, id) WHERE state <> 'succeeded';   -- lists of what went wrong
CREATE INDEX task_history_retry_of ON task_history (retry_of) WHERE retry_of IS NOT NULL;             -- the requeue chain
CREATE TABLE task_history_default PARTITION OF task_history DEFAULT;
SELECT app.protect('task_history', 'SELECT, INSERT');

CREATE VIEW all_tasks WITH (security_invoker) AS
  SELECT id, tenant_id, queue, type, type_version, state, priority, attempt, max_attempts, crashes, snoozes, fence, executor_id, run_at,
         created_at, created_by, started_at, timeout_seconds, start_before, retry_of, concurrency_key, concurrency_limit, progress, error,
         request_id, payload, NULL::timestamptz AS finished_at, NULL::text AS ended_by, NULL::text AS reason, NULL::jsonb AS result,
         deadline_at, waiting_for, wait_until, on_crash
  FROM tasks
  UNION ALL
  SELECT id, tenant_id, queue, type, type_version, state, priority, attempt, max_attempts, crashes, snoozes, fence, executor_id, run_at,
         created_at, created_by, started_at, timeout_seconds, start_before, retry_of, concurrency_key, concurrency_limit, progress, error,
         request_id, payload, finished_at, ended_by, reason, result, NULL, NULL, NULL, NULL
  FROM task_history;
GRANT SELECT ON all_tasks TO galley_web, galley_engine;

-- Exceptions only: created, started and finished are read from the task's own row.
CREATE SEQUENCE task_events_seq CACHE 50;
CREATE TABLE task_events (
  tenant_id uuid NOT NULL,
  task_id uuid NOT NULL,
  seq bigint NOT NULL DEFAULT nextval('task_events_seq'),
  at timestamptz NOT NULL DEFAULT app.now(),
  event text NOT NULL,
  fence int NOT NULL,
  attempt smallint NOT NULL,
  actor text NOT NULL,
  executor_id uuid,
  detail jsonb NOT NULL DEFAULT '{}'
) PARTITION BY RANGE (at);
CREATE INDEX task_events_task ON task_events (tenant_id, task_id, at, seq);           -- a task's history, oldest first
CREATE TABLE task_events_default PARTITION OF task_events DEFAULT;
SELECT app.protect('task_events', 'SELECT, INSERT');
GRANT USAGE ON SEQUENCE task_events_seq TO galley_web, galley_engine;

-- Checkpoints: what a step returned, kept over crashes and waits.
CREATE TABLE task_steps (
  tenant_id uuid NOT NULL,
  task_id uuid NOT NULL,
  name text NOT NULL CHECK (length(name) BETWEEN 1 AND 100),
  kind text NOT NULL CHECK (kind IN ('step', 'write', 'wait')),
  fence int NOT NULL,
  input_hash bytea,
  output jsonb,
  started_at timestamptz NOT NULL,
  finished_at timestamptz NOT NULL DEFAULT app.now(),
  PRIMARY KEY (task_id, name)
) PARTITION BY RANGE (task_id);
CREATE TABLE task_steps_default PARTITION OF task_steps DEFAULT;
SELECT app.protect('task_steps', 'SELECT, INSERT');

CREATE TABLE task_signals (
  tenant_id uuid NOT NULL,
  task_id uuid NOT NULL,
  name text NOT NULL CHECK (length(name) BETWEEN 1 AND 200),
  data jsonb NOT NULL,
  actor text NOT NULL,
  created_at timestamptz NOT NULL DEFAULT app.now(),
  PRIMARY KEY (task_id, name)
);
SELECT app.protect('task_signals', 'SELECT, INSERT, DELETE');

-- Live text of a run, readable from any replica. Unlogged: a crash of the database may lose it, never a result.
CREATE UNLOGGED TABLE task_output (
  tenant_id uuid NOT NULL,
  task_id uuid NOT NULL,
  fence int NOT NULL,
  seq int NOT NULL,
  text text NOT NULL,
  PRIMARY KEY (task_id, fence, seq)
);
SELECT app.protect('task_output', 'SELECT, INSERT, DELETE');

-- Money: a row before each call to a model, settled after it, or unknown. Not fenced: what was spent is booked
-- whatever became of the task.
CREATE TABLE llm_calls (
  id uuid PRIMARY KEY DEFAULT app.uuid7(),
  tenant_id uuid NOT NULL REFERENCES tenants,
  task_id uuid NOT NULL,
  fence int NOT NULL,
  step text NOT NULL,
  prompt_version_id uuid,
  model text NOT NULL,
  state text NOT NULL DEFAULT 'reserved' CHECK (state IN ('reserved', 'settled', 'unknown')),
  request_hash bytea NOT NULL,
  output text,
  input_tokens int,
  output_tokens int,
  cost_usd numeric(12, 6),                         -- NULL when the price is not known, never 0 for that
  latency_ms int,
  first_token_ms int,
  error text,
  started_at timestamptz NOT NULL DEFAULT app.now(),
  finished_at timestamptz,
  CHECK ((state = 'settled') <= (output IS NOT NULL AND finished_at IS NOT NULL))
);
CREATE INDEX llm_calls_task ON llm_calls (tenant_id, task_id, step, request_hash);    -- answers already paid for; the task page
CREATE INDEX llm_calls_open ON llm_calls (started_at) WHERE state = 'reserved';       -- the sweep marks what nobody will settle
SELECT app.protect('llm_calls', 'SELECT, INSERT, UPDATE');

CREATE FUNCTION app.refuse_change() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
  RAISE EXCEPTION '% on % is refused: its rows are immutable', TG_OP, TG_TABLE_NAME USING ERRCODE = 'restrict_violation';
END $$;
CREATE TRIGGER immutable BEFORE UPDATE ON task_history FOR EACH ROW EXECUTE FUNCTION app.refuse_change();
CREATE TRIGGER immutable BEFORE UPDATE OR DELETE ON task_events FOR EACH ROW EXECUTE FUNCTION app.refuse_change();

-- Monthly ranges, three months ahead, for everything that retention drops whole.
CREATE FUNCTION app.ensure_partitions(months_ahead int DEFAULT 3) RETURNS int
LANGUAGE plpgsql SECURITY DEFINER SET search_path = public, app, pg_temp AS $$
DECLARE
  month timestamptz;
  next_month timestamptz;
  parent text;
  child text;
  made int := 0;
BEGIN
  PERFORM pg_advisory_xact_lock(hashtext('galley.partitions'));
  FOR i IN 0 .. months_ahead LOOP
    month := date_trunc('month', app.now() AT TIME ZONE 'UTC') AT TIME ZONE 'UTC' + make_interval(months => i);
    next_month := date_trunc('month', month AT TIME ZONE 'UTC' + interval '1 month') AT TIME ZONE 'UTC';
    FOREACH parent IN ARRAY ARRAY['task_history', 'task_steps', 'task_events'] LOOP
      child := parent || to_char(month AT TIME ZONE 'UTC', '_YYYY_MM');
      CONTINUE WHEN to_regclass(child) IS NOT NULL;
      IF parent = 'task_events' THEN
        EXECUTE format('CREATE TABLE %I PARTITION OF %I FOR VALUES FROM (%L) TO (%L)', child, parent, month, next_month);
      ELSE
        EXECUTE format('CREATE TABLE %I PARTITION OF %I FOR VALUES FROM (%L) TO (%L)', child, parent,
                       app.uuid7_floor(month), app.uuid7_floor(next_month));
      END IF;
      EXECUTE format('ALTER TABLE %I ENABLE ROW LEVEL SECURITY', child);
      EXECUTE format('ALTER TABLE %I FORCE ROW LEVEL SECURITY', child);
      made := made + 1;
    END LOOP;
  END LOOP;
  RETURN made;
END $$;
ALTER TABLE task_history_default ENABLE ROW LEVEL SECURITY;
ALTER TABLE task_history_default FORCE ROW LEVEL SECURITY;
ALTER TABLE task_events_default ENABLE ROW LEVEL SECURITY;
ALTER TABLE task_events_default FORCE ROW LEVEL SECURITY;
ALTER TABLE task_steps_default ENABLE ROW LEVEL SECURITY;
ALTER TABLE task_steps_default FORCE ROW LEVEL SECURITY;
SELECT app.ensure_partitions();

RESET ROLE;
