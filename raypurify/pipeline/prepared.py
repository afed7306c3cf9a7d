"""Reading the prepared images of a fit: Parquet of raw pixels, written by ``prepare``."""

from raypurify.training.data import FAILED, TRAIN, VALIDATION, batches, read_part, read_pixels

__all__ = ["FAILED", "TRAIN", "VALIDATION", "batches", "read_part", "read_pixels"]
