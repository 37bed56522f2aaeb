-- The knowledge of a tenant: the terms of its chunks, how rare they are, and the search over both arms.
-- Everything here that crosses row security belongs to galley_engine and takes its tenant from app.current_tenant().

-- The text search configuration of a language; one that this PostgreSQL does not have gives 'simple': no stems, no stop words.
CREATE OR REPLACE FUNCTION app.text_search_config(p_language text) RETURNS regconfig
LANGUAGE sql STABLE PARALLEL SAFE SET search_path = pg_catalog, pg_temp AS $$
  SELECT coalesce((SELECT c.oid FROM pg_ts_config c WHERE c.cfgname = p_language AND c.cfgnamespace = 'pg_catalog'::regnamespace),
                  'pg_catalog.simple'::regconfig::oid)::regconfig
$$;

-- The number of a term: one stem, in one language, in one collection. 1 to 1e9, the range of a sparsevec; the same on every
-- machine. Two terms of one query and chunk share a number about once in two million chunks, and then only the score is off.
CREATE OR REPLACE FUNCTION app.term_key(p_collection uuid, p_language text, p_lexeme text) RETURNS int
LANGUAGE sql IMMUTABLE STRICT PARALLEL SAFE
  RETURN ('x' || encode(substr(sha256(convert_to(p_collection::text || ' ' || p_language || ' ' || p_lexeme, 'UTF8')), 1, 4), 'hex'))
         ::bit(32)::bigint % 1000000000 + 1;

-- The terms of a text. Any text is safe: it is read as words, never as a query language.
CREATE OR REPLACE FUNCTION app.terms(p_collection uuid, p_language text, p_text text)
RETURNS TABLE (lexeme text, key int, occurrences int)
LANGUAGE sql STABLE PARALLEL SAFE AS $$
  SELECT t.lexeme, app.term_key(p_collection, p_language, t.lexeme), cardinality(t.positions)
  FROM unnest(to_tsvector(app.text_search_config(p_language), p_text)) AS t
$$;

-- What a chunk is found by: its terms and the BM25 weight of each (k1 = 1.2, b = 0.75). The average length is fixed at 60
-- stems, because chunks have a fixed budget: so a weight never changes and one document never rewrites the others.
CREATE OR REPLACE FUNCTION app.index_terms(p_collection uuid, p_language text, p_text text, OUT keys int[], OUT weights sparsevec, OUT length int)
LANGUAGE sql STABLE PARALLEL SAFE AS $$
  WITH counted AS (
    SELECT t.key, sum(t.occurrences) AS occurrences, sum(sum(t.occurrences)) OVER () AS length
    FROM app.terms(p_collection, p_language, p_text) t
    GROUP BY t.key
  )
  SELECT coalesce(array_agg(c.key ORDER BY c.key), '{}'),
         ('{' || coalesce(string_agg(
           c.key || ':' || round(c.occurrences * 2.2 / (c.occurrences + 1.2 * (0.25 + 0.75 * c.length / 60)), 4), ',' ORDER BY c.key), '')
         || '}/1000000000')::sparsevec,
         coalesce(max(c.length), 0)::int
  FROM counted c
$$;

-- Keep the statistics beside the rows they count. The collection is locked first, so that two documents that share words
-- cannot wait for each other in a circle.
CREATE OR REPLACE FUNCTION app.count_terms() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = public, app, pg_temp AS $$
BEGIN
  PERFORM FROM collections c WHERE c.id IN (SELECT a.collection_id FROM added a) ORDER BY c.id FOR NO KEY UPDATE;
  INSERT INTO term_statistics AS s (tenant_id, collection_id, key, chunks)
  SELECT a.tenant_id, a.collection_id, k.key, count(*)
  FROM added a CROSS JOIN unnest(a.keys) AS k (key)
  GROUP BY a.tenant_id, a.collection_id, k.key
  ON CONFLICT (tenant_id, collection_id, key) DO UPDATE SET chunks = s.chunks + excluded.chunks;
  INSERT INTO collection_statistics AS s (tenant_id, collection_id, language, chunks, length)
  SELECT a.tenant_id, a.collection_id, a.language, count(*), sum(a.length)
  FROM added a
  GROUP BY a.tenant_id, a.collection_id, a.language
  ON CONFLICT (tenant_id, collection_id, language) DO UPDATE SET chunks = s.chunks + excluded.chunks, length = s.length + excluded.length;
  RETURN NULL;
END $$;

CREATE OR REPLACE FUNCTION app.uncount_terms() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = public, app, pg_temp AS $$
BEGIN
  PERFORM FROM collections c WHERE c.id IN (SELECT g.collection_id FROM gone g) ORDER BY c.id FOR NO KEY UPDATE;
  WITH taken AS MATERIALIZED (
    SELECT g.tenant_id, g.collection_id, k.key, count(*) AS chunks
    FROM gone g CROSS JOIN unnest(g.keys) AS k (key)
    GROUP BY g.tenant_id, g.collection_id, k.key
  ), forgotten AS (
    DELETE FROM term_statistics s USING taken t
    WHERE (s.tenant_id, s.collection_id, s.key) = (t.tenant_id, t.collection_id, t.key) AND s.chunks <= t.chunks
  )
  UPDATE term_statistics s SET chunks = s.chunks - t.chunks
  FROM taken t
  WHERE (s.tenant_id, s.collection_id, s.key) = (t.tenant_id, t.collection_id, t.key) AND s.chunks > t.chunks;
  WITH taken AS MATERIALIZED (
    SELECT g.tenant_id, g.collection_id, g.language, count(*) AS chunks, sum(g.length) AS length
    FROM gone g
    GROUP BY g.tenant_id, g.collection_id, g.language
  ), forgotten AS (
    DELETE FROM collection_statistics s USING taken t
    WHERE (s.tenant_id, s.collection_id, s.language) = (t.tenant_id, t.collection_id, t.language) AND s.chunks <= t.chunks
  )
  UPDATE collection_statistics s SET chunks = s.chunks - t.chunks, length = s.length - t.length
  FROM taken t
  WHERE (s.tenant_id, s.collection_id, s.language) = (t.tenant_id, t.collection_id, t.language) AND s.chunks > t.chunks;
  RETURN NULL;
END $$;

CREATE OR REPLACE TRIGGER counted AFTER INSERT ON chunk_terms
  REFERENCING NEW TABLE AS added FOR EACH STATEMENT EXECUTE FUNCTION app.count_terms();
CREATE OR REPLACE TRIGGER uncounted AFTER DELETE ON chunk_terms
  REFERENCING OLD TABLE AS gone FOR EACH STATEMENT EXECUTE FUNCTION app.uncount_terms();

-- Hybrid search over the chunks of the current tenant, best first. Two arms, each with its own order:
--   nearest   vectors by cosine distance; exact below 10,000 chunks in scope, above that through the index of the set
--   keyword   BM25 over the terms of the query; absent when the query has no terms (only stop words, only marks)
-- and their fusion by rank: score = Σ weight / (60 + rank). A weight of 0 leaves an arm out. A document gives at most
-- p_per_document hits. The keyword arm visits only chunks that hold one of the rarer terms: the rarest ones as long as at most
-- 2,000 chunks hold them, and the next when fewer than 200 do. The commoner terms only count towards the score. (Under filters
-- that leave fewer than 10,000 chunks all terms find.)
CREATE OR REPLACE FUNCTION app.search_chunks(
  p_query text, p_embedding real[], p_collections uuid[], p_filters jsonb, p_limit int, p_per_document int, p_vector_weight real, p_keyword_weight real
) RETURNS TABLE (
  chunk_id uuid, document_id uuid, document_title text, collection text, headings text[], ordinal int, text text, metadata jsonb, score double precision,
  vector_rank bigint, distance double precision, keyword_rank bigint, bm25 double precision, matched_terms text[]
)
LANGUAGE plpgsql STABLE SECURITY DEFINER
SET search_path = public, app, pg_temp
SET plan_cache_mode = 'force_custom_plan'
SET hnsw.iterative_scan = 'strict_order'
SET hnsw.ef_search = 100
AS $$
#variable_conflict use_column
DECLARE
  tenant constant uuid := app.current_tenant();
  candidates constant int := greatest(50, 4 * p_limit);
  scope uuid[];
  wanted uuid[];  -- the documents that pass the filters
  scope_chunks bigint;
  exact boolean;
  question vector := CASE WHEN p_vector_weight > 0 THEN p_embedding::vector END;
BEGIN
  SELECT coalesce(array_agg(c.id), '{}') INTO scope
  FROM collections c
  WHERE c.tenant_id = tenant AND (p_collections IS NULL OR c.id = ANY (p_collections));
  IF p_filters IS NULL THEN
    SELECT sum(s.chunks) INTO scope_chunks
    FROM collection_statistics s
    WHERE s.tenant_id = tenant AND s.collection_id = ANY (scope);
  ELSE
    SELECT coalesce(array_agg(d.id), '{}'), sum(d.chunk_count) INTO wanted, scope_chunks
    FROM documents d
    WHERE d.tenant_id = tenant AND d.collection_id = ANY (scope) AND d.metadata @> p_filters;
  END IF;
  exact := coalesce(scope_chunks, 0) < 10000;

  RETURN QUERY
  WITH asked AS MATERIALIZED (
    SELECT t.key, t.lexeme, coalesce(k.chunks, 0) AS holders,
           sum(coalesce(k.chunks, 0)) OVER same_word AS all_holders, sum(s.chunks) OVER same_word AS all_chunks
    FROM collection_statistics s
    CROSS JOIN LATERAL app.terms(s.collection_id, s.language, p_query) t
    LEFT JOIN term_statistics k ON k.tenant_id = tenant AND k.collection_id = s.collection_id AND k.key = t.key
    WHERE s.tenant_id = tenant AND s.collection_id = ANY (scope) AND p_keyword_weight > 0
    WINDOW same_word AS (PARTITION BY s.language, t.lexeme)
  ), weighted AS MATERIALIZED (
    SELECT a.key, a.lexeme, a.idf, sum(a.holders) OVER (ORDER BY a.idf DESC) AS reach, sum(a.holders) OVER (PARTITION BY a.idf) AS holders
    FROM (SELECT a.key, a.lexeme, a.holders, ln(1 + (a.all_chunks - a.all_holders + 0.5) / (a.all_holders + 0.5)) AS idf FROM asked a WHERE a.holders > 0) a
  ), query_terms AS MATERIALIZED (
    SELECT array_agg(w.key) FILTER (WHERE w.reach <= 2000 OR w.reach - w.holders < 200 OR (exact AND p_filters IS NOT NULL)) AS keys,
           ('{' || string_agg(w.key || ':' || round(w.idf, 4), ',' ORDER BY w.key) || '}/1000000000')::sparsevec AS weights
    FROM weighted w
  ), keyword AS MATERIALIZED (
    SELECT f.chunk_id, f.document_id, f.keys, f.bm25, row_number() OVER (ORDER BY f.bm25 DESC, f.chunk_id) AS rank
    FROM (
      SELECT c.chunk_id, c.document_id, c.keys, -(c.weights <#> (SELECT q.weights FROM query_terms q)) AS bm25
      FROM chunk_terms c
      WHERE c.collection_id = ANY (scope) AND c.keys && (SELECT q.keys FROM query_terms q)
        -- Keys belong to a collection and so to a tenant; IS TRUE keeps the planner from reading all of the tenant's entries beside them.
        AND ((p_filters IS NULL AND (c.tenant_id = tenant) IS TRUE) OR (p_filters IS NOT NULL AND c.tenant_id = tenant AND c.document_id = ANY (wanted)))
      ORDER BY bm25 DESC, c.chunk_id
      LIMIT candidates
    ) f
  ), nearest AS MATERIALIZED (
    SELECT f.chunk_id, f.document_id, f.distance, row_number() OVER (ORDER BY f.distance, f.chunk_id) AS rank
    FROM (
      (SELECT e.chunk_id, e.document_id, e.embedding <=> question AS distance
       FROM chunk_embeddings e
       WHERE exact AND e.tenant_id = tenant AND e.collection_id = ANY (scope) AND e.set_id = 1 AND question IS NOT NULL
         AND (p_filters IS NULL OR e.document_id = ANY (wanted))
       ORDER BY distance
       LIMIT candidates)
      UNION ALL
      (SELECT e.chunk_id, e.document_id, e.embedding::vector(384) <=> question::vector(384) AS distance
       FROM chunk_embeddings e
       WHERE NOT exact AND e.tenant_id = tenant AND e.collection_id = ANY (scope) AND e.set_id = 1 AND question IS NOT NULL
         AND (p_filters IS NULL OR e.document_id = ANY (wanted))
       ORDER BY distance
       LIMIT candidates)
    ) f
  ), fused AS (
    SELECT coalesce(n.chunk_id, k.chunk_id) AS chunk_id, coalesce(n.document_id, k.document_id) AS document_id,
           coalesce(p_vector_weight / (60 + n.rank), 0) + coalesce(p_keyword_weight / (60 + k.rank), 0) AS score,
           n.rank AS vector_rank, n.distance, k.rank AS keyword_rank, k.bm25, k.keys
    FROM nearest n
    FULL JOIN keyword k ON k.chunk_id = n.chunk_id
  ), capped AS (
    SELECT f.*, row_number() OVER (PARTITION BY f.document_id ORDER BY f.score DESC, f.chunk_id) AS nth_of_document
    FROM fused f
  ), best AS (
    SELECT c.* FROM capped c WHERE c.nth_of_document <= p_per_document ORDER BY c.score DESC, c.chunk_id LIMIT p_limit
  )
  SELECT b.chunk_id, b.document_id, d.title, l.name, h.headings, h.ordinal, h.text, d.metadata, b.score,
         b.vector_rank, b.distance, b.keyword_rank, b.bm25,
         ARRAY(SELECT w.lexeme FROM weighted w WHERE w.key = ANY (b.keys) GROUP BY w.lexeme ORDER BY max(w.idf) DESC, w.lexeme)
  FROM best b
  JOIN chunks h ON h.tenant_id = tenant AND h.id = b.chunk_id
  JOIN documents d ON d.tenant_id = tenant AND d.id = b.document_id
  JOIN collections l ON l.tenant_id = tenant AND l.id = d.collection_id
  ORDER BY b.score DESC, b.chunk_id;
END $$;

ALTER FUNCTION app.count_terms() OWNER TO galley_engine;
ALTER FUNCTION app.uncount_terms() OWNER TO galley_engine;
ALTER FUNCTION app.search_chunks(text, real[], uuid[], jsonb, int, int, real, real) OWNER TO galley_engine;
REVOKE EXECUTE ON FUNCTION app.search_chunks(text, real[], uuid[], jsonb, int, int, real, real) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION app.search_chunks(text, real[], uuid[], jsonb, int, int, real, real) TO galley_web;
