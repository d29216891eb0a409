"""`kilocall evaluate`: what the codec costs and how good it looks, clip by clip."""
