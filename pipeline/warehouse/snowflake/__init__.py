"""Snowflake as the warehouse: gold tables are loaded by PUT, COPY INTO and MERGE, each version once."""
