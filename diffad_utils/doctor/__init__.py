"""`diffad doctor`: one page of what this machine has, and what a profile's notebooks would lack.

`page.py` looks and says; what parameters need is known by `weights/needs.py`. Imports little, so that it runs before
anything is installed.
"""
