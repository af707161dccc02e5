"""Classifiers: loading, families of networks, preprocessing, weights."""
