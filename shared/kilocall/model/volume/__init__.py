"""What the families with a 3-D feature volume share: blocks, motion field, decoder, rendering, motion coding."""
