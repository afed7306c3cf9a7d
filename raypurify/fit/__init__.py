"""Fit: from labelled clean images to a bundle, in stages that are pure steps over files."""
