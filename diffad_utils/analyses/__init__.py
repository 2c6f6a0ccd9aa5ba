"""What a notebook asks beyond the metrics: one file a question, named in its first lines."""
