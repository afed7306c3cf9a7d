"""Classifiers × attacks × purifiers on the same images: grid, cells, intervals, tables, report."""
