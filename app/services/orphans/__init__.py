"""Orphans: reported sales that no click leads to, listed, credited to somebody, or given up."""
