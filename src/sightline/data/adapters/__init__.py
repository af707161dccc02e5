"""One data set layout per file, read without conversion."""
