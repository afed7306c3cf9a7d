"""Sets of images on disk, in and out: folders, Parquet files, WebDataset tars."""
