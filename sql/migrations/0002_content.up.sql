-- Why: prompts with immutable versions and labels; content items with immutable versions, citations, reviews, decisions and
-- feedback; and publications that cannot exist without an approving decision for exactly the version they show.

SET ROLE galley_owner;

-- Prompts -----------------------------------------------------------------------------------------------------------

CREATE TABLE prompts (
  id uuid PRIMARY KEY DEFAULT app.uuid7(),
  tenant_id uuid NOT NULL REFERENCES tenants,
  name text NOT NULL CHECK (name ~ '^[a-z][a-z0-9_.-]{0,99}$'),
  latest_number int NOT NULL DEFAULT 0 CHECK (latest_number >= 0),
  created_by text NOT NULL,
  created_at timestamptz NOT NULL DEFAULT app.now(),
  UNIQUE (tenant_id, name),
  UNIQUE (tenant_id, id)
);
SELECT app.protect('prompts');

-- Immutable. A version refers to the one before it, so a gap in the numbers is impossible.
CREATE TABLE prompt_versions (
  id uuid PRIMARY KEY DEFAULT app.uuid7(),
  tenant_id uuid NOT NULL,
  prompt_id uuid NOT NULL,
  number int NOT NULL CHECK (number > 0),
  previous_number int GENERATED ALWAYS AS (nullif(number - 1, 0)) STORED,
  system text NOT NULL CHECK (length(system) <= 50000),
  template text NOT NULL CHECK (length(template) BETWEEN 1 AND 50000),
  variables jsonb NOT NULL CHECK (jsonb_typeof(variables) = 'array'),
  settings jsonb NOT NULL CHECK (jsonb_typeof(settings) = 'object'),
  output_schema jsonb CHECK (jsonb_typeof(output_schema) = 'object'),
  note text NOT NULL CHECK (length(note) <= 500),
  content_hash text NOT NULL CHECK (content_hash ~ '^[0-9a-f]{64}$'),
  created_by text NOT NULL,
  created_at timestamptz NOT NULL DEFAULT app.now(),
  FOREIGN KEY (tenant_id, prompt_id) REFERENCES prompts (tenant_id, id),
  UNIQUE (tenant_id, prompt_id, number),
  FOREIGN KEY (tenant_id, prompt_id, previous_number) REFERENCES prompt_versions (tenant_id, prompt_id, number),
  UNIQUE (tenant_id, id)
);
SELECT app.protect('prompt_versions', 'SELECT, INSERT');

-- A label points at one version of its prompt; `latest` is no label but always the highest number.
CREATE TABLE prompt_labels (
  tenant_id uuid NOT NULL,
  prompt_id uuid NOT NULL,
  label text NOT NULL CHECK (label ~ '^[a-z0-9][a-z0-9_.-]{0,35}$' AND label <> 'latest'),
  number int NOT NULL,
  updated_by text NOT NULL,
  updated_at timestamptz NOT NULL DEFAULT app.now(),
  PRIMARY KEY (tenant_id, prompt_id, label),
  FOREIGN KEY (tenant_id, prompt_id, number) REFERENCES prompt_versions (tenant_id, prompt_id, number)
);
SELECT app.protect('prompt_labels');

CREATE TABLE prompt_label_events (
  id uuid PRIMARY KEY DEFAULT app.uuid7(),
  tenant_id uuid NOT NULL,
  prompt_id uuid NOT NULL,
  label text NOT NULL,
  from_number int,
  to_number int NOT NULL,
  actor text NOT NULL,
  reason text NOT NULL CHECK (length(reason) <= 500),
  at timestamptz NOT NULL DEFAULT app.now(),
  FOREIGN KEY (tenant_id, prompt_id, from_number) REFERENCES prompt_versions (tenant_id, prompt_id, number),
  FOREIGN KEY (tenant_id, prompt_id, to_number) REFERENCES prompt_versions (tenant_id, prompt_id, number)
);
CREATE INDEX prompt_label_events_prompt ON prompt_label_events (tenant_id, prompt_id, id);   -- prompts.list_label_events
SELECT app.protect('prompt_label_events', 'SELECT, INSERT');

-- Content -----------------------------------------------------------------------------------------------------------

-- The state speaks of the latest version; what readers see is in publications.
CREATE TABLE content_items (
  id uuid PRIMARY KEY DEFAULT app.uuid7(),
  tenant_id uuid NOT NULL REFERENCES tenants,
  title text NOT NULL CHECK (length(title) BETWEEN 1 AND 300),          -- of the latest version, for lists
  language text NOT NULL,
  state text NOT NULL DEFAULT 'draft' CONSTRAINT content_items_state
    CHECK (state IN ('draft', 'in_review', 'changes_requested', 'rejected', 'approved', 'published')),
  latest_number int NOT NULL DEFAULT 0 CHECK (latest_number >= 0),
  task_id uuid,                                                         -- the task that made it; tasks move, so no foreign key
  created_by text NOT NULL,
  created_at timestamptz NOT NULL DEFAULT app.now(),
  updated_at timestamptz NOT NULL DEFAULT app.now(),
  UNIQUE (tenant_id, id)                                                -- also content.list, newest first
);
CREATE INDEX content_items_state ON content_items (tenant_id, state, id);                    -- content.list by state
CREATE INDEX content_items_task ON content_items (tenant_id, task_id) WHERE task_id IS NOT NULL;   -- content.list_of_task
SELECT app.protect('content_items');

-- Every slug an item ever had stays its own: links keep working when the slug changes, and no other item can take it.
CREATE TABLE content_slugs (
  tenant_id uuid NOT NULL,
  slug text NOT NULL CHECK (length(slug) <= 120 AND slug ~ '^[a-z0-9]+(-[a-z0-9]+)*$'),
  content_id uuid NOT NULL,
  PRIMARY KEY (tenant_id, slug),
  FOREIGN KEY (tenant_id, content_id) REFERENCES content_items (tenant_id, id),
  UNIQUE (tenant_id, content_id, slug)
);
SELECT app.protect('content_slugs', 'SELECT, INSERT');

-- What a decision is bound to: SHA-256 of the canonical JSON (keys sorted, no spaces, UTF-8) of what a reader gets.
-- services/content.py computes the same, and so can anybody else.
CREATE FUNCTION app.content_hash(title text, slug text, summary text, body_md text, tags text[], language text) RETURNS text
LANGUAGE sql IMMUTABLE STRICT PARALLEL SAFE SET search_path = pg_catalog AS $$
  SELECT encode(sha256(convert_to(concat(
    '{"body_md":', to_json(body_md), ',"language":', to_json(language), ',"slug":', to_json(slug),
    ',"summary":', to_json(summary), ',"tags":', to_json(tags), ',"title":', to_json(title), '}'), 'UTF8')), 'hex')
$$;
REVOKE EXECUTE ON FUNCTION app.content_hash(text, text, text, text, text[], text) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION app.content_hash(text, text, text, text, text[], text) TO galley_web, galley_engine;

-- Immutable. A version refers to the one before it, so a gap in the numbers is impossible, and its hash cannot lie.
CREATE TABLE content_versions (
  id uuid PRIMARY KEY DEFAULT app.uuid7(),
  tenant_id uuid NOT NULL,
  content_id uuid NOT NULL,
  number int NOT NULL CHECK (number > 0),
  previous_number int GENERATED ALWAYS AS (nullif(number - 1, 0)) STORED,
  kind text NOT NULL CHECK (kind IN ('draft', 'refine', 'edit', 'restore')),
  parent_number int CHECK (parent_number < number),                     -- the version this one was made from
  title text NOT NULL CHECK (length(title) BETWEEN 1 AND 300),
  slug text NOT NULL,
  summary text NOT NULL CHECK (length(summary) <= 2000),
  body_md text NOT NULL CHECK (length(body_md) <= 200000),
  tags text[] NOT NULL CHECK (cardinality(tags) <= 20),
  language text NOT NULL CHECK (language ~ '^[a-z]{2,3}(-[A-Za-z0-9]{2,8})*$'),
  note text NOT NULL CHECK (length(note) <= 2000),
  content_hash text NOT NULL GENERATED ALWAYS AS (app.content_hash(title, slug, summary, body_md, tags, language)) STORED,
  prompt_version_id uuid,
  model text,
  retrieval jsonb NOT NULL DEFAULT '{}',
  scores jsonb NOT NULL DEFAULT '{}',
  checks jsonb NOT NULL DEFAULT '[]',
  task_id uuid,
  fence int,                                                            -- the run of the task that wrote it
  author text NOT NULL,                                                 -- who answers for it: a generated text's task creator
  created_by text NOT NULL,
  created_at timestamptz NOT NULL DEFAULT app.now(),
  FOREIGN KEY (tenant_id, content_id) REFERENCES content_items (tenant_id, id),
  UNIQUE (tenant_id, content_id, number),
  FOREIGN KEY (tenant_id, content_id, previous_number) REFERENCES content_versions (tenant_id, content_id, number),
  FOREIGN KEY (tenant_id, content_id, parent_number) REFERENCES content_versions (tenant_id, content_id, number),
  FOREIGN KEY (tenant_id, content_id, slug) REFERENCES content_slugs (tenant_id, content_id, slug),
  FOREIGN KEY (tenant_id, prompt_version_id) REFERENCES prompt_versions (tenant_id, id),
  UNIQUE (tenant_id, id),
  UNIQUE (tenant_id, content_id, id, content_hash)                      -- what a review refers to
);
SELECT app.protect('content_versions', 'SELECT, INSERT');

-- Documents come and go; what a version quoted from them stays. So no foreign keys to them.
CREATE TABLE citations (
  tenant_id uuid NOT NULL,
  version_id uuid NOT NULL,
  marker smallint NOT NULL CHECK (marker BETWEEN 1 AND 999),            -- [1] in the text
  chunk_id uuid,
  document_id uuid,
  document_title text NOT NULL CHECK (length(document_title) BETWEEN 1 AND 500),
  quote text NOT NULL CHECK (length(quote) BETWEEN 1 AND 5000),
  PRIMARY KEY (tenant_id, version_id, marker),
  FOREIGN KEY (tenant_id, version_id) REFERENCES content_versions (tenant_id, id)
);
CREATE INDEX citations_document ON citations (tenant_id, document_id) WHERE document_id IS NOT NULL;   -- content.list_citing
SELECT app.protect('citations', 'SELECT, INSERT');

-- Reviews -----------------------------------------------------------------------------------------------------------

-- A request for a decision about one version and its hash.
CREATE TABLE reviews (
  id uuid PRIMARY KEY DEFAULT app.uuid7(),
  tenant_id uuid NOT NULL,
  content_id uuid NOT NULL,
  version_id uuid NOT NULL,
  content_hash text NOT NULL,
  task_id uuid,                                                         -- the task that waits for the outcome
  signal text,                                                          -- the name it waits for
  round int NOT NULL CHECK (round > 0),
  state text NOT NULL DEFAULT 'pending' CONSTRAINT reviews_state
    CHECK (state IN ('pending', 'approved', 'changes_requested', 'rejected', 'closed')),
  due_at timestamptz,
  opened_by text NOT NULL,
  created_at timestamptz NOT NULL DEFAULT app.now(),
  ended_at timestamptz,
  closed_reason text,                                                   -- why it ended without a decision
  CHECK ((state = 'pending') = (ended_at IS NULL)),
  CHECK ((state = 'closed') = (closed_reason IS NOT NULL)),
  CHECK ((task_id IS NULL) = (signal IS NULL)),
  FOREIGN KEY (tenant_id, content_id, version_id, content_hash) REFERENCES content_versions (tenant_id, content_id, id, content_hash),
  UNIQUE (tenant_id, id, content_id, version_id, content_hash)          -- what a decision refers to
);
CREATE UNIQUE INDEX reviews_pending ON reviews (tenant_id, content_id) WHERE state = 'pending';   -- one open question per item
CREATE INDEX reviews_state ON reviews (tenant_id, state, id);                                -- reviews.list
CREATE INDEX reviews_content ON reviews (tenant_id, content_id, id);                         -- reviews.list_of_content
CREATE INDEX reviews_task ON reviews (task_id) WHERE state = 'pending';                      -- app.close_reviews, over all tenants
SELECT app.protect('reviews', 'SELECT, INSERT, UPDATE');

-- Append-only: who, in which role, from where, when, what and why, bound to the hash of the text that was shown.
CREATE TABLE review_decisions (
  id uuid PRIMARY KEY DEFAULT app.uuid7(),
  tenant_id uuid NOT NULL,
  review_id uuid NOT NULL,
  content_id uuid NOT NULL,
  version_id uuid NOT NULL,
  content_hash text NOT NULL,
  decision text NOT NULL CHECK (decision IN ('approve', 'request_changes', 'reject')),
  reason text NOT NULL CHECK (length(reason) BETWEEN 1 AND 5000),
  actor text NOT NULL,
  actor_id uuid NOT NULL,
  role text NOT NULL,
  address text NOT NULL,
  via text NOT NULL CHECK (via IN ('api', 'page')),
  at timestamptz NOT NULL DEFAULT app.now(),
  UNIQUE (tenant_id, review_id),
  FOREIGN KEY (tenant_id, review_id, content_id, version_id, content_hash)
    REFERENCES reviews (tenant_id, id, content_id, version_id, content_hash),
  UNIQUE (tenant_id, id, content_id, version_id, decision)              -- what a publication refers to
);
CREATE INDEX review_decisions_version ON review_decisions (tenant_id, version_id);           -- publications.approval
SELECT app.protect('review_decisions', 'SELECT, INSERT');

-- What a reviewer asked for; the next version says which of it it addresses.
CREATE TABLE feedback_items (
  id uuid PRIMARY KEY DEFAULT app.uuid7(),
  tenant_id uuid NOT NULL,
  content_id uuid NOT NULL,
  review_id uuid NOT NULL,
  position smallint NOT NULL,
  text text NOT NULL CHECK (length(text) BETWEEN 1 AND 5000),
  state text NOT NULL DEFAULT 'open' CHECK (state IN ('open', 'addressed')),
  addressed_in_version int,
  addressed_by text,
  created_by text NOT NULL,
  created_at timestamptz NOT NULL DEFAULT app.now(),
  CHECK ((state = 'addressed') = (addressed_in_version IS NOT NULL AND addressed_by IS NOT NULL)),
  UNIQUE (tenant_id, review_id, position),
  FOREIGN KEY (tenant_id, review_id) REFERENCES review_decisions (tenant_id, review_id),
  FOREIGN KEY (tenant_id, content_id, addressed_in_version) REFERENCES content_versions (tenant_id, content_id, number)
);
CREATE INDEX feedback_items_content ON feedback_items (tenant_id, content_id, id);           -- reviews.list_feedback
SELECT app.protect('feedback_items', 'SELECT, INSERT, UPDATE');

-- The public site ---------------------------------------------------------------------------------------------------

-- One row per item that was ever live. The two keys to review_decisions and content_slugs are what makes publishing
-- anything but the approved version, or under another item's address, impossible.
CREATE TABLE publications (
  id uuid PRIMARY KEY DEFAULT app.uuid7(),
  tenant_id uuid NOT NULL,
  content_id uuid NOT NULL,
  version_id uuid NOT NULL,
  decision_id uuid NOT NULL,
  decision text NOT NULL GENERATED ALWAYS AS ('approve') STORED,
  slug text NOT NULL,
  title text NOT NULL,
  summary text NOT NULL,
  tags text[] NOT NULL,
  language text NOT NULL,
  body_text text NOT NULL,                                              -- without Markdown, for search and excerpts
  search tsvector NOT NULL,
  first_published_at timestamptz NOT NULL DEFAULT app.now(),
  published_at timestamptz NOT NULL DEFAULT app.now(),                  -- of the version that is live
  published_by text NOT NULL,
  withdrawn_at timestamptz,
  withdrawn_by text,
  CHECK ((withdrawn_at IS NULL) = (withdrawn_by IS NULL)),
  FOREIGN KEY (tenant_id, decision_id, content_id, version_id, decision)
    REFERENCES review_decisions (tenant_id, id, content_id, version_id, decision),
  FOREIGN KEY (tenant_id, content_id, slug) REFERENCES content_slugs (tenant_id, content_id, slug),
  UNIQUE (tenant_id, content_id),
  UNIQUE (tenant_id, slug)
);
CREATE INDEX publications_live ON publications (tenant_id, first_published_at, content_id) WHERE withdrawn_at IS NULL;   -- publications.list
CREATE INDEX publications_language ON publications (tenant_id, language) WHERE withdrawn_at IS NULL;   -- app.search_publications
CREATE INDEX publications_titles ON publications USING gin (ts_filter(search, '{a}')) WHERE withdrawn_at IS NULL;   -- app.search_publications
CREATE INDEX publications_search ON publications USING gin (search) WHERE withdrawn_at IS NULL;        -- app.search_publications
SELECT app.protect('publications');

CREATE TABLE publication_tags (
  tenant_id uuid NOT NULL,
  tag text NOT NULL,
  first_published_at timestamptz NOT NULL,
  content_id uuid NOT NULL,
  PRIMARY KEY (tenant_id, content_id, tag),
  FOREIGN KEY (tenant_id, content_id) REFERENCES publications (tenant_id, content_id) ON DELETE CASCADE
);
CREATE INDEX publication_tags_tag ON publication_tags (tenant_id, tag, first_published_at, content_id);   -- publications.list by tag
SELECT app.protect('publication_tags');

-- What never changes once written, not even by the owner's hand -----------------------------------------------------

DO $$
DECLARE
  target text;
BEGIN
  FOREACH target IN ARRAY ARRAY['prompt_versions', 'prompt_label_events', 'content_versions', 'citations', 'review_decisions'] LOOP
    EXECUTE format('CREATE TRIGGER immutable BEFORE UPDATE OR DELETE OR TRUNCATE ON %I '
                   'FOR EACH STATEMENT EXECUTE FUNCTION app.refuse_change()', target);
  END LOOP;
END $$;
-- A review that has ended stays as it ended.
CREATE TRIGGER ended BEFORE UPDATE ON reviews FOR EACH ROW WHEN (OLD.state <> 'pending') EXECUTE FUNCTION app.refuse_change();

RESET ROLE;
