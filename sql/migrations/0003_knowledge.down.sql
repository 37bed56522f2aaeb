-- Takes everything of 0003 away, the documents with it.
DROP FUNCTION IF EXISTS app.search_chunks(text, real[], uuid[], jsonb, int, int, real, real);
DROP FUNCTION IF EXISTS app.index_terms(uuid, text, text);
DROP FUNCTION IF EXISTS app.terms(uuid, text, text);
DROP FUNCTION IF EXISTS app.term_key(uuid, text, text);
DROP FUNCTION IF EXISTS app.text_search_config(text);
DROP TABLE embedding_cache, chunk_embeddings, collection_statistics, term_statistics, chunk_terms, chunks, documents, collections, embedding_sets;
DROP FUNCTION IF EXISTS app.count_terms();
DROP FUNCTION IF EXISTS app.uncount_terms();
