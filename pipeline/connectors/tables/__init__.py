"""Tables of other systems that consist of data files: Delta, Iceberg and Delta Sharing."""
