-- works-with: 3
-- Why: somebody is told when dead letters pile up or grow old, when ready tasks wait too long, and when too many tasks fail.

SET ROLE galley_owner;

-- What is watched. Each tenant has one rule of each kind for everything it does, made when first needed, and others for single
-- queues or types.
CREATE TABLE alert_rules (
  id uuid PRIMARY KEY DEFAULT app.uuid7(),
  tenant_id uuid NOT NULL REFERENCES tenants,
  kind text NOT NULL CHECK (kind IN ('dead_letters', 'dead_letter_age', 'ready_age', 'failure_rate')),
  queue text,                                      -- NULL: all; of ready_age each one by itself
  type text,                                       -- NULL: all
  threshold double precision NOT NULL CHECK (threshold > 0),     -- a number, seconds, or the failed part of all ends
  window_seconds int CHECK (window_seconds BETWEEN 60 AND 86400),
  minimum int CHECK (minimum BETWEEN 1 AND 1000000),             -- ends within the window; fewer say nothing
  enabled boolean NOT NULL DEFAULT true,
  muted_until timestamptz,
  version int NOT NULL DEFAULT 1,
  created_at timestamptz NOT NULL DEFAULT app.now(),
  updated_at timestamptz NOT NULL DEFAULT app.now(),
  updated_by text NOT NULL,
  CONSTRAINT alert_rules_rate CHECK ((kind = 'failure_rate') = (window_seconds IS NOT NULL) AND (kind = 'failure_rate') = (minimum IS NOT NULL)),
  CONSTRAINT alert_rules_share CHECK (kind <> 'failure_rate' OR threshold <= 1),
  CONSTRAINT alert_rules_ready CHECK (kind <> 'ready_age' OR type IS NULL)
);
CREATE UNIQUE INDEX alert_rules_about ON alert_rules (tenant_id, kind, coalesce(queue, ''), coalesce(type, ''));
SELECT app.protect('alert_rules');

-- What a rule found, from when it opened until it closed.
CREATE TABLE alerts (
  id uuid PRIMARY KEY DEFAULT app.uuid7(),
  tenant_id uuid NOT NULL REFERENCES tenants,
  rule_id uuid NOT NULL REFERENCES alert_rules ON DELETE CASCADE,
  kind text NOT NULL,                              -- as the rule had it, like the next three
  queue text,                                      -- of ready_age: the one that waits
  type text,
  threshold double precision NOT NULL,
  opened_at timestamptz NOT NULL,
  opened_value double precision NOT NULL,
  value double precision NOT NULL,                 -- at checked_at; when closed, the last one
  worst double precision NOT NULL,
  checked_at timestamptz NOT NULL,
  calm_since timestamptz,                          -- below the threshold by a margin; it closes after a while of that
  closed_at timestamptz,
  acknowledged_at timestamptz,
  acknowledged_by text,
  CONSTRAINT alerts_acknowledged CHECK ((acknowledged_at IS NULL) = (acknowledged_by IS NULL))
);
CREATE UNIQUE INDEX alerts_open ON alerts (rule_id, coalesce(queue, '')) WHERE closed_at IS NULL;      -- app.evaluate_alerts
CREATE INDEX alerts_open_tenant ON alerts (tenant_id) WHERE closed_at IS NULL;                         -- banner, gauge
CREATE INDEX alerts_tenant ON alerts (tenant_id, id);                                                  -- the list, newest first
SELECT app.protect('alerts');

-- When all rules were last looked at, by whichever replica.
CREATE TABLE alert_rounds (
  only_one boolean PRIMARY KEY DEFAULT true CHECK (only_one),
  evaluated_at timestamptz NOT NULL
);
INSERT INTO alert_rounds (evaluated_at) VALUES ('-infinity');
GRANT SELECT ON alert_rounds TO galley_web;
GRANT SELECT, UPDATE ON alert_rounds TO galley_engine;

RESET ROLE;
