"""Delta Sharing: tables as callers may read them, for Spark, pandas, Power BI and other recipients."""
