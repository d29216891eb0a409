"""One module a library; each is imported only when its engine is chosen."""
