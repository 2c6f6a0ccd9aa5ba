"""Measured side by side against what people use. Not tests: nothing here is asserted, see README.md."""
