"""
All rows of many members into one file: the source of the rows, their columns, the formats, the run.
"""
