"""Raw data sets in, rows out: one module a kind of source, and the sharded runner that they share."""
