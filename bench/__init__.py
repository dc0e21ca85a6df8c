"""
The benchmark: what a call costs in this program, beside what it costs in others. `python -m bench --help`; README.md
says what is measured and how.

It knows the product from the outside only: processes, sockets and the admin API. Nothing of `app` is imported here.
"""
