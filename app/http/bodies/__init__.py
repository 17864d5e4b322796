"""Parsing of request bodies, with limits."""
