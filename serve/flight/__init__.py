"""Arrow Flight SQL: for ADBC, JDBC and ODBC drivers, and notebooks."""
