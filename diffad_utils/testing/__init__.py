"""Tests for methods of other people: the contract that every detector keeps.

`contract.DetectorContract` is a class of tests to inherit, as scikit-learn's estimator checks are functions to call. It
needs pytest (the extra ``test``).
"""
