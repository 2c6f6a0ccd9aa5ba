"""Paths, the machine, files, the store, small pictures. Knows nothing of the study.

What may be touched: how files are written, as long as each is complete or not there. Earlier files stay readable.
"""
