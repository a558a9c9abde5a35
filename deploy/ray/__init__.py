"""Serves a store of archives on a Ray cluster: ``python -m deploy.ray``."""
