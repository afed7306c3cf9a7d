"""Bulk purification: the shards of a source, through actors on a Ray cluster, into a sink; each exactly once."""
