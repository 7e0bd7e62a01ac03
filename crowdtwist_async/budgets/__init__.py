"""
Budgets that reach further than one process.
"""
