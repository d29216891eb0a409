"""compact-256: small 2-D networks that extract and render talking heads in real time on two CPU cores."""
