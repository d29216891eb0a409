"""LivePortrait (Guo et al. 2024): 21 keypoints with a scale, pictures of 512x512."""
