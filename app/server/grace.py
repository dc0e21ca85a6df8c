"""
How long the end of a worker may take.
"""

#: What is left, after the grace, for the last error events and rows.
LAST_WORDS_S = 3.0
#: How long a worker may take to end once the grace is over: last words, hanging up, the server's loop, the writer.
AFTER_GRACE_S = 4 * LAST_WORDS_S
