"""The compression study: what pruning and fewer bits do to the size, speed and quality of each network."""
