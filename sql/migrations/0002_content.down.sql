-- Takes content and prompts away. The functions of sql/functions/ that name these tables stay behind, unused.
SET ROLE galley_owner;
DROP TABLE publication_tags, publications, feedback_items, review_decisions, reviews, citations, content_versions,
  content_slugs, content_items, prompt_label_events, prompt_labels, prompt_versions, prompts;
DROP FUNCTION app.content_hash(text, text, text, text, text[], text);
RESET ROLE;
