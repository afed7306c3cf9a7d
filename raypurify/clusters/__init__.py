"""Clusters of latents: k-means, per class with the elbow and a distribution each (RSFP), or over all classes (STL)."""

from raypurify.clusters.distributions import ClusterDistributions
from raypurify.clusters.elbow import choose_k
from raypurify.clusters.kmeans import KMeans, fit_kmeans
from raypurify.clusters.strata import Strata, fit_strata

__all__ = ["ClusterDistributions", "KMeans", "Strata", "choose_k", "fit_kmeans", "fit_strata"]
