-- The whole schema, made from the migrations by `make schema`; nothing runs it. All of it belongs to galley_owner.
-- Functions are in sql/functions. History, events and steps have a partition for each month, which are left out.

CREATE SCHEMA app;

CREATE EXTENSION IF NOT EXISTS vector WITH SCHEMA public;

COMMENT ON EXTENSION vector IS 'vector data type and ivfflat and hnsw access methods';

CREATE TABLE public.queues (
    name text NOT NULL,
    paused_at timestamp with time zone,
    paused_by text,
    resume_at timestamp with time zone,
    max_running integer,
    created_at timestamp with time zone DEFAULT app.now() NOT NULL,
    max_running_per_tenant integer,
    rate_per_second double precision,
    burst integer,
    tokens double precision DEFAULT 0 NOT NULL,
    tokens_at timestamp with time zone DEFAULT app.now() NOT NULL,
    fair boolean DEFAULT false NOT NULL,
    last_tenant uuid,
    pause_reason text,
    updated_at timestamp with time zone,
    updated_by text,
    CONSTRAINT queues_burst_check CHECK (((burst >= 1) AND (burst <= 1000000))),
    CONSTRAINT queues_max_running_check CHECK ((max_running > 0)),
    CONSTRAINT queues_max_running_per_tenant_check CHECK ((max_running_per_tenant > 0)),
    CONSTRAINT queues_name_check CHECK ((name ~ '^[a-z][a-z0-9_-]{0,62}$'::text)),
    CONSTRAINT queues_pause_reason_check CHECK (((length(pause_reason) >= 1) AND (length(pause_reason) <= 500))),
    CONSTRAINT queues_rate_has_burst CHECK (((rate_per_second IS NULL) = (burst IS NULL))),
    CONSTRAINT queues_rate_per_second_check CHECK (((rate_per_second > (0)::double precision) AND (rate_per_second <= (1000000)::double precision)))
)
WITH (fillfactor='50');

CREATE TABLE public.dead_letters (
    task_id uuid NOT NULL,
    tenant_id uuid NOT NULL,
    queue text NOT NULL,
    type text NOT NULL,
    state text NOT NULL,
    error_class text NOT NULL,
    requeues smallint DEFAULT 0 NOT NULL,
    failed_at timestamp with time zone NOT NULL,
    note text,
    noted_at timestamp with time zone,
    noted_by text,
    handled_at timestamp with time zone,
    handled_as text,
    handled_by text,
    handled_reason text,
    successor_id uuid,
    CONSTRAINT dead_letters_handled CHECK ((((handled_at IS NULL) = (handled_as IS NULL)) AND ((handled_at IS NULL) = (handled_by IS NULL)))),
    CONSTRAINT dead_letters_handled_as_check CHECK ((handled_as = ANY (ARRAY['requeued'::text, 'discarded'::text]))),
    CONSTRAINT dead_letters_handled_reason_check CHECK (((length(handled_reason) >= 1) AND (length(handled_reason) <= 2000))),
    CONSTRAINT dead_letters_note_check CHECK (((length(note) >= 1) AND (length(note) <= 2000))),
    CONSTRAINT dead_letters_noted CHECK ((((note IS NULL) = (noted_by IS NULL)) AND ((note IS NULL) = (noted_at IS NULL)))),
    CONSTRAINT dead_letters_state_check CHECK ((state = ANY (ARRAY['failed'::text, 'timed_out'::text]))),
    CONSTRAINT dead_letters_successor CHECK (((NOT (handled_as IS DISTINCT FROM 'requeued'::text)) = (successor_id IS NOT NULL)))
);

ALTER TABLE ONLY public.dead_letters FORCE ROW LEVEL SECURITY;

CREATE TABLE public.alert_rounds (
    only_one boolean DEFAULT true NOT NULL,
    evaluated_at timestamp with time zone NOT NULL,
    CONSTRAINT alert_rounds_only_one_check CHECK (only_one)
);

CREATE TABLE public.alert_rules (
    id uuid DEFAULT app.uuid7() NOT NULL,
    tenant_id uuid NOT NULL,
    kind text NOT NULL,
    queue text,
    type text,
    threshold double precision NOT NULL,
    window_seconds integer,
    minimum integer,
    enabled boolean DEFAULT true NOT NULL,
    muted_until timestamp with time zone,
    version integer DEFAULT 1 NOT NULL,
    created_at timestamp with time zone DEFAULT app.now() NOT NULL,
    updated_at timestamp with time zone DEFAULT app.now() NOT NULL,
    updated_by text NOT NULL,
    CONSTRAINT alert_rules_kind_check CHECK ((kind = ANY (ARRAY['dead_letters'::text, 'dead_letter_age'::text, 'ready_age'::text, 'failure_rate'::text]))),
    CONSTRAINT alert_rules_minimum_check CHECK (((minimum >= 1) AND (minimum <= 1000000))),
    CONSTRAINT alert_rules_rate CHECK ((((kind = 'failure_rate'::text) = (window_seconds IS NOT NULL)) AND ((kind = 'failure_rate'::text) = (minimum IS NOT NULL)))),
    CONSTRAINT alert_rules_ready CHECK (((kind <> 'ready_age'::text) OR (type IS NULL))),
    CONSTRAINT alert_rules_share CHECK (((kind <> 'failure_rate'::text) OR (threshold <= (1)::double precision))),
    CONSTRAINT alert_rules_threshold_check CHECK ((threshold > (0)::double precision)),
    CONSTRAINT alert_rules_window_seconds_check CHECK (((window_seconds >= 60) AND (window_seconds <= 86400)))
);

ALTER TABLE ONLY public.alert_rules FORCE ROW LEVEL SECURITY;

CREATE TABLE public.alerts (
    id uuid DEFAULT app.uuid7() NOT NULL,
    tenant_id uuid NOT NULL,
    rule_id uuid NOT NULL,
    kind text NOT NULL,
    queue text,
    type text,
    threshold double precision NOT NULL,
    opened_at timestamp with time zone NOT NULL,
    opened_value double precision NOT NULL,
    value double precision NOT NULL,
    worst double precision NOT NULL,
    checked_at timestamp with time zone NOT NULL,
    calm_since timestamp with time zone,
    closed_at timestamp with time zone,
    acknowledged_at timestamp with time zone,
    acknowledged_by text,
    CONSTRAINT alerts_acknowledged CHECK (((acknowledged_at IS NULL) = (acknowledged_by IS NULL)))
);

ALTER TABLE ONLY public.alerts FORCE ROW LEVEL SECURITY;

CREATE TABLE public.task_history (
    id uuid NOT NULL,
    tenant_id uuid NOT NULL,
    queue text NOT NULL,
    type text NOT NULL,
    type_version smallint NOT NULL,
    state text NOT NULL,
    priority smallint NOT NULL,
    attempt smallint NOT NULL,
    max_attempts smallint NOT NULL,
    crashes smallint NOT NULL,
    snoozes smallint NOT NULL,
    fence integer NOT NULL,
    executor_id uuid,
    run_at timestamp with time zone NOT NULL,
    created_at timestamp with time zone NOT NULL,
    created_by text NOT NULL,
    started_at timestamp with time zone,
    timeout_seconds integer NOT NULL,
    start_before timestamp with time zone,
    retry_of uuid,
    concurrency_key text,
    concurrency_limit smallint,
    progress jsonb,
    error jsonb,
    request_id text,
    payload jsonb NOT NULL,
    finished_at timestamp with time zone NOT NULL,
    ended_by text,
    reason text,
    result jsonb,
    CONSTRAINT task_history_state CHECK ((state = ANY (ARRAY['succeeded'::text, 'failed'::text, 'timed_out'::text, 'cancelled'::text])))
)
PARTITION BY RANGE (id);

ALTER TABLE ONLY public.task_history FORCE ROW LEVEL SECURITY;

CREATE TABLE public.tasks (
    id uuid DEFAULT app.uuid7() NOT NULL,
    tenant_id uuid NOT NULL,
    queue text NOT NULL,
    type text NOT NULL,
    type_version smallint DEFAULT 1 NOT NULL,
    state text NOT NULL,
    priority smallint DEFAULT 2 NOT NULL,
    attempt smallint DEFAULT 0 NOT NULL,
    max_attempts smallint DEFAULT 5 NOT NULL,
    crashes smallint DEFAULT 0 NOT NULL,
    snoozes smallint DEFAULT 0 NOT NULL,
    fence integer DEFAULT 0 NOT NULL,
    executor_id uuid,
    run_at timestamp with time zone DEFAULT app.now() NOT NULL,
    created_at timestamp with time zone DEFAULT app.now() NOT NULL,
    created_by text NOT NULL,
    started_at timestamp with time zone,
    deadline_at timestamp with time zone,
    timeout_seconds integer DEFAULT 300 NOT NULL,
    total_deadline_at timestamp with time zone,
    start_before timestamp with time zone,
    on_crash text DEFAULT 'retry'::text NOT NULL,
    retry_of uuid,
    waiting_for text,
    waiting_since timestamp with time zone,
    wait_until timestamp with time zone,
    concurrency_key text,
    concurrency_limit smallint,
    progress jsonb,
    error jsonb,
    request_id text,
    payload jsonb NOT NULL,
    CONSTRAINT tasks_concurrency_key_check CHECK (((length(concurrency_key) >= 1) AND (length(concurrency_key) <= 200))),
    CONSTRAINT tasks_concurrency_limit_check CHECK ((concurrency_limit > 0)),
    CONSTRAINT tasks_key_has_limit CHECK (((concurrency_key IS NULL) = (concurrency_limit IS NULL))),
    CONSTRAINT tasks_max_attempts_check CHECK (((max_attempts >= 1) AND (max_attempts <= 100))),
    CONSTRAINT tasks_on_crash_check CHECK ((on_crash = ANY (ARRAY['retry'::text, 'fail'::text, 'hold'::text]))),
    CONSTRAINT tasks_priority_check CHECK (((priority >= 0) AND (priority <= 9))),
    CONSTRAINT tasks_running_has_executor CHECK (((state = 'running'::text) = (executor_id IS NOT NULL))),
    CONSTRAINT tasks_state CHECK ((state = ANY (ARRAY['scheduled'::text, 'queued'::text, 'blocked'::text, 'running'::text, 'waiting'::text]))),
    CONSTRAINT tasks_timeout_seconds_check CHECK (((timeout_seconds >= 1) AND (timeout_seconds <= 604800))),
    CONSTRAINT tasks_waiting_has_signal CHECK (((state <> 'waiting'::text) OR ((waiting_for IS NOT NULL) AND (waiting_since IS NOT NULL))))
)
WITH (fillfactor='70', autovacuum_vacuum_scale_factor='0', autovacuum_vacuum_threshold='2000', autovacuum_vacuum_cost_delay='0', autovacuum_analyze_scale_factor='0', autovacuum_analyze_threshold='5000');

ALTER TABLE ONLY public.tasks FORCE ROW LEVEL SECURITY;

CREATE VIEW public.all_tasks WITH (security_invoker='true') AS
 SELECT tasks.id,
    tasks.tenant_id,
    tasks.queue,
    tasks.type,
    tasks.type_version,
    tasks.state,
    tasks.priority,
    tasks.attempt,
    tasks.max_attempts,
    tasks.crashes,
    tasks.snoozes,
    tasks.fence,
    tasks.executor_id,
    tasks.run_at,
    tasks.created_at,
    tasks.created_by,
    tasks.started_at,
    tasks.timeout_seconds,
    tasks.start_before,
    tasks.retry_of,
    tasks.concurrency_key,
    tasks.concurrency_limit,
    tasks.progress,
    tasks.error,
    tasks.request_id,
    tasks.payload,
    NULL::timestamp with time zone AS finished_at,
    NULL::text AS ended_by,
    NULL::text AS reason,
    NULL::jsonb AS result,
    tasks.deadline_at,
    tasks.waiting_for,
    tasks.wait_until,
    tasks.on_crash
   FROM public.tasks
UNION ALL
 SELECT task_history.id,
    task_history.tenant_id,
    task_history.queue,
    task_history.type,
    task_history.type_version,
    task_history.state,
    task_history.priority,
    task_history.attempt,
    task_history.max_attempts,
    task_history.crashes,
    task_history.snoozes,
    task_history.fence,
    task_history.executor_id,
    task_history.run_at,
    task_history.created_at,
    task_history.created_by,
    task_history.started_at,
    task_history.timeout_seconds,
    task_history.start_before,
    task_history.retry_of,
    task_history.concurrency_key,
    task_history.concurrency_limit,
    task_history.progress,
    task_history.error,
    task_history.request_id,
    task_history.payload,
    task_history.finished_at,
    task_history.ended_by,
    task_history.reason,
    task_history.result,
    NULL::timestamp with time zone AS deadline_at,
    NULL::text AS waiting_for,
    NULL::timestamp with time zone AS wait_until,
    NULL::text AS on_crash
   FROM public.task_history;

CREATE TABLE public.api_keys (
    id uuid DEFAULT app.uuid7() NOT NULL,
    tenant_id uuid NOT NULL,
    name text NOT NULL,
    role text NOT NULL,
    secret_hash bytea NOT NULL,
    created_by text NOT NULL,
    created_at timestamp with time zone DEFAULT app.now() NOT NULL,
    expires_at timestamp with time zone,
    revoked_at timestamp with time zone,
    last_used_at timestamp with time zone,
    CONSTRAINT api_keys_name_check CHECK (((length(name) >= 1) AND (length(name) <= 100))),
    CONSTRAINT api_keys_role_check CHECK ((role = ANY (ARRAY['viewer'::text, 'author'::text, 'reviewer'::text, 'operator'::text, 'admin'::text])))
);

ALTER TABLE ONLY public.api_keys FORCE ROW LEVEL SECURITY;

CREATE TABLE public.bulk_operations (
    id uuid DEFAULT app.uuid7() NOT NULL,
    tenant_id uuid NOT NULL,
    confirmation_id uuid NOT NULL,
    action text NOT NULL,
    target text NOT NULL,
    filter jsonb NOT NULL,
    changes jsonb DEFAULT '{}'::jsonb NOT NULL,
    reason text,
    newest_id uuid NOT NULL,
    seen_at timestamp with time zone NOT NULL,
    state text DEFAULT 'running'::text NOT NULL,
    total integer NOT NULL,
    total_is_exact boolean NOT NULL,
    done integer DEFAULT 0 NOT NULL,
    skipped integer DEFAULT 0 NOT NULL,
    failed integer DEFAULT 0 NOT NULL,
    failures jsonb DEFAULT '[]'::jsonb NOT NULL,
    cursor uuid,
    busy uuid[] DEFAULT '{}'::uuid[] NOT NULL,
    passes smallint DEFAULT 0 NOT NULL,
    resume_at timestamp with time zone DEFAULT app.now() NOT NULL,
    created_at timestamp with time zone DEFAULT app.now() NOT NULL,
    created_by text NOT NULL,
    request_id text,
    finished_at timestamp with time zone,
    stopped_by text,
    error text,
    CONSTRAINT bulk_operations_action CHECK ((action = ANY (ARRAY['cancel'::text, 'requeue'::text, 'discard'::text]))),
    CONSTRAINT bulk_operations_discard_has_reason CHECK (((action <> 'discard'::text) OR (reason IS NOT NULL))),
    CONSTRAINT bulk_operations_error CHECK (((state = 'failed'::text) = (error IS NOT NULL))),
    CONSTRAINT bulk_operations_finished CHECK (((state = 'running'::text) = (finished_at IS NULL))),
    CONSTRAINT bulk_operations_fits CHECK ((((action = 'cancel'::text) AND (target = 'tasks'::text)) OR ((action = 'discard'::text) AND (target = 'dead_letters'::text)) OR (action = 'requeue'::text))),
    CONSTRAINT bulk_operations_reason_check CHECK (((length(reason) >= 1) AND (length(reason) <= 2000))),
    CONSTRAINT bulk_operations_state CHECK ((state = ANY (ARRAY['running'::text, 'done'::text, 'stopped'::text, 'failed'::text]))),
    CONSTRAINT bulk_operations_stopped CHECK (((state = 'stopped'::text) = (stopped_by IS NOT NULL))),
    CONSTRAINT bulk_operations_target CHECK ((target = ANY (ARRAY['tasks'::text, 'dead_letters'::text]))),
    CONSTRAINT bulk_operations_total_check CHECK ((total > 0))
);

ALTER TABLE ONLY public.bulk_operations FORCE ROW LEVEL SECURITY;

CREATE TABLE public.chunk_embeddings (
    tenant_id uuid NOT NULL,
    chunk_id uuid NOT NULL,
    set_id smallint NOT NULL,
    collection_id uuid NOT NULL,
    document_id uuid NOT NULL,
    embedding public.vector NOT NULL
);

ALTER TABLE ONLY public.chunk_embeddings FORCE ROW LEVEL SECURITY;

CREATE TABLE public.chunk_terms (
    tenant_id uuid NOT NULL,
    chunk_id uuid NOT NULL,
    collection_id uuid NOT NULL,
    document_id uuid NOT NULL,
    language text NOT NULL,
    length integer NOT NULL,
    keys integer[] NOT NULL,
    weights public.sparsevec NOT NULL,
    CONSTRAINT chunk_terms_length_check CHECK ((length >= 0))
);

ALTER TABLE ONLY public.chunk_terms FORCE ROW LEVEL SECURITY;

CREATE TABLE public.chunks (
    id uuid DEFAULT app.uuid7() NOT NULL,
    tenant_id uuid NOT NULL,
    document_id uuid NOT NULL,
    ordinal integer NOT NULL,
    start_offset integer NOT NULL,
    end_offset integer NOT NULL,
    headings text[] NOT NULL,
    text text NOT NULL,
    text_sha256 bytea NOT NULL,
    pieces smallint NOT NULL,
    CONSTRAINT chunks_check CHECK ((end_offset > start_offset)),
    CONSTRAINT chunks_ordinal_check CHECK ((ordinal >= 0)),
    CONSTRAINT chunks_pieces_check CHECK ((pieces > 0)),
    CONSTRAINT chunks_start_offset_check CHECK ((start_offset >= 0))
);

ALTER TABLE ONLY public.chunks FORCE ROW LEVEL SECURITY;

CREATE TABLE public.citations (
    tenant_id uuid NOT NULL,
    version_id uuid NOT NULL,
    marker smallint NOT NULL,
    chunk_id uuid,
    document_id uuid,
    document_title text NOT NULL,
    quote text NOT NULL,
    CONSTRAINT citations_document_title_check CHECK (((length(document_title) >= 1) AND (length(document_title) <= 500))),
    CONSTRAINT citations_marker_check CHECK (((marker >= 1) AND (marker <= 999))),
    CONSTRAINT citations_quote_check CHECK (((length(quote) >= 1) AND (length(quote) <= 5000)))
);

ALTER TABLE ONLY public.citations FORCE ROW LEVEL SECURITY;

CREATE TABLE public.collection_statistics (
    tenant_id uuid NOT NULL,
    collection_id uuid NOT NULL,
    language text NOT NULL,
    chunks integer NOT NULL,
    length bigint NOT NULL
)
WITH (fillfactor='50');

ALTER TABLE ONLY public.collection_statistics FORCE ROW LEVEL SECURITY;

CREATE TABLE public.collections (
    id uuid DEFAULT app.uuid7() NOT NULL,
    tenant_id uuid NOT NULL,
    name text NOT NULL,
    embedding_set_id smallint DEFAULT 1 NOT NULL,
    created_by text NOT NULL,
    created_at timestamp with time zone DEFAULT app.now() NOT NULL,
    CONSTRAINT collections_name_check CHECK ((name ~ '^[a-z0-9][a-z0-9_-]{0,62}$'::text))
);

ALTER TABLE ONLY public.collections FORCE ROW LEVEL SECURITY;

CREATE TABLE public.content_items (
    id uuid DEFAULT app.uuid7() NOT NULL,
    tenant_id uuid NOT NULL,
    title text NOT NULL,
    language text NOT NULL,
    state text DEFAULT 'draft'::text NOT NULL,
    latest_number integer DEFAULT 0 NOT NULL,
    task_id uuid,
    created_by text NOT NULL,
    created_at timestamp with time zone DEFAULT app.now() NOT NULL,
    updated_at timestamp with time zone DEFAULT app.now() NOT NULL,
    CONSTRAINT content_items_latest_number_check CHECK ((latest_number >= 0)),
    CONSTRAINT content_items_state CHECK ((state = ANY (ARRAY['draft'::text, 'in_review'::text, 'changes_requested'::text, 'rejected'::text, 'approved'::text, 'published'::text]))),
    CONSTRAINT content_items_title_check CHECK (((length(title) >= 1) AND (length(title) <= 300)))
);

ALTER TABLE ONLY public.content_items FORCE ROW LEVEL SECURITY;

CREATE TABLE public.content_slugs (
    tenant_id uuid NOT NULL,
    slug text NOT NULL,
    content_id uuid NOT NULL,
    CONSTRAINT content_slugs_slug_check CHECK (((length(slug) <= 120) AND (slug ~ '^[a-z0-9]+(-[a-z0-9]+)*$'::text)))
);

ALTER TABLE ONLY public.content_slugs FORCE ROW LEVEL SECURITY;

CREATE TABLE public.content_versions (
    id uuid DEFAULT app.uuid7() NOT NULL,
    tenant_id uuid NOT NULL,
    content_id uuid NOT NULL,
    number integer NOT NULL,
    previous_number integer GENERATED ALWAYS AS (NULLIF((number - 1), 0)) STORED,
    kind text NOT NULL,
    parent_number integer,
    title text NOT NULL,
    slug text NOT NULL,
    summary text NOT NULL,
    body_md text NOT NULL,
    tags text[] NOT NULL,
    language text NOT NULL,
    note text NOT NULL,
    content_hash text GENERATED ALWAYS AS (app.content_hash(title, slug, summary, body_md, tags, language)) STORED NOT NULL,
    prompt_version_id uuid,
    model text,
    retrieval jsonb DEFAULT '{}'::jsonb NOT NULL,
    scores jsonb DEFAULT '{}'::jsonb NOT NULL,
    checks jsonb DEFAULT '[]'::jsonb NOT NULL,
    task_id uuid,
    fence integer,
    author text NOT NULL,
    created_by text NOT NULL,
    created_at timestamp with time zone DEFAULT app.now() NOT NULL,
    CONSTRAINT content_versions_body_md_check CHECK ((length(body_md) <= 200000)),
    CONSTRAINT content_versions_check CHECK ((parent_number < number)),
    CONSTRAINT content_versions_kind_check CHECK ((kind = ANY (ARRAY['draft'::text, 'refine'::text, 'edit'::text, 'restore'::text]))),
    CONSTRAINT content_versions_language_check CHECK ((language ~ '^[a-z]{2,3}(-[A-Za-z0-9]{2,8})*$'::text)),
    CONSTRAINT content_versions_note_check CHECK ((length(note) <= 2000)),
    CONSTRAINT content_versions_number_check CHECK ((number > 0)),
    CONSTRAINT content_versions_summary_check CHECK ((length(summary) <= 2000)),
    CONSTRAINT content_versions_tags_check CHECK ((cardinality(tags) <= 20)),
    CONSTRAINT content_versions_title_check CHECK (((length(title) >= 1) AND (length(title) <= 300)))
);

ALTER TABLE ONLY public.content_versions FORCE ROW LEVEL SECURITY;

CREATE TABLE public.documents (
    id uuid DEFAULT app.uuid7() NOT NULL,
    tenant_id uuid NOT NULL,
    collection_id uuid NOT NULL,
    title text NOT NULL,
    mime text NOT NULL,
    language text DEFAULT 'english'::text NOT NULL,
    source text NOT NULL,
    sha256 bytea NOT NULL,
    metadata jsonb DEFAULT '{}'::jsonb NOT NULL,
    state text DEFAULT 'pending'::text NOT NULL,
    error text,
    task_id uuid,
    chunk_count integer DEFAULT 0 NOT NULL,
    created_by text NOT NULL,
    created_at timestamp with time zone DEFAULT app.now() NOT NULL,
    updated_at timestamp with time zone DEFAULT app.now() NOT NULL,
    indexed_at timestamp with time zone,
    CONSTRAINT documents_check CHECK (((state = 'failed'::text) = (error IS NOT NULL))),
    CONSTRAINT documents_chunk_count_check CHECK ((chunk_count >= 0)),
    CONSTRAINT documents_language_check CHECK ((language ~ '^[a-z_]{2,40}$'::text)),
    CONSTRAINT documents_metadata_check CHECK ((jsonb_typeof(metadata) = 'object'::text)),
    CONSTRAINT documents_mime_check CHECK ((mime = ANY (ARRAY['text/plain'::text, 'text/markdown'::text, 'text/html'::text]))),
    CONSTRAINT documents_sha256_check CHECK ((octet_length(sha256) = 32)),
    CONSTRAINT documents_source_check CHECK ((octet_length(source) <= 4000000)),
    CONSTRAINT documents_state_check CHECK ((state = ANY (ARRAY['pending'::text, 'indexed'::text, 'failed'::text]))),
    CONSTRAINT documents_title_check CHECK (((length(title) >= 1) AND (length(title) <= 300)))
);

ALTER TABLE ONLY public.documents FORCE ROW LEVEL SECURITY;

CREATE TABLE public.embedding_cache (
    tenant_id uuid NOT NULL,
    model text NOT NULL,
    text_sha256 bytea NOT NULL,
    embedding public.vector NOT NULL,
    created_at timestamp with time zone DEFAULT app.now() NOT NULL,
    CONSTRAINT embedding_cache_text_sha256_check CHECK ((octet_length(text_sha256) = 32))
);

ALTER TABLE ONLY public.embedding_cache FORCE ROW LEVEL SECURITY;

CREATE TABLE public.embedding_sets (
    id smallint NOT NULL,
    model text NOT NULL,
    dimensions smallint NOT NULL,
    state text DEFAULT 'active'::text NOT NULL,
    created_at timestamp with time zone DEFAULT app.now() NOT NULL,
    CONSTRAINT embedding_sets_dimensions_check CHECK (((dimensions >= 1) AND (dimensions <= 2000))),
    CONSTRAINT embedding_sets_state_check CHECK ((state = ANY (ARRAY['building'::text, 'active'::text, 'retired'::text])))
);

CREATE TABLE public.executors (
    id uuid NOT NULL,
    host text NOT NULL,
    pid integer NOT NULL,
    release text NOT NULL,
    slots integer NOT NULL,
    started_at timestamp with time zone DEFAULT app.now() NOT NULL,
    lease_until timestamp with time zone NOT NULL,
    draining_at timestamp with time zone,
    seen_at timestamp with time zone DEFAULT app.now() NOT NULL,
    busy integer DEFAULT 0 NOT NULL,
    leaked integer DEFAULT 0 NOT NULL,
    lag_ms real DEFAULT 0 NOT NULL,
    draining_by text
)
WITH (fillfactor='50');

CREATE TABLE public.feedback_items (
    id uuid DEFAULT app.uuid7() NOT NULL,
    tenant_id uuid NOT NULL,
    content_id uuid NOT NULL,
    review_id uuid NOT NULL,
    "position" smallint NOT NULL,
    text text NOT NULL,
    state text DEFAULT 'open'::text NOT NULL,
    addressed_in_version integer,
    addressed_by text,
    created_by text NOT NULL,
    created_at timestamp with time zone DEFAULT app.now() NOT NULL,
    CONSTRAINT feedback_items_check CHECK (((state = 'addressed'::text) = ((addressed_in_version IS NOT NULL) AND (addressed_by IS NOT NULL)))),
    CONSTRAINT feedback_items_state_check CHECK ((state = ANY (ARRAY['open'::text, 'addressed'::text]))),
    CONSTRAINT feedback_items_text_check CHECK (((length(text) >= 1) AND (length(text) <= 5000)))
);

ALTER TABLE ONLY public.feedback_items FORCE ROW LEVEL SECURITY;

CREATE TABLE public.idempotency (
    tenant_id uuid NOT NULL,
    principal_id uuid NOT NULL,
    route text NOT NULL,
    key text NOT NULL,
    request_hash bytea NOT NULL,
    status smallint,
    headers jsonb,
    body bytea,
    created_at timestamp with time zone DEFAULT app.now() NOT NULL,
    expires_at timestamp with time zone DEFAULT (app.now() + '24:00:00'::interval) NOT NULL,
    CONSTRAINT idempotency_key_check CHECK (((length(key) >= 1) AND (length(key) <= 255)))
);

ALTER TABLE ONLY public.idempotency FORCE ROW LEVEL SECURITY;

CREATE TABLE public.llm_calls (
    id uuid DEFAULT app.uuid7() NOT NULL,
    tenant_id uuid NOT NULL,
    task_id uuid NOT NULL,
    fence integer NOT NULL,
    step text NOT NULL,
    prompt_version_id uuid,
    model text NOT NULL,
    state text DEFAULT 'reserved'::text NOT NULL,
    request_hash bytea NOT NULL,
    output text,
    input_tokens integer,
    output_tokens integer,
    cost_usd numeric(12,6),
    latency_ms integer,
    first_token_ms integer,
    error text,
    started_at timestamp with time zone DEFAULT app.now() NOT NULL,
    finished_at timestamp with time zone,
    CONSTRAINT llm_calls_check CHECK (((state = 'settled'::text) <= ((output IS NOT NULL) AND (finished_at IS NOT NULL)))),
    CONSTRAINT llm_calls_state_check CHECK ((state = ANY (ARRAY['reserved'::text, 'settled'::text, 'unknown'::text])))
);

ALTER TABLE ONLY public.llm_calls FORCE ROW LEVEL SECURITY;

CREATE TABLE public.prompt_label_events (
    id uuid DEFAULT app.uuid7() NOT NULL,
    tenant_id uuid NOT NULL,
    prompt_id uuid NOT NULL,
    label text NOT NULL,
    from_number integer,
    to_number integer NOT NULL,
    actor text NOT NULL,
    reason text NOT NULL,
    at timestamp with time zone DEFAULT app.now() NOT NULL,
    CONSTRAINT prompt_label_events_reason_check CHECK ((length(reason) <= 500))
);

ALTER TABLE ONLY public.prompt_label_events FORCE ROW LEVEL SECURITY;

CREATE TABLE public.prompt_labels (
    tenant_id uuid NOT NULL,
    prompt_id uuid NOT NULL,
    label text NOT NULL,
    number integer NOT NULL,
    updated_by text NOT NULL,
    updated_at timestamp with time zone DEFAULT app.now() NOT NULL,
    CONSTRAINT prompt_labels_label_check CHECK (((label ~ '^[a-z0-9][a-z0-9_.-]{0,35}$'::text) AND (label <> 'latest'::text)))
);

ALTER TABLE ONLY public.prompt_labels FORCE ROW LEVEL SECURITY;

CREATE TABLE public.prompt_versions (
    id uuid DEFAULT app.uuid7() NOT NULL,
    tenant_id uuid NOT NULL,
    prompt_id uuid NOT NULL,
    number integer NOT NULL,
    previous_number integer GENERATED ALWAYS AS (NULLIF((number - 1), 0)) STORED,
    system text NOT NULL,
    template text NOT NULL,
    variables jsonb NOT NULL,
    settings jsonb NOT NULL,
    output_schema jsonb,
    note text NOT NULL,
    content_hash text NOT NULL,
    created_by text NOT NULL,
    created_at timestamp with time zone DEFAULT app.now() NOT NULL,
    CONSTRAINT prompt_versions_content_hash_check CHECK ((content_hash ~ '^[0-9a-f]{64}$'::text)),
    CONSTRAINT prompt_versions_note_check CHECK ((length(note) <= 500)),
    CONSTRAINT prompt_versions_number_check CHECK ((number > 0)),
    CONSTRAINT prompt_versions_output_schema_check CHECK ((jsonb_typeof(output_schema) = 'object'::text)),
    CONSTRAINT prompt_versions_settings_check CHECK ((jsonb_typeof(settings) = 'object'::text)),
    CONSTRAINT prompt_versions_system_check CHECK ((length(system) <= 50000)),
    CONSTRAINT prompt_versions_template_check CHECK (((length(template) >= 1) AND (length(template) <= 50000))),
    CONSTRAINT prompt_versions_variables_check CHECK ((jsonb_typeof(variables) = 'array'::text))
);

ALTER TABLE ONLY public.prompt_versions FORCE ROW LEVEL SECURITY;

CREATE TABLE public.prompts (
    id uuid DEFAULT app.uuid7() NOT NULL,
    tenant_id uuid NOT NULL,
    name text NOT NULL,
    latest_number integer DEFAULT 0 NOT NULL,
    created_by text NOT NULL,
    created_at timestamp with time zone DEFAULT app.now() NOT NULL,
    CONSTRAINT prompts_latest_number_check CHECK ((latest_number >= 0)),
    CONSTRAINT prompts_name_check CHECK ((name ~ '^[a-z][a-z0-9_.-]{0,99}$'::text))
);

ALTER TABLE ONLY public.prompts FORCE ROW LEVEL SECURITY;

CREATE TABLE public.publication_tags (
    tenant_id uuid NOT NULL,
    tag text NOT NULL,
    first_published_at timestamp with time zone NOT NULL,
    content_id uuid NOT NULL
);

ALTER TABLE ONLY public.publication_tags FORCE ROW LEVEL SECURITY;

CREATE TABLE public.publications (
    id uuid DEFAULT app.uuid7() NOT NULL,
    tenant_id uuid NOT NULL,
    content_id uuid NOT NULL,
    version_id uuid NOT NULL,
    decision_id uuid NOT NULL,
    decision text GENERATED ALWAYS AS ('approve'::text) STORED NOT NULL,
    slug text NOT NULL,
    title text NOT NULL,
    summary text NOT NULL,
    tags text[] NOT NULL,
    language text NOT NULL,
    body_text text NOT NULL,
    search tsvector NOT NULL,
    first_published_at timestamp with time zone DEFAULT app.now() NOT NULL,
    published_at timestamp with time zone DEFAULT app.now() NOT NULL,
    published_by text NOT NULL,
    withdrawn_at timestamp with time zone,
    withdrawn_by text,
    CONSTRAINT publications_check CHECK (((withdrawn_at IS NULL) = (withdrawn_by IS NULL)))
);

ALTER TABLE ONLY public.publications FORCE ROW LEVEL SECURITY;

CREATE TABLE public.queue_tenant_limits (
    queue text NOT NULL,
    tenant_id uuid NOT NULL,
    max_running integer NOT NULL,
    updated_at timestamp with time zone DEFAULT app.now() NOT NULL,
    updated_by text NOT NULL,
    CONSTRAINT queue_tenant_limits_max_running_check CHECK ((max_running > 0))
);

ALTER TABLE ONLY public.queue_tenant_limits FORCE ROW LEVEL SECURITY;

CREATE TABLE public.retention_looks (
    parent text NOT NULL,
    month timestamp with time zone NOT NULL,
    cutoff timestamp with time zone NOT NULL,
    last_tenant uuid NOT NULL,
    last_task uuid NOT NULL,
    complete boolean DEFAULT false NOT NULL
);

CREATE TABLE public.review_decisions (
    id uuid DEFAULT app.uuid7() NOT NULL,
    tenant_id uuid NOT NULL,
    review_id uuid NOT NULL,
    content_id uuid NOT NULL,
    version_id uuid NOT NULL,
    content_hash text NOT NULL,
    decision text NOT NULL,
    reason text NOT NULL,
    actor text NOT NULL,
    actor_id uuid NOT NULL,
    role text NOT NULL,
    address text NOT NULL,
    via text NOT NULL,
    at timestamp with time zone DEFAULT app.now() NOT NULL,
    CONSTRAINT review_decisions_decision_check CHECK ((decision = ANY (ARRAY['approve'::text, 'request_changes'::text, 'reject'::text]))),
    CONSTRAINT review_decisions_reason_check CHECK (((length(reason) >= 1) AND (length(reason) <= 5000))),
    CONSTRAINT review_decisions_via_check CHECK ((via = ANY (ARRAY['api'::text, 'page'::text])))
);

ALTER TABLE ONLY public.review_decisions FORCE ROW LEVEL SECURITY;

CREATE TABLE public.reviews (
    id uuid DEFAULT app.uuid7() NOT NULL,
    tenant_id uuid NOT NULL,
    content_id uuid NOT NULL,
    version_id uuid NOT NULL,
    content_hash text NOT NULL,
    task_id uuid,
    signal text,
    round integer NOT NULL,
    state text DEFAULT 'pending'::text NOT NULL,
    due_at timestamp with time zone,
    opened_by text NOT NULL,
    created_at timestamp with time zone DEFAULT app.now() NOT NULL,
    ended_at timestamp with time zone,
    closed_reason text,
    CONSTRAINT reviews_check CHECK (((state = 'pending'::text) = (ended_at IS NULL))),
    CONSTRAINT reviews_check1 CHECK (((state = 'closed'::text) = (closed_reason IS NOT NULL))),
    CONSTRAINT reviews_check2 CHECK (((task_id IS NULL) = (signal IS NULL))),
    CONSTRAINT reviews_round_check CHECK ((round > 0)),
    CONSTRAINT reviews_state CHECK ((state = ANY (ARRAY['pending'::text, 'approved'::text, 'changes_requested'::text, 'rejected'::text, 'closed'::text])))
);

ALTER TABLE ONLY public.reviews FORCE ROW LEVEL SECURITY;

CREATE TABLE public.schedule_ticks (
    tenant_id uuid NOT NULL,
    schedule_id uuid NOT NULL,
    tick_at timestamp with time zone NOT NULL,
    until_at timestamp with time zone,
    manual boolean DEFAULT false NOT NULL,
    outcome text NOT NULL,
    task_id uuid,
    reason text,
    actor text NOT NULL,
    decided_at timestamp with time zone DEFAULT app.now() NOT NULL,
    CONSTRAINT schedule_ticks_outcome_check CHECK ((outcome = ANY (ARRAY['enqueued'::text, 'missed'::text, 'overlapped'::text, 'failed'::text]))),
    CONSTRAINT schedule_ticks_reason CHECK (((outcome = 'failed'::text) = (reason IS NOT NULL))),
    CONSTRAINT schedule_ticks_task CHECK (((outcome = 'enqueued'::text) = (task_id IS NOT NULL)))
);

ALTER TABLE ONLY public.schedule_ticks FORCE ROW LEVEL SECURITY;

CREATE TABLE public.schedules (
    id uuid DEFAULT app.uuid7() NOT NULL,
    tenant_id uuid NOT NULL,
    name text NOT NULL,
    cron text,
    time_zone text DEFAULT 'UTC'::text NOT NULL,
    interval_seconds integer,
    anchor_at timestamp with time zone NOT NULL,
    missed text NOT NULL,
    overlap text NOT NULL,
    type text NOT NULL,
    payload jsonb NOT NULL,
    queue text,
    priority smallint NOT NULL,
    timeout_seconds integer,
    total_timeout_seconds integer,
    max_attempts smallint,
    concurrency_key text,
    concurrency_limit smallint,
    next_tick_at timestamp with time zone,
    last_task_id uuid,
    paused_at timestamp with time zone,
    paused_by text,
    resume_at timestamp with time zone,
    version integer DEFAULT 1 NOT NULL,
    created_at timestamp with time zone DEFAULT app.now() NOT NULL,
    created_by text NOT NULL,
    updated_at timestamp with time zone DEFAULT app.now() NOT NULL,
    updated_by text NOT NULL,
    deleted_at timestamp with time zone,
    deleted_by text,
    CONSTRAINT schedules_cron_check CHECK (((length(cron) >= 1) AND (length(cron) <= 200))),
    CONSTRAINT schedules_deleted CHECK ((((deleted_at IS NULL) = (deleted_by IS NULL)) AND ((deleted_at IS NULL) OR (next_tick_at IS NULL)))),
    CONSTRAINT schedules_interval_seconds_check CHECK (((interval_seconds >= 1) AND (interval_seconds <= 31536000))),
    CONSTRAINT schedules_key_has_limit CHECK (((concurrency_key IS NULL) = (concurrency_limit IS NULL))),
    CONSTRAINT schedules_missed_check CHECK ((missed = ANY (ARRAY['skip'::text, 'once'::text, 'all'::text]))),
    CONSTRAINT schedules_name_check CHECK (((length(name) >= 1) AND (length(name) <= 100))),
    CONSTRAINT schedules_one_way CHECK (((cron IS NULL) <> (interval_seconds IS NULL))),
    CONSTRAINT schedules_overlap_check CHECK ((overlap = ANY (ARRAY['allow'::text, 'skip'::text]))),
    CONSTRAINT schedules_paused CHECK ((((paused_at IS NULL) = (paused_by IS NULL)) AND ((resume_at IS NULL) OR (paused_at IS NOT NULL)))),
    CONSTRAINT schedules_priority_check CHECK (((priority >= 0) AND (priority <= 9)))
)
WITH (fillfactor='70');

ALTER TABLE ONLY public.schedules FORCE ROW LEVEL SECURITY;

CREATE TABLE public.schema_functions (
    file text NOT NULL,
    checksum text NOT NULL
);

CREATE TABLE public.schema_migrations (
    version integer NOT NULL,
    name text NOT NULL,
    checksum text NOT NULL,
    works_with integer NOT NULL,
    applied_at timestamp with time zone DEFAULT now() NOT NULL
);

CREATE TABLE public.sessions (
    id uuid DEFAULT app.uuid7() NOT NULL,
    tenant_id uuid NOT NULL,
    user_id uuid NOT NULL,
    token_hash bytea NOT NULL,
    csrf_token text NOT NULL,
    created_at timestamp with time zone DEFAULT app.now() NOT NULL,
    last_seen_at timestamp with time zone DEFAULT app.now() NOT NULL,
    expires_at timestamp with time zone NOT NULL
);

ALTER TABLE ONLY public.sessions FORCE ROW LEVEL SECURITY;

CREATE SEQUENCE public.task_events_seq
    START WITH 1
    INCREMENT BY 1
    NO MINVALUE
    NO MAXVALUE
    CACHE 50;

CREATE TABLE public.task_events (
    tenant_id uuid NOT NULL,
    task_id uuid NOT NULL,
    seq bigint DEFAULT nextval('public.task_events_seq'::regclass) NOT NULL,
    at timestamp with time zone DEFAULT app.now() NOT NULL,
    event text NOT NULL,
    fence integer NOT NULL,
    attempt smallint NOT NULL,
    actor text NOT NULL,
    executor_id uuid,
    detail jsonb DEFAULT '{}'::jsonb NOT NULL
)
PARTITION BY RANGE (at);

ALTER TABLE ONLY public.task_events FORCE ROW LEVEL SECURITY;

CREATE UNLOGGED TABLE public.task_output (
    tenant_id uuid NOT NULL,
    task_id uuid NOT NULL,
    fence integer NOT NULL,
    seq integer NOT NULL,
    text text NOT NULL
);

ALTER TABLE ONLY public.task_output FORCE ROW LEVEL SECURITY;

CREATE TABLE public.task_signals (
    tenant_id uuid NOT NULL,
    task_id uuid NOT NULL,
    name text NOT NULL,
    data jsonb NOT NULL,
    actor text NOT NULL,
    created_at timestamp with time zone DEFAULT app.now() NOT NULL,
    CONSTRAINT task_signals_name_check CHECK (((length(name) >= 1) AND (length(name) <= 200)))
);

ALTER TABLE ONLY public.task_signals FORCE ROW LEVEL SECURITY;

CREATE TABLE public.task_statistics (
    tenant_id uuid NOT NULL,
    minute timestamp with time zone NOT NULL,
    queue text NOT NULL,
    type text NOT NULL,
    outcome text NOT NULL,
    tasks integer NOT NULL,
    waited_ms bigint NOT NULL,
    waited_max_ms bigint NOT NULL,
    ran_ms bigint NOT NULL,
    ran_max_ms bigint NOT NULL,
    folded boolean DEFAULT false NOT NULL,
    waited_spread bigint[] DEFAULT '{}'::bigint[] NOT NULL,
    ran_spread bigint[] DEFAULT '{}'::bigint[] NOT NULL
);

ALTER TABLE ONLY public.task_statistics FORCE ROW LEVEL SECURITY;

CREATE TABLE public.task_statistics_hours (
    tenant_id uuid NOT NULL,
    hour timestamp with time zone NOT NULL,
    queue text NOT NULL,
    type text NOT NULL,
    outcome text NOT NULL,
    tasks bigint NOT NULL,
    waited_ms bigint NOT NULL,
    waited_max_ms bigint NOT NULL,
    ran_ms bigint NOT NULL,
    ran_max_ms bigint NOT NULL,
    waited_spread bigint[] DEFAULT '{}'::bigint[] NOT NULL,
    ran_spread bigint[] DEFAULT '{}'::bigint[] NOT NULL
);

ALTER TABLE ONLY public.task_statistics_hours FORCE ROW LEVEL SECURITY;

CREATE TABLE public.task_steps (
    tenant_id uuid NOT NULL,
    task_id uuid NOT NULL,
    name text NOT NULL,
    kind text NOT NULL,
    fence integer NOT NULL,
    input_hash bytea,
    output jsonb,
    started_at timestamp with time zone NOT NULL,
    finished_at timestamp with time zone DEFAULT app.now() NOT NULL,
    CONSTRAINT task_steps_kind_check CHECK ((kind = ANY (ARRAY['step'::text, 'write'::text, 'wait'::text]))),
    CONSTRAINT task_steps_name_check CHECK (((length(name) >= 1) AND (length(name) <= 100)))
)
PARTITION BY RANGE (task_id);

ALTER TABLE ONLY public.task_steps FORCE ROW LEVEL SECURITY;

CREATE TABLE public.tenants (
    id uuid DEFAULT app.uuid7() NOT NULL,
    name text NOT NULL,
    settings jsonb DEFAULT '{}'::jsonb NOT NULL,
    created_at timestamp with time zone DEFAULT app.now() NOT NULL,
    operates boolean DEFAULT false NOT NULL,
    CONSTRAINT tenants_name_check CHECK (((length(name) >= 1) AND (length(name) <= 100)))
);

ALTER TABLE ONLY public.tenants FORCE ROW LEVEL SECURITY;

CREATE TABLE public.term_statistics (
    tenant_id uuid NOT NULL,
    collection_id uuid NOT NULL,
    key integer NOT NULL,
    chunks integer NOT NULL
)
WITH (fillfactor='80');

ALTER TABLE ONLY public.term_statistics FORCE ROW LEVEL SECURITY;

CREATE TABLE public.users (
    id uuid DEFAULT app.uuid7() NOT NULL,
    tenant_id uuid NOT NULL,
    email text NOT NULL,
    name text NOT NULL,
    password_hash text NOT NULL,
    role text NOT NULL,
    created_at timestamp with time zone DEFAULT app.now() NOT NULL,
    disabled_at timestamp with time zone,
    CONSTRAINT users_email_check CHECK (((length(email) >= 3) AND (length(email) <= 254))),
    CONSTRAINT users_role_check CHECK ((role = ANY (ARRAY['viewer'::text, 'author'::text, 'reviewer'::text, 'operator'::text, 'admin'::text])))
);

ALTER TABLE ONLY public.users FORCE ROW LEVEL SECURITY;

ALTER TABLE ONLY public.alert_rounds
    ADD CONSTRAINT alert_rounds_pkey PRIMARY KEY (only_one);

ALTER TABLE ONLY public.alert_rules
    ADD CONSTRAINT alert_rules_pkey PRIMARY KEY (id);

ALTER TABLE ONLY public.alerts
    ADD CONSTRAINT alerts_pkey PRIMARY KEY (id);

ALTER TABLE ONLY public.api_keys
    ADD CONSTRAINT api_keys_pkey PRIMARY KEY (id);

ALTER TABLE ONLY public.bulk_operations
    ADD CONSTRAINT bulk_operations_confirmation UNIQUE (tenant_id, confirmation_id);

ALTER TABLE ONLY public.bulk_operations
    ADD CONSTRAINT bulk_operations_pkey PRIMARY KEY (id);

ALTER TABLE ONLY public.chunk_embeddings
    ADD CONSTRAINT chunk_embeddings_pkey PRIMARY KEY (tenant_id, chunk_id, set_id);

ALTER TABLE ONLY public.chunk_terms
    ADD CONSTRAINT chunk_terms_pkey PRIMARY KEY (tenant_id, chunk_id);

ALTER TABLE ONLY public.chunks
    ADD CONSTRAINT chunks_pkey PRIMARY KEY (id);

ALTER TABLE ONLY public.chunks
    ADD CONSTRAINT chunks_tenant_id_document_id_ordinal_key UNIQUE (tenant_id, document_id, ordinal);

ALTER TABLE ONLY public.chunks
    ADD CONSTRAINT chunks_tenant_id_id_key UNIQUE (tenant_id, id);

ALTER TABLE ONLY public.citations
    ADD CONSTRAINT citations_pkey PRIMARY KEY (tenant_id, version_id, marker);

ALTER TABLE ONLY public.collection_statistics
    ADD CONSTRAINT collection_statistics_pkey PRIMARY KEY (tenant_id, collection_id, language);

ALTER TABLE ONLY public.collections
    ADD CONSTRAINT collections_pkey PRIMARY KEY (id);

ALTER TABLE ONLY public.collections
    ADD CONSTRAINT collections_tenant_id_id_key UNIQUE (tenant_id, id);

ALTER TABLE ONLY public.collections
    ADD CONSTRAINT collections_tenant_id_name_key UNIQUE (tenant_id, name);

ALTER TABLE ONLY public.content_items
    ADD CONSTRAINT content_items_pkey PRIMARY KEY (id);

ALTER TABLE ONLY public.content_items
    ADD CONSTRAINT content_items_tenant_id_id_key UNIQUE (tenant_id, id);

ALTER TABLE ONLY public.content_slugs
    ADD CONSTRAINT content_slugs_pkey PRIMARY KEY (tenant_id, slug);

ALTER TABLE ONLY public.content_slugs
    ADD CONSTRAINT content_slugs_tenant_id_content_id_slug_key UNIQUE (tenant_id, content_id, slug);

ALTER TABLE ONLY public.content_versions
    ADD CONSTRAINT content_versions_pkey PRIMARY KEY (id);

ALTER TABLE ONLY public.content_versions
    ADD CONSTRAINT content_versions_tenant_id_content_id_id_content_hash_key UNIQUE (tenant_id, content_id, id, content_hash);

ALTER TABLE ONLY public.content_versions
    ADD CONSTRAINT content_versions_tenant_id_content_id_number_key UNIQUE (tenant_id, content_id, number);

ALTER TABLE ONLY public.content_versions
    ADD CONSTRAINT content_versions_tenant_id_id_key UNIQUE (tenant_id, id);

ALTER TABLE ONLY public.dead_letters
    ADD CONSTRAINT dead_letters_pkey PRIMARY KEY (task_id);

ALTER TABLE ONLY public.documents
    ADD CONSTRAINT documents_pkey PRIMARY KEY (id);

ALTER TABLE ONLY public.documents
    ADD CONSTRAINT documents_tenant_id_collection_id_sha256_key UNIQUE (tenant_id, collection_id, sha256);

ALTER TABLE ONLY public.documents
    ADD CONSTRAINT documents_tenant_id_id_key UNIQUE (tenant_id, id);

ALTER TABLE ONLY public.embedding_cache
    ADD CONSTRAINT embedding_cache_pkey PRIMARY KEY (tenant_id, model, text_sha256);

ALTER TABLE ONLY public.embedding_sets
    ADD CONSTRAINT embedding_sets_model_key UNIQUE (model);

ALTER TABLE ONLY public.embedding_sets
    ADD CONSTRAINT embedding_sets_pkey PRIMARY KEY (id);

ALTER TABLE ONLY public.executors
    ADD CONSTRAINT executors_pkey PRIMARY KEY (id);

ALTER TABLE ONLY public.feedback_items
    ADD CONSTRAINT feedback_items_pkey PRIMARY KEY (id);

ALTER TABLE ONLY public.feedback_items
    ADD CONSTRAINT feedback_items_tenant_id_review_id_position_key UNIQUE (tenant_id, review_id, "position");

ALTER TABLE ONLY public.idempotency
    ADD CONSTRAINT idempotency_pkey PRIMARY KEY (tenant_id, principal_id, route, key);

ALTER TABLE ONLY public.llm_calls
    ADD CONSTRAINT llm_calls_pkey PRIMARY KEY (id);

ALTER TABLE ONLY public.prompt_label_events
    ADD CONSTRAINT prompt_label_events_pkey PRIMARY KEY (id);

ALTER TABLE ONLY public.prompt_labels
    ADD CONSTRAINT prompt_labels_pkey PRIMARY KEY (tenant_id, prompt_id, label);

ALTER TABLE ONLY public.prompt_versions
    ADD CONSTRAINT prompt_versions_pkey PRIMARY KEY (id);

ALTER TABLE ONLY public.prompt_versions
    ADD CONSTRAINT prompt_versions_tenant_id_id_key UNIQUE (tenant_id, id);

ALTER TABLE ONLY public.prompt_versions
    ADD CONSTRAINT prompt_versions_tenant_id_prompt_id_number_key UNIQUE (tenant_id, prompt_id, number);

ALTER TABLE ONLY public.prompts
    ADD CONSTRAINT prompts_pkey PRIMARY KEY (id);

ALTER TABLE ONLY public.prompts
    ADD CONSTRAINT prompts_tenant_id_id_key UNIQUE (tenant_id, id);

ALTER TABLE ONLY public.prompts
    ADD CONSTRAINT prompts_tenant_id_name_key UNIQUE (tenant_id, name);

ALTER TABLE ONLY public.publication_tags
    ADD CONSTRAINT publication_tags_pkey PRIMARY KEY (tenant_id, content_id, tag);

ALTER TABLE ONLY public.publications
    ADD CONSTRAINT publications_pkey PRIMARY KEY (id);

ALTER TABLE ONLY public.publications
    ADD CONSTRAINT publications_tenant_id_content_id_key UNIQUE (tenant_id, content_id);

ALTER TABLE ONLY public.publications
    ADD CONSTRAINT publications_tenant_id_slug_key UNIQUE (tenant_id, slug);

ALTER TABLE ONLY public.queue_tenant_limits
    ADD CONSTRAINT queue_tenant_limits_pkey PRIMARY KEY (queue, tenant_id);

ALTER TABLE ONLY public.queues
    ADD CONSTRAINT queues_pkey PRIMARY KEY (name);

ALTER TABLE ONLY public.retention_looks
    ADD CONSTRAINT retention_looks_pkey PRIMARY KEY (parent, month);

ALTER TABLE ONLY public.review_decisions
    ADD CONSTRAINT review_decisions_pkey PRIMARY KEY (id);

ALTER TABLE ONLY public.review_decisions
    ADD CONSTRAINT review_decisions_tenant_id_id_content_id_version_id_decisio_key UNIQUE (tenant_id, id, content_id, version_id, decision);

ALTER TABLE ONLY public.review_decisions
    ADD CONSTRAINT review_decisions_tenant_id_review_id_key UNIQUE (tenant_id, review_id);

ALTER TABLE ONLY public.reviews
    ADD CONSTRAINT reviews_pkey PRIMARY KEY (id);

ALTER TABLE ONLY public.reviews
    ADD CONSTRAINT reviews_tenant_id_id_content_id_version_id_content_hash_key UNIQUE (tenant_id, id, content_id, version_id, content_hash);

ALTER TABLE ONLY public.schedule_ticks
    ADD CONSTRAINT schedule_ticks_pkey PRIMARY KEY (schedule_id, tick_at, manual);

ALTER TABLE ONLY public.schedules
    ADD CONSTRAINT schedules_pkey PRIMARY KEY (id);

ALTER TABLE ONLY public.schema_functions
    ADD CONSTRAINT schema_functions_pkey PRIMARY KEY (file);

ALTER TABLE ONLY public.schema_migrations
    ADD CONSTRAINT schema_migrations_pkey PRIMARY KEY (version);

ALTER TABLE ONLY public.sessions
    ADD CONSTRAINT sessions_pkey PRIMARY KEY (id);

ALTER TABLE ONLY public.sessions
    ADD CONSTRAINT sessions_token_hash_key UNIQUE (token_hash);

ALTER TABLE ONLY public.task_history
    ADD CONSTRAINT task_history_pkey PRIMARY KEY (tenant_id, id);

ALTER TABLE ONLY public.task_output
    ADD CONSTRAINT task_output_pkey PRIMARY KEY (task_id, fence, seq);

ALTER TABLE ONLY public.task_signals
    ADD CONSTRAINT task_signals_pkey PRIMARY KEY (task_id, name);

ALTER TABLE ONLY public.task_statistics_hours
    ADD CONSTRAINT task_statistics_hours_pkey PRIMARY KEY (tenant_id, hour, queue, type, outcome);

ALTER TABLE ONLY public.task_steps
    ADD CONSTRAINT task_steps_pkey PRIMARY KEY (task_id, name);

ALTER TABLE ONLY public.tasks
    ADD CONSTRAINT tasks_pkey PRIMARY KEY (id);

ALTER TABLE ONLY public.tenants
    ADD CONSTRAINT tenants_name_key UNIQUE (name);

ALTER TABLE ONLY public.tenants
    ADD CONSTRAINT tenants_pkey PRIMARY KEY (id);

ALTER TABLE ONLY public.term_statistics
    ADD CONSTRAINT term_statistics_pkey PRIMARY KEY (tenant_id, collection_id, key);

ALTER TABLE ONLY public.users
    ADD CONSTRAINT users_pkey PRIMARY KEY (id);

CREATE UNIQUE INDEX alert_rules_about ON public.alert_rules USING btree (tenant_id, kind, COALESCE(queue, ''::text), COALESCE(type, ''::text));

CREATE UNIQUE INDEX alerts_open ON public.alerts USING btree (rule_id, COALESCE(queue, ''::text)) WHERE (closed_at IS NULL);

CREATE INDEX alerts_open_tenant ON public.alerts USING btree (tenant_id) WHERE (closed_at IS NULL);

CREATE INDEX alerts_tenant ON public.alerts USING btree (tenant_id, id);

CREATE INDEX api_keys_tenant ON public.api_keys USING btree (tenant_id, id);

CREATE INDEX bulk_operations_running ON public.bulk_operations USING btree (created_at) WHERE (state = 'running'::text);

CREATE INDEX bulk_operations_tenant ON public.bulk_operations USING btree (tenant_id, id);

CREATE INDEX chunk_embeddings_document ON public.chunk_embeddings USING btree (tenant_id, document_id);

CREATE INDEX chunk_embeddings_exact ON public.chunk_embeddings USING btree (tenant_id, collection_id, set_id);

CREATE INDEX chunk_embeddings_set_1 ON public.chunk_embeddings USING hnsw (((embedding)::public.vector(384)) public.vector_cosine_ops) WHERE (set_id = 1);

CREATE INDEX chunk_terms_document ON public.chunk_terms USING btree (tenant_id, document_id);

CREATE INDEX chunk_terms_keys ON public.chunk_terms USING gin (keys) WITH (fastupdate=off);

CREATE INDEX chunks_text ON public.chunks USING btree (tenant_id, text_sha256);

CREATE INDEX citations_document ON public.citations USING btree (tenant_id, document_id) WHERE (document_id IS NOT NULL);

CREATE INDEX content_items_state ON public.content_items USING btree (tenant_id, state, id);

CREATE INDEX content_items_task ON public.content_items USING btree (tenant_id, task_id) WHERE (task_id IS NOT NULL);

CREATE INDEX dead_letters_age ON public.dead_letters USING btree (tenant_id, failed_at) WHERE (handled_at IS NULL);

CREATE INDEX dead_letters_handled ON public.dead_letters USING btree (tenant_id, task_id) WHERE (handled_at IS NOT NULL);

CREATE INDEX dead_letters_open ON public.dead_letters USING btree (tenant_id, task_id) WHERE (handled_at IS NULL);

CREATE INDEX documents_collection ON public.documents USING btree (tenant_id, collection_id, id);

CREATE INDEX documents_metadata ON public.documents USING gin (metadata jsonb_path_ops);

CREATE INDEX feedback_items_content ON public.feedback_items USING btree (tenant_id, content_id, id);

CREATE INDEX idempotency_expired ON public.idempotency USING btree (expires_at);

CREATE INDEX llm_calls_open ON public.llm_calls USING btree (started_at) WHERE (state = 'reserved'::text);

CREATE INDEX llm_calls_task ON public.llm_calls USING btree (tenant_id, task_id, step, request_hash);

CREATE INDEX prompt_label_events_prompt ON public.prompt_label_events USING btree (tenant_id, prompt_id, id);

CREATE INDEX publication_tags_tag ON public.publication_tags USING btree (tenant_id, tag, first_published_at, content_id);

CREATE INDEX publications_language ON public.publications USING btree (tenant_id, language) WHERE (withdrawn_at IS NULL);

CREATE INDEX publications_live ON public.publications USING btree (tenant_id, first_published_at, content_id) WHERE (withdrawn_at IS NULL);

CREATE INDEX publications_search ON public.publications USING gin (search) WHERE (withdrawn_at IS NULL);

CREATE INDEX publications_titles ON public.publications USING gin (ts_filter(search, '{a}'::"char"[])) WHERE (withdrawn_at IS NULL);

CREATE INDEX review_decisions_version ON public.review_decisions USING btree (tenant_id, version_id);

CREATE INDEX reviews_content ON public.reviews USING btree (tenant_id, content_id, id);

CREATE UNIQUE INDEX reviews_pending ON public.reviews USING btree (tenant_id, content_id) WHERE (state = 'pending'::text);

CREATE INDEX reviews_state ON public.reviews USING btree (tenant_id, state, id);

CREATE INDEX reviews_task ON public.reviews USING btree (task_id) WHERE (state = 'pending'::text);

CREATE INDEX schedule_ticks_old ON public.schedule_ticks USING btree (decided_at);

CREATE INDEX schedules_due ON public.schedules USING btree (next_tick_at) WHERE (next_tick_at IS NOT NULL);

CREATE UNIQUE INDEX schedules_name ON public.schedules USING btree (tenant_id, name) WHERE (deleted_at IS NULL);

CREATE INDEX sessions_expired ON public.sessions USING btree (expires_at);

CREATE INDEX sessions_user ON public.sessions USING btree (user_id);

CREATE INDEX task_events_task ON ONLY public.task_events USING btree (tenant_id, task_id, at, seq);

CREATE INDEX task_history_failed ON ONLY public.task_history USING btree (tenant_id, state, id) WHERE (state <> 'succeeded'::text);

CREATE INDEX task_history_key ON ONLY public.task_history USING btree (tenant_id, concurrency_key, id) WHERE (concurrency_key IS NOT NULL);

CREATE INDEX task_history_kind ON ONLY public.task_history USING btree (tenant_id, type, queue, state, id);

CREATE INDEX task_history_retry_of ON ONLY public.task_history USING btree (retry_of) WHERE (retry_of IS NOT NULL);

CREATE INDEX task_statistics_loose ON public.task_statistics USING btree (minute) WHERE (NOT folded);

CREATE INDEX task_statistics_minute ON public.task_statistics USING btree (tenant_id, minute);

CREATE INDEX task_statistics_own_loose ON public.task_statistics USING btree (tenant_id) WHERE (NOT folded);

CREATE INDEX tasks_asleep ON public.tasks USING btree (queue, state, tenant_id) WHERE (state = ANY (ARRAY['scheduled'::text, 'waiting'::text, 'blocked'::text]));

CREATE INDEX tasks_blocked ON public.tasks USING btree (tenant_id, queue, concurrency_key, priority, run_at, id) WHERE (state = 'blocked'::text);

CREATE INDEX tasks_due ON public.tasks USING btree (run_at) WHERE (state = 'scheduled'::text);

CREATE INDEX tasks_fair ON public.tasks USING btree (queue, tenant_id, priority, run_at, id) WHERE (state = 'queued'::text);

CREATE INDEX tasks_held ON public.tasks USING btree (tenant_id, queue, concurrency_key) WHERE ((state = 'running'::text) AND (concurrency_key IS NOT NULL));

CREATE INDEX tasks_ready ON public.tasks USING btree (queue, priority, run_at, id) WHERE (state = 'queued'::text);

CREATE INDEX tasks_ready_keys ON public.tasks USING btree (tenant_id, queue, concurrency_key) WHERE ((state = 'queued'::text) AND (concurrency_key IS NOT NULL));

CREATE INDEX tasks_retry_of ON public.tasks USING btree (retry_of) WHERE (retry_of IS NOT NULL);

CREATE INDEX tasks_running ON public.tasks USING btree (queue, executor_id) WHERE (state = 'running'::text);

CREATE INDEX tasks_start_before ON public.tasks USING btree (start_before) WHERE (start_before IS NOT NULL);

CREATE INDEX tasks_tenant ON public.tasks USING btree (tenant_id, id);

CREATE INDEX tasks_total_deadline ON public.tasks USING btree (total_deadline_at) WHERE (total_deadline_at IS NOT NULL);

CREATE INDEX tasks_wait ON public.tasks USING btree (wait_until) WHERE (state = 'waiting'::text);

CREATE UNIQUE INDEX users_email ON public.users USING btree (lower(email));

CREATE INDEX users_tenant ON public.users USING btree (tenant_id);

CREATE TRIGGER counted AFTER INSERT ON public.chunk_terms REFERENCING NEW TABLE AS added FOR EACH STATEMENT EXECUTE FUNCTION app.count_terms();

CREATE TRIGGER ended BEFORE UPDATE ON public.reviews FOR EACH ROW WHEN ((old.state <> 'pending'::text)) EXECUTE FUNCTION app.refuse_change();

CREATE TRIGGER immutable BEFORE DELETE OR UPDATE OR TRUNCATE ON public.citations FOR EACH STATEMENT EXECUTE FUNCTION app.refuse_change();

CREATE TRIGGER immutable BEFORE DELETE OR UPDATE OR TRUNCATE ON public.content_versions FOR EACH STATEMENT EXECUTE FUNCTION app.refuse_change();

CREATE TRIGGER immutable BEFORE DELETE OR UPDATE OR TRUNCATE ON public.prompt_label_events FOR EACH STATEMENT EXECUTE FUNCTION app.refuse_change();

CREATE TRIGGER immutable BEFORE DELETE OR UPDATE OR TRUNCATE ON public.prompt_versions FOR EACH STATEMENT EXECUTE FUNCTION app.refuse_change();

CREATE TRIGGER immutable BEFORE DELETE OR UPDATE OR TRUNCATE ON public.review_decisions FOR EACH STATEMENT EXECUTE FUNCTION app.refuse_change();

CREATE TRIGGER immutable BEFORE DELETE OR UPDATE ON public.task_events FOR EACH ROW EXECUTE FUNCTION app.refuse_change();

CREATE TRIGGER immutable BEFORE UPDATE ON public.task_history FOR EACH ROW EXECUTE FUNCTION app.refuse_change();

CREATE TRIGGER uncounted AFTER DELETE ON public.chunk_terms REFERENCING OLD TABLE AS gone FOR EACH STATEMENT EXECUTE FUNCTION app.uncount_terms();

ALTER TABLE ONLY public.alert_rules
    ADD CONSTRAINT alert_rules_tenant_id_fkey FOREIGN KEY (tenant_id) REFERENCES public.tenants(id);

ALTER TABLE ONLY public.alerts
    ADD CONSTRAINT alerts_rule_id_fkey FOREIGN KEY (rule_id) REFERENCES public.alert_rules(id) ON DELETE CASCADE;

ALTER TABLE ONLY public.alerts
    ADD CONSTRAINT alerts_tenant_id_fkey FOREIGN KEY (tenant_id) REFERENCES public.tenants(id);

ALTER TABLE ONLY public.api_keys
    ADD CONSTRAINT api_keys_tenant_id_fkey FOREIGN KEY (tenant_id) REFERENCES public.tenants(id);

ALTER TABLE ONLY public.bulk_operations
    ADD CONSTRAINT bulk_operations_tenant_id_fkey FOREIGN KEY (tenant_id) REFERENCES public.tenants(id);

ALTER TABLE ONLY public.chunk_embeddings
    ADD CONSTRAINT chunk_embeddings_set_id_fkey FOREIGN KEY (set_id) REFERENCES public.embedding_sets(id);

ALTER TABLE ONLY public.chunk_embeddings
    ADD CONSTRAINT chunk_embeddings_tenant_id_chunk_id_fkey FOREIGN KEY (tenant_id, chunk_id) REFERENCES public.chunks(tenant_id, id) ON DELETE CASCADE;

ALTER TABLE ONLY public.chunk_terms
    ADD CONSTRAINT chunk_terms_tenant_id_chunk_id_fkey FOREIGN KEY (tenant_id, chunk_id) REFERENCES public.chunks(tenant_id, id) ON DELETE CASCADE;

ALTER TABLE ONLY public.chunks
    ADD CONSTRAINT chunks_tenant_id_document_id_fkey FOREIGN KEY (tenant_id, document_id) REFERENCES public.documents(tenant_id, id) ON DELETE CASCADE;

ALTER TABLE ONLY public.citations
    ADD CONSTRAINT citations_tenant_id_version_id_fkey FOREIGN KEY (tenant_id, version_id) REFERENCES public.content_versions(tenant_id, id);

ALTER TABLE ONLY public.collection_statistics
    ADD CONSTRAINT collection_statistics_tenant_id_collection_id_fkey FOREIGN KEY (tenant_id, collection_id) REFERENCES public.collections(tenant_id, id) ON DELETE CASCADE;

ALTER TABLE ONLY public.collections
    ADD CONSTRAINT collections_embedding_set_id_fkey FOREIGN KEY (embedding_set_id) REFERENCES public.embedding_sets(id);

ALTER TABLE ONLY public.collections
    ADD CONSTRAINT collections_tenant_id_fkey FOREIGN KEY (tenant_id) REFERENCES public.tenants(id);

ALTER TABLE ONLY public.content_items
    ADD CONSTRAINT content_items_tenant_id_fkey FOREIGN KEY (tenant_id) REFERENCES public.tenants(id);

ALTER TABLE ONLY public.content_slugs
    ADD CONSTRAINT content_slugs_tenant_id_content_id_fkey FOREIGN KEY (tenant_id, content_id) REFERENCES public.content_items(tenant_id, id);

ALTER TABLE ONLY public.content_versions
    ADD CONSTRAINT content_versions_tenant_id_content_id_fkey FOREIGN KEY (tenant_id, content_id) REFERENCES public.content_items(tenant_id, id);

ALTER TABLE ONLY public.content_versions
    ADD CONSTRAINT content_versions_tenant_id_content_id_parent_number_fkey FOREIGN KEY (tenant_id, content_id, parent_number) REFERENCES public.content_versions(tenant_id, content_id, number);

ALTER TABLE ONLY public.content_versions
    ADD CONSTRAINT content_versions_tenant_id_content_id_previous_number_fkey FOREIGN KEY (tenant_id, content_id, previous_number) REFERENCES public.content_versions(tenant_id, content_id, number);

ALTER TABLE ONLY public.content_versions
    ADD CONSTRAINT content_versions_tenant_id_content_id_slug_fkey FOREIGN KEY (tenant_id, content_id, slug) REFERENCES public.content_slugs(tenant_id, content_id, slug);

ALTER TABLE ONLY public.content_versions
    ADD CONSTRAINT content_versions_tenant_id_prompt_version_id_fkey FOREIGN KEY (tenant_id, prompt_version_id) REFERENCES public.prompt_versions(tenant_id, id);

ALTER TABLE ONLY public.dead_letters
    ADD CONSTRAINT dead_letters_tenant_id_fkey FOREIGN KEY (tenant_id) REFERENCES public.tenants(id);

ALTER TABLE ONLY public.documents
    ADD CONSTRAINT documents_tenant_id_collection_id_fkey FOREIGN KEY (tenant_id, collection_id) REFERENCES public.collections(tenant_id, id) ON DELETE CASCADE;

ALTER TABLE ONLY public.embedding_cache
    ADD CONSTRAINT embedding_cache_tenant_id_fkey FOREIGN KEY (tenant_id) REFERENCES public.tenants(id);

ALTER TABLE ONLY public.feedback_items
    ADD CONSTRAINT feedback_items_tenant_id_content_id_addressed_in_version_fkey FOREIGN KEY (tenant_id, content_id, addressed_in_version) REFERENCES public.content_versions(tenant_id, content_id, number);

ALTER TABLE ONLY public.feedback_items
    ADD CONSTRAINT feedback_items_tenant_id_review_id_fkey FOREIGN KEY (tenant_id, review_id) REFERENCES public.review_decisions(tenant_id, review_id);

ALTER TABLE ONLY public.idempotency
    ADD CONSTRAINT idempotency_tenant_id_fkey FOREIGN KEY (tenant_id) REFERENCES public.tenants(id);

ALTER TABLE ONLY public.llm_calls
    ADD CONSTRAINT llm_calls_tenant_id_fkey FOREIGN KEY (tenant_id) REFERENCES public.tenants(id);

ALTER TABLE ONLY public.prompt_label_events
    ADD CONSTRAINT prompt_label_events_tenant_id_prompt_id_from_number_fkey FOREIGN KEY (tenant_id, prompt_id, from_number) REFERENCES public.prompt_versions(tenant_id, prompt_id, number);

ALTER TABLE ONLY public.prompt_label_events
    ADD CONSTRAINT prompt_label_events_tenant_id_prompt_id_to_number_fkey FOREIGN KEY (tenant_id, prompt_id, to_number) REFERENCES public.prompt_versions(tenant_id, prompt_id, number);

ALTER TABLE ONLY public.prompt_labels
    ADD CONSTRAINT prompt_labels_tenant_id_prompt_id_number_fkey FOREIGN KEY (tenant_id, prompt_id, number) REFERENCES public.prompt_versions(tenant_id, prompt_id, number);

ALTER TABLE ONLY public.prompt_versions
    ADD CONSTRAINT prompt_versions_tenant_id_prompt_id_fkey FOREIGN KEY (tenant_id, prompt_id) REFERENCES public.prompts(tenant_id, id);

ALTER TABLE ONLY public.prompt_versions
    ADD CONSTRAINT prompt_versions_tenant_id_prompt_id_previous_number_fkey FOREIGN KEY (tenant_id, prompt_id, previous_number) REFERENCES public.prompt_versions(tenant_id, prompt_id, number);

ALTER TABLE ONLY public.prompts
    ADD CONSTRAINT prompts_tenant_id_fkey FOREIGN KEY (tenant_id) REFERENCES public.tenants(id);

ALTER TABLE ONLY public.publication_tags
    ADD CONSTRAINT publication_tags_tenant_id_content_id_fkey FOREIGN KEY (tenant_id, content_id) REFERENCES public.publications(tenant_id, content_id) ON DELETE CASCADE;

ALTER TABLE ONLY public.publications
    ADD CONSTRAINT publications_tenant_id_content_id_slug_fkey FOREIGN KEY (tenant_id, content_id, slug) REFERENCES public.content_slugs(tenant_id, content_id, slug);

ALTER TABLE ONLY public.publications
    ADD CONSTRAINT publications_tenant_id_decision_id_content_id_version_id_d_fkey FOREIGN KEY (tenant_id, decision_id, content_id, version_id, decision) REFERENCES public.review_decisions(tenant_id, id, content_id, version_id, decision);

ALTER TABLE ONLY public.queue_tenant_limits
    ADD CONSTRAINT queue_tenant_limits_queue_fkey FOREIGN KEY (queue) REFERENCES public.queues(name) ON DELETE CASCADE;

ALTER TABLE ONLY public.queue_tenant_limits
    ADD CONSTRAINT queue_tenant_limits_tenant_id_fkey FOREIGN KEY (tenant_id) REFERENCES public.tenants(id);

ALTER TABLE ONLY public.review_decisions
    ADD CONSTRAINT review_decisions_tenant_id_review_id_content_id_version_id_fkey FOREIGN KEY (tenant_id, review_id, content_id, version_id, content_hash) REFERENCES public.reviews(tenant_id, id, content_id, version_id, content_hash);

ALTER TABLE ONLY public.reviews
    ADD CONSTRAINT reviews_tenant_id_content_id_version_id_content_hash_fkey FOREIGN KEY (tenant_id, content_id, version_id, content_hash) REFERENCES public.content_versions(tenant_id, content_id, id, content_hash);

ALTER TABLE ONLY public.schedule_ticks
    ADD CONSTRAINT schedule_ticks_schedule_id_fkey FOREIGN KEY (schedule_id) REFERENCES public.schedules(id) ON DELETE CASCADE;

ALTER TABLE ONLY public.schedules
    ADD CONSTRAINT schedules_tenant_id_fkey FOREIGN KEY (tenant_id) REFERENCES public.tenants(id);

ALTER TABLE ONLY public.sessions
    ADD CONSTRAINT sessions_tenant_id_fkey FOREIGN KEY (tenant_id) REFERENCES public.tenants(id);

ALTER TABLE ONLY public.sessions
    ADD CONSTRAINT sessions_user_id_fkey FOREIGN KEY (user_id) REFERENCES public.users(id) ON DELETE CASCADE;

ALTER TABLE ONLY public.tasks
    ADD CONSTRAINT tasks_queue_fkey FOREIGN KEY (queue) REFERENCES public.queues(name);

ALTER TABLE ONLY public.tasks
    ADD CONSTRAINT tasks_tenant_id_fkey FOREIGN KEY (tenant_id) REFERENCES public.tenants(id);

ALTER TABLE ONLY public.term_statistics
    ADD CONSTRAINT term_statistics_tenant_id_collection_id_fkey FOREIGN KEY (tenant_id, collection_id) REFERENCES public.collections(tenant_id, id) ON DELETE CASCADE;

ALTER TABLE ONLY public.users
    ADD CONSTRAINT users_tenant_id_fkey FOREIGN KEY (tenant_id) REFERENCES public.tenants(id);

ALTER TABLE public.alert_rules ENABLE ROW LEVEL SECURITY;

ALTER TABLE public.alerts ENABLE ROW LEVEL SECURITY;

ALTER TABLE public.api_keys ENABLE ROW LEVEL SECURITY;

ALTER TABLE public.bulk_operations ENABLE ROW LEVEL SECURITY;

ALTER TABLE public.chunk_embeddings ENABLE ROW LEVEL SECURITY;

ALTER TABLE public.chunk_terms ENABLE ROW LEVEL SECURITY;

ALTER TABLE public.chunks ENABLE ROW LEVEL SECURITY;

ALTER TABLE public.citations ENABLE ROW LEVEL SECURITY;

ALTER TABLE public.collection_statistics ENABLE ROW LEVEL SECURITY;

ALTER TABLE public.collections ENABLE ROW LEVEL SECURITY;

ALTER TABLE public.content_items ENABLE ROW LEVEL SECURITY;

ALTER TABLE public.content_slugs ENABLE ROW LEVEL SECURITY;

ALTER TABLE public.content_versions ENABLE ROW LEVEL SECURITY;

ALTER TABLE public.dead_letters ENABLE ROW LEVEL SECURITY;

ALTER TABLE public.documents ENABLE ROW LEVEL SECURITY;

ALTER TABLE public.embedding_cache ENABLE ROW LEVEL SECURITY;

CREATE POLICY engine ON public.alert_rules TO galley_engine USING (true) WITH CHECK (true);

CREATE POLICY engine ON public.alerts TO galley_engine USING (true) WITH CHECK (true);

CREATE POLICY engine ON public.api_keys TO galley_engine USING (true) WITH CHECK (true);

CREATE POLICY engine ON public.bulk_operations TO galley_engine USING (true) WITH CHECK (true);

CREATE POLICY engine ON public.chunk_embeddings TO galley_engine USING (true) WITH CHECK (true);

CREATE POLICY engine ON public.chunk_terms TO galley_engine USING (true) WITH CHECK (true);

CREATE POLICY engine ON public.chunks TO galley_engine USING (true) WITH CHECK (true);

CREATE POLICY engine ON public.citations TO galley_engine USING (true) WITH CHECK (true);

CREATE POLICY engine ON public.collection_statistics TO galley_engine USING (true) WITH CHECK (true);

CREATE POLICY engine ON public.collections TO galley_engine USING (true) WITH CHECK (true);

CREATE POLICY engine ON public.content_items TO galley_engine USING (true) WITH CHECK (true);

CREATE POLICY engine ON public.content_slugs TO galley_engine USING (true) WITH CHECK (true);

CREATE POLICY engine ON public.content_versions TO galley_engine USING (true) WITH CHECK (true);

CREATE POLICY engine ON public.dead_letters TO galley_engine USING (true) WITH CHECK (true);

CREATE POLICY engine ON public.documents TO galley_engine USING (true) WITH CHECK (true);

CREATE POLICY engine ON public.embedding_cache TO galley_engine USING (true) WITH CHECK (true);

CREATE POLICY engine ON public.feedback_items TO galley_engine USING (true) WITH CHECK (true);

CREATE POLICY engine ON public.idempotency TO galley_engine USING (true) WITH CHECK (true);

CREATE POLICY engine ON public.llm_calls TO galley_engine USING (true) WITH CHECK (true);

CREATE POLICY engine ON public.prompt_label_events TO galley_engine USING (true) WITH CHECK (true);

CREATE POLICY engine ON public.prompt_labels TO galley_engine USING (true) WITH CHECK (true);

CREATE POLICY engine ON public.prompt_versions TO galley_engine USING (true) WITH CHECK (true);

CREATE POLICY engine ON public.prompts TO galley_engine USING (true) WITH CHECK (true);

CREATE POLICY engine ON public.publication_tags TO galley_engine USING (true) WITH CHECK (true);

CREATE POLICY engine ON public.publications TO galley_engine USING (true) WITH CHECK (true);

CREATE POLICY engine ON public.queue_tenant_limits TO galley_engine USING (true) WITH CHECK (true);

CREATE POLICY engine ON public.review_decisions TO galley_engine USING (true) WITH CHECK (true);

CREATE POLICY engine ON public.reviews TO galley_engine USING (true) WITH CHECK (true);

CREATE POLICY engine ON public.schedule_ticks TO galley_engine USING (true) WITH CHECK (true);

CREATE POLICY engine ON public.schedules TO galley_engine USING (true) WITH CHECK (true);

CREATE POLICY engine ON public.sessions TO galley_engine USING (true) WITH CHECK (true);

CREATE POLICY engine ON public.task_events TO galley_engine USING (true) WITH CHECK (true);

CREATE POLICY engine ON public.task_history TO galley_engine USING (true) WITH CHECK (true);

CREATE POLICY engine ON public.task_output TO galley_engine USING (true) WITH CHECK (true);

CREATE POLICY engine ON public.task_signals TO galley_engine USING (true) WITH CHECK (true);

CREATE POLICY engine ON public.task_statistics TO galley_engine USING (true) WITH CHECK (true);

CREATE POLICY engine ON public.task_statistics_hours TO galley_engine USING (true) WITH CHECK (true);

CREATE POLICY engine ON public.task_steps TO galley_engine USING (true) WITH CHECK (true);

CREATE POLICY engine ON public.tasks TO galley_engine USING (true) WITH CHECK (true);

CREATE POLICY engine ON public.tenants TO galley_engine USING (true) WITH CHECK (true);

CREATE POLICY engine ON public.term_statistics TO galley_engine USING (true) WITH CHECK (true);

CREATE POLICY engine ON public.users TO galley_engine USING (true) WITH CHECK (true);

ALTER TABLE public.feedback_items ENABLE ROW LEVEL SECURITY;

ALTER TABLE public.idempotency ENABLE ROW LEVEL SECURITY;

ALTER TABLE public.llm_calls ENABLE ROW LEVEL SECURITY;

ALTER TABLE public.prompt_label_events ENABLE ROW LEVEL SECURITY;

ALTER TABLE public.prompt_labels ENABLE ROW LEVEL SECURITY;

ALTER TABLE public.prompt_versions ENABLE ROW LEVEL SECURITY;

ALTER TABLE public.prompts ENABLE ROW LEVEL SECURITY;

ALTER TABLE public.publication_tags ENABLE ROW LEVEL SECURITY;

ALTER TABLE public.publications ENABLE ROW LEVEL SECURITY;

ALTER TABLE public.queue_tenant_limits ENABLE ROW LEVEL SECURITY;

ALTER TABLE public.review_decisions ENABLE ROW LEVEL SECURITY;

ALTER TABLE public.reviews ENABLE ROW LEVEL SECURITY;

ALTER TABLE public.schedule_ticks ENABLE ROW LEVEL SECURITY;

ALTER TABLE public.schedules ENABLE ROW LEVEL SECURITY;

ALTER TABLE public.sessions ENABLE ROW LEVEL SECURITY;

ALTER TABLE public.task_events ENABLE ROW LEVEL SECURITY;

ALTER TABLE public.task_history ENABLE ROW LEVEL SECURITY;

ALTER TABLE public.task_output ENABLE ROW LEVEL SECURITY;

ALTER TABLE public.task_signals ENABLE ROW LEVEL SECURITY;

ALTER TABLE public.task_statistics ENABLE ROW LEVEL SECURITY;

ALTER TABLE public.task_statistics_hours ENABLE ROW LEVEL SECURITY;

ALTER TABLE public.task_steps ENABLE ROW LEVEL SECURITY;

ALTER TABLE public.tasks ENABLE ROW LEVEL SECURITY;

CREATE POLICY tenant ON public.alert_rules TO galley_web USING ((tenant_id = app.current_tenant())) WITH CHECK ((tenant_id = app.current_tenant()));

CREATE POLICY tenant ON public.alerts TO galley_web USING ((tenant_id = app.current_tenant())) WITH CHECK ((tenant_id = app.current_tenant()));

CREATE POLICY tenant ON public.api_keys TO galley_web USING ((tenant_id = app.current_tenant())) WITH CHECK ((tenant_id = app.current_tenant()));

CREATE POLICY tenant ON public.bulk_operations TO galley_web USING ((tenant_id = app.current_tenant())) WITH CHECK ((tenant_id = app.current_tenant()));

CREATE POLICY tenant ON public.chunk_embeddings TO galley_web USING ((tenant_id = app.current_tenant())) WITH CHECK ((tenant_id = app.current_tenant()));

CREATE POLICY tenant ON public.chunk_terms TO galley_web USING ((tenant_id = app.current_tenant())) WITH CHECK ((tenant_id = app.current_tenant()));

CREATE POLICY tenant ON public.chunks TO galley_web USING ((tenant_id = app.current_tenant())) WITH CHECK ((tenant_id = app.current_tenant()));

CREATE POLICY tenant ON public.citations TO galley_web USING ((tenant_id = app.current_tenant())) WITH CHECK ((tenant_id = app.current_tenant()));

CREATE POLICY tenant ON public.collection_statistics TO galley_web USING ((tenant_id = app.current_tenant())) WITH CHECK ((tenant_id = app.current_tenant()));

CREATE POLICY tenant ON public.collections TO galley_web USING ((tenant_id = app.current_tenant())) WITH CHECK ((tenant_id = app.current_tenant()));

CREATE POLICY tenant ON public.content_items TO galley_web USING ((tenant_id = app.current_tenant())) WITH CHECK ((tenant_id = app.current_tenant()));

CREATE POLICY tenant ON public.content_slugs TO galley_web USING ((tenant_id = app.current_tenant())) WITH CHECK ((tenant_id = app.current_tenant()));

CREATE POLICY tenant ON public.content_versions TO galley_web USING ((tenant_id = app.current_tenant())) WITH CHECK ((tenant_id = app.current_tenant()));

CREATE POLICY tenant ON public.dead_letters TO galley_web USING ((tenant_id = app.current_tenant())) WITH CHECK ((tenant_id = app.current_tenant()));

CREATE POLICY tenant ON public.documents TO galley_web USING ((tenant_id = app.current_tenant())) WITH CHECK ((tenant_id = app.current_tenant()));

CREATE POLICY tenant ON public.embedding_cache TO galley_web USING ((tenant_id = app.current_tenant())) WITH CHECK ((tenant_id = app.current_tenant()));

CREATE POLICY tenant ON public.feedback_items TO galley_web USING ((tenant_id = app.current_tenant())) WITH CHECK ((tenant_id = app.current_tenant()));

CREATE POLICY tenant ON public.idempotency TO galley_web USING ((tenant_id = app.current_tenant())) WITH CHECK ((tenant_id = app.current_tenant()));

CREATE POLICY tenant ON public.llm_calls TO galley_web USING ((tenant_id = app.current_tenant())) WITH CHECK ((tenant_id = app.current_tenant()));

CREATE POLICY tenant ON public.prompt_label_events TO galley_web USING ((tenant_id = app.current_tenant())) WITH CHECK ((tenant_id = app.current_tenant()));

CREATE POLICY tenant ON public.prompt_labels TO galley_web USING ((tenant_id = app.current_tenant())) WITH CHECK ((tenant_id = app.current_tenant()));

CREATE POLICY tenant ON public.prompt_versions TO galley_web USING ((tenant_id = app.current_tenant())) WITH CHECK ((tenant_id = app.current_tenant()));

CREATE POLICY tenant ON public.prompts TO galley_web USING ((tenant_id = app.current_tenant())) WITH CHECK ((tenant_id = app.current_tenant()));

CREATE POLICY tenant ON public.publication_tags TO galley_web USING ((tenant_id = app.current_tenant())) WITH CHECK ((tenant_id = app.current_tenant()));

CREATE POLICY tenant ON public.publications TO galley_web USING ((tenant_id = app.current_tenant())) WITH CHECK ((tenant_id = app.current_tenant()));

CREATE POLICY tenant ON public.queue_tenant_limits TO galley_web USING ((tenant_id = app.current_tenant())) WITH CHECK ((tenant_id = app.current_tenant()));

CREATE POLICY tenant ON public.review_decisions TO galley_web USING ((tenant_id = app.current_tenant())) WITH CHECK ((tenant_id = app.current_tenant()));

CREATE POLICY tenant ON public.reviews TO galley_web USING ((tenant_id = app.current_tenant())) WITH CHECK ((tenant_id = app.current_tenant()));

CREATE POLICY tenant ON public.schedule_ticks TO galley_web USING ((tenant_id = app.current_tenant())) WITH CHECK ((tenant_id = app.current_tenant()));

CREATE POLICY tenant ON public.schedules TO galley_web USING ((tenant_id = app.current_tenant())) WITH CHECK ((tenant_id = app.current_tenant()));

CREATE POLICY tenant ON public.sessions TO galley_web USING ((tenant_id = app.current_tenant())) WITH CHECK ((tenant_id = app.current_tenant()));

CREATE POLICY tenant ON public.task_events TO galley_web USING ((tenant_id = app.current_tenant())) WITH CHECK ((tenant_id = app.current_tenant()));

CREATE POLICY tenant ON public.task_history TO galley_web USING ((tenant_id = app.current_tenant())) WITH CHECK ((tenant_id = app.current_tenant()));

CREATE POLICY tenant ON public.task_output TO galley_web USING ((tenant_id = app.current_tenant())) WITH CHECK ((tenant_id = app.current_tenant()));

CREATE POLICY tenant ON public.task_signals TO galley_web USING ((tenant_id = app.current_tenant())) WITH CHECK ((tenant_id = app.current_tenant()));

CREATE POLICY tenant ON public.task_statistics TO galley_web USING ((tenant_id = app.current_tenant())) WITH CHECK ((tenant_id = app.current_tenant()));

CREATE POLICY tenant ON public.task_statistics_hours TO galley_web USING ((tenant_id = app.current_tenant())) WITH CHECK ((tenant_id = app.current_tenant()));

CREATE POLICY tenant ON public.task_steps TO galley_web USING ((tenant_id = app.current_tenant())) WITH CHECK ((tenant_id = app.current_tenant()));

CREATE POLICY tenant ON public.tasks TO galley_web USING ((tenant_id = app.current_tenant())) WITH CHECK ((tenant_id = app.current_tenant()));

CREATE POLICY tenant ON public.tenants TO galley_web USING ((id = app.current_tenant()));

CREATE POLICY tenant ON public.term_statistics TO galley_web USING ((tenant_id = app.current_tenant())) WITH CHECK ((tenant_id = app.current_tenant()));

CREATE POLICY tenant ON public.users TO galley_web USING ((tenant_id = app.current_tenant())) WITH CHECK ((tenant_id = app.current_tenant()));

ALTER TABLE public.tenants ENABLE ROW LEVEL SECURITY;

ALTER TABLE public.term_statistics ENABLE ROW LEVEL SECURITY;

ALTER TABLE public.users ENABLE ROW LEVEL SECURITY;

GRANT USAGE ON SCHEMA app TO galley_web;
GRANT ALL ON SCHEMA app TO galley_engine;

GRANT ALL ON SCHEMA public TO galley_owner;
GRANT USAGE ON SCHEMA public TO galley_web;
GRANT USAGE ON SCHEMA public TO galley_engine;

GRANT SELECT ON TABLE public.queues TO galley_web;
GRANT SELECT,INSERT,DELETE,UPDATE ON TABLE public.queues TO galley_engine;

GRANT SELECT,INSERT,DELETE,UPDATE ON TABLE public.dead_letters TO galley_web;
GRANT SELECT,INSERT,DELETE,UPDATE ON TABLE public.dead_letters TO galley_engine;

GRANT SELECT ON TABLE public.alert_rounds TO galley_web;
GRANT SELECT,UPDATE ON TABLE public.alert_rounds TO galley_engine;

GRANT SELECT,INSERT,DELETE,UPDATE ON TABLE public.alert_rules TO galley_web;
GRANT SELECT,INSERT,DELETE,UPDATE ON TABLE public.alert_rules TO galley_engine;

GRANT SELECT,INSERT,DELETE,UPDATE ON TABLE public.alerts TO galley_web;
GRANT SELECT,INSERT,DELETE,UPDATE ON TABLE public.alerts TO galley_engine;

GRANT SELECT,INSERT ON TABLE public.task_history TO galley_web;
GRANT SELECT,INSERT ON TABLE public.task_history TO galley_engine;

GRANT SELECT,INSERT,DELETE,UPDATE ON TABLE public.tasks TO galley_web;
GRANT SELECT,INSERT,DELETE,UPDATE ON TABLE public.tasks TO galley_engine;

GRANT SELECT ON TABLE public.all_tasks TO galley_web;
GRANT SELECT ON TABLE public.all_tasks TO galley_engine;

GRANT SELECT,INSERT,DELETE,UPDATE ON TABLE public.api_keys TO galley_web;
GRANT SELECT,INSERT,DELETE,UPDATE ON TABLE public.api_keys TO galley_engine;

GRANT SELECT,INSERT,UPDATE ON TABLE public.bulk_operations TO galley_web;
GRANT SELECT,INSERT,DELETE,UPDATE ON TABLE public.bulk_operations TO galley_engine;

GRANT SELECT,INSERT,DELETE,UPDATE ON TABLE public.chunk_embeddings TO galley_web;
GRANT SELECT,INSERT,DELETE,UPDATE ON TABLE public.chunk_embeddings TO galley_engine;

GRANT SELECT,INSERT,DELETE,UPDATE ON TABLE public.chunk_terms TO galley_web;
GRANT SELECT,INSERT,DELETE,UPDATE ON TABLE public.chunk_terms TO galley_engine;

GRANT SELECT,INSERT,DELETE,UPDATE ON TABLE public.chunks TO galley_web;
GRANT SELECT,INSERT,DELETE,UPDATE ON TABLE public.chunks TO galley_engine;

GRANT SELECT,INSERT ON TABLE public.citations TO galley_web;
GRANT SELECT,INSERT ON TABLE public.citations TO galley_engine;

GRANT SELECT,INSERT,DELETE,UPDATE ON TABLE public.collection_statistics TO galley_web;
GRANT SELECT,INSERT,DELETE,UPDATE ON TABLE public.collection_statistics TO galley_engine;

GRANT SELECT,INSERT,DELETE,UPDATE ON TABLE public.collections TO galley_web;
GRANT SELECT,INSERT,DELETE,UPDATE ON TABLE public.collections TO galley_engine;

GRANT SELECT,INSERT,DELETE,UPDATE ON TABLE public.content_items TO galley_web;
GRANT SELECT,INSERT,DELETE,UPDATE ON TABLE public.content_items TO galley_engine;

GRANT SELECT,INSERT ON TABLE public.content_slugs TO galley_web;
GRANT SELECT,INSERT ON TABLE public.content_slugs TO galley_engine;

GRANT SELECT,INSERT ON TABLE public.content_versions TO galley_web;
GRANT SELECT,INSERT ON TABLE public.content_versions TO galley_engine;

GRANT SELECT,INSERT,DELETE,UPDATE ON TABLE public.documents TO galley_web;
GRANT SELECT,INSERT,DELETE,UPDATE ON TABLE public.documents TO galley_engine;

GRANT SELECT,INSERT,DELETE,UPDATE ON TABLE public.embedding_cache TO galley_web;
GRANT SELECT,INSERT,DELETE,UPDATE ON TABLE public.embedding_cache TO galley_engine;

GRANT SELECT ON TABLE public.embedding_sets TO galley_web;
GRANT SELECT ON TABLE public.embedding_sets TO galley_engine;

GRANT SELECT ON TABLE public.executors TO galley_web;
GRANT SELECT,INSERT,DELETE,UPDATE ON TABLE public.executors TO galley_engine;

GRANT SELECT,INSERT,UPDATE ON TABLE public.feedback_items TO galley_web;
GRANT SELECT,INSERT,UPDATE ON TABLE public.feedback_items TO galley_engine;

GRANT SELECT,INSERT,DELETE,UPDATE ON TABLE public.idempotency TO galley_web;
GRANT SELECT,INSERT,DELETE,UPDATE ON TABLE public.idempotency TO galley_engine;

GRANT SELECT,INSERT,UPDATE ON TABLE public.llm_calls TO galley_web;
GRANT SELECT,INSERT,UPDATE ON TABLE public.llm_calls TO galley_engine;

GRANT SELECT,INSERT ON TABLE public.prompt_label_events TO galley_web;
GRANT SELECT,INSERT ON TABLE public.prompt_label_events TO galley_engine;

GRANT SELECT,INSERT,DELETE,UPDATE ON TABLE public.prompt_labels TO galley_web;
GRANT SELECT,INSERT,DELETE,UPDATE ON TABLE public.prompt_labels TO galley_engine;

GRANT SELECT,INSERT ON TABLE public.prompt_versions TO galley_web;
GRANT SELECT,INSERT ON TABLE public.prompt_versions TO galley_engine;

GRANT SELECT,INSERT,DELETE,UPDATE ON TABLE public.prompts TO galley_web;
GRANT SELECT,INSERT,DELETE,UPDATE ON TABLE public.prompts TO galley_engine;

GRANT SELECT,INSERT,DELETE,UPDATE ON TABLE public.publication_tags TO galley_web;
GRANT SELECT,INSERT,DELETE,UPDATE ON TABLE public.publication_tags TO galley_engine;

GRANT SELECT,INSERT,DELETE,UPDATE ON TABLE public.publications TO galley_web;
GRANT SELECT,INSERT,DELETE,UPDATE ON TABLE public.publications TO galley_engine;

GRANT SELECT ON TABLE public.queue_tenant_limits TO galley_web;
GRANT SELECT,INSERT,DELETE,UPDATE ON TABLE public.queue_tenant_limits TO galley_engine;

GRANT SELECT,INSERT,DELETE,UPDATE ON TABLE public.retention_looks TO galley_engine;

GRANT SELECT,INSERT ON TABLE public.review_decisions TO galley_web;
GRANT SELECT,INSERT ON TABLE public.review_decisions TO galley_engine;

GRANT SELECT,INSERT,UPDATE ON TABLE public.reviews TO galley_web;
GRANT SELECT,INSERT,UPDATE ON TABLE public.reviews TO galley_engine;

GRANT SELECT,INSERT,DELETE ON TABLE public.schedule_ticks TO galley_web;
GRANT SELECT,INSERT,DELETE ON TABLE public.schedule_ticks TO galley_engine;

GRANT SELECT,INSERT,DELETE,UPDATE ON TABLE public.schedules TO galley_web;
GRANT SELECT,INSERT,DELETE,UPDATE ON TABLE public.schedules TO galley_engine;

GRANT SELECT ON TABLE public.schema_migrations TO PUBLIC;

GRANT SELECT,INSERT,DELETE,UPDATE ON TABLE public.sessions TO galley_web;
GRANT SELECT,INSERT,DELETE,UPDATE ON TABLE public.sessions TO galley_engine;

GRANT USAGE ON SEQUENCE public.task_events_seq TO galley_web;
GRANT USAGE ON SEQUENCE public.task_events_seq TO galley_engine;

GRANT SELECT,INSERT ON TABLE public.task_events TO galley_web;
GRANT SELECT,INSERT ON TABLE public.task_events TO galley_engine;

GRANT SELECT,INSERT,DELETE ON TABLE public.task_output TO galley_web;
GRANT SELECT,INSERT,DELETE ON TABLE public.task_output TO galley_engine;

GRANT SELECT,INSERT,DELETE ON TABLE public.task_signals TO galley_web;
GRANT SELECT,INSERT,DELETE ON TABLE public.task_signals TO galley_engine;

GRANT SELECT,INSERT,DELETE,UPDATE ON TABLE public.task_statistics TO galley_web;
GRANT SELECT,INSERT,DELETE,UPDATE ON TABLE public.task_statistics TO galley_engine;

GRANT SELECT ON TABLE public.task_statistics_hours TO galley_web;
GRANT SELECT,INSERT,DELETE ON TABLE public.task_statistics_hours TO galley_engine;

GRANT SELECT,INSERT ON TABLE public.task_steps TO galley_web;
GRANT SELECT,INSERT ON TABLE public.task_steps TO galley_engine;

GRANT SELECT ON TABLE public.tenants TO galley_web;
GRANT SELECT,INSERT,UPDATE ON TABLE public.tenants TO galley_engine;

GRANT SELECT,INSERT,DELETE,UPDATE ON TABLE public.term_statistics TO galley_web;
GRANT SELECT,INSERT,DELETE,UPDATE ON TABLE public.term_statistics TO galley_engine;

GRANT SELECT,INSERT,DELETE,UPDATE ON TABLE public.users TO galley_web;
GRANT SELECT,INSERT,DELETE,UPDATE ON TABLE public.users TO galley_engine;
