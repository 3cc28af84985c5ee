"""Experiments on bone X-ray studies with fastai: tables in, networks between, honest study-level scores out."""

__version__ = "0.1.0"
