-- name: search
-- $1 query, $2 its vector or NULL, $3 collections or NULL for all, $4 metadata to match or NULL, $5 how many, $6 how many of one document,
-- $7 weight of the vector arm, $8 weight of the keyword arm. The tenant is the transaction's own.
SELECT chunk_id, document_id, document_title, collection, headings, ordinal, text, metadata, score, vector_rank, distance, keyword_rank, bm25, matched_terms
FROM app.search_chunks($1, $2, $3, $4, $5, $6, $7, $8);
