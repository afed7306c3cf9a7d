"""Semantic clusters of latents: k-means per class, the elbow that picks k, and the distribution of every cluster."""

from raypurify.clusters.distributions import ClusterDistributions
from raypurify.clusters.elbow import choose_k
from raypurify.clusters.kmeans import KMeans, fit_kmeans

__all__ = ["ClusterDistributions", "KMeans", "choose_k", "fit_kmeans"]
