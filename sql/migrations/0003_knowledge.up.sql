-- Why: documents and what search needs of them. A document is cut into chunks; each chunk has a row of terms for the keyword
-- arm (BM25) and a vector per embedding set for the other. How often a term occurs is kept, not counted, so that its rarity
-- costs one index lookup. Everything hangs on its document by foreign keys: deleting it deletes all.

SET ROLE galley_owner;

-- Which model made a vector, and of how many dimensions. Belongs to the installation: each set has one index for all tenants
-- (RULINGS 34), and a collection says which set it is searched with. Another model is another set built beside the first.
CREATE TABLE embedding_sets (
  id smallint PRIMARY KEY,
  model text NOT NULL UNIQUE,
  dimensions smallint NOT NULL CHECK (dimensions BETWEEN 1 AND 2000),
  state text NOT NULL DEFAULT 'active' CHECK (state IN ('building', 'active', 'retired')),
  created_at timestamptz NOT NULL DEFAULT app.now()
);
GRANT SELECT ON embedding_sets TO galley_web, galley_engine;
INSERT INTO embedding_sets (id, model, dimensions) VALUES (1, 'all-MiniLM-L6-v2', 384);

CREATE TABLE collections (
  id uuid PRIMARY KEY DEFAULT app.uuid7(),
  tenant_id uuid NOT NULL REFERENCES tenants,
  name text NOT NULL CHECK (name ~ '^[a-z0-9][a-z0-9_-]{0,62}$'),
  embedding_set_id smallint NOT NULL DEFAULT 1 REFERENCES embedding_sets,
  created_by text NOT NULL,
  created_at timestamptz NOT NULL DEFAULT app.now(),
  UNIQUE (tenant_id, name),                                            -- a caller names collections
  UNIQUE (tenant_id, id)                                               -- composite foreign keys
);
SELECT app.protect('collections');

CREATE TABLE documents (
  id uuid PRIMARY KEY DEFAULT app.uuid7(),
  tenant_id uuid NOT NULL,
  collection_id uuid NOT NULL,
  title text NOT NULL CHECK (length(title) BETWEEN 1 AND 300),
  mime text NOT NULL CHECK (mime IN ('text/plain', 'text/markdown', 'text/html')),
  language text NOT NULL DEFAULT 'english' CHECK (language ~ '^[a-z_]{2,40}$'),   -- a text search configuration; unknown ones act as 'simple'
  source text NOT NULL CHECK (octet_length(source) <= 4000000),        -- as it was sent
  sha256 bytea NOT NULL CHECK (octet_length(sha256) = 32),             -- of source
  metadata jsonb NOT NULL DEFAULT '{}' CHECK (jsonb_typeof(metadata) = 'object'),
  state text NOT NULL DEFAULT 'pending' CHECK (state IN ('pending', 'indexed', 'failed')),
  error text,
  task_id uuid,                                                        -- the latest ingest_document; no key: ended tasks move to history
  chunk_count int NOT NULL DEFAULT 0 CHECK (chunk_count >= 0),
  created_by text NOT NULL,
  created_at timestamptz NOT NULL DEFAULT app.now(),
  updated_at timestamptz NOT NULL DEFAULT app.now(),
  indexed_at timestamptz,
  FOREIGN KEY (tenant_id, collection_id) REFERENCES collections (tenant_id, id) ON DELETE CASCADE,
  UNIQUE (tenant_id, id),                                              -- documents.list newest first; composite foreign keys
  UNIQUE (tenant_id, collection_id, sha256),                           -- documents.insert: the same text comes once
  CHECK ((state = 'failed') = (error IS NOT NULL))
);
CREATE INDEX documents_collection ON documents (tenant_id, collection_id, id);         -- documents.list of one collection; the cascade from collections
CREATE INDEX documents_metadata ON documents USING gin (metadata jsonb_path_ops);      -- app.search_chunks with filters
SELECT app.protect('documents');

CREATE TABLE chunks (
  id uuid PRIMARY KEY DEFAULT app.uuid7(),
  tenant_id uuid NOT NULL,
  document_id uuid NOT NULL,
  ordinal int NOT NULL CHECK (ordinal >= 0),
  start_offset int NOT NULL CHECK (start_offset >= 0),                 -- characters into the document's plain text
  end_offset int NOT NULL,
  headings text[] NOT NULL,                                            -- above it, outermost first
  text text NOT NULL,
  text_sha256 bytea NOT NULL,                                          -- of what was embedded: title, headings and text
  pieces smallint NOT NULL CHECK (pieces > 0),
  FOREIGN KEY (tenant_id, document_id) REFERENCES documents (tenant_id, id) ON DELETE CASCADE,
  UNIQUE (tenant_id, id),                                              -- composite foreign keys
  UNIQUE (tenant_id, document_id, ordinal),                            -- documents.list_chunks; the cascade from documents
  CHECK (end_offset > start_offset)
);
CREATE INDEX chunks_text ON chunks (tenant_id, text_sha256);           -- documents.delete: does another chunk still use this cached vector?
SELECT app.protect('chunks');

-- The keyword index. A term is a word stem in one language and collection, known by a number (app.term_key). `weights` holds the
-- BM25 weight of each term in this chunk, so that the score of a chunk is one inner product with the terms of the query.
CREATE TABLE chunk_terms (
  tenant_id uuid NOT NULL,
  chunk_id uuid NOT NULL,
  collection_id uuid NOT NULL,
  document_id uuid NOT NULL,
  language text NOT NULL,
  length int NOT NULL CHECK (length >= 0),                             -- word stems, repetitions counted
  keys int[] NOT NULL,
  weights sparsevec NOT NULL,
  PRIMARY KEY (tenant_id, chunk_id),
  FOREIGN KEY (tenant_id, chunk_id) REFERENCES chunks (tenant_id, id) ON DELETE CASCADE
);
-- app.search_chunks, keyword arm. No pending list: a search would have to read it through.
CREATE INDEX chunk_terms_keys ON chunk_terms USING gin (keys) WITH (fastupdate = off);
CREATE INDEX chunk_terms_document ON chunk_terms (tenant_id, document_id);                -- documents.delete_terms
SELECT app.protect('chunk_terms');

-- In how many chunks a term occurs. Kept by triggers on chunk_terms (functions/search.sql).
CREATE TABLE term_statistics (
  tenant_id uuid NOT NULL,
  collection_id uuid NOT NULL,
  key int NOT NULL,
  chunks int NOT NULL,
  PRIMARY KEY (tenant_id, collection_id, key),
  FOREIGN KEY (tenant_id, collection_id) REFERENCES collections (tenant_id, id) ON DELETE CASCADE
) WITH (fillfactor = 80);
SELECT app.protect('term_statistics');

-- How many chunks a collection has in each language, and how long they are together. Kept by the same triggers.
CREATE TABLE collection_statistics (
  tenant_id uuid NOT NULL,
  collection_id uuid NOT NULL,
  language text NOT NULL,
  chunks int NOT NULL,
  length bigint NOT NULL,
  PRIMARY KEY (tenant_id, collection_id, language),
  FOREIGN KEY (tenant_id, collection_id) REFERENCES collections (tenant_id, id) ON DELETE CASCADE
) WITH (fillfactor = 50);
SELECT app.protect('collection_statistics');

CREATE TABLE chunk_embeddings (
  tenant_id uuid NOT NULL,
  chunk_id uuid NOT NULL,
  set_id smallint NOT NULL REFERENCES embedding_sets,
  collection_id uuid NOT NULL,
  document_id uuid NOT NULL,
  embedding vector NOT NULL,                                           -- unit length
  PRIMARY KEY (tenant_id, chunk_id, set_id),
  FOREIGN KEY (tenant_id, chunk_id) REFERENCES chunks (tenant_id, id) ON DELETE CASCADE
);
CREATE INDEX chunk_embeddings_exact ON chunk_embeddings (tenant_id, collection_id, set_id);   -- app.search_chunks, exact vector arm
CREATE INDEX chunk_embeddings_document ON chunk_embeddings (tenant_id, document_id);          -- app.search_chunks with filters
CREATE INDEX chunk_embeddings_set_1 ON chunk_embeddings USING hnsw ((embedding::vector(384)) vector_cosine_ops) WHERE set_id = 1;   -- app.search_chunks, approximate vector arm
SELECT app.protect('chunk_embeddings');

-- Vectors by what they were made of: unchanged text is never embedded twice.
CREATE TABLE embedding_cache (
  tenant_id uuid NOT NULL REFERENCES tenants,
  model text NOT NULL,
  text_sha256 bytea NOT NULL CHECK (octet_length(text_sha256) = 32),
  embedding vector NOT NULL,
  created_at timestamptz NOT NULL DEFAULT app.now(),
  PRIMARY KEY (tenant_id, model, text_sha256)
);
SELECT app.protect('embedding_cache');

RESET ROLE;
