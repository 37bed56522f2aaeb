-- works-with: 3
-- Why: tasks that are made by the clock. A schedule says what and when; each of its ticks is decided once and leaves a row.

SET ROLE galley_owner;

CREATE TABLE schedules (
  id uuid PRIMARY KEY DEFAULT app.uuid7(),
  tenant_id uuid NOT NULL REFERENCES tenants,
  name text NOT NULL CHECK (length(name) BETWEEN 1 AND 100),
  cron text CHECK (length(cron) BETWEEN 1 AND 200),
  time_zone text NOT NULL DEFAULT 'UTC',           -- of cron: a name of the IANA database
  interval_seconds int CHECK (interval_seconds BETWEEN 1 AND 31536000),
  anchor_at timestamptz NOT NULL,                  -- intervals are counted from here
  missed text NOT NULL CHECK (missed IN ('skip', 'once', 'all')),
  overlap text NOT NULL CHECK (overlap IN ('allow', 'skip')),
  -- What each tick enqueues; NULL: the default of the type at that time.
  type text NOT NULL,
  payload jsonb NOT NULL,
  queue text,                                      -- no foreign key: a queue that vanished is a failed tick, not a lock on queues
  priority smallint NOT NULL CHECK (priority BETWEEN 0 AND 9),
  timeout_seconds int,
  total_timeout_seconds int,
  max_attempts smallint,
  concurrency_key text,
  concurrency_limit smallint,
  next_tick_at timestamptz,                        -- NULL: paused without an end, deleted, or never again
  last_task_id uuid,                               -- of the latest tick that enqueued one
  paused_at timestamptz,
  paused_by text,
  resume_at timestamptz,
  version int NOT NULL DEFAULT 1,                  -- of what it says, for If-Match
  created_at timestamptz NOT NULL DEFAULT app.now(),
  created_by text NOT NULL,
  updated_at timestamptz NOT NULL DEFAULT app.now(),
  updated_by text NOT NULL,
  deleted_at timestamptz,                          -- its ticks stay readable as long as their tasks
  deleted_by text,
  CONSTRAINT schedules_one_way CHECK ((cron IS NULL) <> (interval_seconds IS NULL)),
  CONSTRAINT schedules_key_has_limit CHECK ((concurrency_key IS NULL) = (concurrency_limit IS NULL)),
  CONSTRAINT schedules_paused CHECK ((paused_at IS NULL) = (paused_by IS NULL) AND (resume_at IS NULL OR paused_at IS NOT NULL)),
  CONSTRAINT schedules_deleted CHECK ((deleted_at IS NULL) = (deleted_by IS NULL) AND (deleted_at IS NULL OR next_tick_at IS NULL))
) WITH (fillfactor = 70);
CREATE UNIQUE INDEX schedules_name ON schedules (tenant_id, name) WHERE deleted_at IS NULL;            -- the list, by name
CREATE INDEX schedules_due ON schedules (next_tick_at) WHERE next_tick_at IS NOT NULL;                 -- app.due_schedules
SELECT app.protect('schedules');

-- What became of each tick. Ticks that were missed or skipped in a row share one, from tick_at until until_at.
CREATE TABLE schedule_ticks (
  tenant_id uuid NOT NULL,
  schedule_id uuid NOT NULL REFERENCES schedules ON DELETE CASCADE,
  tick_at timestamptz NOT NULL,
  until_at timestamptz,
  manual boolean NOT NULL DEFAULT false,           -- somebody ran it now; tick_at is when
  outcome text NOT NULL CHECK (outcome IN ('enqueued', 'missed', 'overlapped', 'failed')),
  task_id uuid,
  reason text,                                     -- of a failure
  actor text NOT NULL,
  decided_at timestamptz NOT NULL DEFAULT app.now(),
  PRIMARY KEY (schedule_id, tick_at, manual),      -- one tick, one decision, however many replicas there are
  CONSTRAINT schedule_ticks_task CHECK ((outcome = 'enqueued') = (task_id IS NOT NULL)),
  CONSTRAINT schedule_ticks_reason CHECK ((outcome = 'failed') = (reason IS NOT NULL))
);
CREATE INDEX schedule_ticks_old ON schedule_ticks (decided_at);                                        -- app.sweep_schedule_ticks
SELECT app.protect('schedule_ticks', 'SELECT, INSERT, DELETE');

RESET ROLE;
