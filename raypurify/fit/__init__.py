"""The Ray layer: the stages of a fit and bulk purification. No mathematics here."""
