"""
What a shop shows of a member's loyalty account.
"""
