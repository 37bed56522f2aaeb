-- works-with: 3
-- Why: a decision about many tasks at once is carried out in the background, in small transactions that go on where they were
-- after a crash, without taking a place in any queue.

SET ROLE galley_owner;

CREATE TABLE bulk_operations (
  id uuid PRIMARY KEY DEFAULT app.uuid7(),
  tenant_id uuid NOT NULL REFERENCES tenants,
  confirmation_id uuid NOT NULL,                     -- one confirmation begins one operation
  action text NOT NULL CONSTRAINT bulk_operations_action CHECK (action IN ('cancel', 'requeue', 'discard')),
  target text NOT NULL CONSTRAINT bulk_operations_target CHECK (target IN ('tasks', 'dead_letters')),
  filter jsonb NOT NULL,
  changes jsonb NOT NULL DEFAULT '{}',               -- what a requeue does otherwise
  reason text CHECK (length(reason) BETWEEN 1 AND 2000),
  newest_id uuid NOT NULL,                           -- tasks made after the preview are left alone
  seen_at timestamptz NOT NULL,                      -- and so are those that ended after it
  state text NOT NULL DEFAULT 'running' CONSTRAINT bulk_operations_state CHECK (state IN ('running', 'done', 'stopped', 'failed')),
  total int NOT NULL CHECK (total > 0),              -- what the preview counted
  total_is_exact boolean NOT NULL,
  done int NOT NULL DEFAULT 0,
  skipped int NOT NULL DEFAULT 0,                    -- stayed locked by others
  failed int NOT NULL DEFAULT 0,
  failures jsonb NOT NULL DEFAULT '[]',              -- the first few: [{"task_id", "message"}]
  cursor uuid,                                       -- the last task that had its turn
  busy uuid[] NOT NULL DEFAULT '{}',                 -- locked by others when it was their turn: tried again at the end
  passes smallint NOT NULL DEFAULT 0,                -- over busy
  resume_at timestamptz NOT NULL DEFAULT app.now(),
  created_at timestamptz NOT NULL DEFAULT app.now(),
  created_by text NOT NULL,
  request_id text,
  finished_at timestamptz,
  stopped_by text,
  error text,
  CONSTRAINT bulk_operations_confirmation UNIQUE (tenant_id, confirmation_id),
  CONSTRAINT bulk_operations_fits CHECK ((action = 'cancel' AND target = 'tasks') OR (action = 'discard' AND target = 'dead_letters') OR action = 'requeue'),
  CONSTRAINT bulk_operations_discard_has_reason CHECK (action <> 'discard' OR reason IS NOT NULL),
  CONSTRAINT bulk_operations_finished CHECK ((state = 'running') = (finished_at IS NULL)),
  CONSTRAINT bulk_operations_stopped CHECK ((state = 'stopped') = (stopped_by IS NOT NULL)),
  CONSTRAINT bulk_operations_error CHECK ((state = 'failed') = (error IS NOT NULL))
);
CREATE INDEX bulk_operations_running ON bulk_operations (created_at) WHERE state = 'running';          -- app.find_bulk_operations
CREATE INDEX bulk_operations_tenant ON bulk_operations (tenant_id, id);                                -- the list, newest first
SELECT app.protect('bulk_operations', 'SELECT, INSERT, UPDATE');

CREATE INDEX dead_letters_handled ON dead_letters (tenant_id, task_id) WHERE handled_at IS NOT NULL;   -- the list of those, newest first

RESET ROLE;
