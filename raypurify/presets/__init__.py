"""Presets: complete settings of a fit, chosen by name."""
