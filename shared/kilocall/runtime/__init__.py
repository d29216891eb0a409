"""What both sides run on: engines, pictures, transport."""
