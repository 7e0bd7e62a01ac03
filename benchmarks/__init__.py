"""
Benchmarks: this client against what people would use instead, in the same run.
"""
