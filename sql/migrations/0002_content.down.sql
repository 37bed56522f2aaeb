-- Functions of sql/functions/{reviews,publications}.sql name these tables' columns and go with them.
SET ROLE galley_owner;
DROP TABLE publication_tags, publications, feedback_items, review_decisions, reviews, citations, content_versions,
           content_slugs, content_items, prompt_label_events, prompt_labels, prompt_versions, prompts;
RESET ROLE;
