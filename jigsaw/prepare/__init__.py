"""Raw data sets in, rows out: one module a kind of source, and the pipeline, folder and Ray work that they share."""
