"""Fault-tolerant parallel map over named items, on local processes or a Dask cluster.

Results depend only on the items. A killed worker stops neither the run nor other tasks: its item is
retried once, alone, and reported as failed if that kills a worker again.
"""
