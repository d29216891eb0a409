"""Training of the compact family: data, losses, loops that resume, export for the CPU engines."""
