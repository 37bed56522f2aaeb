-- works-with: 3
-- Why: limits that hold over all replicas (rate, per tenant, fair turns), what executors report of themselves, the failed tasks
-- that nobody has handled yet, and numbers per minute, so that no page counts history.
-- Holds task_history exclusively while its primary key is built anew, a second or two for each million rows: tasks that end wait for it.

SET ROLE galley_owner;

-- Who may pause queues and drain executors: those belong to the installation. The first tenant has this, others can be given it.
ALTER TABLE tenants ADD COLUMN operates boolean NOT NULL DEFAULT false;

-- Limits of a queue. tokens is what was left of the rate at tokens_at; last_tenant had the latest turn of a fair queue.
ALTER TABLE queues
  ADD COLUMN max_running_per_tenant int CHECK (max_running_per_tenant > 0),
  ADD COLUMN rate_per_second double precision CHECK (rate_per_second > 0 AND rate_per_second <= 1000000),
  ADD COLUMN burst int CHECK (burst BETWEEN 1 AND 1000000),
  ADD COLUMN tokens double precision NOT NULL DEFAULT 0,
  ADD COLUMN tokens_at timestamptz NOT NULL DEFAULT app.now(),
  ADD COLUMN fair boolean NOT NULL DEFAULT false,
  ADD COLUMN last_tenant uuid,
  ADD COLUMN pause_reason text CHECK (length(pause_reason) BETWEEN 1 AND 500),
  ADD COLUMN updated_at timestamptz,
  ADD COLUMN updated_by text,
  ADD CONSTRAINT queues_rate_has_burst CHECK ((rate_per_second IS NULL) = (burst IS NULL));

-- Another number of running tasks for one tenant than max_running_per_tenant.
CREATE TABLE queue_tenant_limits (
  queue text NOT NULL REFERENCES queues ON DELETE CASCADE,
  tenant_id uuid NOT NULL REFERENCES tenants,
  max_running int NOT NULL CHECK (max_running > 0),
  updated_at timestamptz NOT NULL DEFAULT app.now(),
  updated_by text NOT NULL,
  PRIMARY KEY (queue, tenant_id)
);
SELECT app.protect('queue_tenant_limits', 'SELECT');
GRANT INSERT, UPDATE, DELETE ON queue_tenant_limits TO galley_engine;

CREATE INDEX tasks_fair ON tasks (queue, tenant_id, priority, run_at, id) WHERE state = 'queued';       -- app.claim: turns between tenants
CREATE INDEX tasks_retry_of ON tasks (retry_of) WHERE retry_of IS NOT NULL;                              -- what was requeued as what
CREATE INDEX tasks_asleep ON tasks (queue, state, tenant_id) WHERE state IN ('scheduled', 'waiting', 'blocked');   -- app.count_live

-- One index serves both the look-up of a task and its tenant's lists; every query names the tenant.
ALTER TABLE task_history DROP CONSTRAINT task_history_pkey, ADD PRIMARY KEY (tenant_id, id);
DROP INDEX task_history_tenant;

-- What each executor last said of itself.
ALTER TABLE executors
  ADD COLUMN seen_at timestamptz NOT NULL DEFAULT app.now(),
  ADD COLUMN busy int NOT NULL DEFAULT 0,
  ADD COLUMN leaked int NOT NULL DEFAULT 0,          -- slots held by code that does not end although it was stopped
  ADD COLUMN lag_ms real NOT NULL DEFAULT 0,         -- how late its event loop was at worst since the report before
  ADD COLUMN draining_by text;

-- Failed and timed out tasks that wait for a person: one row each, written with the end of the task.
CREATE TABLE dead_letters (
  task_id uuid PRIMARY KEY,
  tenant_id uuid NOT NULL REFERENCES tenants,
  queue text NOT NULL,
  type text NOT NULL,
  state text NOT NULL CHECK (state IN ('failed', 'timed_out')),
  error_class text NOT NULL,
  requeues smallint NOT NULL DEFAULT 0,              -- how often it has been a dead letter before, as the tasks it was made from
  failed_at timestamptz NOT NULL,
  note text CHECK (length(note) BETWEEN 1 AND 2000),
  noted_at timestamptz,
  noted_by text,
  handled_at timestamptz,
  handled_as text CHECK (handled_as IN ('requeued', 'discarded')),
  handled_by text,
  handled_reason text CHECK (length(handled_reason) BETWEEN 1 AND 2000),
  successor_id uuid,                                 -- the task it was requeued as
  CONSTRAINT dead_letters_noted CHECK ((note IS NULL) = (noted_by IS NULL) AND (note IS NULL) = (noted_at IS NULL)),
  CONSTRAINT dead_letters_handled CHECK ((handled_at IS NULL) = (handled_as IS NULL) AND (handled_at IS NULL) = (handled_by IS NULL)),
  CONSTRAINT dead_letters_successor CHECK ((handled_as IS NOT DISTINCT FROM 'requeued') = (successor_id IS NOT NULL))
);
CREATE INDEX dead_letters_open ON dead_letters (tenant_id, task_id) WHERE handled_at IS NULL;          -- the list, newest first
CREATE INDEX dead_letters_age ON dead_letters (tenant_id, failed_at) WHERE handled_at IS NULL;         -- the oldest, for alerts
SELECT app.protect('dead_letters');

-- How runs ended, per minute. Rows are only added while tasks end, so that replicas never wait for each other's counters;
-- app.fold_statistics makes one row of each finished minute. Readers sum, folded or not.
CREATE TABLE task_statistics (
  tenant_id uuid NOT NULL,
  minute timestamptz NOT NULL,
  queue text NOT NULL,
  type text NOT NULL,
  outcome text NOT NULL,                             -- a final state, or the event that took the task out of running
  tasks int NOT NULL,
  waited_ms bigint NOT NULL,                         -- sum of: from due to started; 0 for those that never started
  waited_max_ms bigint NOT NULL,
  ran_ms bigint NOT NULL,                            -- sum of: the last run
  ran_max_ms bigint NOT NULL,
  folded boolean NOT NULL DEFAULT false
);
CREATE INDEX task_statistics_minute ON task_statistics (tenant_id, minute);                            -- pages
CREATE INDEX task_statistics_loose ON task_statistics (minute) WHERE NOT folded;                       -- app.fold_statistics
SELECT app.protect('task_statistics');

-- What has ended before this migration. The policies of galley_engine let it see every tenant.
SET ROLE galley_engine;
UPDATE tenants SET operates = true WHERE id = (SELECT t.id FROM tenants t ORDER BY t.created_at, t.id LIMIT 1);
INSERT INTO dead_letters (task_id, tenant_id, queue, type, state, error_class, failed_at)
SELECT h.id, h.tenant_id, h.queue, h.type, h.state, coalesce(h.error ->> 'class', 'unknown'), h.finished_at
FROM task_history h
WHERE h.state IN ('failed', 'timed_out') AND NOT EXISTS (SELECT FROM task_history r WHERE r.tenant_id = h.tenant_id AND r.retry_of = h.id)
  AND NOT EXISTS (SELECT FROM tasks r WHERE r.retry_of = h.id);
INSERT INTO task_statistics (tenant_id, minute, queue, type, outcome, tasks, waited_ms, waited_max_ms, ran_ms, ran_max_ms, folded)
SELECT h.tenant_id, date_trunc('minute', h.finished_at), h.queue, h.type, h.state, count(*), 0, 0,
       coalesce(sum(extract(epoch FROM h.finished_at - h.started_at) * 1000)::bigint, 0),
       coalesce(max(extract(epoch FROM h.finished_at - h.started_at) * 1000)::bigint, 0), true
FROM task_history h
WHERE h.finished_at > app.now() - interval '30 days'
GROUP BY 1, 2, 3, 4, 5;
SET ROLE galley_owner;

-- Functions that gain arguments: dropped here, made anew from sql/functions. Calls of the release before still find them by default values.
DROP FUNCTION IF EXISTS app.claim(uuid, text, int);
DROP FUNCTION IF EXISTS app.heartbeat(uuid, double precision, uuid[], int[]);
DROP FUNCTION IF EXISTS app.ready_queues();

RESET ROLE;
