"""What a run leaves behind: manifests, tables, reports."""
