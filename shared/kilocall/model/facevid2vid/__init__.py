"""face-vid2vid (Wang, Mallya, Liu 2021): five networks, 15 keypoints, pictures of 256x256."""
