"""
Budgets that reach further than one process.
"""

BUDGET = "CROWDTWIST_BUDGET"
"""The variable with the URL of the Redis that commands and Dask's workers share a rate over."""
