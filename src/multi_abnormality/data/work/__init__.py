"""A function over many named items, on the cores of a machine or on a cluster.

What it returns depends on the items alone. A worker that is killed ends neither the run nor the
work of others: its item is found out, tried once more with nothing beside it, and named if that
kills a worker again.
"""
