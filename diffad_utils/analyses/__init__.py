"""What a notebook asks beyond the metrics: one file a question, named in its first lines.

What may be touched: one file without the others. Recorded keys stay; a change of what they hold needs new reference
numbers.
"""
