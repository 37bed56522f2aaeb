-- Full-text search of the public site.

-- The text-search configuration of a language tag such as de or pt-BR; languages without a stemmer of their own get 'simple'.
CREATE OR REPLACE FUNCTION app.text_config(p_language text) RETURNS regconfig
LANGUAGE sql IMMUTABLE PARALLEL SAFE SET search_path = pg_catalog AS $$
  SELECT CASE split_part(p_language, '-', 1)
    WHEN 'da' THEN 'danish' WHEN 'de' THEN 'german' WHEN 'en' THEN 'english' WHEN 'es' THEN 'spanish'
    WHEN 'fi' THEN 'finnish' WHEN 'fr' THEN 'french' WHEN 'hu' THEN 'hungarian' WHEN 'it' THEN 'italian'
    WHEN 'nl' THEN 'dutch' WHEN 'nb' THEN 'norwegian' WHEN 'no' THEN 'norwegian' WHEN 'pt' THEN 'portuguese'
    WHEN 'ro' THEN 'romanian' WHEN 'ru' THEN 'russian' WHEN 'sv' THEN 'swedish' WHEN 'tr' THEN 'turkish'
    ELSE 'simple' END::regconfig
$$;

-- Title before tags before summary before body.
CREATE OR REPLACE FUNCTION app.publication_vector(p_language text, p_title text, p_tags text[], p_summary text, p_body text)
RETURNS tsvector LANGUAGE sql STABLE PARALLEL SAFE SET search_path = pg_catalog AS $$
  SELECT setweight(to_tsvector(c.config, p_title), 'A') || setweight(to_tsvector(c.config, array_to_string(p_tags, ' ')), 'B')
      || setweight(to_tsvector(c.config, p_summary), 'C') || setweight(to_tsvector(c.config, p_body), 'D')
  FROM (SELECT app.text_config(p_language) AS config) c
$$;

-- What is live and matches a query in the syntax of web search engines, best first. Each text is searched in its own language.
-- Of each language the newest p_depth matches and the newest p_depth with the match in their title compete: to rank all that
-- hold a common word would read every text of a large site. `total` counts those that competed.
-- The tenant is the transaction's own: under row security @@ could not use the index. In `snippet` the matches stand between
-- the characters U+0002 and U+0003, so that the caller can escape the text around them.
-- A word that many of the newest texts hold is found among them; any other by its index. The planner must not mix these up: it
-- takes reading a text's vector for cheap (on 100,000 posts 120 ms against 5). Hence no sequential scan, and an order that no
-- index has.
CREATE OR REPLACE FUNCTION app.search_publications(p_query text, p_depth int, p_limit int, p_offset int)
RETURNS TABLE (content_id uuid, slug text, title text, summary text, tags text[], language text, first_published_at timestamptz,
               published_at timestamptz, score real, snippet text, total bigint)
LANGUAGE plpgsql STABLE SECURITY DEFINER SET search_path = public, app, pg_temp SET enable_seqscan = off AS $$
#variable_conflict use_column
DECLARE
  tenant uuid := app.current_tenant();
  spoken record;
  question tsquery;
  matching uuid[];
  titled uuid[];
  found uuid[];
  ids uuid[] := '{}';
  configs regconfig[] := '{}';
BEGIN
  FOR spoken IN
    WITH RECURSIVE languages AS (
      (SELECT p.language FROM publications p WHERE p.tenant_id = tenant AND p.withdrawn_at IS NULL ORDER BY p.language LIMIT 1)
      UNION ALL
      SELECT (SELECT p.language FROM publications p
              WHERE p.tenant_id = tenant AND p.withdrawn_at IS NULL AND p.language > l.language ORDER BY p.language LIMIT 1)
      FROM languages l
      WHERE l.language IS NOT NULL
    )
    SELECT app.text_config(l.language) AS config, array_agg(l.language) AS tags FROM languages l WHERE l.language IS NOT NULL GROUP BY 1
  LOOP
    question := websearch_to_tsquery(spoken.config, p_query);
    CONTINUE WHEN numnode(question) = 0;
    matching := ARRAY(
      SELECT n.content_id
      FROM (
        SELECT p.content_id, p.search FROM publications p
        WHERE p.tenant_id = tenant AND p.withdrawn_at IS NULL AND p.language = ANY (spoken.tags)
        ORDER BY p.first_published_at DESC
        LIMIT 4 * p_depth
      ) n
      WHERE n.search @@ question
      LIMIT p_depth);
    IF cardinality(matching) < p_depth THEN
      matching := ARRAY(
        SELECT p.content_id FROM publications p
        WHERE p.search @@ question AND p.tenant_id = tenant AND p.withdrawn_at IS NULL AND p.language = ANY (spoken.tags)
        ORDER BY p.first_published_at + interval '0' DESC
        LIMIT p_depth);
    END IF;
    titled := ARRAY(
      SELECT p.content_id FROM publications p
      WHERE ts_filter(p.search, '{a}') @@ question AND p.tenant_id = tenant AND p.withdrawn_at IS NULL
        AND p.language = ANY (spoken.tags)
      ORDER BY p.first_published_at + interval '0' DESC
      LIMIT p_depth);
    found := ARRAY(SELECT DISTINCT f.id FROM unnest(matching || titled) AS f (id));
    ids := ids || found;
    configs := configs || array_fill(spoken.config, ARRAY[cardinality(found)]);
  END LOOP;
  RETURN QUERY
    WITH ranked AS (
      SELECT c.id, c.config, websearch_to_tsquery(c.config, p_query) AS query, p.first_published_at,
             ts_rank(p.search, websearch_to_tsquery(c.config, p_query), 1) AS score
      FROM unnest(ids, configs) AS c (id, config)
      JOIN publications p ON p.tenant_id = tenant AND p.content_id = c.id
      ORDER BY score DESC, p.first_published_at DESC, c.id
      LIMIT p_limit OFFSET p_offset
    )
    SELECT p.content_id, p.slug, p.title, p.summary, p.tags, p.language, p.first_published_at, p.published_at, r.score,
           ts_headline(r.config, left(p.body_text, 20000), r.query,
                       'MaxFragments=2, MaxWords=30, MinWords=12, FragmentDelimiter=" … ", StartSel=' || chr(2) || ', StopSel=' || chr(3)),
           cardinality(ids)::bigint
    FROM ranked r
    JOIN publications p ON p.tenant_id = tenant AND p.content_id = r.id
    ORDER BY r.score DESC, r.first_published_at DESC, r.id;
END $$;

ALTER FUNCTION app.text_config(text) OWNER TO galley_owner;
ALTER FUNCTION app.publication_vector(text, text, text[], text, text) OWNER TO galley_owner;
ALTER FUNCTION app.search_publications(text, int, int, int) OWNER TO galley_engine;
REVOKE EXECUTE ON FUNCTION app.text_config(text), app.publication_vector(text, text, text[], text, text),
  app.search_publications(text, int, int, int) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION app.text_config(text), app.publication_vector(text, text, text[], text, text) TO galley_web, galley_engine;
GRANT EXECUTE ON FUNCTION app.search_publications(text, int, int, int) TO galley_web;
