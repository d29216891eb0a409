"""The model families: what turns a face crop into motion, and motion plus one picture into a face."""
