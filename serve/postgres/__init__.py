"""PostgreSQL's protocol: for psql, BI tools, and drivers of any language, which read tables by SQL."""
