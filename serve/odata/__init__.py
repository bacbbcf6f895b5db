"""OData 4.01: tables for Power BI, Excel, Tableau and other clients of the standard."""
