"""Syncing feeds: fetch, spool, parse, stage through COPY, apply in one transaction.

The stages in order of a run: `runs` (who may work), `fetch` (HTTP) into `spool` (a file), `readers` (rows of any
shape), `assemble` and `offers` (what they come to), `staging` (COPY), `apply` (one set-based change). `stream` strings
them together.
"""
