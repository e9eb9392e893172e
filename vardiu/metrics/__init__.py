"""Metrics of samples, each a number with its count, its standard error and its reference."""

from .metric import Metric, fingerprint

__all__ = ["Metric", "fingerprint"]
