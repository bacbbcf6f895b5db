"""The bucket of a lake on S3 as declared: who may read it, how its objects are stored, and what has to change."""
