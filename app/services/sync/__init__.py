"""Syncing feeds: fetch, spool, parse, stage through COPY, apply in one transaction.

The stages in order of a run: `runs` (who may work), `fetch` (HTTP) into `spool` (a file), `csv_rows` or `json_rows`
(raw rows), `offers` (our fields), `staging` (COPY), `apply` (one set-based change). `stream` strings them together.
"""
