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
-- The tenant is the transaction's own: under row security @@ could not use the index. In `snippet` the matches stand between
-- the characters U+0002 and U+0003, so that the caller can escape the text around them. `total` counts all pages.
CREATE OR REPLACE FUNCTION app.search_publications(p_query text, p_limit int, p_offset int)
RETURNS TABLE (content_id uuid, slug text, title text, summary text, tags text[], language text, first_published_at timestamptz,
               published_at timestamptz, score real, snippet text, total bigint)
LANGUAGE sql STABLE SECURITY DEFINER SET search_path = public, app, pg_temp AS $$
  WITH asked AS MATERIALIZED (
    SELECT c.config, websearch_to_tsquery(c.config, p_query) AS query
    FROM (
      SELECT DISTINCT app.text_config(l) AS config
      FROM unnest(ARRAY['da','de','en','es','fi','fr','hu','it','nl','no','pt','ro','ru','sv','tr','other']) l
    ) c
  ), matched AS (
    SELECT p.content_id, ts_rank(p.search, a.query, 1) AS score, p.first_published_at, a.config, a.query, count(*) OVER () AS total
    FROM asked a
    JOIN publications p ON p.search @@ a.query AND app.text_config(p.language) = a.config
    WHERE p.tenant_id = app.current_tenant() AND p.withdrawn_at IS NULL AND numnode(a.query) > 0
    ORDER BY score DESC, p.first_published_at DESC, p.content_id
    LIMIT p_limit OFFSET p_offset
  )
  SELECT p.content_id, p.slug, p.title, p.summary, p.tags, p.language, p.first_published_at, p.published_at, m.score,
         ts_headline(m.config, p.body_text, m.query,
                     'MaxFragments=2, MaxWords=30, MinWords=12, FragmentDelimiter=" … ", StartSel=' || chr(2) || ', StopSel=' || chr(3)),
         m.total
  FROM matched m
  JOIN publications p ON p.tenant_id = app.current_tenant() AND p.content_id = m.content_id
  ORDER BY m.score DESC, m.first_published_at DESC, m.content_id
$$;

ALTER FUNCTION app.text_config(text) OWNER TO galley_owner;
ALTER FUNCTION app.publication_vector(text, text, text[], text, text) OWNER TO galley_owner;
ALTER FUNCTION app.search_publications(text, int, int) OWNER TO galley_engine;
REVOKE EXECUTE ON FUNCTION app.text_config(text), app.publication_vector(text, text, text[], text, text),
  app.search_publications(text, int, int) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION app.text_config(text), app.publication_vector(text, text, text[], text, text) TO galley_web, galley_engine;
GRANT EXECUTE ON FUNCTION app.search_publications(text, int, int) TO galley_web;
