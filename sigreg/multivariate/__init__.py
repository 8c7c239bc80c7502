"""Closed forms on whole embeddings `(..., N, D)`."""
